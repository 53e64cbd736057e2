"""What a good search is: strong events and bright sources are found again when injected, with the fluxes they were given."""

import dagster as dg
import polars as pl

from contimg_assets.checks.judgement import Judgement, record, specs
from contimg_resources.store.connection import Store

LOWEST_COMPLETENESS = 0.6
"""In the bin of deepest and longest injected events, once there are enough epochs to search."""
LOWEST_IMAGE_COMPLETENESS = 0.9
"""Of sources in the brightest bin injected into images."""
LARGEST_FLUX_BIAS = 0.03
LARGEST_BIAS_SIGMA = 4.0
"""A bias of injected fluxes must also be this significant: a handful of sources says little."""

INJECTION_RECOVERY = specs(
    "injection_recovery",
    completeness_is_maintained=(
        f"At least {LOWEST_COMPLETENESS:.0%} of the strongest injected events and {LOWEST_IMAGE_COMPLETENESS:.0%} of the brightest"
        " sources injected into images are recovered."
    ),
    injected_fluxes_are_recovered=(
        f"Forced fluxes of the brightest injected sources are within {LARGEST_FLUX_BIAS:.0%} of the truth, or"
        f" {LARGEST_BIAS_SIGMA:g} sigma."
    ),
)


def judge_injections(
    store: Store, context: dg.AssetExecutionContext, recovery: pl.DataFrame, images: pl.DataFrame
) -> list[dg.AssetCheckResult]:
    """Judge a day's injection and recovery by its easiest bins; passes while there is nothing to inject into.

    Parameters
    ----------
    store, context
    recovery : polars.DataFrame
        Table ``injection_recovery``: events in light curves; none while they are too short.
    images : polars.DataFrame
        Table ``image_injection``: sources in images, in order of brightness.
    """
    tried = recovery.filter(pl.col("n_injected") > 0).sort("completeness", descending=True, nulls_last=True)
    events = tried.row(0, named=True)["completeness"] if tried.height else None
    filled = images.filter(pl.col("n_injected") > 0)
    brightest = filled.row(-1, named=True) if filled.height else None
    sources = brightest["completeness"] if brightest else None
    bias = brightest["forced_flux_ratio"] - 1.0 if brightest and brightest["forced_flux_ratio"] is not None else None
    allowed = (
        max(LARGEST_FLUX_BIAS, LARGEST_BIAS_SIGMA * brightest["forced_flux_ratio_err"]) if brightest and bias else 0.0
    )
    worst = [
        f"depth {row['depth_bin']}, {row['duration_bin']} d: {row['completeness']:.2f}"
        for row in tried.sort("completeness").head(5).iter_rows(named=True)
        if row["completeness"] is not None
    ]
    by_brightness = [f"{row['snr_bin']} sigma: {row['completeness']:.2f}" for row in filled.iter_rows(named=True)]
    return record(
        store,
        context,
        "injection_recovery",
        [
            Judgement(
                "completeness_is_maintained",
                (events is None or events >= LOWEST_COMPLETENESS)
                and (sources is None or sources >= LOWEST_IMAGE_COMPLETENESS),
                events,
                LOWEST_COMPLETENESS,
                "fraction",
                worst=worst,
                detail={
                    "n_injected": int(tried["n_injected"].sum()),
                    "n_injected_into_images": int(filled["n_injected"].sum()),
                    "image_completeness": by_brightness,
                    "image_completeness_limit": LOWEST_IMAGE_COMPLETENESS,
                },
            ),
            Judgement(
                "injected_fluxes_are_recovered",
                bias is None or abs(bias) <= allowed,
                bias,
                allowed if bias is not None else LARGEST_FLUX_BIAS,
                "relative",
                detail={"n_sources": brightest["n_injected"] if brightest else 0},
            ),
        ],
    )
