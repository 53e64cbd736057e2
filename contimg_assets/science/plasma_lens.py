"""Gaussian plasma lens: the light curve of a compact source behind a cloud of free electrons.

What belongs here: the magnification of a Gaussian source by a Gaussian column of plasma, against place and frequency.
What does not: searching light curves for it (``ese``) and drawing skies of such sources (``simulation``).

Method. A ray leaving the lens at u (in lens radii a) reaches the observer at u' = u [1 + alpha exp(-u^2)], with
alpha = lambda^2 r_e N_0 D / (pi a^2), so alpha falls as nu^-2 (Clegg, Fey & Lazio 1998, ApJ 496, 253,
doi:10.1086/305344; axisymmetric case as Dong, Petropoulou & Giannios 2018, MNRAS 481, 2685). The convolved
magnification is written as an integral over *rays*, I(x) = int du K(x - u'(u)) with K the brightness of the source. The
integrand is smooth: all images are summed and caustics are integrated without finding roots. The rejected alternative,
solving for the one or three images and convolving the sum of 1/abs(du'/du), has to resolve infinite spikes on a grid.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import SIGMA_TO_FWHM
from contimg_assets.science.errors import DataError

CAUSTIC_ALPHA = 0.5 * math.exp(1.5)
"""Strength above which the 1-D lens forms caustics: 2.2408, from du'/du = 0 at u = sqrt(1.5)."""

_REACH_SIGMA = 6.0
"""The source's brightness is neglected beyond this many sigma (1e-8 of the peak)."""

_RAYS_PER_SIGMA = 2.0
"""Density of rays per sigma of the source where they land; the rectangle rule on a Gaussian is then exact to 1e-8."""

_RINGS_PER_SIGMA = 16.0
"""The same for rings, whose area element has a kink at the centre: the error is second order, 2e-4."""


@numba.njit(cache=True)
def _rays(alpha: float, step: float, farthest: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rays at u > 0 and the length of lens each stands for, dense where the lens spreads them.

    Rays are equidistant in s(u) = u + alpha sqrt(pi/2) erf(u/sqrt 2), whose slope 1 + alpha exp(-u^2/2) bounds
    abs(du'/du). The mapping is smooth, so the rectangle rule keeps its exponential accuracy. s is concave: Newton's
    method started from the left converges.
    """
    scale = alpha * math.sqrt(0.5 * math.pi)
    n_ray = int((farthest + scale) / step) + 2
    ray, length = np.empty(n_ray), np.empty(n_ray)
    u = 0.0
    for i in range(n_ray):
        target = (i + 0.5) * step
        for _ in range(50):
            slope = 1.0 + alpha * math.exp(-0.5 * u * u)
            change = (target - u - scale * math.erf(u * math.sqrt(0.5))) / slope
            u += change
            if abs(change) < 1e-12 * (1.0 + u):
                break
        ray[i] = u
        length[i] = step / (1.0 + alpha * math.exp(-0.5 * u * u))
    return ray, length


@numba.njit(cache=True)
def _gain_one_dimension(position: NDArray[np.float64], alpha: float, sigma: float) -> NDArray[np.float64]:
    """Integral over rays of the source's 1-D profile; the lens is symmetric, so each ray stands for two.

    A ray lights few places: they are found in the order of their distance from the centre.
    """
    distance = np.abs(position)
    order = np.argsort(distance)
    distance = distance[order]
    gain = np.zeros(position.size)
    ray, length = _rays(alpha, min(sigma, 0.5) / _RAYS_PER_SIGMA, np.max(np.abs(position)) + _REACH_SIGMA * sigma)
    for i in range(ray.size):
        arrival = ray[i] * (1.0 + alpha * math.exp(-ray[i] * ray[i]))
        for j in range(np.searchsorted(distance, arrival - _REACH_SIGMA * sigma), position.size):
            near = (distance[j] - arrival) / sigma
            if near > _REACH_SIGMA:
                break
            far = (distance[j] + arrival) / sigma
            gain[order[j]] += length[i] * math.exp(-0.5 * near * near)
            if far < _REACH_SIGMA:
                gain[order[j]] += length[i] * math.exp(-0.5 * far * far)
    return gain / (sigma * math.sqrt(2.0 * math.pi))


@numba.njit(cache=True)
def _scaled_bessel_i0(x: float) -> float:
    """exp(-x) I0(x) for x >= 0, relative error < 2e-7 (Abramowitz & Stegun 9.8.1, 9.8.2)."""
    if x < 3.75:
        t = (x / 3.75) ** 2
        series = 0.2659732 + t * (0.0360768 + t * 0.0045813)
        return math.exp(-x) * (1.0 + t * (3.5156229 + t * (3.0899424 + t * (1.2067492 + t * series))))
    t = 3.75 / x
    tail = -0.02057706 + t * (0.02635537 + t * (-0.01647633 + t * 0.00392377))
    tail = 0.00225319 + t * (-0.00157565 + t * (0.00916281 + t * tail))
    return (0.39894228 + t * (0.01328592 + t * tail)) / math.sqrt(x)


@numba.njit(cache=True)
def _gain_axisymmetric(radius: NDArray[np.float64], alpha: float, sigma: float) -> NDArray[np.float64]:
    """Integral over rings of rays of the source's 2-D profile, the azimuth done analytically (Bessel I0)."""
    gain = np.zeros(radius.size)
    ray, length = _rays(alpha, min(sigma, 0.5) / _RINGS_PER_SIGMA, np.max(radius) + _REACH_SIGMA * sigma)
    for i in range(ray.size):
        arrival = ray[i] * (1.0 + alpha * math.exp(-ray[i] * ray[i]))
        for j in range(radius.size):
            off = (radius[j] - arrival) / sigma
            if abs(off) < _REACH_SIGMA:
                ring = ray[i] * length[i] * _scaled_bessel_i0(radius[j] * arrival / sigma**2)
                gain[j] += ring * math.exp(-0.5 * off * off)
    return gain / sigma**2


def lens_gain(
    position: NDArray[np.float64],
    alpha: float,
    source_fwhm: float,
    *,
    axisymmetric: bool = False,
    impact: float = 0.0,
) -> NDArray[np.float64]:
    """Magnification of a Gaussian source behind a Gaussian plasma lens.

    Parameters
    ----------
    position : array of float, any shape
        Observer's position along the track, lens radii; 0 is the closest approach.
    alpha : float
        Strength of the lens at the observing frequency, >= 0. Caustics form above ``CAUSTIC_ALPHA`` (1-D).
    source_fwhm : float
        FWHM of the source's brightness, lens radii, > 0.
    axisymmetric : bool
        A round cloud and a round source instead of a long filament (1-D).
    impact : float
        Distance of the track from the centre, lens radii; only a round cloud knows it.

    Returns
    -------
    array of float, shape of ``position``
        Flux density divided by the unlensed one: 1 far away, 1/(1 + alpha) at the centre for a point source in 1-D,
        1/(1 + alpha)^2 for a round cloud.

    Raises
    ------
    DataError
        If ``alpha`` is negative or ``source_fwhm`` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> lens_gain(np.array([0.0, 50.0]), alpha=1.0, source_fwhm=0.05).round(2)
    array([0.5, 1. ])
    """
    if not (alpha >= 0.0 and source_fwhm > 0.0):
        raise DataError(
            "plasma lens outside the physical range",
            got=f"alpha {alpha}, source_fwhm {source_fwhm}",
            expected="alpha >= 0 (a diverging lens) and source_fwhm > 0 lens radii",
            remedy="Give a positive source size; a point source has infinite caustics.",
            reason_code="lens_parameters",
        )
    where = np.asarray(position, dtype=np.float64)
    if where.size == 0:
        return np.ones_like(where)
    sigma = source_fwhm / SIGMA_TO_FWHM
    flat = np.ascontiguousarray(where.ravel())
    if axisymmetric:
        gain = _gain_axisymmetric(np.hypot(flat, impact), float(alpha), sigma)
    else:
        gain = _gain_one_dimension(flat, float(alpha), sigma)
    return np.asarray(gain.reshape(where.shape), dtype=np.float64)


def alpha_at(
    alpha_ref: float, frequency_hz: NDArray[np.float64] | float, reference_frequency_hz: float
) -> NDArray[np.float64]:
    """Strength of the lens at other frequencies: alpha is proportional to the wavelength squared."""
    return np.asarray(alpha_ref * (reference_frequency_hz / np.asarray(frequency_hz, dtype=np.float64)) ** 2)


def light_curve_gain(
    time_d: NDArray[np.float64],
    peak_d: float,
    width_d: float,
    alpha_ref: float,
    source_fwhm: float,
    frequency_hz: NDArray[np.float64] | float,
    reference_frequency_hz: float = 1.4e9,
    compact_fraction: float = 1.0,
) -> NDArray[np.float64]:
    """Flux density of a lensed source relative to its quiescent one, against time and frequency.

    Parameters
    ----------
    time_d : array of float, any shape
        Times, d (any origin).
    peak_d : float
        Time of closest approach, same origin, d.
    width_d : float
        Time to cross one lens radius (a/v), d. The dip's FWHM is 1.3 to 5 times as long, see ``lens_gain``.
    alpha_ref : float
        Strength at ``reference_frequency_hz``.
    source_fwhm : float
        FWHM of the compact component, lens radii.
    frequency_hz : float or array of float
        Observing frequencies, Hz.
    reference_frequency_hz : float
        Frequency ``alpha_ref`` refers to, Hz.
    compact_fraction : float
        Part of the flux density that is small enough to be lensed.

    Returns
    -------
    array of float, shape ``time_d.shape + frequency_hz.shape``
    """
    position = (np.asarray(time_d, dtype=np.float64) - peak_d) / width_d
    strengths = alpha_at(alpha_ref, frequency_hz, reference_frequency_hz)
    gains = [lens_gain(position, float(alpha), source_fwhm) for alpha in strengths.ravel()]
    gain = np.stack(gains, axis=-1).reshape(position.shape + strengths.shape)
    return np.asarray(compact_fraction * gain + (1.0 - compact_fraction), dtype=np.float64)
