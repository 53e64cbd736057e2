"""Good, weak, dead: one word for each antenna from its newest gains, for people who look at the array.

What belongs here: the rule. What does not: flagging or refusing solutions (``quality``), drawing. An antenna is *dead*
when no solution of it is usable, and *weak* when its gains stand out from the array's: amplitude by a factor, signal-to-
noise far below the typical, or many of its solutions flagged. The limits are for the eye and decide nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AMPLITUDE_FACTOR = 2.0
"""A gain this factor above or below the median antenna's is weak (gains of dishes of one kind agree within tens of per cent)."""
SNR_FRACTION = 0.4
"""Below this fraction of the median antenna's signal-to-noise ratio an antenna is weak."""
FLAGGED_FRACTION = 0.3
"""Above this fraction of flagged solutions an antenna is weak."""


@dataclass(frozen=True, slots=True)
class AntennaStates:
    """One entry per antenna."""

    state: tuple[str, ...]
    """good, weak or dead."""
    amplitude_ratio: NDArray[np.float64]
    """Median amplitude over that of the median antenna; NaN for the dead."""
    snr: NDArray[np.float64]
    """Median signal-to-noise ratio of the usable solutions; NaN for the dead."""
    flagged_fraction: NDArray[np.float64]


def judge_antennas(gains: NDArray[np.complex128], flags: NDArray[np.bool_], snr: NDArray[np.float32]) -> AntennaStates:
    """State of every antenna.

    Parameters
    ----------
    gains, flags, snr : array, shape (n_time, n_ant, n_chan, n_corr)
        Of a calibration table, as ``Solutions`` has them.
    """
    n_ant = gains.shape[1]
    usable = np.moveaxis(~flags, 1, 0).reshape(n_ant, -1)
    amplitudes = np.moveaxis(np.abs(gains), 1, 0).reshape(n_ant, -1)
    ratios = np.moveaxis(np.asarray(snr, dtype=np.float64), 1, 0).reshape(n_ant, -1)
    amplitude, typical_snr = np.full((2, n_ant), np.nan)
    for antenna in np.flatnonzero(usable.any(axis=1)):
        amplitude[antenna] = np.median(amplitudes[antenna, usable[antenna]])
        typical_snr[antenna] = np.median(ratios[antenna, usable[antenna]])
    alive = np.isfinite(amplitude)
    relative = amplitude / np.median(amplitude[alive]) if alive.any() else amplitude
    enough_snr = SNR_FRACTION * np.median(typical_snr[alive]) if alive.any() else 0.0
    flagged = 1.0 - usable.mean(axis=1)
    weak = (
        (relative > AMPLITUDE_FACTOR)
        | (relative < 1.0 / AMPLITUDE_FACTOR)
        | (typical_snr < enough_snr)
        | (flagged > FLAGGED_FRACTION)
    )
    states = tuple(
        "dead" if not lives else "weak" if doubtful else "good" for lives, doubtful in zip(alive, weak, strict=True)
    )
    return AntennaStates(states, relative, typical_snr, flagged)
