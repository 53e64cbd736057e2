"""Whether the store agrees with itself and with the products: what `contimg store check` finds.

What belongs here: questions about rows and files that should always have the same answer. What does not: mending (the partition
is made again in Dagster), and the formula of the statistics, which the caller brings because it is science.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from contimg_resources.products import Products
from contimg_resources.store.connection import Store
from contimg_resources.store.light_curves import points_of_sources
from contimg_resources.store.records import KEPT, PRODUCT_OF, record_keys, record_path, records_folder
from contimg_resources.store.schema import TABLES

Recompute = Callable[[pl.DataFrame, float], pl.DataFrame]
"""Points and a time (MJD) to rows of table ``variability_statistics``."""

_FILES = (
    ("image", "path", "true"),
    ("mosaic", "path", "true"),
    ("mosaic", "weight_path", "true"),
    ("calibration_table", "path", "status = 'active'"),
    ("calibration_use", "path", "path IS NOT NULL"),
)
"""Table, column that names a product, and the rows whose product must exist."""
_BELONGS_TO = (
    ("forced_photometry", "source_id", "source"),
    ("forced_photometry", "observation_id", "observation"),
    ("image", "observation_id", "observation"),
    ("flux_scale", "observation_id", "observation"),
    ("calibration_use", "observation_id", "observation"),
    ("light_curve", "source_id", "source"),
    ("variability_statistics", "source_id", "source"),
)
"""Table, column, and the register that must know its value. A candidate that is gone leaves its history: no orphan."""
_FOLLOWS_WITHIN = timedelta(hours=1)
"""After the fluxes of an observation, the light curves of its day."""
_COMPARED = ("n_epochs", "weighted_mean_flux_jy", "modulation_index", "eta")
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """One thing that does not agree, and where."""

    kind: str
    """missing_product, orphan, doubled_row, rows_and_product_differ, rows_not_kept, out_of_date or wrong_statistics."""
    table: str
    subject: str


def inconsistencies(
    store: Store, products: Products, recompute: Recompute, *, now: datetime | None = None
) -> list[Inconsistency]:
    """Everything that does not agree, in a fixed order; nothing for a sound store.

    Parameters
    ----------
    store, products
    recompute : callable
    now : datetime, optional
        Time at which a day should hold what was measured an hour ago, UTC without zone; that of the clock if left out.
    """
    return [
        *_missing_products(store, products),
        *_orphans(store),
        *_doubled_rows(store),
        *_differing_products(store, products),
        *_rows_not_kept(store),
        *_days_out_of_date(store, now or datetime.now(UTC).replace(tzinfo=None)),
        *_wrong_statistics(store, recompute),
    ]


def _missing_products(store: Store, products: Products) -> Iterator[Inconsistency]:
    removed = store.query("SELECT path FROM archived_product WHERE status IN ('removing', 'removed')")["path"]
    gone = {products.located(path) for path in removed}
    for table, column, condition in _FILES:
        rows = store.query(f"SELECT DISTINCT {column} FROM {table} WHERE {condition} ORDER BY 1")  # noqa: S608 (own text)
        for path in rows[column]:
            place = products.located(path)
            if not gone.intersection((place, *place.parents)) and not products.holds(place):
                yield Inconsistency("missing_product", table, path)


def _orphans(store: Store) -> Iterator[Inconsistency]:
    for table, column, owner in _BELONGS_TO:
        rows = store.query(f"SELECT DISTINCT {column} FROM {table} ANTI JOIN {owner} USING ({column}) ORDER BY 1")  # noqa: S608
        for name in rows[column]:
            yield Inconsistency("orphan", table, f"{column} {name} is not in {owner}")


def _doubled_rows(store: Store) -> Iterator[Inconsistency]:
    """Of tables whose identity no index guards."""
    for table in TABLES.values():
        if not table.is_indexed:
            key = ", ".join(table.key)
            rows = store.query(f"SELECT {key} FROM {table.name} GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL")  # noqa: S608
            for row in rows.iter_rows():
                yield Inconsistency("doubled_row", table.name, ", ".join(map(str, row)))


def _differing_products(store: Store, products: Products) -> Iterator[Inconsistency]:
    """Parquet files and the rows of their partitions: as many in both, none without the other."""
    for table, asset in PRODUCT_OF.items():
        rows = store.query(f"SELECT partition_key, count(*) AS n FROM {table} GROUP BY ALL ORDER BY ALL")  # noqa: S608
        counted = {products.brought(products.table(asset, key)): int(n) for key, n in rows.iter_rows()}
        folder = products.root / "products" / asset
        # A stem without a dot is the product; what is kept beside it to save time has a second suffix.
        found = {path for path in folder.glob("*/*.parquet") if "." not in path.stem}
        for path in sorted(found | set(counted)):
            n_product = pl.scan_parquet(path).select(pl.len()).collect().item() if path in found else 0
            if n_product != counted.get(path, 0):
                subject = f"{path}: {n_product} rows in the product, {counted.get(path, 0)} in the store"
                yield Inconsistency("rows_and_product_differ", table, subject)


def _rows_not_kept(store: Store) -> Iterator[Inconsistency]:
    """Rows that a rebuild would miss, and records whose rows are gone: by their files, not by what these say."""
    folder = records_folder(store.path)
    for table, record in KEPT.items():
        with store.reading() as connection:
            expected = {record_path(folder, table, key) for key in record_keys(connection, table, record)}
        for path in sorted(expected ^ set((folder / table).glob("*/*.parquet"))):
            why = "rows without this file (`contimg store keep`)" if path in expected else "a file without rows"
            yield Inconsistency("rows_not_kept", table, f"{path}: {why}")


def _days_out_of_date(store: Store, now: datetime) -> Iterator[Inconsistency]:
    """Days whose light curves, if any, were begun before fluxes of the day had been scaled."""
    rows = store.query(
        """
        WITH scaled AS (
            SELECT partition_key[:10] AS day, partition_key, started_at + to_microseconds((duration_s * 1e6)::BIGINT) AS ended_at
            FROM stage_timing WHERE asset = 'flux_scale' AND stage = 'whole'
        ), made AS (
            SELECT partition_key AS day, started_at FROM stage_timing WHERE asset = 'light_curves' AND stage = 'whole'
        )
        SELECT day, min(partition_key) AS first, count(*) AS n FROM scaled LEFT JOIN made USING (day)
        WHERE ended_at < $latest AND (started_at IS NULL OR started_at < ended_at) GROUP BY day ORDER BY day
        """,
        {"latest": now - _FOLLOWS_WITHIN},
    )
    for day, first, n in rows.iter_rows():
        yield Inconsistency(
            "out_of_date", "light_curve", f"{day}: made before the fluxes of {n} observations, the first {first}"
        )


def _wrong_statistics(store: Store, recompute: Recompute) -> Iterator[Inconsistency]:
    """The newest day's statistics against the light curves they are of."""
    kept = store.query(
        "SELECT * FROM variability_statistics WHERE partition_key = (SELECT max(partition_key) FROM variability_statistics)"
    )
    if kept.is_empty():
        return
    as_of_mjd = float(kept["as_of_mjd"][0])
    points = points_of_sources(store, kept["source_id"].unique().to_list(), as_of_mjd)
    again = recompute(points, as_of_mjd)
    joined = kept.join(again, on=["source_id", "band"], how="full", suffix="_again", coalesce=True)
    is_wrong = (
        pl.any_horizontal(
            (pl.col(name).cast(pl.Float64) - pl.col(f"{name}_again").cast(pl.Float64).fill_nan(None)).abs()
            > _TOLERANCE * (1.0 + pl.col(name).cast(pl.Float64).abs())
            for name in _COMPARED
        ).fill_null(value=False)
        | pl.col("n_epochs").is_null()
        | pl.col("n_epochs_again").is_null()
    )
    for source_id, band in joined.filter(is_wrong).select("source_id", "band").sort("source_id", "band").iter_rows():
        yield Inconsistency("wrong_statistics", "variability_statistics", f"{source_id} {band}")
