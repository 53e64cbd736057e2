"""What good photometry is: nothing left out, errors that match the scatter, methods that agree, a believable flux scale."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from contimg_assets.checks.judgement import Judgement, record, specs
from contimg_resources.store.connection import Store

MOST_UNMEASURED_FRACTION = 0.0
BLANK_PULL_RANGE = (0.7, 1.4)
"""Scatter of flux over error at blank positions."""
LARGEST_METHOD_DIFFERENCE = 0.02
"""Median difference of generalised least squares and matched filter for bright sources."""
FEWEST_REFERENCES = 3
FACTOR_RANGE = (0.7, 1.4)

FORCED_PHOTOMETRY = specs(
    "forced_photometry",
    every_catalogue_source_is_measured="Every catalogue source inside the beam has a row in every band. (blocking)",
    errors_match_scatter=f"At blank positions flux over error scatters by {BLANK_PULL_RANGE[0]:g} to {BLANK_PULL_RANGE[1]:g}.",
    fluxes_agree_across_methods=f"Two estimators agree to {LARGEST_METHOD_DIFFERENCE:.0%} for bright sources.",
)
FLUX_SCALE = specs(
    "flux_scale",
    enough_reference_sources=f"At least {FEWEST_REFERENCES} reference sources set the scale.",
    correction_is_reasonable=f"The full-band factor lies between {FACTOR_RANGE[0]:g} and {FACTOR_RANGE[1]:g}. (blocking)",
)


def judge_photometry(
    store: Store, context: dg.AssetExecutionContext, rows: pl.DataFrame, quality: Mapping[str, Any]
) -> list[dg.AssetCheckResult]:
    """Judge the forced photometry of one observation.

    Parameters
    ----------
    store, context
    rows : polars.DataFrame
        Table ``forced_photometry``, all bands.
    quality : mapping
        ``n_inside`` (catalogue sources in the beam), ``blank_pull``, ``n_blank``, ``methods_ratio``, ``n_bright``,
        ``missing_bands`` (of which there is no image any more, empty when none).
    """
    n_bands, n_inside = rows["band"].n_unique(), int(quality["n_inside"])
    missing = n_bands * n_inside - rows.height
    blank, ratio = float(quality["blank_pull"]), float(quality["methods_ratio"])
    has_blank, has_bright = bool(np.isfinite(blank)), bool(np.isfinite(ratio))
    return record(
        store,
        context,
        "forced_photometry",
        [
            Judgement(
                "every_catalogue_source_is_measured",
                missing == 0 and n_inside > 0,
                missing,
                MOST_UNMEASURED_FRACTION,
                "rows missing",
                blocking=True,
                detail={"n_sources": n_inside, "n_bands": n_bands, "missing_bands": quality["missing_bands"] or "none"},
            ),
            Judgement(
                "errors_match_scatter",
                not has_blank or BLANK_PULL_RANGE[0] <= blank <= BLANK_PULL_RANGE[1],
                blank if has_blank else None,
                BLANK_PULL_RANGE[1],
                "sigma",
                detail={"n_blank_positions": int(quality["n_blank"])},
            ),
            Judgement(
                "fluxes_agree_across_methods",
                not has_bright or abs(ratio - 1.0) <= LARGEST_METHOD_DIFFERENCE,
                ratio if has_bright else None,
                1.0 + LARGEST_METHOD_DIFFERENCE,
                "ratio",
                detail={"n_bright_sources": int(quality["n_bright"])},
            ),
        ],
    )


def judge_flux_scale(store: Store, context: dg.AssetExecutionContext, rows: pl.DataFrame) -> list[dg.AssetCheckResult]:
    """Judge the flux scale of one observation by its full band; the worst offenders are the bands farthest from one."""
    full = rows.row(by_predicate=pl.col("band") == "full", named=True)
    farthest = rows.sort((pl.col("factor") - 1.0).abs(), descending=True)
    return record(
        store,
        context,
        "flux_scale",
        [
            Judgement(
                "enough_reference_sources",
                full["n_references"] >= FEWEST_REFERENCES,
                full["n_references"],
                FEWEST_REFERENCES,
                "sources",
            ),
            Judgement(
                "correction_is_reasonable",
                FACTOR_RANGE[0] <= full["factor"] <= FACTOR_RANGE[1],
                full["factor"],
                FACTOR_RANGE[1],
                "ratio",
                worst=[f"{band}: {factor:.3f}" for band, factor in farthest.select("band", "factor").iter_rows()],
                blocking=True,
            ),
        ],
    )
