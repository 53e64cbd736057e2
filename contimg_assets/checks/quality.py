"""What a good search is: strong events are found again when injected."""

import dagster as dg
import polars as pl

from contimg_assets.checks.judgement import Judgement, record, specs
from contimg_resources.store.connection import Store

LOWEST_COMPLETENESS = 0.6
"""In the bin of deepest and longest injected events, once there are enough epochs to search."""

INJECTION_RECOVERY = specs(
    "injection_recovery",
    completeness_is_maintained=f"At least {LOWEST_COMPLETENESS:.0%} of the strongest injected events are recovered.",
)


def judge_injections(
    store: Store, context: dg.AssetExecutionContext, recovery: pl.DataFrame
) -> list[dg.AssetCheckResult]:
    """Judge a day's injection and recovery by its easiest bin; passes while light curves are too short to be searched."""
    tried = recovery.filter(pl.col("n_injected") > 0).sort("completeness", descending=True, nulls_last=True)
    best = tried.row(0, named=True) if tried.height else None
    value = best["completeness"] if best else None
    return record(
        store,
        context,
        "injection_recovery",
        [
            Judgement(
                "completeness_is_maintained",
                value is None or value >= LOWEST_COMPLETENESS,
                value,
                LOWEST_COMPLETENESS,
                "fraction",
                worst=[
                    f"depth {row['depth_bin']}, {row['duration_bin']} d: {row['completeness']:.2f}"
                    for row in tried.sort("completeness").head(5).iter_rows(named=True)
                    if row["completeness"] is not None
                ],
                detail={"n_injected": int(tried["n_injected"].sum())},
            )
        ],
    )
