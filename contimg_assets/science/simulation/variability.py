"""How simulated sources change: constant, flaring, scintillating, lensed by plasma, or dimmed at all frequencies alike.

What belongs here: flux density relative to the quiescent one against time and frequency, and the truth about the event.
Searching for such changes is ``ese`` and ``variability`` of the science package.

Every kind is a frozen dataclass with ``gain(mjd, frequency_hz)``, so that any epoch can be evaluated alone: the
random walk of a scintillator is drawn on a fixed grid of times from its own seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from contimg_assets.science.constants import SIGMA_TO_FWHM
from contimg_assets.science.plasma_lens import light_curve_gain

REFERENCE_FREQUENCY_HZ = 1.4e9
"""Frequency at which lens strengths and scintillation amplitudes are stated, Hz."""

_STEPS_PER_TIMESCALE = 20
"""Grid of the scintillation walk per correlation time; linear interpolation loses less than 3 % of the rms."""


@dataclass(frozen=True, slots=True)
class Event:
    """What the truth table says about a variable source."""

    kind: str
    start_mjd: float
    end_mjd: float
    peak_mjd: float
    depth: float
    """Largest fractional departure at 1.4 GHz: positive for a dip, negative for a flare, the rms of a scintillator."""
    width_d: float
    """Time scale: lens crossing, FWHM of a dip, decay of a flare, correlation time of a scintillator."""
    lens_alpha: float = float("nan")


class Variability(Protocol):
    """One way of changing."""

    def gain(self, mjd: float, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Flux density over the quiescent one at each frequency."""

    def event(self) -> Event | None:
        """The truth about it; nothing for a constant source."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A source that does not change."""

    def gain(self, mjd: float, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: ARG002
        """One, whenever."""
        return np.ones_like(frequency_hz)

    def event(self) -> Event | None:
        """Nothing happens."""
        return None


@dataclass(frozen=True, slots=True)
class Flare:
    """Linear rise and exponential decay, the same at all frequencies."""

    peak_mjd: float
    rise_d: float
    decay_d: float
    amplitude: float
    """Excess at the peak over the quiescent flux density."""

    def gain(self, mjd: float, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
        """One plus the flare's light curve."""
        since_d = mjd - self.peak_mjd
        shape = max(0.0, 1.0 + since_d / self.rise_d) if since_d < 0.0 else float(np.exp(-since_d / self.decay_d))
        return np.full_like(frequency_hz, 1.0 + self.amplitude * shape)

    def event(self) -> Event | None:
        """From the start of the rise to three decay times after the peak."""
        end_mjd = self.peak_mjd + 3.0 * self.decay_d
        return Event("flare", self.peak_mjd - self.rise_d, end_mjd, self.peak_mjd, -self.amplitude, self.decay_d)


@dataclass(frozen=True, slots=True)
class Scintillation:
    """A stationary Gauss-Markov (Ornstein-Uhlenbeck) walk, a little stronger at low frequencies."""

    start_mjd: float
    end_mjd: float
    modulation: float
    """Rms over mean at 1.4 GHz."""
    timescale_d: float
    """Correlation time."""
    seed: tuple[int, ...]
    frequency_exponent: float = -0.5
    """The modulation goes as nu to this power."""

    def gain(self, mjd: float, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
        """One plus the walk, never below 5 %."""
        step_d = self.timescale_d / _STEPS_PER_TIMESCALE
        n_step = int(np.ceil((self.end_mjd - self.start_mjd) / step_d)) + 2
        kicks = np.random.default_rng(self.seed).standard_normal(n_step)
        memory = float(np.exp(-1.0 / _STEPS_PER_TIMESCALE))
        kicks[1:] *= np.sqrt(1.0 - memory**2)
        walk = lfilter([1.0], [1.0, -memory], kicks)
        now = float(np.interp(mjd, self.start_mjd + step_d * np.arange(n_step), walk))
        strength = self.modulation * (frequency_hz / REFERENCE_FREQUENCY_HZ) ** self.frequency_exponent
        return np.maximum(1.0 + strength * now, 0.05)

    def event(self) -> Event | None:
        """All the time."""
        middle_mjd = 0.5 * (self.start_mjd + self.end_mjd)
        return Event("scintillation", self.start_mjd, self.end_mjd, middle_mjd, self.modulation, self.timescale_d)


@dataclass(frozen=True, slots=True)
class Lensed:
    """A plasma lens crossing the line of sight: the true extreme scattering event."""

    peak_mjd: float
    width_d: float
    """Time to cross one lens radius."""
    alpha: float
    """Strength at 1.4 GHz."""
    source_fwhm: float
    """FWHM of the source, lens radii."""
    compact_fraction: float

    def gain(self, mjd: float, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Magnification of the lens, strongest at low frequencies."""
        return light_curve_gain(
            np.array([mjd]),
            self.peak_mjd,
            self.width_d,
            self.alpha,
            self.source_fwhm,
            frequency_hz,
            REFERENCE_FREQUENCY_HZ,
            self.compact_fraction,
        )[0]

    def event(self) -> Event | None:
        """Three lens radii to either side, which includes the bright shoulders."""
        depth = 1.0 - float(self.gain(self.peak_mjd, np.array([REFERENCE_FREQUENCY_HZ]))[0])
        reach_d = 3.0 * self.width_d
        return Event(
            "lensed", self.peak_mjd - reach_d, self.peak_mjd + reach_d, self.peak_mjd, depth, self.width_d, self.alpha
        )


@dataclass(frozen=True, slots=True)
class Dip:
    """A Gaussian dip, the same at all frequencies: what an ESE search must not report."""

    peak_mjd: float
    fwhm_d: float
    depth: float

    def gain(self, mjd: float, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
        """One minus the dip."""
        sigma_d = self.fwhm_d / SIGMA_TO_FWHM
        return np.full_like(frequency_hz, 1.0 - self.depth * np.exp(-0.5 * ((mjd - self.peak_mjd) / sigma_d) ** 2))

    def event(self) -> Event | None:
        """One FWHM to either side."""
        start_mjd, end_mjd = self.peak_mjd - self.fwhm_d, self.peak_mjd + self.fwhm_d
        return Event("dip", start_mjd, end_mjd, self.peak_mjd, self.depth, self.fwhm_d)
