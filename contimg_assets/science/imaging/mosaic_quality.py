"""Whether a mosaic tells the truth: its noise against its weights, its fluxes against those of its tiles.

What belongs here: the two measurements behind the checks of a mosaic. Limits are the check's. Nothing from outside is
needed: sources are found in the mosaic itself, and measured in mosaic and tiles by forced photometry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contimg_assets.science.imaging.mosaic import Mosaic, Tile
from contimg_assets.science.imaging.noise import robust_rms
from contimg_assets.science.photometry.flags import UNRELIABLE
from contimg_assets.science.photometry.forced import measure_forced
from contimg_assets.science.photometry.pixel_grid import sky_positions
from contimg_assets.science.photometry.primary_beam_correction import correct_for_primary_beam, primary_beam_at

_SOURCE_SNR = 20.0
_MOST_SOURCES = 300
_LOWEST_RESPONSE = 0.2
"""Tiles measure a source down to this primary beam, as ``forced_photometry`` does."""


@dataclass(frozen=True, slots=True, eq=False)
class FluxComparison:
    """Bright sources of a mosaic, measured in it and in its tiles."""

    ra_deg: NDArray[np.float64]
    """Shape (n,), ICRS."""
    dec_deg: NDArray[np.float64]
    mosaic_flux_jy: NDArray[np.float64]
    """Peak flux density in the mosaic."""
    tiles_flux_jy: NDArray[np.float64]
    """Mean of the tiles' forced photometry, corrected for their primary beams, weighted by inverse variance."""

    @property
    def median_ratio(self) -> float:
        """Median of mosaic over tiles; NaN without sources."""
        return float(np.median(self.mosaic_flux_jy / self.tiles_flux_jy)) if self.ra_deg.size else float("nan")


def blank_sky_scatter(mosaic: Mosaic) -> float:
    """Robust scatter of brightness over expected noise: 1 if the weights are true.

    Sources are clipped; what confusion they leave makes the value larger than 1.
    """
    return robust_rms(mosaic.image.data * np.sqrt(mosaic.weights))


def find_bright_sources(mosaic: Mosaic) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ICRS positions (deg) of the brightest local maxima above 20 sigma, each higher than all within a beam."""
    data = np.nan_to_num(mosaic.image.data)
    snr = data * np.sqrt(mosaic.weights)
    width = 2 * int(np.ceil(mosaic.image.beam_major_arcsec / mosaic.image.pixel_arcsec)) + 1
    is_peak = (snr >= _SOURCE_SNR) & (data == ndimage.maximum_filter(data, size=width))
    is_peak[[0, -1], :] = is_peak[:, [0, -1]] = False
    y, x = np.nonzero(is_peak)
    brightest = np.argsort(-data[y, x], kind="stable")[:_MOST_SOURCES]
    y, x = y[brightest], x[brightest]
    return sky_positions(
        mosaic.image,
        x + _vertex(data[y, x - 1], data[y, x], data[y, x + 1]),
        y + _vertex(data[y - 1, x], data[y, x], data[y + 1, x]),
    )


def _vertex(before: NDArray[np.float32], peak: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
    """Offset of a parabola's vertex from its middle point, pixels."""
    curvature = before.astype(np.float64) - 2.0 * peak + after
    return np.where(curvature < 0, 0.5 * (before - after) / np.where(curvature < 0, curvature, -1.0), 0.0)


def compare_fluxes(mosaic: Mosaic, tiles: Iterable[Tile]) -> FluxComparison:
    """Measure the bright sources of a mosaic in it and in its tiles.

    Parameters
    ----------
    mosaic : Mosaic
    tiles : iterable of Tile
        Those it was made of, taken one at a time.

    Returns
    -------
    FluxComparison
        Sources that are blended beyond repair, at an edge or beside blank pixels are left out.
    """
    ra, dec = find_bright_sources(mosaic)
    measured = measure_forced(mosaic.image, mosaic.rms, None, ra, dec)
    total, weight = np.zeros(ra.size), np.zeros(ra.size)
    for tile in tiles:
        index, flux, error = _measure_tile(tile, ra, dec)
        np.add.at(total, index, flux / error**2)
        np.add.at(weight, index, 1.0 / error**2)
    in_mosaic = np.full(ra.size, np.nan)
    good = (measured["flags"].to_numpy() & UNRELIABLE) == 0
    in_mosaic[measured["source_index"].to_numpy()[good]] = measured["peak_flux_jy_beam"].to_numpy()[good]
    used = np.isfinite(in_mosaic) & (weight > 0)
    return FluxComparison(ra[used], dec[used], in_mosaic[used], total[used] / weight[used])


def _measure_tile(
    tile: Tile, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Rows of the input measured on a tile, their fluxes and errors corrected for the primary beam, Jy."""
    frame = measure_forced(tile.image, tile.rms, tile.background, ra_deg, dec_deg)
    power = primary_beam_at(tile.primary_beam, frame["x_pixel"].to_numpy(), frame["y_pixel"].to_numpy())
    frame = correct_for_primary_beam(frame, power)
    flux, error = frame["peak_flux_jy_beam"].to_numpy(), frame["peak_flux_err_jy_beam"].to_numpy()
    good = ((frame["flags"].to_numpy() & UNRELIABLE) == 0) & (power >= _LOWEST_RESPONSE) & np.isfinite(flux / error)
    return frame["source_index"].to_numpy()[good], flux[good], error[good]
