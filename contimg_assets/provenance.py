"""Which run of which code made a row: the columns every measurement table carries."""

import dagster as dg
import polars as pl


def code_version(context: dg.AssetExecutionContext) -> str:
    """Code version of the asset being made."""
    return str(context.assets_def.code_versions_by_key.get(context.asset_key) or "")


def provenance(context: dg.AssetExecutionContext) -> dict[str, str]:
    """Run and code version, as the metadata of a product and the columns of its rows have them."""
    return {"run_id": context.run.run_id, "code_version": code_version(context)}


def with_provenance(rows: pl.DataFrame, context: dg.AssetExecutionContext) -> pl.DataFrame:
    """Add run id and code version to the rows of a measurement table."""
    return rows.with_columns(pl.lit(value).alias(name) for name, value in provenance(context).items())
