"""Which run of which code made a row: the columns every measurement table carries."""

import dagster as dg
import polars as pl


def code_version(context: dg.AssetExecutionContext) -> str:
    """Code version of the asset being made."""
    return str(context.assets_def.code_versions_by_key.get(context.asset_key) or "")


def with_provenance(rows: pl.DataFrame, context: dg.AssetExecutionContext) -> pl.DataFrame:
    """Add run id and code version to the rows of a measurement table."""
    return rows.with_columns(run_id=pl.lit(context.run.run_id), code_version=pl.lit(code_version(context)))
