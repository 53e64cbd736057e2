"""The pixel grid of a mosaic: where it lies, and where its pixels fall on each tile.

What belongs here: centre, size and projection of the output, and the map from its pixels to those of a tile. Adding
up is ``mosaic``, the compiled loop ``reprojection``.

The projection is ZEA (zenithal equal-area, Calabretta & Greisen 2002, section 5.1.7): a strip of an hour is 17 deg
long, and there the axes of a beam differ by 0.3 per cent from those at the centre, their product not at all. In SIN
the beam would be one per cent shorter, in a cylinder of the right declination fluxes would follow the declination.
The centre is the mean of unit vectors, so right ascension may wrap. The extent is that of the outlines of the tiles; a
header is never trusted for it beyond its two celestial axes.

The exact map (two calls of astropy's WCS a pixel) would cost more than everything else together. It is evaluated on
every 16th pixel and interpolated linearly in between, with the step halved until the middle of the cells is right to
``COORDINATE_TOLERANCE_PIXELS``: between two zenithal projections 8 deg apart a step of 16 pixels of 5 arcsec is
off by 2e-4 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from contimg_assets.science.coordinates import unit_vectors
from contimg_assets.science.errors import DataError
from contimg_assets.science.images import SkyImage
from contimg_assets.science.photometry.pixel_grid import image_pixels, sky_positions

COORDINATE_TOLERANCE_PIXELS = 1e-3
"""Largest error of an interpolated pixel position."""
_FIRST_STEP_PIXELS = 16
_OUTLINE_POINTS = 33
_MARGIN_PIXELS = 2
_MEMORY_HINT_BYTES_PER_PIXEL = 9


@dataclass(frozen=True, slots=True, eq=False)
class MosaicGrid:
    """The pixels of a mosaic ``[y, x]``, ICRS, x towards decreasing right ascension."""

    wcs: WCS
    n_x: int
    n_y: int


@dataclass(frozen=True, slots=True, eq=False)
class PixelMap:
    """Positions on a tile of a rectangle of mosaic pixels, at its nodes: node (j, i) is pixel (y_0 + j step, x_0 + i step)."""

    x_0: int
    """First column of the mosaic."""
    y_0: int
    n_x: int
    """Columns of the rectangle."""
    n_y: int
    step: int
    tile_x: NDArray[np.float64]
    """Zero-based pixel on the tile, shape (n_node_y, n_node_x)."""
    tile_y: NDArray[np.float64]


def plan_grid(tiles: Sequence[SkyImage], *, max_pixels: float) -> MosaicGrid:
    """Choose the grid that holds all tiles, with the finest of their cells.

    Parameters
    ----------
    tiles : sequence of SkyImage
        Only shape and WCS are used.
    max_pixels : float
        Largest mosaic that is made.

    Returns
    -------
    MosaicGrid

    Raises
    ------
    DataError
        If there are no tiles, or the mosaic would have more than ``max_pixels``.
    """
    if not tiles:
        raise DataError(
            "mosaic: there is nothing to add up",
            got="no tile",
            expected="at least one image",
            remedy="Materialize continuum_image for observations of this hour.",
            reason_code="no_tiles",
        )
    outlines = [_outline_deg(tile) for tile in tiles]
    centres = np.array([unit_vectors(np.array(ra[0]), np.array(dec[0])) for ra, dec in outlines])
    mean = centres.sum(axis=0)
    cell_deg = min(tile.pixel_arcsec for tile in tiles) / 3600.0
    wcs = _zenithal(
        float(np.rad2deg(np.arctan2(mean[1], mean[0])) % 360.0),
        float(np.rad2deg(np.arctan2(mean[2], np.hypot(mean[0], mean[1])))),
        cell_deg,
    )
    x, y = wcs.all_world2pix(
        np.concatenate([ra for ra, _ in outlines]), np.concatenate([dec for _, dec in outlines]), 0
    )
    x_0, y_0 = int(np.floor(np.nanmin(x))), int(np.floor(np.nanmin(y)))
    n_x, n_y = int(np.ceil(np.nanmax(x))) - x_0 + 1, int(np.ceil(np.nanmax(y))) - y_0 + 1
    if n_x * n_y > max_pixels:
        raise DataError(
            f"mosaic of {len(tiles)} tiles: it would be too large",
            got=f"{n_x} x {n_y} pixels, {n_x * n_y * _MEMORY_HINT_BYTES_PER_PIXEL / 1e9:.1f} GB of memory",
            expected=f"at most {max_pixels / 1e6:.0f} million pixels",
            remedy="The tiles lie far apart on the sky: make one mosaic of each group of neighbours.",
            reason_code="mosaic_too_large",
        )
    wcs.wcs.crpix = [1.0 - x_0, 1.0 - y_0]
    wcs.wcs.set()
    return MosaicGrid(wcs, n_x, n_y)


def _zenithal(ra_deg: float, dec_deg: float, cell_deg: float) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---ZEA", "DEC--ZEA"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [ra_deg, dec_deg]
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.cdelt = [-cell_deg, cell_deg]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def _outline_deg(tile: SkyImage) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ICRS positions of the centre of a tile, then of points along its edges; NaN beyond the sky."""
    n_y, n_x = tile.data.shape
    along_x, along_y = np.linspace(0, n_x - 1, _OUTLINE_POINTS), np.linspace(0, n_y - 1, _OUTLINE_POINTS)
    low, high_x, high_y = (
        np.zeros(_OUTLINE_POINTS),
        np.full(_OUTLINE_POINTS, n_x - 1),
        np.full(_OUTLINE_POINTS, n_y - 1),
    )
    x = np.concatenate([[(n_x - 1) / 2], along_x, along_x, low, high_x])
    y = np.concatenate([[(n_y - 1) / 2], low, high_y, along_y, along_y])
    return sky_positions(tile, x, y)


def map_pixels(grid: MosaicGrid, tile: SkyImage) -> PixelMap | None:
    """Positions on a tile of the mosaic pixels around it; None if the tile lies off the mosaic.

    Parameters
    ----------
    grid : MosaicGrid
    tile : SkyImage
        Only shape and WCS are used.
    """
    x, y = grid.wcs.all_world2pix(*_outline_deg(tile), 0)
    x_0, x_1 = _clipped_range(x, grid.n_x)
    y_0, y_1 = _clipped_range(y, grid.n_y)
    if x_1 <= x_0 or y_1 <= y_0:
        return None
    step = _FIRST_STEP_PIXELS
    while True:
        nodes_x, nodes_y = _nodes(x_0, x_1, step), _nodes(y_0, y_1, step)
        tile_x, tile_y = _exact(grid, tile, nodes_x, nodes_y)
        if step == 1 or _largest_error(grid, tile, nodes_x, nodes_y, tile_x, tile_y) <= COORDINATE_TOLERANCE_PIXELS:
            return PixelMap(x_0, y_0, x_1 - x_0, y_1 - y_0, step, tile_x, tile_y)
        step //= 2


def _nodes(start: int, stop: int, step: int) -> NDArray[np.float64]:
    """Every ``step``-th pixel from ``start`` to the first at or beyond ``stop``."""
    return start + step * np.arange(-(-(stop - start) // step) + 1, dtype=np.float64)


def _clipped_range(values: NDArray[np.float64], n: int) -> tuple[int, int]:
    low, high = int(np.floor(np.nanmin(values))), int(np.ceil(np.nanmax(values)))
    return max(0, low - _MARGIN_PIXELS), min(n, high + 1 + _MARGIN_PIXELS)


def _exact(
    grid: MosaicGrid, tile: SkyImage, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tile pixels of the mosaic pixels at every pair of a column and a row, shape (y.size, x.size)."""
    ra, dec = grid.wcs.all_pix2world(*(axis.ravel() for axis in np.meshgrid(x, y)), 0)
    tile_x, tile_y = image_pixels(tile, ra, dec)
    return tile_x.reshape(y.size, x.size), tile_y.reshape(y.size, x.size)


def _largest_error(
    grid: MosaicGrid,
    tile: SkyImage,
    nodes_x: NDArray[np.float64],
    nodes_y: NDArray[np.float64],
    tile_x: NDArray[np.float64],
    tile_y: NDArray[np.float64],
) -> float:
    """Error of linear interpolation in the middle of the cells, where it is largest, pixels; 0 if no cell is on the sky."""
    middle_x, middle_y = 0.5 * (nodes_x[:-1] + nodes_x[1:]), 0.5 * (nodes_y[:-1] + nodes_y[1:])
    exact = _exact(grid, tile, middle_x, middle_y)
    error = np.hypot(*(e - _cell_means(node) for e, node in zip(exact, (tile_x, tile_y), strict=True)))
    return float(np.nanmax(error, initial=0.0)) if np.isfinite(error).any() else 0.0


def _cell_means(node: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.25 * (node[:-1, :-1] + node[1:, :-1] + node[:-1, 1:] + node[1:, 1:]), dtype=np.float64)
