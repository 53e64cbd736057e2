"""What good light curves, statistics and candidates are: unique, complete, recomputable, mostly constant, consistent."""

from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from contimg_assets.checks.judgement import Judgement, record, specs
from contimg_resources.store.connection import Store

LARGEST_RECOMPUTATION_DIFFERENCE = 1e-6
MOST_VARIABLE_FRACTION = 0.25
"""Of sources with at least FEWEST_EPOCHS points; 1-5 % of GHz sources vary by over 30 %, small fields scatter more."""
VARIABLE_P_VALUE = 1e-4
FEWEST_EPOCHS = 5
MOST_CANDIDATE_FRACTION = 0.2

LIGHT_CURVES = specs(
    "light_curves",
    epochs_are_unique="No source has two points for one transit and band. (blocking)",
    no_orphaned_measurements="Every point belongs to a source of the catalogue.",
)
VARIABILITY_STATISTICS = specs(
    "variability_statistics",
    statistics_match_recomputation="Statistics equal an independent recomputation in SQL. (blocking)",
    population_is_mostly_constant=f"At most {MOST_VARIABLE_FRACTION:.0%} of the sources vary significantly.",
)
ESE_CANDIDATES = specs(
    "ese_candidates",
    candidates_are_consistent_with_light_curves="The flux at each candidate's peak is below its quiescent level. (blocking)",
    false_alarm_rate_is_controlled=f"At most {MOST_CANDIDATE_FRACTION:.0%} of the sources are candidates.",
)


def judge_light_curves(
    store: Store, context: dg.AssetExecutionContext, points: pl.DataFrame
) -> list[dg.AssetCheckResult]:
    """Judge a day's light-curve points."""
    duplicated = points.filter(pl.struct("source_id", "epoch_mjd", "band").is_duplicated())
    known = store.query("SELECT source_id FROM source")
    orphans = points.join(known, on="source_id", how="anti")["source_id"].unique().sort()
    return record(
        store,
        context,
        "light_curves",
        [
            Judgement(
                "epochs_are_unique",
                duplicated.is_empty(),
                duplicated.height,
                0,
                "points",
                worst=duplicated["source_id"].unique().sort().to_list(),
                blocking=True,
            ),
            Judgement(
                "no_orphaned_measurements", orphans.is_empty(), len(orphans), 0, "sources", worst=orphans.to_list()
            ),
        ],
    )


def judge_statistics(
    store: Store,
    context: dg.AssetExecutionContext,
    statistics: pl.DataFrame,
    computed: pl.DataFrame,
    points: pl.DataFrame,
) -> list[dg.AssetCheckResult]:
    """Judge those rows that were computed now against a recomputation by DuckDB, and the population they all describe."""
    first, last = points["mjd"].min(), points["mjd"].max()
    recomputed = store.query(
        "SELECT source_id, band, avg(flux_jy) AS mean_flux_jy, stddev_samp(flux_jy) / avg(flux_jy) AS modulation_index"
        " FROM light_curve WHERE mjd BETWEEN ? AND ? AND flux_jy IS NOT NULL AND flux_err_jy > 0"
        " AND source_id IN (SELECT unnest(?::VARCHAR[])) GROUP BY source_id, band",
        [
            first if first is not None else 0.0,
            last if last is not None else 0.0,
            computed["source_id"].unique().to_list(),
        ],
    )
    joined = computed.join(recomputed, on=["source_id", "band"], how="inner", suffix="_again")
    difference = joined.select(
        "source_id",
        worst=pl.max_horizontal(
            (pl.col("mean_flux_jy") / pl.col("mean_flux_jy_again") - 1.0).abs(),
            ((pl.col("modulation_index") - pl.col("modulation_index_again")).abs()),
        ),
    ).sort("worst", descending=True, nulls_last=True)
    largest = float(np.max(difference["worst"].fill_null(0.0).to_numpy(), initial=0.0))
    searched = statistics.filter(pl.col("band") == "full", pl.col("n_epochs") >= FEWEST_EPOCHS)
    variable = searched.filter(pl.col("chi2_p_value") < VARIABLE_P_VALUE).sort("eta", descending=True)
    fraction = variable.height / searched.height if searched.height else 0.0
    return record(
        store,
        context,
        "variability_statistics",
        [
            Judgement(
                "statistics_match_recomputation",
                joined.height == computed.height and largest <= LARGEST_RECOMPUTATION_DIFFERENCE,
                largest,
                LARGEST_RECOMPUTATION_DIFFERENCE,
                "relative difference",
                worst=difference["source_id"].head(5).to_list(),
                blocking=True,
                detail={"n_rows": computed.height, "n_recomputed": joined.height},
            ),
            Judgement(
                "population_is_mostly_constant",
                fraction <= MOST_VARIABLE_FRACTION,
                fraction,
                MOST_VARIABLE_FRACTION,
                "fraction of sources",
                worst=variable["source_id"].to_list(),
                detail={"n_sources": searched.height},
            ),
        ],
    )


def judge_candidates(
    store: Store, context: dg.AssetExecutionContext, found: pl.DataFrame, points: pl.DataFrame, n_sources: int
) -> list[dg.AssetCheckResult]:
    """Judge candidates against the light curves they were found in (``points``), and their number among all sources."""
    contradicted = [row["candidate_id"] for row in found.iter_rows(named=True) if not _is_faint_at_peak(row, points)]
    fraction = found["source_id"].n_unique() / n_sources if n_sources else 0.0
    return record(
        store,
        context,
        "ese_candidates",
        [
            Judgement(
                "candidates_are_consistent_with_light_curves",
                not contradicted,
                len(contradicted),
                0,
                "candidates",
                worst=contradicted,
                blocking=True,
            ),
            Judgement(
                "false_alarm_rate_is_controlled",
                fraction <= MOST_CANDIDATE_FRACTION,
                fraction,
                MOST_CANDIDATE_FRACTION,
                "fraction of sources",
                worst=found["source_id"].to_list(),
            ),
        ],
    )


def _is_faint_at_peak(row: dict[str, Any], points: pl.DataFrame) -> bool:
    """Whether the points inside the event are fainter than those outside (median against median, band by band)."""
    own = points.filter(pl.col("source_id") == row["source_id"], pl.col("flux_jy").is_not_null())
    inside = (pl.col("mjd") >= row["start_mjd"]) & (pl.col("mjd") <= row["end_mjd"])
    for (_,), band in own.group_by("band"):
        within, without = band.filter(inside)["flux_jy"], band.filter(~inside)["flux_jy"]
        if within.len() and without.len() and float(np.min(within.to_numpy())) < float(np.median(without.to_numpy())):
            return True
    return own.is_empty()
