"""What good calibration is: enough antennas solved, significant, small residuals, converged, stable since the last table.

The measures are ``science.calibration.quality``; judged on residuals and on differences between successive tables,
never on raw phases, which say nothing about quality. Fractions are of antennas that exist.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import numpy as np

from contimg_assets.checks.judgement import Judgement, record, specs
from contimg_resources.store.connection import Store

FEWEST_SOLVED_FRACTION = 0.75
LOWEST_SNR = 5.0
HIGHEST_RESIDUAL = {"bandpass_table": 0.5, "gain_table": 1.0}
"""Rms of the averaged residual visibilities over that of the fitted ones. It contains the noise of one average: a calibrator
stands far above it, the sources of a field do not."""
LOWEST_CONVERGED_FRACTION = 0.95
LARGEST_AMPLITUDE_CHANGE = {"bandpass_table": 0.1, "gain_table": 0.3}
"""Robust scatter over antennas (and channels) of the amplitude ratio to the previous table."""

_SENTENCES = {
    "solutions_cover_most_antennas": f"At least {FEWEST_SOLVED_FRACTION:.0%} of the existing antennas have solutions. (blocking)",
    "solution_snr_is_sufficient": f"Median signal-to-noise ratio of the solutions is at least {LOWEST_SNR:g}.",
    "residuals_are_acceptable": "Residual visibilities are small beside the fitted ones.",
    "solutions_converged": f"At least {LOWEST_CONVERGED_FRACTION:.0%} of the solutions converged.",
    "solutions_are_stable_in_time": "Amplitudes changed little since the previous table.",
}
BANDPASS_TABLE = specs("bandpass_table", **_SENTENCES)
GAIN_TABLE = specs("gain_table", **_SENTENCES)


def judge_solutions(
    store: Store, context: dg.AssetExecutionContext, asset: str, quality: Mapping[str, Any]
) -> list[dg.AssetCheckResult]:
    """Judge a calibration table by its quality measures (``science.calibration.quality.solution_quality``)."""
    change, largest = quality["amplitude_scatter"], LARGEST_AMPLITUDE_CHANGE[asset]
    is_first = not np.isfinite(change)
    return record(
        store,
        context,
        asset,
        [
            Judgement(
                "solutions_cover_most_antennas",
                quality["solved_fraction"] >= FEWEST_SOLVED_FRACTION,
                quality["solved_fraction"],
                FEWEST_SOLVED_FRACTION,
                "fraction of existing antennas",
                worst=quality["unsolved_antennas"],
                blocking=True,
            ),
            Judgement(
                "solution_snr_is_sufficient",
                quality["snr_median"] >= LOWEST_SNR,
                quality["snr_median"],
                LOWEST_SNR,
                "ratio",
            ),
            Judgement(
                "residuals_are_acceptable",
                quality["residual"] <= HIGHEST_RESIDUAL[asset],
                quality["residual"],
                HIGHEST_RESIDUAL[asset],
                "fraction of the model",
            ),
            Judgement(
                "solutions_converged",
                quality["converged_fraction"] >= LOWEST_CONVERGED_FRACTION,
                quality["converged_fraction"],
                LOWEST_CONVERGED_FRACTION,
                "fraction",
            ),
            Judgement(
                "solutions_are_stable_in_time",
                is_first or change <= largest,
                None if is_first else change,
                largest,
                "fraction",
                detail={"first_table": True}
                if is_first
                else {"amplitude_ratio": quality["amplitude_ratio"], "phase_scatter_deg": quality["phase_scatter_deg"]},
            ),
        ],
    )
