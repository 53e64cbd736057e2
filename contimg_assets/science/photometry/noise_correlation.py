"""How the noise of an image is correlated from pixel to pixel.

What belongs here: the autocorrelation of the noise, of the beam's shape or measured on blank sky. It decides how the
local rms translates into the error of a filtered flux. The rms maps themselves are made in ``imaging``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from contimg_assets.science.images import SkyImage
from contimg_assets.science.photometry.pixel_grid import PixelBeam

_SOURCE_SIGMA = 4.0
"""Pixels beyond this many sigma, and their surroundings, are taken for sources."""
_MAX_SIDE = 1024
"""Side of the central part of the image that is used, pixels: enough for 1 % with any sensible beam."""
_MIN_BEAMS = 100.0
"""Fewer independent beams of blank sky than this and the beam's shape is the better estimate."""


def beam_autocorrelation(beam: PixelBeam, half_width: int) -> NDArray[np.float64]:
    """Autocorrelation of noise that looks like the beam, shape (2 half_width + 1,) * 2, 1 at lag 0.

    It holds for the natural-weight residual of an interferometer, whose noise has the dirty beam as autocorrelation.
    """
    lag = np.arange(-half_width, half_width + 1, dtype=np.float64)
    x, y = lag[None, :], lag[:, None]
    p = beam.precision
    return np.asarray(np.exp(-0.5 * (p[0, 0] * x * x + 2 * p[0, 1] * x * y + p[1, 1] * y * y)), dtype=np.float64)


def measure_noise_autocorrelation(
    image: SkyImage, rms: NDArray[np.float32], background: NDArray[np.float32] | None, beam: PixelBeam
) -> NDArray[np.float64] | None:
    """Autocorrelation of the noise on the blank sky of an image; None when there is too little of it.

    Parameters
    ----------
    image : SkyImage
        Restored or, better, residual image.
    rms, background : array of float, shape (n_y, n_x), Jy/beam
        Background None is zero.
    beam : PixelBeam
        The image's.

    Returns
    -------
    array of float, shape (2 k + 1, 2 k + 1) with k three major axes of the beam, or None
        1 at lag 0, for ``measure_forced(..., noise_acf=...)``.

    Notes
    -----
    Pixels beyond 4 sigma and those within one major axis of them are masked; the correlation of the rest divided
    by the correlation of the mask is unbiased by the holes (both by FFT).
    """
    data = image.data
    n_y, n_x = data.shape
    y0, x0 = max(0, (n_y - _MAX_SIDE) // 2), max(0, (n_x - _MAX_SIDE) // 2)
    part = (slice(y0, y0 + _MAX_SIDE), slice(x0, x0 + _MAX_SIDE))
    scale = np.where(rms[part] > 0, rms[part], np.nan)
    z = (data[part] if background is None else data[part] - background[part]) / scale
    major, minor = beam.fwhm_pixels
    blank = np.isfinite(z)
    sources = np.abs(np.where(blank, z, 0.0)) > _SOURCE_SIGMA
    reach = 2 * int(np.ceil(major)) + 1
    blank &= ~(ndimage.uniform_filter(sources.astype(np.float32), reach, mode="constant") > 0.5 / reach**2)
    if blank.sum() < _MIN_BEAMS * major * minor:
        return None
    half_width = min(int(np.ceil(3 * major)), (min(z.shape) - 1) // 2)
    return _masked_autocorrelation(np.where(blank, z, 0.0), blank, half_width)


def _masked_autocorrelation(z: NDArray[np.float64], valid: NDArray[np.bool_], half_width: int) -> NDArray[np.float64]:
    shape = [fft.next_fast_len(n + half_width, real=True) for n in z.shape]
    products = fft.irfft2(np.abs(fft.rfft2(z, shape)) ** 2, shape)
    pairs = fft.irfft2(np.abs(fft.rfft2(valid.astype(z.dtype), shape)) ** 2, shape)
    lag = np.arange(-half_width, half_width + 1)
    window = np.ix_(lag % shape[0], lag % shape[1])
    acf = np.asarray(products[window] / np.maximum(pairs[window], 1.0), dtype=np.float64)
    return acf / acf[half_width, half_width]
