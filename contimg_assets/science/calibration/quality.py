"""How good a set of solutions is: numbers for checks, tables and operators.

What belongs here: coverage, signal-to-noise, residuals, stability. What does not: the limits they are held against
(``contimg_assets.checks``).

Fractions count existing antennas only: slots of the telescope without data are not antennas. Phases are compared
between solutions after referring both to the antennas they share, because raw phases of a table scatter by any amount.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.solutions import Solutions
from contimg_assets.science.calibration.stability import are_comparable

_GOOD_SNR = 10.0
"""Signal-to-noise at which the quality score is half of what it would be without noise."""


def solution_quality(
    solutions: Solutions, existing_antennas: NDArray[np.int32], previous: Solutions | None = None
) -> dict[str, Any]:
    """Quality numbers of a table.

    Parameters
    ----------
    solutions : Solutions
    existing_antennas : array of int
        Indices of antennas that are in the data.
    previous : Solutions, optional
        An earlier table of the same kind to compare with.

    Returns
    -------
    dict
        ``n_antennas``, ``solved_fraction`` (antennas with any solution), ``flagged_fraction`` (of existing antennas'
        solutions), ``unsolved_antennas`` (names), ``snr_median``, ``amplitude_median``, ``residual``,
        ``converged_fraction``, ``n_iterations``, ``amplitude_ratio`` and ``amplitude_scatter`` (median and robust
        scatter of the ratio to ``previous``), ``phase_scatter_deg`` (rms of the phase difference to ``previous``), NaN
        without one, and ``quality`` in [0, 1]: solved fraction x converged fraction x snr / (snr + 10).
    """
    flags = solutions.flags[:, existing_antennas]
    solved = ~np.all(flags, axis=(0, 2, 3))
    good_snr = solutions.snr[:, existing_antennas][~flags]
    snr = float(np.median(good_snr)) if good_snr.size else 0.0
    # A channel without any data cannot converge and is not held against the solver.
    tried = np.any(solutions.snr > 0.0, axis=1)
    converged = float(np.mean(solutions.converged[tried])) if np.any(tried) else 0.0
    amplitudes = np.abs(solutions.gains[:, existing_antennas][~flags])
    return {
        "n_antennas": len(existing_antennas),
        "solved_fraction": float(np.mean(solved)) if len(solved) else 0.0,
        "flagged_fraction": float(np.mean(flags)) if flags.size else 1.0,
        "unsolved_antennas": [solutions.antenna_names[i] for i in existing_antennas[~solved]],
        "snr_median": snr,
        "amplitude_median": float(np.median(amplitudes)) if amplitudes.size else float("nan"),
        "residual": solutions.residual,
        "converged_fraction": converged,
        "n_iterations": solutions.n_iterations,
        **_stability(solutions, previous),
        "quality": float(np.mean(solved)) * converged * snr / (snr + _GOOD_SNR) if len(solved) else 0.0,
    }


def no_solution_quality(antennas: Sequence[str]) -> dict[str, Any]:
    """Numbers of ``solution_quality`` for antennas none of which could be solved for."""
    nothing = float("nan")
    return {
        "n_antennas": len(antennas),
        "solved_fraction": 0.0,
        "flagged_fraction": 1.0,
        "unsolved_antennas": list(antennas),
        "snr_median": 0.0,
        "amplitude_median": nothing,
        "residual": nothing,
        "converged_fraction": 0.0,
        "n_iterations": 0,
        **dict.fromkeys(("amplitude_ratio", "amplitude_scatter", "phase_scatter_deg"), nothing),
        "quality": 0.0,
    }


def antenna_quality(solutions: Solutions, existing_antennas: NDArray[np.int32]) -> list[dict[str, Any]]:
    """One row per existing antenna and receptor, those without solution included.

    Returns
    -------
    list of dict
        ``antenna``, ``receptor``, ``state`` (solved, partly flagged, no solution), ``flagged_fraction`` of its solutions,
        ``snr_median``, ``amplitude_median``, ``residual`` (rms of its averaged residuals over that of the typical
        baseline: 1 is as good as the others; NaN for tables that do not say) and ``converged_fraction`` of the
        solves it took part in. NaN where there is no solution.
    """
    rows = []
    for antenna in existing_antennas:
        for corr, name in enumerate(solutions.correlations):
            flags = solutions.flags[:, antenna, :, corr]
            tried = solutions.snr[:, antenna, :, corr] > 0.0
            residual = solutions.antenna_residual
            rows.append(
                {
                    "antenna": solutions.antenna_names[antenna],
                    "receptor": name[0],
                    "state": "no solution" if flags.all() else "partly flagged" if flags.any() else "solved",
                    "flagged_fraction": float(np.mean(flags)),
                    "snr_median": _median(solutions.snr[:, antenna, :, corr][~flags]),
                    "amplitude_median": _median(np.abs(solutions.gains[:, antenna, :, corr][~flags])),
                    "residual": float("nan") if residual is None else float(residual[antenna, corr]),
                    "converged_fraction": float(np.mean(solutions.converged[:, :, corr][tried]))
                    if tried.any()
                    else float("nan"),
                }
            )
    return rows


def _median(values: NDArray[np.floating[Any]]) -> float:
    return float(np.median(values)) if values.size else float("nan")


def _stability(solutions: Solutions, previous: Solutions | None) -> dict[str, float]:
    nothing = dict.fromkeys(("amplitude_ratio", "amplitude_scatter", "phase_scatter_deg"), float("nan"))
    if previous is None or not are_comparable(previous, solutions):
        return nothing
    # The last earlier against the first new solution.
    both = ~previous.flags[-1] & ~solutions.flags[0]
    if not np.any(both):
        return nothing
    ratio = np.where(both, solutions.gains[0] / previous.gains[-1], 0.0)
    # A common phase per channel and correlation is only the reference antenna's.
    ratio = ratio * np.exp(-1j * np.angle(ratio.sum(axis=0)))
    amplitude = np.abs(ratio[both])
    middle = float(np.median(amplitude))
    return {
        "amplitude_ratio": middle,
        "amplitude_scatter": float(1.4826 * np.median(np.abs(amplitude - middle))),
        "phase_scatter_deg": float(np.rad2deg(np.sqrt(np.mean(np.angle(ratio[both]) ** 2)))),
    }
