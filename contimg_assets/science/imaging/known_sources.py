"""Flux densities of catalogued sources, fitted to the visibilities before CLEAN sees what is left.

What belongs here: the known sources of a field on the image grid and the least-squares fit of their apparent flux
densities. What is not in the catalogue is found by ``clean``; their visibilities are ``predict``'s.

CLEAN guesses positions, pixel by pixel, and shares out what it finds: every source loses flux to components on the sidelobes
of others ("CLEAN bias", Condon et al. 1998, AJ 115, 1693, section 3.3). With 14 antennas that was up to 6 mJy of
33 in the field of an 8.5 Jy calibrator, without any noise. Positions in a catalogue are known, so a source needs one number per
band, not a search: the flux densities s minimise

    (d - A s)^T A^-1 (d - A s) / sigma^2 + sum_j (s_j - c_j)^2 / sigma_j^2

where d is the dirty image at the sources and A_jk the point-spread function between two of them, which is the
fit to the visibilities with their imaging weights; c_j is what the catalogue expects through the primary beam, with the
generous error sigma_j. Bright sources are decided by the data alone; faint ones, whose sidelobes together are a
good part of the noise of an image, keep what the catalogue says instead of noise. The image at a source is
not drawn to the catalogue by this: what the fit leaves is still in the residual, which is added back.

Positions are exact, not rounded to pixels, and each source has its own course through beam and band (``shape``), so that
even the brightest leaves noise only. The matrix is interpolated from the point-spread function; what that lacks in
accuracy is made up by fitting again to recomputed residuals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import MAD_TO_SIGMA
from contimg_assets.science.coordinates import direction_cosines
from contimg_assets.science.imaging.drift_beam import LEAST_POWER, Pointings, power_course
from contimg_assets.science.imaging.geometry import ImageGeometry
from contimg_assets.science.imaging.restore import PlacedSources
from contimg_assets.science.sky_model import SkyModel

_CATALOGUE_ERROR = 0.3
"""Relative error of a catalogue's flux density at another epoch, frequency and resolution."""
_BEAM_ERROR = 0.02
"""Error of the power pattern, as a fraction of its peak."""
_DAMPING = 3e-4
"""Added to the diagonal: larger than the errors of the interpolated matrix, small enough for two rounds to converge."""
_SLOPE_SIGMA = 50.0
"""Sources above this many rms in every band have their spectral slope from the image."""
_SMALLEST_STEP = 2.0
"""Flux densities are found when none changes by more than this many rms of its band."""
_PLACES = 16
"""The noise of the residual is judged at this many places along each axis."""
_TAPS = 6
"""Half width of the interpolation kernel, pixels."""
_WINDOW = 7.0
"""Beta of that kernel's window."""
_SAMPLE_STEP = 7
"""Every so many pixels on each axis suffice for the noise of a residual image."""


@dataclass(frozen=True, slots=True, eq=False)
class PointSources:
    """Sources of one band as prediction and restoration take them."""

    x_pixel: NDArray[np.float64]
    """Zero-based, fractional, shape (n_source,)."""
    y_pixel: NDArray[np.float64]
    lmn: NDArray[np.float64]
    """Unit vectors about the phase centre, shape (n_source, 3)."""
    flux_jy: NDArray[np.float64]
    """Mean apparent flux density, shape (n_source,)."""
    shape: NDArray[np.float32]
    """Apparent flux density over its mean, by source, pointing and channel group, shape (n_source, n_pointing, n_group)."""


class KnownSources:
    """The catalogued sources of an image and the apparent flux densities found for them."""

    def __init__(
        self,
        model: SkyModel,
        grid: ImageGeometry,
        pointings: Pointings,
        frequencies_hz: Sequence[NDArray[np.float64]],
        shares: Sequence[NDArray[np.float64]],
    ) -> None:
        """Place sources on the grid; those off the image and those of zero flux density are left out.

        Parameters
        ----------
        model : SkyModel
        grid : ImageGeometry
        pointings : Pointings
        frequencies_hz : sequence of array of float, shape (n_group,)
            Centres of the channel groups of each band.
        shares : sequence of array of float, shape (n_pointing, n_group)
            Shares of pointings and groups in the imaging weights of each band (``drift_beam.weight_shares``).
        """
        x, y = grid.pixels(model.ra_deg, model.dec_deg)
        with np.errstate(invalid="ignore"):
            inside = (x > _TAPS) & (x < grid.n_x - 1 - _TAPS) & (y > _TAPS) & (y < grid.n_y - 1 - _TAPS)
        inside &= model.flux_jy != 0.0
        self.is_placed = inside
        """Which sources of the model are fitted, shape (n_source of the model,)."""
        model, self.x_pixel, self.y_pixel = model.select(inside), x[inside], y[inside]
        centre = grid.phase_centre_ra_deg, grid.phase_centre_dec_deg
        self._lmn = np.stack(direction_cosines(model.ra_deg, model.dec_deg, *centre), axis=-1)
        self._bands = [
            _Course(model, self._lmn, pointings, frequency_hz, share)
            for frequency_hz, share in zip(frequencies_hz, shares, strict=True)
        ]
        self.flux_jy = np.zeros((len(shares), self.x_pixel.size))
        """Mean apparent flux densities found so far, shape (n_band, n_source)."""
        self._psf: list[NDArray[np.float64]] = []
        self._confidence = np.zeros_like(self.flux_jy)
        """Noise variance over the catalogue's, shape (n_band, n_source)."""

    def of_band(self, band: int) -> PointSources:
        """Sources of one band with the flux densities found so far."""
        apparent, mean = self._bands[band].apparent()
        shape = (apparent / np.where(mean == 0.0, 1.0, mean)[:, None, None]).astype(np.float32)
        return PointSources(self.x_pixel, self.y_pixel, self._lmn, self.flux_jy[band], shape)

    def placed(self, band_shares: NDArray[np.float64], noise_factor: float) -> PlacedSources:
        """Sources of a weighted mean of bands, the shares having sum 1, shape (n_band,)."""
        return PlacedSources(self.x_pixel, self.y_pixel, band_shares @ self.flux_jy, noise_factor)

    def refine(self, residual: NDArray[np.float32], psf: NDArray[np.float32]) -> float:
        """Improve all flux densities; return the largest step in units of its band's noise.

        A step too small to be worth computing residuals for is not taken, and 0 returned.

        Parameters
        ----------
        residual : array of float32, shape (n_band, n_y, n_x)
            Images of what the present flux densities (and CLEAN's components) leave, Jy/beam.
        psf : array of float32, shape (n_band, n_y, n_x)
            Point-spread functions, peak 1 at [n_y / 2, n_x / 2]; those of the first call are kept.
        """
        if self.x_pixel.size == 0:
            return 0.0
        if not self._psf:
            places = self.x_pixel, self.y_pixel
            self._psf = [_psf_between(plane, *places, *places) for plane in psf]
        steps = np.empty_like(self.flux_jy)
        noise_jy = np.array([_robust_rms(image) for image in residual])
        for band, (matrix, course, noise) in enumerate(zip(self._psf, self._bands, noise_jy, strict=True)):
            confidence = self._confidence[band]
            confidence[:] = (noise / np.maximum(course.error_jy, 1e-3 * noise)) ** 2
            left_jy = interpolate(residual[band], self.x_pixel, self.y_pixel)
            pull_jy = left_jy + confidence * (course.expected_jy - self.flux_jy[band])
            steps[band] = np.linalg.solve(matrix + np.diag(confidence + _DAMPING), pull_jy)
        largest = float(np.max(np.abs(steps) / np.maximum(noise_jy[:, None], 1e-30)))
        if largest <= _SMALLEST_STEP:
            return 0.0
        self.flux_jy += steps
        self._correct_spectra(noise_jy)
        return largest

    def noise_factor(self, psf: NDArray[np.float32]) -> float:
        """Noise at the sources over the noise of the residual images between them.

        The fit has as many parameters as sources, and takes that much noise out of the residual; a source in turn gets the
        errors of the others through their sidelobes. With G = (A + C)^-1, C the confidence and B = A - 1, the variances
        are 1 - a^T G a at a place where the sources' point-spread functions are a, and 1 - (2 B G + B G B)_jj at source j.

        Parameters
        ----------
        psf : array of float32, shape (n_band, n_y, n_x)
        """
        if not self._psf:
            return 1.0
        n_y, n_x = psf.shape[1:]
        y, x = (axis.ravel() for axis in np.mgrid[0 : n_y : n_y / _PLACES, 0 : n_x : n_x / _PLACES])
        at_sources, between = 0.0, 0.0
        for plane, matrix, confidence in zip(psf, self._psf, self._confidence, strict=True):
            inverse = np.linalg.inv(matrix + np.diag(confidence + _DAMPING))
            sidelobes = matrix - np.eye(len(matrix))
            mixed = sidelobes @ inverse
            at_sources += float(np.mean(1.0 - 2.0 * np.diag(mixed) - np.einsum("jk,kj->j", mixed, sidelobes)))
            taken = _psf_between(plane, x, y, self.x_pixel, self.y_pixel)
            between += float(np.mean(1.0 - np.einsum("pj,jk,pk->p", taken, inverse, taken, optimize=True)))
        return float(np.sqrt(at_sources / between))

    def _correct_spectra(self, noise_jy: NDArray[np.float64]) -> None:
        """Bring the slope inside the bands of bright sources to that between them: catalogues often do not know it."""
        expected_jy = np.array([course.apparent()[1] for course in self._bands])
        bright = np.all(self.flux_jy > _SLOPE_SIGMA * noise_jy[:, None], axis=0) & np.all(expected_jy > 0.0, axis=0)
        if len(self._bands) < 2 or not bright.any():
            return
        band_hz = np.array([course.frequency_hz.mean() for course in self._bands])
        x = np.log(band_hz) - np.log(band_hz).mean()
        slope = x @ np.log(self.flux_jy[:, bright] / expected_jy[:, bright]) / (x @ x)
        for course in self._bands:
            course.spectrum_jy[bright] *= (course.frequency_hz / band_hz.mean()) ** slope[:, None]


class _Course:
    """What the catalogue expects of its sources in one band."""

    def __init__(
        self,
        model: SkyModel,
        lmn: NDArray[np.float64],
        pointings: Pointings,
        frequency_hz: NDArray[np.float64],
        share: NDArray[np.float64],
    ) -> None:
        power = power_course(lmn, pointings, frequency_hz)
        self._share = share
        mean_power = np.einsum("kpc,pc->k", power, self._share)
        self._power = np.where(mean_power[:, None, None] > LEAST_POWER, power, 1.0)
        self.frequency_hz = frequency_hz
        self.spectrum_jy = model.flux_jy_at(frequency_hz)
        """Flux density up to a factor by source and channel group."""
        self.expected_jy = np.einsum("kpc,kc,pc->k", power, self.spectrum_jy, self._share)
        """Mean apparent flux density, shape (n_source,)."""
        self.error_jy = _CATALOGUE_ERROR * np.abs(self.expected_jy) + _BEAM_ERROR * np.abs(self.spectrum_jy).max(axis=1)

    def apparent(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Apparent flux density up to a factor by source, pointing and channel group, and its mean, shape (n_source,)."""
        apparent = self._power * self.spectrum_jy[:, None, :]
        return apparent, np.einsum("kpc,pc->k", apparent, self._share)


def _robust_rms(image: NDArray[np.float32]) -> float:
    """Noise of an image from a sample of its pixels."""
    sample = image[::_SAMPLE_STEP, ::_SAMPLE_STEP]
    return MAD_TO_SIGMA * float(np.median(np.abs(sample - np.median(sample))))


@numba.njit(cache=True, nogil=True)
def _kernel(fraction: float, taps: NDArray[np.float64]) -> None:
    """Weights of the 2 * _TAPS pixels around a place ``fraction`` of a pixel beyond one of them.

    A sinc in the window exp(beta (sqrt(1 - t^2) - 1)) of Barnett et al. 2019 (SIAM J. Sci. Comput. 41, C479): exact to
    3e-4 for waves of more than 3.3 pixels, and the restoring beam has 4.5 pixels across.
    """
    for k in range(2 * _TAPS):
        distance = k - _TAPS + 1 - fraction
        window = np.exp(_WINDOW * (np.sqrt(max(0.0, 1.0 - (distance / _TAPS) ** 2)) - 1.0))
        phase = np.pi * distance
        taps[k] = window * (np.sin(phase) / phase if abs(phase) > 1e-9 else 1.0)


@numba.njit(cache=True, nogil=True)
def _value_at(image: NDArray[np.float32], x: float, y: float, buffers: NDArray[np.float64]) -> float:
    """Band-limited interpolation; pixels outside the image count as zero."""
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    _kernel(x - x0, buffers[0])
    _kernel(y - y0, buffers[1])
    total = 0.0
    for j in range(2 * _TAPS):
        row = y0 + j - _TAPS + 1
        if row < 0 or row >= image.shape[0]:
            continue
        along = 0.0
        for i in range(2 * _TAPS):
            column = x0 + i - _TAPS + 1
            if 0 <= column < image.shape[1]:
                along += buffers[0, i] * image[row, column]
        total += buffers[1, j] * along
    return total


@numba.njit(cache=True, nogil=True)
def interpolate(
    image: NDArray[np.float32], x_pixel: NDArray[np.float64], y_pixel: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values of an image between its pixels, zero outside, shape of the positions."""
    buffers = np.empty((2, 2 * _TAPS))
    values = np.empty(x_pixel.size)
    for k in range(x_pixel.size):
        values[k] = _value_at(image, x_pixel[k], y_pixel[k], buffers)
    return values


@numba.njit(cache=True, nogil=True)
def spread(
    image: NDArray[np.float32],
    x_pixel: NDArray[np.float64],
    y_pixel: NDArray[np.float64],
    flux_jy: NDArray[np.float64],
) -> None:
    """Add point sources between the pixels of a model image, in place: the adjoint of ``interpolate``."""
    buffers = np.empty((2, 2 * _TAPS))
    for k in range(x_pixel.size):
        x0, y0 = int(np.floor(x_pixel[k])), int(np.floor(y_pixel[k]))
        _kernel(x_pixel[k] - x0, buffers[0])
        _kernel(y_pixel[k] - y0, buffers[1])
        for j in range(2 * _TAPS):
            row = y0 + j - _TAPS + 1
            if row < 0 or row >= image.shape[0]:
                continue
            for i in range(2 * _TAPS):
                column = x0 + i - _TAPS + 1
                if 0 <= column < image.shape[1]:
                    image[row, column] += np.float32(flux_jy[k] * buffers[1, j] * buffers[0, i])


@numba.njit(cache=True, nogil=True)
def _psf_between(
    psf: NDArray[np.float32],
    x_pixel: NDArray[np.float64],
    y_pixel: NDArray[np.float64],
    x_source: NDArray[np.float64],
    y_source: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Point-spread functions of sources at some places, shape (n_place, n_source)."""
    centre_y, centre_x = psf.shape[0] // 2, psf.shape[1] // 2
    buffers = np.empty((2, 2 * _TAPS))
    matrix = np.empty((x_pixel.size, x_source.size))
    for j in range(x_pixel.size):
        for k in range(x_source.size):
            x, y = centre_x + x_pixel[j] - x_source[k], centre_y + y_pixel[j] - y_source[k]
            matrix[j, k] = _value_at(psf, x, y, buffers)
    return matrix
