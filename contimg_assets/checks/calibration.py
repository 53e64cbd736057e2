"""What good calibration is: enough antennas solved, significant, small residuals, converged, stable since the last tables.

The measures are ``science.calibration.quality`` and ``science.calibration.stability``; judged on residuals and on differences
between successive tables, never on raw phases, which say nothing about quality. Fractions are of antennas that exist.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from contimg_assets.checks.judgement import Judgement, specs

FEWEST_SOLVED_FRACTION = 0.75
LOWEST_SNR = 5.0
HIGHEST_RESIDUAL = {"bandpass_table": 0.5, "gain_table": 1.0}
"""Rms of the averaged residual visibilities over that of the fitted ones. It contains the noise of one average: a calibrator
stands far above it, the sources of a field do not."""
LOWEST_CONVERGED_FRACTION = 0.95
MOST_UNSTABLE_FRACTION = 0.1
"""Receptors that jumped or drifted, of those compared: the odd one is named, several are a fault of the array."""
STABILITY_LIMITS = {"bandpass_table": (0.05, 0.1, 20.0), "gain_table": (0.1, 0.3, 30.0)}
"""Fields of ``StabilityLimits``: amplitude floor, amplitude limit, phase floor in deg."""

_SENTENCES = {
    "solutions_cover_most_antennas": f"At least {FEWEST_SOLVED_FRACTION:.0%} of the existing antennas have solutions. (blocking)",
    "solution_snr_is_sufficient": f"Median signal-to-noise ratio of the solutions is at least {LOWEST_SNR:g}.",
    "residuals_are_acceptable": "Residual visibilities are small beside the fitted ones.",
    "solutions_converged": f"At least {LOWEST_CONVERGED_FRACTION:.0%} of the solutions converged.",
    "solutions_are_stable_in_time": f"At most {MOST_UNSTABLE_FRACTION:.0%} of the receptors jumped or drifted.",
}
BANDPASS_TABLE = specs("bandpass_table", **_SENTENCES)
GAIN_TABLE = specs("gain_table", **_SENTENCES)


def judge_solutions(asset: str, quality: Mapping[str, Any], stability: Any) -> list[Judgement]:
    """Judge a calibration table.

    Parameters
    ----------
    asset : str
        ``bandpass_table`` or ``gain_table``.
    quality : mapping
        Of ``science.calibration.quality.solution_quality``.
    stability : Stability
        Of ``science.calibration.stability.judge_stability``.
    """
    residual = quality["residual"] if np.isfinite(quality["residual"]) else None
    return [
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
            residual is not None and residual <= HIGHEST_RESIDUAL[asset],
            residual,
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
        _stable(quality, stability),
    ]


def _stable(quality: Mapping[str, Any], stability: Any) -> Judgement:
    is_first = stability.n_tables == 0
    fraction = None if is_first else stability.unstable_fraction
    detail: dict[str, Any] = {"tables_compared": stability.n_tables}
    if not is_first:
        detail |= {
            "reference_antenna": stability.reference,
            "unstable_receptors": len(stability.unstable),
            **{
                name: float(quality[name])
                for name in ("amplitude_ratio", "amplitude_scatter", "phase_scatter_deg")
                if np.isfinite(quality[name])
            },
        }
    return Judgement(
        "solutions_are_stable_in_time",
        fraction is None or fraction <= MOST_UNSTABLE_FRACTION,
        fraction,
        MOST_UNSTABLE_FRACTION,
        "fraction of receptors",
        worst=[
            f"{item['receptor']}: {item['kind']}, amplitude x {item['amplitude_ratio']:.3f}, "
            f"phase {item['phase_deg']:+.1f} deg ({item['significance']:.1f} sigma)"
            for item in stability.unstable
        ],
        detail=detail,
    )


def is_acceptable(judgements: Sequence[Judgement]) -> bool:
    """Whether a table may be used: it passes what blocks."""
    return all(judgement.passed for judgement in judgements if judgement.blocking)


def not_blocking(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The same judgements for a table that is not used: what is used instead has passed its own."""
    return [replace(judgement, blocking=False) for judgement in judgements]
