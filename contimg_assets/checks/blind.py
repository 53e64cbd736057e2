"""What good blind detection is: false ones as rare as noise makes them, bright sources found, finds that single images confirm."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from contimg_assets.checks.judgement import Judgement, record, specs
from contimg_resources.store.connection import Store

KINDS = ("catalogued", "near_catalogued", "artefact", "new")
LARGEST_CHANCE = 1e-3
"""More false detections than Gaussian noise would have with this probability mean artefacts."""
LOWEST_FOUND_FRACTION = 0.9
LOWEST_CONFIRMED_FRACTION = 0.8
CONFIRMING_SNR = 3.0

BLIND_DETECTIONS = specs(
    "blind_detections",
    false_detections_are_those_of_noise=(
        f"The image with its sign turned has no more detections than noise would have once in {1 / LARGEST_CHANCE:.0f} mosaics."
    ),
    bright_catalogue_sources_are_found=(
        f"At least {LOWEST_FOUND_FRACTION:.0%} of the catalogue sources above 10 sigma are detected."
    ),
)
BLIND_SOURCES = specs(
    "blind_sources",
    finds_are_confirmed_by_photometry=(
        f"At least {LOWEST_CONFIRMED_FRACTION:.0%} of the sources first detected today are above {CONFIRMING_SNR:g} sigma in the"
        " forced photometry of the single images."
    ),
)


def most_false_detections(expected: float) -> int:
    """Largest number of false detections that is still noise: the Poisson quantile at ``LARGEST_CHANCE``."""
    from scipy.stats import poisson

    return int(poisson.isf(LARGEST_CHANCE, expected))


def judge_detections(
    store: Store, context: dg.AssetExecutionContext, summary: Mapping[str, Any]
) -> list[dg.AssetCheckResult]:
    """Judge the detections of one mosaic by the numbers ``blind_detections`` measured."""
    limit, found = most_false_detections(summary["expected_false"]), summary["found_fraction"]
    return record(
        store,
        context,
        "blind_detections",
        [
            Judgement(
                "false_detections_are_those_of_noise",
                summary["n_negative"] <= limit,
                summary["n_negative"],
                limit,
                "detections",
                detail={"expected_false": summary["expected_false"], "n_new": summary["n_new"]},
            ),
            Judgement(
                "bright_catalogue_sources_are_found",
                found is None or found >= LOWEST_FOUND_FRACTION,
                found,
                LOWEST_FOUND_FRACTION,
                "fraction",
                worst=summary["missed"],
                detail={"n_bright": summary["n_bright"]},
            ),
        ],
    )


def judge_sources(
    store: Store, context: dg.AssetExecutionContext, first_seen: pl.DataFrame, fluxes: pl.DataFrame
) -> list[dg.AssetCheckResult]:
    """Judge the sources first detected on a day by the day's forced fluxes, combined by their errors.

    Images and mosaic share their noise: this finds what the mosaic made up, and what came and went within a transit.
    """
    measured = fluxes.filter(
        pl.col("source_id").is_in(first_seen["source_id"].to_list()), pl.col("peak_flux_err_jy_beam") > 0
    )
    weight = pl.col("peak_flux_err_jy_beam") ** -2
    combined = measured.group_by("source_id").agg(
        snr=(weight * pl.col("peak_flux_jy_beam")).sum() / weight.sum().sqrt()
    )
    confirmed = combined.filter(pl.col("snr") >= CONFIRMING_SNR).height
    fraction = confirmed / combined.height if combined.height else None
    weakest = combined.sort("snr", "source_id").head(10)
    return record(
        store,
        context,
        "blind_sources",
        [
            Judgement(
                "finds_are_confirmed_by_photometry",
                fraction is None or fraction >= LOWEST_CONFIRMED_FRACTION,
                fraction,
                LOWEST_CONFIRMED_FRACTION,
                "fraction",
                worst=[f"{name}: {value:.1f}" for name, value in weakest.select("source_id", "snr").iter_rows()],
                detail={"n_first_seen": first_seen.height, "n_measured": combined.height},
            )
        ],
    )
