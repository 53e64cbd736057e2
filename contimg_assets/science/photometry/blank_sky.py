"""Whether quoted errors are true: fluxes measured where there is nothing, over their errors.

What belongs here: choosing blank positions and the scatter of their pulls. Measuring itself is ``forced``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from contimg_assets.science.constants import MAD_TO_SIGMA
from contimg_assets.science.images import SkyImage
from contimg_assets.science.photometry.flags import UNRELIABLE
from contimg_assets.science.photometry.forced import PhotometrySettings, measure_forced
from contimg_assets.science.photometry.pixel_grid import pixel_positions, sky_positions

_CLEARANCE_BEAMS = 3.0
_MARGIN_BEAMS = 3.0
_EACH_ON_ITS_OWN = PhotometrySettings(deblend_radius_beams=0.0, merge_radius_beams=0.0)
"""Blank positions may lie close together; there is nothing to deblend."""


def blank_sky_pull(
    image: SkyImage,
    rms: NDArray[np.float32],
    background: NDArray[np.float32] | None,
    ra_deg: NDArray[np.float64],
    dec_deg: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    n_positions: int = 500,
) -> tuple[float, int]:
    """Robust scatter of flux over error at random positions away from known sources; 1 if errors are true.

    Parameters
    ----------
    image, rms, background, ra_deg, dec_deg, rng, n_positions
        As for `blank_sky_pulls`.

    Returns
    -------
    scatter, n_used : float, int
        NaN with fewer than 20 positions.
    """
    pulls = blank_sky_pulls(image, rms, background, ra_deg, dec_deg, rng, n_positions=n_positions)
    if pulls.size < 20:
        return float("nan"), int(pulls.size)
    return float(MAD_TO_SIGMA * np.median(np.abs(pulls - np.median(pulls)))), int(pulls.size)


def blank_sky_pulls(
    image: SkyImage,
    rms: NDArray[np.float32],
    background: NDArray[np.float32] | None,
    ra_deg: NDArray[np.float64],
    dec_deg: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    n_positions: int = 500,
) -> NDArray[np.float64]:
    """Flux over error at random positions away from known sources.

    Parameters
    ----------
    image, rms, background
        As for ``measure_forced``.
    ra_deg, dec_deg : array of float, shape (n,)
        Known sources, kept three beams away from.
    rng : numpy.random.Generator
    n_positions : int
        Positions drawn; those near sources or blank pixels drop out.

    Returns
    -------
    array of float, shape (n_used,)
    """
    n_y, n_x = image.data.shape
    beam_pixels = image.beam_major_arcsec / image.pixel_arcsec
    margin = min(_MARGIN_BEAMS * beam_pixels, 0.45 * min(n_x, n_y))
    x = rng.uniform(margin, n_x - 1 - margin, n_positions)
    y = rng.uniform(margin, n_y - 1 - margin, n_positions)
    _, source_x, source_y = pixel_positions(image, ra_deg, dec_deg)
    if source_x.size:
        apart, _ = cKDTree(np.stack([source_x, source_y], axis=1)).query(np.stack([x, y], axis=1))
        x, y = x[apart > _CLEARANCE_BEAMS * beam_pixels], y[apart > _CLEARANCE_BEAMS * beam_pixels]
    blank_ra_deg, blank_dec_deg = sky_positions(image, x, y)
    measured = measure_forced(image, rms, background, blank_ra_deg, blank_dec_deg, _EACH_ON_ITS_OWN)
    good = (measured["flags"].to_numpy() & UNRELIABLE) == 0
    return np.asarray((measured["peak_flux_jy_beam"] / measured["peak_flux_err_jy_beam"]).to_numpy()[good])
