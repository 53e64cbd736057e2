"""Where bright sources really are in an image: the measurement behind the check of the astrometry.

What belongs here: positions of known point sources, fitted near their catalogue positions. Comparing them with
a catalogue is in ``science.crossmatch``.

Method: Gauss-Newton fit of amplitude and position of the restoring beam to the core of the source, all sources at
once. The shape is known, so three steps suffice from anywhere within half a beam. Pixels count by the inverse of the noise
covariance, of the beam's shape and regularised as in ``filter_bank``: the fit then ends where the flux is highest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.images import SkyImage
from contimg_assets.science.photometry.filter_bank import beam_stamp, stamp_offsets
from contimg_assets.science.photometry.pixel_grid import PixelBeam, pixel_beam, pixel_positions, sky_positions

_CORE_BEAMS = 0.75
"""Radius of the fitted core, FWHM."""
_MAX_SHIFT_BEAMS = 0.5
"""A fit that ends farther from its start has found something else."""
_STEPS = 5
_REGULARISATION = 0.1
"""Lambda of the weights, in units of the noise variance."""

COLUMNS = {
    "source_index": pl.Int64,
    "ra_deg": pl.Float64,
    "dec_deg": pl.Float64,
    "peak_flux_jy_beam": pl.Float64,
    "ra_err_arcsec": pl.Float64,
    "dec_err_arcsec": pl.Float64,
}
"""Columns of ``fit_positions``."""


def fit_positions(
    image: SkyImage,
    rms: NDArray[np.float32],
    background: NDArray[np.float32] | None,
    ra_deg: NDArray[np.float64],
    dec_deg: NDArray[np.float64],
    *,
    min_snr: float = 10.0,
) -> pl.DataFrame:
    """Fit the position of each source that is bright enough.

    Parameters
    ----------
    image : SkyImage
    rms, background : array of float, shape of the image, Jy/beam
        As for ``measure_forced``.
    ra_deg, dec_deg : array of float, shape (n,)
        ICRS start positions, within half a beam of the truth.
    min_snr : float
        Least signal-to-noise of the fitted peak.

    Returns
    -------
    polars.DataFrame
        ``COLUMNS``: row of the input, fitted ICRS position, fitted peak, errors on the sky (both in arcsec east and
        north) for noise correlated by the beam. Sources that are faint, at the edge, near blank pixels or whose
        fit moved by more than half a beam are left out.
    """
    beam = pixel_beam(image)
    source, x_start, y_start = pixel_positions(image, ra_deg, dec_deg)
    pixel_x, pixel_y, inside = core_pixels(beam, image.data.shape, x_start, y_start)
    source, x_start, y_start = source[inside], x_start[inside], y_start[inside]
    values = image.data[pixel_y, pixel_x].astype(np.float64)
    if background is not None:
        values -= background[pixel_y, pixel_x]
    ix, iy = np.floor(x_start + 0.5).astype(np.int64), np.floor(y_start + 0.5).astype(np.int64)
    local_rms = rms[iy, ix].astype(np.float64)
    peak, x, y = fit_beams(beam, pixel_x, pixel_y, values, x_start, y_start)
    start, end = beam.in_beams(x_start, y_start), beam.in_beams(x, y)
    moved = np.linalg.norm(end - start, axis=1)
    good = np.isfinite(peak) & (peak >= min_snr * local_rms) & (local_rms > 0) & (moved <= _MAX_SHIFT_BEAMS)
    ra, dec = sky_positions(image, x[good], y[good])
    ra_unit_err, dec_unit_err = unit_errors_arcsec(beam)
    noise_over_peak = local_rms[good] / peak[good]
    return pl.DataFrame(
        {
            "source_index": source[good],
            "ra_deg": ra,
            "dec_deg": dec,
            "peak_flux_jy_beam": peak[good],
            "ra_err_arcsec": ra_unit_err * noise_over_peak,
            "dec_err_arcsec": dec_unit_err * noise_over_peak,
        },
        schema=COLUMNS,
    )


def core_pixels(
    beam: PixelBeam, shape: tuple[int, ...], x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Pixels of the core of every source, and which sources have all of theirs on the image.

    Parameters
    ----------
    beam : PixelBeam
    shape : tuple of int
        Of the image, (n_y, n_x).
    x, y : array of float, shape (n,)
        Zero-based pixel positions on the image.

    Returns
    -------
    pixel_x, pixel_y : array of int, shape (n_inside, n_pixels)
        Of the sources inside only.
    inside : array of bool, shape (n,)
    """
    offset_x, offset_y = stamp_offsets(beam_stamp(beam, _CORE_BEAMS, step=1))
    pixel_x = np.floor(x + 0.5).astype(np.int64)[:, None] + offset_x
    pixel_y = np.floor(y + 0.5).astype(np.int64)[:, None] + offset_y
    inside = np.all((pixel_x >= 0) & (pixel_x < shape[1]) & (pixel_y >= 0) & (pixel_y < shape[0]), axis=1)
    return pixel_x[inside], pixel_y[inside], inside


def fit_beams(
    beam: PixelBeam,
    pixel_x: NDArray[np.int64],
    pixel_y: NDArray[np.int64],
    values: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Amplitude (of the unit of ``values``) and position of the beam on every stamp, NaN where the pixels are.

    Parameters
    ----------
    beam : PixelBeam
    pixel_x, pixel_y : array of int, shape (n, n_pixels)
        As ``core_pixels`` returns them.
    values : array of float, shape (n, n_pixels)
        Brightness without background and neighbours.
    x, y : array of float, shape (n,)
        Where to start, within half a beam of the truth.

    Returns
    -------
    peak, x, y : array of float, shape (n,)
    """
    limit = min(beam.fwhm_pixels) / 2
    peak = np.full(x.shape, np.nan)
    weights = np.linalg.inv(_core_correlation(beam, _REGULARISATION))
    for _ in range(_STEPS):
        design = _design(beam, pixel_x - x[:, None], pixel_y - y[:, None])
        weighted = np.einsum("pq,nqa->npa", weights, design, optimize=True)
        normal = np.einsum("npa,npb->nab", weighted, design, optimize=True)
        solution = np.linalg.solve(normal, np.einsum("npa,np->na", weighted, values)[..., None])[..., 0]
        peak = np.where(solution[:, 0] > 0, solution[:, 0], np.nan)
        x = x + np.clip(solution[:, 1] / peak, -limit, limit)
        y = y + np.clip(solution[:, 2] / peak, -limit, limit)
    return peak, x, y


def _design(beam: PixelBeam, dx: NDArray[Any], dy: NDArray[Any]) -> NDArray[np.float64]:
    """Beam and its derivatives, shape (..., n_pixels, 3): linear in (peak, peak * shift x, peak * shift y)."""
    p = beam.precision
    shape = np.exp(-0.5 * (p[0, 0] * dx * dx + 2 * p[0, 1] * dx * dy + p[1, 1] * dy * dy))
    slope_x, slope_y = shape * (p[0, 0] * dx + p[0, 1] * dy), shape * (p[0, 1] * dx + p[1, 1] * dy)
    return np.asarray(np.stack([shape, slope_x, slope_y], axis=-1), dtype=np.float64)


def unit_errors_arcsec(beam: PixelBeam) -> tuple[float, float]:
    """Errors (east, north) of a fit whose peak is as high as the rms of noise correlated by the beam."""
    dx, dy = stamp_offsets(beam_stamp(beam, _CORE_BEAMS, step=1))
    design = _design(beam, dx, dy)
    weighted = np.linalg.solve(_core_correlation(beam, _REGULARISATION), design)
    estimator = np.linalg.solve(design.T @ weighted, weighted.T)
    shift = (estimator @ _core_correlation(beam, 0.0) @ estimator.T)[1:, 1:]
    to_sky = np.linalg.inv(beam.jacobian)
    east, north = np.sqrt(np.diag(to_sky @ shift @ to_sky.T))
    return float(east), float(north)


def _core_correlation(beam: PixelBeam, regularisation: float) -> NDArray[np.float64]:
    """Correlation of the noise between the pixels of a core, with something added on its diagonal."""
    dx, dy = stamp_offsets(beam_stamp(beam, _CORE_BEAMS, step=1))
    correlation = _design(beam, dx[:, None] - dx, dy[:, None] - dy)[..., 0]
    return np.asarray(correlation + regularisation * np.eye(dx.size), dtype=np.float64)
