"""How good a set of solutions is: numbers for checks, tables and operators.

What belongs here: coverage, signal-to-noise, residuals, stability. What does not: the limits they are held against
(``contimg_assets.checks``).

Fractions count existing antennas only: slots of the telescope without data are not antennas. Phases are compared
between solutions after referring both to the antennas they share, because raw phases of a table scatter by any amount.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.solutions import Solutions

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


def _stability(solutions: Solutions, previous: Solutions | None) -> dict[str, float]:
    nothing = dict.fromkeys(("amplitude_ratio", "amplitude_scatter", "phase_scatter_deg"), float("nan"))
    if (
        previous is None
        or previous.antenna_names != solutions.antenna_names
        or previous.correlations != solutions.correlations
        or previous.gains.shape[2] != solutions.gains.shape[2]
    ):
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
