"""Jumps and drifts of single antennas between successive tables.

What belongs here: how much each receptor changed, held against the errors of its solutions and against how much it usually
changes. What does not: changes of the array as a whole (``quality``), and what is done about them (``contimg_assets.checks``).

Two tables are compared after both are referred to one antenna that has solutions in both; the median change of the array is then
taken out, so that a jump of that antenna shows on it and not on all the others. With change c_k of a receptor at step k, error e_k
and usual change u (rms of its earlier steps, drawn towards the robust scatter of the array by ``_PRIOR_STEPS`` steps),

* a jump is ``|c_n| > 5 sqrt(e_n^2 + u^2)`` and above a floor, or an amplitude change above the limit that its error
  cannot explain;
* a drift is ``|sum c_k| > 5 sqrt(n) s`` and above the floor, with s the scatter of steps about their means, robust and pooled
  over the array or the receptor's own where that is larger: steps of a random walk do not add up that far.

Rejected: raw phases of one table (arbitrary), and the mean over antennas as reference (one broken antenna moves it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.solutions import Solutions
from contimg_assets.science.constants import MAD_TO_SIGMA

SIGNIFICANT = 5.0
"""Standard deviations at which a change is believed: of normal errors 6e-7 lie beyond, 2e-4 per table of 200 receptors."""
FEWEST_STEPS_OF_A_DRIFT = 4
_PRIOR_STEPS = 3.0
"""Steps that the array's scatter counts for in the usual change of one receptor."""


@dataclass(frozen=True, slots=True)
class StabilityLimits:
    """What one receptor may change by between two tables."""

    amplitude_floor: float
    """Relative changes below this are never reported."""
    amplitude_limit: float
    """Relative changes above this are reported however usual they are."""
    phase_floor_deg: float
    """Phase changes below this are never reported, deg."""


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Changes from one table to the next, arrays of shape (n_ant, n_corr), NaN where there is nothing to compare."""

    reference: int
    """Antenna both tables are referred to."""
    log_amplitude: NDArray[np.float64]
    """Natural logarithm of the amplitude ratio, the median of the array taken out."""
    phase_rad: NDArray[np.float64]
    """Phase difference, the median of the array taken out."""
    error: NDArray[np.float64]
    """Standard error of either."""


@dataclass(frozen=True, slots=True)
class Stability:
    """How the receptors of a table compare with earlier tables."""

    n_tables: int
    """Earlier tables that could be compared."""
    n_receptors: int
    """Receptors with solutions now and before."""
    reference: str
    """Name of the antenna both tables are referred to; empty without earlier tables."""
    unstable: tuple[dict[str, Any], ...]
    """Receptors that jumped or drifted, worst first: ``receptor`` ("12 X"), ``kind`` (jump, drift), ``amplitude_ratio``,
    ``phase_deg`` and ``significance`` (sigma)."""

    @property
    def unstable_fraction(self) -> float:
        """Of the receptors compared; NaN without any."""
        return len(self.unstable) / self.n_receptors if self.n_receptors else float("nan")


def changes_between(earlier: Solutions, later: Solutions) -> Changes | None:
    """Change of every receptor from the last interval of one table to the first of the next.

    Returns
    -------
    Changes or None
        None if the tables have not the same antennas, correlations and channels, or no common solution.
    """
    if not are_comparable(earlier, later):
        return None
    both = ~earlier.flags[-1] & ~later.flags[0]
    inverse_snr = [1.0 / np.maximum(table, 1e-6) for table in (earlier.snr[-1], later.snr[0])]
    variance = np.where(both, inverse_snr[0] ** 2 + inverse_snr[1] ** 2, np.nan)
    # Channels count over all correlations: one antenna must serve both receptors.
    reference = int(np.argmax(np.sum(np.where(both, 1.0 / variance, 0.0), axis=(1, 2))))
    both &= both[reference]
    if not np.any(both):
        return None
    ratio = np.where(both, later.gains[0] / earlier.gains[-1], 0.0)
    ratio *= np.exp(-1j * np.angle(ratio[reference]))
    count = both.sum(axis=1)
    has_any = count > 0
    logs = np.log(np.abs(np.where(both, ratio, 1.0)))
    mean_log = np.where(has_any, np.sum(logs * both, axis=1) / np.maximum(count, 1), np.nan)
    units = np.sum(ratio / np.maximum(np.abs(ratio), 1e-300), axis=1)
    # The middle of the array: its circular mean first, so that the median does not meet the seam at 180 deg.
    middle = np.exp(-1j * np.angle(np.sum(units, axis=0)))
    phase = np.where(has_any, np.angle(units * middle), np.nan)
    mean_variance = np.sum(np.where(both, variance, 0.0), axis=1) / np.maximum(count, 1)
    return Changes(
        reference=reference,
        log_amplitude=mean_log - _median(mean_log),
        phase_rad=phase - _median(phase),
        error=np.where(has_any, np.sqrt(mean_variance / np.maximum(count, 1)), np.nan),
    )


def are_comparable(earlier: Solutions, later: Solutions) -> bool:
    """Whether two tables have the same antennas, correlations and channels."""
    return (
        earlier.antenna_names == later.antenna_names
        and earlier.correlations == later.correlations
        and earlier.gains.shape[2] == later.gains.shape[2]
    )


def judge_stability(solutions: Solutions, history: Sequence[Solutions], limits: StabilityLimits) -> Stability:
    """Find receptors that jumped or drifted.

    Parameters
    ----------
    solutions : Solutions
    history : sequence of Solutions
        Earlier tables of the same kind, oldest first.
    limits : StabilityLimits
    """
    comparable = [table for table in history if are_comparable(table, solutions)]
    steps = [step for a, b in pairwise([*comparable, solutions]) if (step := changes_between(a, b)) is not None]
    last = changes_between(comparable[-1], solutions) if comparable else None
    if last is None:
        return Stability(0, 0, "", ())
    floors = (limits.amplitude_floor, np.deg2rad(limits.phase_floor_deg))
    names = ("log_amplitude", "phase_rad")
    jumps = [_jumps([getattr(s, n) for s in steps], last.error, floor) for n, floor in zip(names, floors, strict=True)]
    beyond = np.abs(last.log_amplitude) > np.maximum(limits.amplitude_limit, SIGNIFICANT * last.error)
    jumps[0] = np.where(beyond, np.maximum(jumps[0], SIGNIFICANT), jumps[0])
    drifts = [_drifts([getattr(s, n) for s in steps], floor) for n, floor in zip(names, floors, strict=True)]
    found = []
    for antenna, corr in np.argwhere(np.isfinite(last.error)):
        jump, drift = (max(part[antenna, corr] for part in parts) for parts in (jumps, drifts))
        if max(jump, drift) > 0.0:
            change = last if jump > 0.0 else _summed(steps, last)
            found.append(
                {
                    "receptor": f"{solutions.antenna_names[antenna]} {solutions.correlations[corr][0]}",
                    "kind": "jump" if jump > 0.0 else "drift",
                    "amplitude_ratio": float(np.exp(change.log_amplitude[antenna, corr])),
                    "phase_deg": float(np.rad2deg(change.phase_rad[antenna, corr])),
                    "significance": float(max(jump, drift)),
                }
            )
    found.sort(key=lambda item: -float(item["significance"]))
    return Stability(
        n_tables=len(comparable),
        n_receptors=int(np.isfinite(last.error).sum()),
        reference=solutions.antenna_names[last.reference],
        unstable=tuple(found),
    )


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over antennas of each correlation, 0 where all are NaN."""
    return np.array(
        [np.median(column[np.isfinite(column)]) if np.isfinite(column).any() else 0.0 for column in values.T]
    )


def _jumps(steps: Sequence[NDArray[np.float64]], error: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """Significance of the last step where it is a jump, else 0, shape (n_ant, n_corr)."""
    last = steps[-1]
    typical = MAD_TO_SIGMA * np.nanmedian(np.abs(last))
    earlier = np.array([*steps[:-1], np.full_like(last, np.nan)])
    n_earlier = np.isfinite(earlier).sum(axis=0)
    usual = (np.nansum(earlier**2, axis=0) + _PRIOR_STEPS * typical**2) / (n_earlier + _PRIOR_STEPS)
    significance = np.abs(last) / np.sqrt(error**2 + usual)
    return np.where((significance > SIGNIFICANT) & (np.abs(last) > floor), significance, 0.0)


def _drifts(steps: Sequence[NDArray[np.float64]], floor: float) -> NDArray[np.float64]:
    """Significance of the sum of all steps where it is a drift, else 0, shape (n_ant, n_corr)."""
    n_steps = len(steps)
    if n_steps < FEWEST_STEPS_OF_A_DRIFT:
        return np.zeros_like(steps[-1])
    total = np.sum(steps, axis=0)
    about_mean = np.asarray(steps) - total / n_steps
    if not np.isfinite(about_mean).any():
        return np.zeros_like(steps[-1])
    scatter = MAD_TO_SIGMA * np.nanmedian(np.abs(about_mean)) * np.sqrt(n_steps / (n_steps - 1))
    own = np.std(about_mean, axis=0, ddof=1)
    significance = np.abs(total) / (np.sqrt(n_steps) * np.maximum(np.maximum(scatter, own), 1e-12))
    return np.where((significance > SIGNIFICANT) & (np.abs(total) > floor), significance, 0.0)


def _summed(steps: Sequence[Changes], last: Changes) -> Changes:
    return Changes(
        reference=last.reference,
        log_amplitude=np.sum([step.log_amplitude for step in steps], axis=0),
        phase_rad=np.sum([step.phase_rad for step in steps], axis=0),
        error=last.error,
    )
