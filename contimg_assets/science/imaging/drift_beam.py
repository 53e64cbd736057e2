"""The power pattern of the dishes averaged over a drift scan.

What belongs here: which way the dishes pointed and for how much of the weight, the averaged pattern on a pixel grid,
and how far it reaches. The pattern of one dish is ``science.primary_beam``.

The apparent flux density of a source in an image of a drift scan is S times the mean over the integrations of
the power pattern at that instant (weights as in the image). The pattern is smooth, so it is computed exactly
on a coarse grid and interpolated with cubic splines (error below 1e-5 of the peak) rather than at every pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from contimg_assets.science.coordinates import direction_cosines
from contimg_assets.science.imaging.geometry import ImageGeometry
from contimg_assets.science.primary_beam import airy_fwhm_deg, airy_power
from contimg_assets.science.visibilities import Visibilities

_SECOND_NULL_FWHM = 2.170
"""Radius of the second null of an Airy pattern, 2.233 lambda / D (zero of J1 at 7.0156 over pi), in its FWHM."""
_NODES_PER_FWHM = 25
_SURVEY_NODES = 151
LEAST_POWER = 0.05
"""Where the mean beam is below this, its relative changes are not known well enough to use."""


@dataclass(frozen=True, slots=True, eq=False)
class Pointings:
    """Directions the dishes looked at, as unit vectors about the phase centre, with their share of the weight."""

    lmn: NDArray[np.float64]
    """Shape (n_pointing, 3)."""
    weights: NDArray[np.float64]
    """Sum 1, shape (n_pointing,)."""
    of_row: NDArray[np.int64]
    """Which pointing each row of the visibilities has, shape (n_row,)."""
    dish_diameter_m: float


def find_pointings(vis: Visibilities, row_weights: NDArray[np.float64]) -> Pointings:
    """Distinct pointings of an observation and their share of weights of shape (n_row,).

    The image's own weights are the right ones: Briggs weighting favours the ends of a drift scan, where uv cells
    hold fewer data, by enough to change fluxes by half a per cent.
    """
    radec = np.stack([vis.pointing_ra_deg, vis.pointing_dec_deg], axis=-1)
    distinct, inverse = np.unique(np.round(radec, 6), axis=0, return_inverse=True)
    of_row = inverse.ravel().astype(np.int64)
    share = np.bincount(of_row, weights=row_weights, minlength=len(distinct))
    lmn = direction_cosines(distinct[:, 0], distinct[:, 1], vis.phase_centre_ra_deg, vis.phase_centre_dec_deg)
    return Pointings(np.stack(lmn, axis=-1), share / share.sum(), of_row, vis.dish_diameter_m)


def separations_deg(lmn: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles between unit vectors, deg, from their chord; shapes broadcast, the last axis is (l, m, n)."""
    half_chord = 0.5 * np.linalg.norm(lmn - other, axis=-1)
    return np.asarray(np.rad2deg(2.0 * np.arcsin(np.minimum(half_chord, 1.0))))


def mean_power(lmn: NDArray[np.float64], pointings: Pointings, frequency_hz: float) -> NDArray[np.float64]:
    """Drift-averaged power pattern towards unit vectors, shape of ``lmn`` without its last axis."""
    power = np.zeros(lmn.shape[:-1])
    for direction, weight in zip(pointings.lmn, pointings.weights, strict=True):
        power += weight * airy_power(separations_deg(lmn, direction), frequency_hz, pointings.dish_diameter_m)
    return power


def weight_shares(pointings: Pointings, weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shares of pointings and channels in weights of shape (n_row, n_chan): shape (n_pointing, n_chan), sum 1."""
    n_pointing = len(pointings.lmn)
    share = np.stack([np.bincount(pointings.of_row, weights=w, minlength=n_pointing) for w in weights.T], axis=-1)
    return np.asarray(share / share.sum(), dtype=np.float64)


def power_course(
    lmn: NDArray[np.float64], pointings: Pointings, frequency_hz: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Power pattern towards unit vectors by pointing and channel, shape (n_direction, n_pointing, n_chan)."""
    apart = separations_deg(lmn[:, None, :], pointings.lmn)
    return np.asarray(airy_power(apart[..., None], frequency_hz, pointings.dish_diameter_m), dtype=np.float64)


def field_extent_rad(pointings: Pointings, frequency_hz: float, level: float) -> tuple[float, float, float]:
    """Reach of the averaged pattern above a level from the phase centre: largest |l|, |m| and radius, rad."""
    reach = np.deg2rad(1.5 * airy_fwhm_deg(frequency_hz, pointings.dish_diameter_m))
    half = min(0.95, float(np.abs(pointings.lmn[:, :2]).max()) + reach)
    axis = np.linspace(-half, half, _SURVEY_NODES)
    l, m = np.meshgrid(axis, axis)
    inside = l**2 + m**2 < 0.99
    lmn = np.stack([l, m, np.sqrt(np.maximum(1.0 - l**2 - m**2, 0.0))], axis=-1)
    seen = inside & (mean_power(lmn, pointings, frequency_hz) >= level)
    step = axis[1] - axis[0]
    if not seen.any():
        return step, step, step
    radius = float(np.sqrt((l**2 + m**2)[seen].max()))
    return float(np.abs(l[seen]).max() + step), float(np.abs(m[seen]).max() + step), radius + step


def first_sidelobe_rad(pointings: Pointings, frequency_hz: float) -> float:
    """Reach of the first sidelobe of every pointing from the phase centre, rad."""
    null_rad = np.deg2rad(_SECOND_NULL_FWHM * airy_fwhm_deg(frequency_hz, pointings.dish_diameter_m))
    return float(np.hypot(pointings.lmn[:, 0], pointings.lmn[:, 1]).max() + null_rad)


def drift_beam(geometry: ImageGeometry, pointings: Pointings, frequency_hz: float) -> NDArray[np.float32]:
    """Drift-averaged power pattern at every pixel, shape (n_y, n_x), 1 at the centre of a single pointing."""
    node_rad = np.deg2rad(airy_fwhm_deg(frequency_hz, pointings.dish_diameter_m)) / _NODES_PER_FWHM
    nodes_x, nodes_y = (
        np.linspace(0.0, n - 1.0, max(5, int(np.ceil(n * geometry.cell_rad / node_rad)) + 1))
        for n in (geometry.n_x, geometry.n_y)
    )
    x, y = np.meshgrid(nodes_x, nodes_y)
    power = np.nan_to_num(mean_power(geometry.directions(x, y), pointings, frequency_hz))
    spline = RectBivariateSpline(nodes_y, nodes_x, power)
    return np.asarray(spline(np.arange(geometry.n_y), np.arange(geometry.n_x)), dtype=np.float32)
