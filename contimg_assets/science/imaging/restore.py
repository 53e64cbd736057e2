"""From components and residuals to the restored image.

What belongs here: the Gaussian restoring beam fitted to the main lobe of the point-spread function, and the sum of the
components convolved with it and the residual. Method: the fit is least squares over the connected pixels above 35 %
of the peak, amplitude 1 and centre fixed, because the peak of the point-spread function is 1 by definition. Components
are few, so their Gaussians are added one by one; convolution by Fourier transform, the alternative, costs
the same for one component as for a million.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.optimize import least_squares

from contimg_assets.science.constants import SIGMA_TO_FWHM
from contimg_assets.science.errors import DataError

_MAIN_LOBE_LEVEL = 0.35
_HALF_WINDOW_PIXELS = 40
_STAMP_SIGMA = 5.5
"""Gaussians are added out to this many sigma, where they have fallen to 3e-7."""


@dataclass(frozen=True, slots=True)
class RestoringBeam:
    """An elliptical Gaussian beam."""

    major_arcsec: float
    """FWHM of the major axis."""
    minor_arcsec: float
    pa_deg: float
    """Position angle of the major axis, north through east, -90 to 90."""

    @property
    def mean_arcsec(self) -> float:
        """Geometric mean of the axes."""
        return float(np.sqrt(self.major_arcsec * self.minor_arcsec))


class PlacedSources(NamedTuple):
    """Point sources between the pixels of one image."""

    x_pixel: NDArray[np.float64]
    """Zero-based, fractional, shape (n_source,)."""
    y_pixel: NDArray[np.float64]
    flux_jy: NDArray[np.float64]
    """Apparent flux density, shape (n_source,)."""
    noise_factor: float = 1.0
    """Noise at a source over that of the residual image, see ``known_sources``."""

    def on_pixels(self, model: NDArray[np.float32]) -> NDArray[np.float32]:
        """A model image (Jy/pixel) with the sources added to their nearest pixels."""
        total = model.copy()
        np.add.at(total, ((self.y_pixel + 0.5).astype(np.int64), (self.x_pixel + 0.5).astype(np.int64)), self.flux_jy)
        return total


NO_SOURCES = PlacedSources(np.empty(0), np.empty(0), np.empty(0))


def fit_restoring_beam(psf: NDArray[np.float32], cell_arcsec: float) -> RestoringBeam:
    """Fit a Gaussian to the main lobe of a point-spread function.

    Parameters
    ----------
    psf : array of float32, shape (n_y, n_x)
        Peak 1 at [n_y / 2, n_x / 2], x towards decreasing RA.
    cell_arcsec : float
        Pixel side.

    Returns
    -------
    RestoringBeam

    Raises
    ------
    DataError
        If the main lobe is not resolved by the pixels or has no elliptical shape.
    """
    centre_y, centre_x = psf.shape[0] // 2, psf.shape[1] // 2
    half = min(_HALF_WINDOW_PIXELS, centre_y, centre_x)
    window = psf[centre_y - half : centre_y + half, centre_x - half : centre_x + half].astype(np.float64)
    islands, _ = label(window >= _MAIN_LOBE_LEVEL)
    lobe_y, lobe_x = np.nonzero(islands == islands[half, half])
    value = window[lobe_y, lobe_x]
    dy, dx = lobe_y - half, lobe_x - half
    if value.size < 5:
        raise _unresolved(f"{value.size} pixels above {_MAIN_LOBE_LEVEL} of the peak")

    def misfit(form: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.exp(-(form[0] * dx**2 + form[1] * dx * dy + form[2] * dy**2)) - value)

    width = _MAIN_LOBE_LEVEL * np.pi / (-np.log(_MAIN_LOBE_LEVEL)) * value.size
    start = np.array([1.0, 0.0, 1.0]) / max(width, 1.0)
    form = least_squares(misfit, start, x_scale=start[0]).x
    # exp(-d^T Q d) with d east-positive: x grows to the west.
    quadratic = np.array([[form[0], -0.5 * form[1]], [-0.5 * form[1], form[2]]])
    curvature, axes = np.linalg.eigh(quadratic)
    if curvature[0] <= 0:
        raise _unresolved("a main lobe that does not fall off in every direction")
    fwhm = SIGMA_TO_FWHM / np.sqrt(2.0 * curvature) * cell_arcsec
    east, north = axes[:, 0]
    pa_deg = float(np.rad2deg(np.arctan2(east, north)))
    pa_deg = (pa_deg + 90.0) % 180.0 - 90.0
    return RestoringBeam(float(fwhm[0]), float(fwhm[1]), pa_deg)


def _unresolved(got: str) -> DataError:
    return DataError(
        "the restoring beam cannot be fitted",
        got=got,
        expected="a main lobe sampled by three or more pixels across",
        remedy="Choose a smaller cell, or look at the flags: too few baselines may be left.",
        reason_code="beam_not_fitted",
    )


@numba.njit(cache=True, nogil=True)
def _add_gaussians(
    image: NDArray[np.float32],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    flux: NDArray[np.float64],
    form: tuple[float, float, float],
    reach: int,
) -> None:
    """Add flux * exp(-(a dx^2 + b dx dy + c dy^2)) around each place, in fractions of pixels too."""
    for k in range(flux.size):
        near_y, near_x = int(np.floor(y[k] + 0.5)), int(np.floor(x[k] + 0.5))
        for row in range(max(0, near_y - reach), min(image.shape[0], near_y + reach + 1)):
            dy = row - y[k]
            for column in range(max(0, near_x - reach), min(image.shape[1], near_x + reach + 1)):
                dx = column - x[k]
                image[row, column] += flux[k] * np.exp(-(form[0] * dx * dx + form[1] * dx * dy + form[2] * dy * dy))


def restore(
    model: NDArray[np.float32],
    residual: NDArray[np.float32],
    beam: RestoringBeam,
    cell_arcsec: float,
    sources: PlacedSources = NO_SOURCES,
) -> NDArray[np.float32]:
    """Model and known sources convolved with the restoring beam, plus residual, Jy/beam.

    Parameters
    ----------
    model : array of float32, shape (n_y, n_x)
        Components, Jy/pixel.
    residual : array of float32, shape (n_y, n_x)
        Jy/beam.
    beam : RestoringBeam
    cell_arcsec : float
    sources : PlacedSources, optional

    Returns
    -------
    array of float32, shape (n_y, n_x)
    """
    restored = residual.copy()
    pixel_y, pixel_x = np.nonzero(model != 0)
    sigma = np.array([beam.major_arcsec, beam.minor_arcsec]) / SIGMA_TO_FWHM / cell_arcsec
    east, north = np.sin(np.deg2rad(beam.pa_deg)), np.cos(np.deg2rad(beam.pa_deg))
    along, across = 0.5 / sigma**2
    form = (
        float(along * east**2 + across * north**2),
        float(-2.0 * (along - across) * east * north),
        float(along * north**2 + across * east**2),
    )
    _add_gaussians(
        restored,
        np.concatenate([pixel_y.astype(np.float64), sources.y_pixel]),
        np.concatenate([pixel_x.astype(np.float64), sources.x_pixel]),
        np.concatenate([model[pixel_y, pixel_x].astype(np.float64), sources.flux_jy]),
        form,
        int(np.ceil(_STAMP_SIGMA * sigma[0])),
    )
    return restored
