"""Statistics of a day's sources, at the cost of those that have changed since the day was last made.

What belongs here: which statistics are computed and which are taken from before. The formulas are
``science.variability``; the asset is ``variability.variability_statistics``.

A day is made again with each of its observations, and most of its sources are as they were. The statistics are kept once
more beside the product (``day.carried.parquet``) with the mark of the points they were computed from; the file can be
deleted at any time.
"""

from dataclasses import dataclass

import polars as pl

from contimg_assets.partitions import day_mjd_range
from contimg_resources.products import Products, atomic_write
from contimg_resources.store.connection import Store
from contimg_resources.store.light_curves import marks_of_sources, points_of_sources

_ASSET, _CARRIED = "variability_statistics", ".carried.parquet"


@dataclass(frozen=True, slots=True, eq=False)
class DayOfStatistics:
    """What a day's sources are like."""

    statistics: pl.DataFrame
    """Of every source the day observed, as of ``science.variability``."""

    computed: pl.DataFrame
    """Those rows of it that were computed now."""

    points: pl.DataFrame
    """The points they were computed from."""


def statistics_of_day(store: Store, products: Products, day: str, code_version: str) -> DayOfStatistics:
    """Statistics of the sources a day observed, as of its end.

    Parameters
    ----------
    store : Store
        Holds the light curves.
    products : Products
        Keeps the statistics for the next time.
    day : str
        ``YYYY-MM-DD``.
    code_version : str
        Statistics of another version are not taken.
    """
    from contimg_assets.science.variability import VARIABILITY_SCHEMA, variability_statistics

    start, end = day_mjd_range(day)
    marks = marks_of_sources(store, end).filter(pl.col("newest_mjd") >= start).select("source_id", "mark")
    path = products.document(_ASSET, day, _CARRIED)
    schema = {**VARIABILITY_SCHEMA, "mark": pl.UInt64, "code_version": pl.String}
    before = pl.read_parquet(path) if path.exists() else pl.DataFrame(schema=schema)
    carried = before.filter(code_version=code_version).join(marks, on=["source_id", "mark"], how="semi")
    changed = marks.join(carried, on="source_id", how="anti")["source_id"].to_list()
    points = points_of_sources(store, changed, end)
    computed = variability_statistics(points, end)
    statistics = pl.concat([carried.select(computed.columns), computed]).sort("source_id", "band")
    kept = statistics.join(marks, on="source_id", maintain_order="left").with_columns(code_version=pl.lit(code_version))
    products.check_free_space(int(kept.estimated_size()))
    atomic_write(path, kept.write_parquet)
    for other in path.parents[1].glob(f"*/{path.name}"):
        if other.parent.name < day:
            other.unlink(missing_ok=True)
    return DayOfStatistics(statistics, computed, points)
