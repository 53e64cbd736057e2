"""What a good image is: noise near thermal, a restoring beam as expected, right positions and fluxes, dynamic range.

Of a mosaic: weights that tell the noise, the fluxes of its tiles, no tile missing.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from contimg_assets.checks.judgement import Judgement, record, specs
from contimg_resources.store.connection import Store

HIGHEST_RMS_OVER_THERMAL = 2.0
WIDEST_BEAM_AXIS_RATIO = 6.0
LARGEST_OFFSET_BEAMS = 0.1
"""Median offset from the catalogue in units of the restoring beam's minor axis."""
LARGEST_FLUX_RATIO_DEVIATION = 0.2
LOWEST_DYNAMIC_RANGE = 30.0

MOSAIC_SCATTER_RANGE = (0.8, 1.25)
"""Scatter of the mosaic's brightness times sqrt(weight) on blank sky."""
LARGEST_MOSAIC_FLUX_DEVIATION = 0.02
"""Median difference of bright fluxes in the mosaic from the combined photometry of its tiles."""

CONTINUUM_IMAGE = specs(
    "continuum_image",
    image_rms_is_near_thermal=(
        f"The rms of the full-band image is at most {HIGHEST_RMS_OVER_THERMAL:g} times thermal, by the scatter of the data and by "
        "the telescope's system equivalent flux density."
    ),
    restoring_beam_is_expected="The restoring beam is what the longest baselines allow, and not too elongated.",
    astrometry_matches_catalogue=f"The median offset from the catalogue is below {LARGEST_OFFSET_BEAMS:g} of a beam. (blocking)",
    flux_scale_matches_catalogue=f"The median flux ratio to the catalogue is within {LARGEST_FLUX_RATIO_DEVIATION:.0%} of one.",
    dynamic_range_is_sufficient=f"Peak over rms is at least {LOWEST_DYNAMIC_RANGE:g}.",
)

MOSAIC = specs(
    "mosaic",
    mosaic_noise_matches_weights=(
        f"On blank sky brightness times sqrt(weight) scatters by {MOSAIC_SCATTER_RANGE[0]:g} to {MOSAIC_SCATTER_RANGE[1]:g}."
    ),
    mosaic_fluxes_match_photometry=(
        f"Bright fluxes agree with the combined photometry of the tiles to {LARGEST_MOSAIC_FLUX_DEVIATION:.0%} in the median."
    ),
    mosaic_holds_every_tile="Every image of the hour is in the mosaic.",
)


def judge_image(
    store: Store, context: dg.AssetExecutionContext, summary: Mapping[str, Any]
) -> list[dg.AssetCheckResult]:
    """Judge the full-band image by the numbers that ``continuum_image`` measured."""
    nominal_sefd_jy = min(summary["sefd_jy"], summary["nominal_sefd_jy"])
    thermal_rms_jy_beam = summary["thermal_rms_jy_beam"] * nominal_sefd_jy / summary["sefd_jy"]
    rms_ratio = summary["rms_jy_beam"] / thermal_rms_jy_beam
    axis_ratio = summary["beam_major_arcsec"] / summary["beam_minor_arcsec"]
    beam_ok = axis_ratio <= WIDEST_BEAM_AXIS_RATIO and 0.3 <= summary["beam_over_resolution"] <= 3.0
    offset, flux_ratio = summary["offset_beams"], summary["flux_ratio"]
    return record(
        store,
        context,
        "continuum_image",
        [
            Judgement(
                "image_rms_is_near_thermal",
                rms_ratio <= HIGHEST_RMS_OVER_THERMAL,
                rms_ratio,
                HIGHEST_RMS_OVER_THERMAL,
                "thermal rms",
                detail={name: summary[name] for name in ("sefd_jy", "nominal_sefd_jy", "radiometer_rms_jy_beam")},
            ),
            Judgement(
                "restoring_beam_is_expected",
                beam_ok,
                axis_ratio,
                WIDEST_BEAM_AXIS_RATIO,
                "axis ratio",
                detail={"minor_axis_over_lambda_by_longest_baseline": summary["beam_over_resolution"]},
            ),
            Judgement(
                "astrometry_matches_catalogue",
                offset is None or offset <= LARGEST_OFFSET_BEAMS,
                offset,
                LARGEST_OFFSET_BEAMS,
                "beam minor axes",
                blocking=True,
                detail={"n_sources": summary["n_matched"]},
            ),
            Judgement(
                "flux_scale_matches_catalogue",
                flux_ratio is None or abs(flux_ratio - 1.0) <= LARGEST_FLUX_RATIO_DEVIATION,
                flux_ratio,
                1.0 + LARGEST_FLUX_RATIO_DEVIATION,
                "ratio",
                detail={"n_sources": summary["n_matched"]},
            ),
            Judgement(
                "dynamic_range_is_sufficient",
                summary["dynamic_range"] >= LOWEST_DYNAMIC_RANGE,
                summary["dynamic_range"],
                LOWEST_DYNAMIC_RANGE,
                "ratio",
            ),
        ],
    )


def judge_mosaic(
    store: Store, context: dg.AssetExecutionContext, summary: Mapping[str, Any]
) -> list[dg.AssetCheckResult]:
    """Judge a mosaic by the numbers that ``mosaic`` measured."""
    scatter, flux_ratio, left_out = summary["blank_sky_scatter"], summary["flux_ratio"], summary["left_out"]
    return record(
        store,
        context,
        "mosaic",
        [
            Judgement(
                "mosaic_noise_matches_weights",
                MOSAIC_SCATTER_RANGE[0] <= scatter <= MOSAIC_SCATTER_RANGE[1],
                scatter,
                MOSAIC_SCATTER_RANGE[1],
                "sigma",
            ),
            Judgement(
                "mosaic_fluxes_match_photometry",
                flux_ratio is None or abs(flux_ratio - 1.0) <= LARGEST_MOSAIC_FLUX_DEVIATION,
                flux_ratio,
                1.0 + LARGEST_MOSAIC_FLUX_DEVIATION,
                "ratio",
                worst=summary["worst_sources"],
                detail={"n_sources": summary["n_compared"]},
            ),
            Judgement("mosaic_holds_every_tile", not left_out, len(left_out), 0, "images", worst=left_out),
        ],
    )
