"""What the simulated instrument does to the signal: gains, delays, bandpass, dead receptors, noise, interference.

What belongs here: antenna-based numbers drawn from seeds, so that any observation can be made without the others. The
sky and the Fourier sum are in ``observe``.

Noise. A receptor's system temperature is given as a flux density, the SEFD of one polarisation. The real and the
imaginary part of one visibility each have sigma = SEFD / sqrt(2 dnu dt) (Thompson, Moran & Swenson 2017, section 6.2,
for a complex correlator), so that an image of N(N-1)/2 baselines in one polarisation has SEFD / sqrt(N (N-1) dnu t). An
autocorrelation is the power SEFD with relative scatter 1/sqrt(dnu dt).

Interference (RFI) stands still on the ground while the correlator follows the sky: within one integration it
winds around by the fringe rate, so long east-west baselines see less of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.errors import DataError


class Purpose(IntEnum):
    """First element of a seed after the campaign's: no two uses share random numbers."""

    SKY = 1
    ANTENNAS = 2
    DAY = 3
    OBSERVATION = 4
    RFI = 5
    NOISE = 6
    NAMES = 7
    CATALOGUE = 8
    SCINTILLATION = 9


@dataclass(frozen=True, slots=True)
class InstrumentSettings:
    """Quality of the simulated instrument; every number has a plausible default."""

    sefd_jy: float = 5800.0
    """System equivalent flux density of one receptor."""
    mean_gain: float = 0.1
    """Amplitude of an average antenna gain: correlator units per square root of Jy."""
    gain_scatter: float = 0.1
    """Relative scatter of gain amplitudes between receptors."""
    gain_drift: float = 0.02
    """Relative scatter of a receptor's gain amplitude from one observation to the next."""
    phase_drift_deg: float = 6.0
    """Scatter of a receptor's phase from one observation to the next, and within one."""
    delay_ns: float = 2.0
    """Scatter of residual cable delays."""
    bandpass_ripple: float = 0.05
    """Amplitude of the standing wave in each receptor's bandpass; its phase ripples by the same amount, rad."""
    bandpass_drift: float = 0.002
    """Relative change of the ripple's complex value from day to day."""
    dead_antennas: tuple[str, ...] = ()
    """Names of antennas, or of receptors such as "12Y", that see no sky."""
    dead_mode: str = "noise"
    """"noise": a weak, uncorrelated signal; "zero": nothing at all."""
    rfi_bursts: float = 4.0
    """Mean number of bursts per observation."""
    rfi_flux_jy: float = 60.0
    """Median strength of a burst, as seen by an average receptor."""


@dataclass(frozen=True, slots=True, eq=False)
class Gains:
    """Complex response of every active receptor during one observation (V_obs = g_i conj(g_j) V)."""

    drift: NDArray[np.complex128]
    """Factor per integration, shape (n_time, n_active, n_corr)."""
    delay_s: NDArray[np.float64]
    """Residual delay, shape (n_active, n_corr)."""
    ripple: NDArray[np.complex128]
    """Amplitude of the bandpass ripple, shape (n_active, n_corr)."""
    ripple_period_hz: NDArray[np.float64]
    """Period of the ripple, shape (n_active, n_corr)."""
    ripple_phase_rad: NDArray[np.float64]
    sky_response: NDArray[np.float64]
    """1 for a receptor that sees the sky, 0 for a dead one, shape (n_active, n_corr)."""

    def bandpass(self, frequency_hz: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Response against frequency, shape (n_active, n_chan, n_corr)."""
        nu = frequency_hz[None, :, None]
        wave = np.cos(2.0 * np.pi * nu / self.ripple_period_hz[:, None] + self.ripple_phase_rad[:, None])
        slope = np.exp(2j * np.pi * self.delay_s[:, None] * (nu - 1.4e9))
        return np.asarray((1.0 + self.ripple[:, None] * wave) * slope)


@dataclass(frozen=True, slots=True, eq=False)
class Burst:
    """One burst of interference."""

    first_time: int
    last_time: int
    """Integrations it lasts, both included."""
    low_hz: float
    high_hz: float
    flux_jy: float
    coupling: NDArray[np.complex128]
    """How each receptor picks it up, shape (n_active, n_corr)."""


def receptor_response(names: tuple[str, ...], dead: tuple[str, ...]) -> NDArray[np.float64]:
    """1 for receptors that see the sky, 0 for dead ones, shape (n_active, 2) for X and Y.

    Raises
    ------
    DataError
        If a dead antenna is not one of the active ones.
    """
    response = np.ones((len(names), 2))
    for entry in dead:
        name, receptors = (entry[:-1], ["XY".index(entry[-1])]) if entry[-1:] in {"X", "Y"} else (entry, [0, 1])
        if name not in names:
            raise DataError(
                "dead antenna of the simulated array",
                got=repr(entry),
                expected=f"one of {', '.join(names)}, followed by X or Y for a single receptor",
                remedy="Correct instrument.dead_antennas.",
                reason_code="unknown_antenna",
            )
        response[names.index(name), receptors] = 0.0
    return response


def draw_gains(
    settings: InstrumentSettings, names: tuple[str, ...], n_time: int, *, seed: int, day: int, tile: int
) -> Gains:
    """Gains of one observation: fixed per antenna, bandpass varying by day, drifting by observation.

    Parameters
    ----------
    settings : InstrumentSettings
    names : tuple of str
        Active antennas.
    n_time : int
        Integrations.
    seed, day, tile : int
        Seed of the campaign and place of the observation in it.
    """
    shape = (len(names), 2)
    fixed = np.random.default_rng([seed, Purpose.ANTENNAS])
    amplitude = settings.mean_gain * np.exp(settings.gain_scatter * fixed.standard_normal(shape))
    phase_rad = fixed.uniform(-np.pi, np.pi, shape)
    delay_s = 1e-9 * settings.delay_ns * fixed.standard_normal(shape)
    ripple = settings.bandpass_ripple * np.exp(1j * fixed.uniform(-np.pi, np.pi, shape))
    period_hz = fixed.uniform(30e6, 120e6, shape)
    ripple_phase_rad = fixed.uniform(-np.pi, np.pi, shape)
    today = np.random.default_rng([seed, Purpose.DAY, day])
    ripple = ripple + settings.bandpass_drift * (today.standard_normal(shape) + 1j * today.standard_normal(shape))
    now = np.random.default_rng([seed, Purpose.OBSERVATION, day, tile])
    amplitude = amplitude * (1.0 + settings.gain_drift * now.standard_normal(shape))
    phase_rad = phase_rad + np.deg2rad(settings.phase_drift_deg) * now.standard_normal(shape)
    slope_rad = np.deg2rad(settings.phase_drift_deg) * now.standard_normal(shape)
    along = np.linspace(-0.5, 0.5, n_time)[:, None, None]
    response = receptor_response(names, settings.dead_antennas)
    level = {"noise": 0.25, "zero": 0.0}[settings.dead_mode]
    amplitude = amplitude * np.where(response > 0.0, 1.0, level)
    drift = amplitude * np.exp(1j * (phase_rad + slope_rad * along))
    return Gains(drift, delay_s, ripple, period_hz, ripple_phase_rad, response)


def draw_bursts(
    settings: InstrumentSettings, n_active: int, n_time: int, band_hz: tuple[float, float], rng: np.random.Generator
) -> list[Burst]:
    """Interference of one observation: mostly narrow and minutes long, every fourth broad and short.

    Parameters
    ----------
    settings : InstrumentSettings
    n_active, n_time : int
        Active antennas, integrations.
    band_hz : tuple of float
        Edges of the whole band, Hz.
    rng : numpy.random.Generator
    """
    bursts = []
    for _ in range(rng.poisson(settings.rfi_bursts)):
        broad = rng.random() < 0.25
        duration = 1 if broad else int(rng.integers(2, n_time + 1))
        width_hz = rng.uniform(30e6, 90e6) if broad else rng.uniform(0.1e6, 2e6)
        first = int(rng.integers(0, max(1, n_time - duration + 1)))
        low_hz = rng.uniform(band_hz[0], max(band_hz[0], band_hz[1] - width_hz))
        strength = np.exp(0.7 * rng.standard_normal((n_active, 2)))
        phase_rad = rng.uniform(-np.pi, np.pi, (n_active, 1))
        flux_jy = settings.rfi_flux_jy * float(np.exp(rng.standard_normal()))
        coupling = strength * np.exp(1j * phase_rad)
        last = min(first + duration, n_time) - 1
        bursts.append(Burst(first, last, low_hz, low_hz + width_hz, flux_jy, coupling))
    return bursts
