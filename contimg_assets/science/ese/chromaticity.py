"""Whether a dip changes with frequency as plasma does.

What belongs here: fits of one event in several bands. What does not: finding it (``detect``) and naming it
(``verdict``).

Method. Two hypotheses with the same free parameters are fitted to all bands at once: a lens whose strength falls as
nu^-2 (Clegg, Fey & Lazio 1998), and the same gain in every band (which a Gaussian dip may also play). Each band has
its own quiescent level. What all bands do together at an epoch (flux scale, scintillation) is absorbed by a common
error per epoch, so that only differences between the bands decide. ``chromaticity`` is the signed root of the
difference in chi-square, divided by the reduced chi-square where that exceeds one. The rejected alternative, a
spectral index per epoch compared between dip and baseline, changes sign between dip and shoulders and loses half of
the signal when averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import leastsq

from contimg_assets.science.constants import SIGMA_TO_FWHM
from contimg_assets.science.ese.detect import Dip
from contimg_assets.science.ese.lens_posterior import BandPoints, lens_posterior
from contimg_assets.science.ese.series import Series
from contimg_assets.science.ese.templates import (
    GRID_LOG_ALPHA,
    GRID_SOURCE_FWHM,
    dip_fwhm,
    gain_table,
    interpolated_gain,
    template_bank,
)
from contimg_assets.science.plasma_lens import CAUSTIC_ALPHA

_WINDOW_FWHM = 5.0
"""Points further from the peak than this many FWHM are not fitted: a source's slow changes are none of the event's
business."""

_WINDOW_MIN_D = 15.0

_STRENGTHS = (0.8, 4.0)
"""Starting points besides the detection's own template, which is on the other side of the caustic limit: there is a
valley on either side."""

_POINTS_MIN = 12
"""Points in all bands below which nothing is fitted: there are up to nine parameters."""


@dataclass(frozen=True, slots=True)
class ChromaticFit:
    """The better of two explanations, and by how much."""

    chromaticity: float
    """Positive: plasma; negative: achromatic. Sigmas."""

    chi2_lens: float
    chi2_achromatic: float
    n_points: int
    n_bands: int
    alpha: float
    """Strength of the lens at the reference frequency: median of its posterior."""

    alpha_err: float
    """Half of the central 68 per cent of the posterior."""

    alpha_range: tuple[float, float]
    """Its ends."""

    alpha_range_95: tuple[float, float]
    """Ends of the central 95 per cent."""

    lens_width_d: float
    """Time to cross one lens radius, d: median of its posterior."""

    lens_width_err_d: float
    lens_width_range_d: tuple[float, float]
    lens_width_range_95_d: tuple[float, float]
    """As for ``alpha``."""

    source_fwhm: float
    """Lens radii, of the best fit, as are the next two."""

    compact_fraction: float
    peak_mjd: float


@dataclass(frozen=True, slots=True, eq=False)
class _Problem(BandPoints):
    """Every point of every band within the window."""

    dip: Dip

    def residuals(self, gain: NDArray[np.float64]) -> NDArray[np.float64]:
        """Whitened residuals with the best level of each band, for a gain at each point."""
        weighted = gain / self.error
        data = self.value / self.error
        level = np.bincount(self.band, weighted * data) / np.bincount(self.band, weighted**2)
        z = data - level[self.band] * weighted
        size = np.bincount(self.epoch, self.error**-2.0)
        along = np.bincount(self.epoch, z / self.error) / size
        shrink = 1.0 - 1.0 / np.sqrt(1.0 + self.common_error**2 * size)
        return z - (shrink * along)[self.epoch] / self.error

    def gain(self, x: NDArray[np.float64], *, chromatic: bool) -> NDArray[np.float64]:
        """Gain of a lens for transformed parameters."""
        peak, width, log_alpha, source_fwhm, fraction = _physical(x, self.dip)
        strength = log_alpha + self.log_wavelength2 if chromatic else np.full(self.time.size, log_alpha)
        gain = interpolated_gain(gain_table(), (self.time - peak) / width, strength, source_fwhm)
        return 1.0 + fraction * (gain - 1.0)

    def gaussian(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gain of a Gaussian dip: peak, width, depth."""
        peak = self.dip.peak_mjd + self.dip.fwhm_d * np.tanh(x[0])
        offset = (self.time - peak) / (self.dip.fwhm_d * np.exp(0.7 * np.tanh(x[1])))
        return 1.0 - _unit(x[2]) * np.exp(-0.5 * (SIGMA_TO_FWHM * offset) ** 2)


def _unit(x: float) -> float:
    """Map the real line to (0, 1)."""
    return float(0.5 * (1.0 + np.tanh(x)))


def _inverse_unit(y: float) -> float:
    return float(np.arctanh(np.clip(2.0 * y - 1.0, -0.98, 0.98)))


def _physical(x: NDArray[np.float64], dip: Dip) -> tuple[float, float, float, float, float]:
    """Peak time, lens crossing time, ln alpha, source size and compact fraction from unbounded parameters."""
    peak = dip.peak_mjd + dip.fwhm_d * float(np.tanh(x[0]))
    width = dip.fwhm_d * float(np.exp(-1.0 + 1.5 * np.tanh(x[1])))
    log_alpha = GRID_LOG_ALPHA[0] + (GRID_LOG_ALPHA[1] - GRID_LOG_ALPHA[0]) * _unit(x[2])
    source_fwhm = GRID_SOURCE_FWHM[0] + (GRID_SOURCE_FWHM[1] - GRID_SOURCE_FWHM[0]) * _unit(x[3])
    return peak, width, log_alpha, source_fwhm, _unit(x[4])


def _start(alpha: float, source_fwhm: float, dip: Dip) -> NDArray[np.float64]:
    """Unbounded parameters of a lens with the dip's width and depth."""
    depth = 1.0 - interpolated_gain(gain_table(), np.zeros(1), np.log(np.array([alpha])), source_fwhm)[0]
    log_width = -np.log(dip_fwhm(alpha, source_fwhm))
    return np.array(
        [
            0.0,
            np.arctanh(np.clip((log_width + 1.0) / 1.5, -0.98, 0.98)),
            _inverse_unit((np.log(alpha) - GRID_LOG_ALPHA[0]) / (GRID_LOG_ALPHA[1] - GRID_LOG_ALPHA[0])),
            _inverse_unit((source_fwhm - GRID_SOURCE_FWHM[0]) / (GRID_SOURCE_FWHM[1] - GRID_SOURCE_FWHM[0])),
            _inverse_unit(dip.depth / depth),
        ]
    )


def fit_chromaticity(bands: list[Series], dip: Dip, reference_hz: float, common_error: float) -> ChromaticFit | None:
    """Compare a plasma lens with an achromatic dip in several bands.

    Parameters
    ----------
    bands : list of Series
        Light curves with known frequencies, without isolated outliers.
    dip : Dip
        The event as found in the searched series.
    reference_hz : float
        Frequency the lens strength is given at.
    common_error : float
        Relative error shared by all bands at one epoch.

    Returns
    -------
    ChromaticFit or None
        None for fewer than two bands or too few points.
    """
    problem = _problem(bands, dip, reference_hz, common_error)
    if problem is None:
        return None
    bank = template_bank(fine=True)
    own = (float(bank.alpha[dip.shape]), float(bank.source_fwhm[dip.shape]))
    other = _STRENGTHS[0] if own[0] > CAUSTIC_ALPHA else _STRENGTHS[1]
    starts = [_start(a, b, dip) for a, b in (own, (other, 0.9)) if np.isfinite(a)]
    lens, chi2_lens = _best(problem, lambda x: problem.gain(x, chromatic=True), starts)
    same, chi2_same = _best(problem, lambda x: problem.gain(x, chromatic=False), [*starts, lens])
    lens_again, chi2_again = _best(problem, lambda x: problem.gain(x, chromatic=True), [same])
    if chi2_again < chi2_lens:
        lens, chi2_lens = lens_again, chi2_again
    _, chi2_gaussian = _best(problem, problem.gaussian, [np.array([0.0, 0.0, _inverse_unit(dip.depth)])])
    chi2_same = min(chi2_same, chi2_gaussian)
    n_bands = len(np.unique(problem.band))
    reduced = max(min(chi2_lens, chi2_same) / max(problem.time.size - n_bands - 5, 1), 1.0)
    difference = (chi2_same - chi2_lens) / reduced
    peak, width, log_alpha, source_fwhm, fraction = _physical(lens, dip)
    fwhm_d = width * dip_fwhm(float(np.exp(log_alpha)), source_fwhm)
    strength, crossing = lens_posterior(problem, peak, fwhm_d, dip.depth, dip.significance, reduced)
    return ChromaticFit(
        chromaticity=float(np.sign(difference) * np.sqrt(np.abs(difference))),
        chi2_lens=chi2_lens,
        chi2_achromatic=chi2_same,
        n_points=problem.time.size,
        n_bands=n_bands,
        alpha=strength.value,
        alpha_err=strength.error,
        alpha_range=(strength.low, strength.high),
        alpha_range_95=(strength.lowest, strength.highest),
        lens_width_d=crossing.value,
        lens_width_err_d=crossing.error,
        lens_width_range_d=(crossing.low, crossing.high),
        lens_width_range_95_d=(crossing.lowest, crossing.highest),
        source_fwhm=source_fwhm,
        compact_fraction=fraction,
        peak_mjd=peak,
    )


def _problem(bands: list[Series], dip: Dip, reference_hz: float, common_error: float) -> _Problem | None:
    window = max(_WINDOW_FWHM * dip.fwhm_d, _WINDOW_MIN_D)
    near = [s.select(np.abs(s.time_mjd - dip.peak_mjd) <= window) for s in bands]
    near = [s for s in near if np.sum(np.abs(s.time_mjd - dip.peak_mjd) <= 0.5 * dip.fwhm_d) >= 2]
    frequencies = {s.frequency_hz for s in near}
    if len(frequencies) < 2 or sum(s.time_mjd.size for s in near) < _POINTS_MIN:
        return None
    time = np.concatenate([s.time_mjd for s in near])
    sizes = [s.time_mjd.size for s in near]
    return _Problem(
        time=time,
        value=np.concatenate([s.value for s in near]),
        error=np.concatenate([s.error for s in near]),
        band=np.repeat(np.arange(len(near)), sizes),
        epoch=np.unique(np.round(time, 3), return_inverse=True)[1],
        log_wavelength2=np.repeat([2.0 * np.log(reference_hz / s.frequency_hz) for s in near], sizes),
        dip=dip,
        common_error=common_error,
    )


def _best(
    problem: _Problem, gain: Callable[[NDArray[np.float64]], NDArray[np.float64]], starts: list[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], float]:
    """Parameters and chi-square of the best of several fits (MINPACK's Levenberg-Marquardt)."""
    found = [
        np.asarray(leastsq(lambda x: problem.residuals(gain(x)), start, maxfev=400, xtol=1e-4, ftol=1e-5)[0])
        for start in starts
    ]
    chi2 = [float(np.sum(problem.residuals(gain(x)) ** 2)) for x in found]
    best = int(np.argmin(chi2))
    return found[best], chi2[best]
