"""One image of the sky out of overlapping images of single pointings, with the weight of every pixel.

What belongs here: what is added up with which weight, and what stays blank. The grid is ``mosaic_grid``, the loop over
pixels ``reprojection``, beams ``common_beam``; whether a mosaic is right is measured in ``mosaic_quality``.

Each tile i, divided by its primary beam, is an unbiased image I_i / PB_i of the sky with noise sigma_i / PB_i. Their best
mean has the weights w_i = PB_i^2 / sigma_i^2 (Cornwell, Holdaway & Uson 1993; Condon et al. 1998, section 3)::

    M = sum_i PB_i I_i / sigma_i^2 / W,   W = sum_i PB_i^2 / sigma_i^2,   noise of M = 1 / sqrt(W)

which needs no division by a small primary beam. sigma_i is the tile's local rms, resampled with it.

Restoring beams that differ by more than a per cent in area are convolved to a common one before adding. The alternative,
leaving them and scaling, keeps peaks but makes the beam of every pixel another one, so no beam keyword
would be true; taking the beam of the first tile, as others do, is wrong for all others. The rms of a convolved tile is
scaled by the measured change of its noise.

Blank: pixels where the noise is more than 1 / edge_response times that of the best tile's centre, and pixels that a
single tile sees with a response below ``single_response``: artefacts at the edge of one tile survive any weighting,
because nothing contradicts them there.

Tiles are taken one at a time and added in bands of rows, so memory is that of the mosaic (9 bytes a pixel) and one tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from contimg_assets.science.errors import NotEnoughDataError
from contimg_assets.science.images import SkyImage
from contimg_assets.science.imaging.common_beam import beam_of, choose_common_beam, convolve_to_beam
from contimg_assets.science.imaging.mosaic_grid import MosaicGrid, map_pixels, plan_grid
from contimg_assets.science.imaging.noise import robust_rms
from contimg_assets.science.imaging.reprojection import NodeMap, Sums, TilePlanes, add_rows, interpolation_table
from contimg_assets.science.imaging.restore import RestoringBeam
from contimg_assets.science.photometry.pixel_grid import matching_map, pixel_beam
from contimg_assets.science.threads import in_threads, slices

_RMS_STRIDE = 8


@dataclass(frozen=True, slots=True)
class MosaicSettings:
    """What is added and what stays blank."""

    edge_response: float = 0.2
    """Tiles contribute down to this primary beam; pixels below this response (1 = centre of the best tile) are blank."""
    single_response: float = 0.5
    """Where one tile contributes alone, pixels below this response are blank."""
    max_pixels: float = 400e6
    """Largest mosaic that is made."""
    n_threads: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One pointing: image, local noise and primary beam on one grid."""

    image: SkyImage
    """Not corrected for the primary beam, Jy/beam."""
    rms: NDArray[np.float32]
    """Shape of the image, Jy/beam."""
    primary_beam: NDArray[np.float32]
    """Power response, shape of the image; 1 everywhere for an image that is corrected already, with its local rms."""
    background: NDArray[np.float32] | None = None
    """Local zero level, Jy/beam, subtracted before adding, as photometry subtracts it."""


@dataclass(frozen=True, slots=True, eq=False)
class Mosaic:
    """A mosaic and the weight of its pixels."""

    image: SkyImage
    """Corrected for the primary beam, Jy/beam, NaN where blank; the frequency is the mean of the tiles'."""
    weights: NDArray[np.float32]
    """Shape of the image, (Jy/beam)^-2; 0 where blank."""
    n_tiles: int
    """Tiles that were added."""
    is_convolved: bool
    """True if the restoring beams differed and tiles were convolved to the common one."""

    def columns(self) -> dict[str, Any]:
        """Image, weights and what a header needs as a flat mapping without copying, for the FITS writer."""
        fields = ("data", "wcs", "beam_major_arcsec", "beam_minor_arcsec", "beam_pa_deg", "frequency_hz")
        plain = {name: getattr(self.image, name) for name in fields}
        return plain | {"weights": self.weights, "n_tiles": self.n_tiles}

    @property
    def rms(self) -> NDArray[np.float32]:
        """Noise of every pixel, Jy/beam, NaN where blank; made anew at each call."""
        return rms_of_weights(self.weights)

    @property
    def lowest_rms_jy_beam(self) -> float:
        """Noise of the best pixel."""
        return float(1.0 / np.sqrt(self.weights.max()))

    @property
    def area_deg2(self) -> float:
        """Solid angle of the pixels that are not blank."""
        return float(np.count_nonzero(self.weights) * (self.image.pixel_arcsec / 3600.0) ** 2)


def make_mosaic(frames: Sequence[SkyImage], tiles: Iterable[Tile], settings: MosaicSettings | None = None) -> Mosaic:
    """Add tiles to one mosaic.

    Parameters
    ----------
    frames : sequence of SkyImage
        The images of all tiles, of which only shape, WCS and beam are used (``outline`` drops the pixels).
    tiles : iterable of Tile
        The same tiles, taken one at a time: a generator that reads files keeps memory low.
    settings : MosaicSettings, optional

    Returns
    -------
    Mosaic
        Cut to the pixels that are not blank.

    Raises
    ------
    DataError
        If there are no tiles, a map has another shape than its image, or the mosaic would be too large.
    NotEnoughDataError
        If every pixel is blank.
    """
    settings = settings or MosaicSettings()
    grid = plan_grid(frames, max_pixels=settings.max_pixels)
    beam, is_convolved = choose_common_beam([beam_of(frame) for frame in frames])
    shape = (grid.n_y, grid.n_x)
    sums = Sums(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.uint8))
    highest_weight, frequencies = 0.0, []
    for tile in tiles:
        ready = _with_beam(tile, beam, settings) if is_convolved else tile
        _add_tile(grid, ready, settings, sums)
        highest_weight = max(highest_weight, _central_weight(ready, settings.edge_response))
        frequencies.append(tile.image.frequency_hz)
    data = _finish(sums, highest_weight, settings)
    rows, columns = _extent(sums.weight)
    image = SkyImage(
        data=np.ascontiguousarray(data[rows, columns]),
        wcs=_shifted(grid.wcs, columns.start, rows.start),
        beam_major_arcsec=beam.major_arcsec,
        beam_minor_arcsec=beam.minor_arcsec,
        beam_pa_deg=beam.pa_deg,
        frequency_hz=float(np.mean(frequencies)),
        name=f"mosaic of {len(frequencies)} tiles",
    )
    return Mosaic(image, np.ascontiguousarray(sums.weight[rows, columns]), len(frequencies), is_convolved)


def rms_of_weights(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Noise 1 / sqrt(weight) of a weight map in (Jy/beam)^-2, Jy/beam, NaN where there is no weight."""
    positive = np.where(weights > 0, weights, np.nan)
    return np.asarray(1.0 / np.sqrt(positive), dtype=np.float32)


def outline(image: SkyImage) -> SkyImage:
    """The image without its pixels: shape, WCS and beam, at no memory."""
    return replace(image, data=np.broadcast_to(np.float32(np.nan), image.data.shape))


def _with_beam(tile: Tile, beam: RestoringBeam, settings: MosaicSettings) -> Tile:
    image = convolve_to_beam(_flat(tile), beam, n_threads=settings.n_threads)
    change = robust_rms(image.data) / robust_rms(tile.image.data)
    return Tile(image, tile.rms * np.float32(change), tile.primary_beam)


def _flat(tile: Tile) -> SkyImage:
    """The tile's image without its background."""
    if tile.background is None:
        return tile.image
    return replace(tile.image, data=tile.image.data - matching_map(tile.image, tile.background, "background"))


def _central_weight(tile: Tile, edge_response: float) -> float:
    """Weight at the centre of the beam for the tile's typical rms, (Jy/beam)^-2; 0 if there is none."""
    thin = (slice(None, None, _RMS_STRIDE), slice(None, None, _RMS_STRIDE))
    rms, power = tile.rms[thin], tile.primary_beam[thin]
    seen = np.isfinite(rms) & (rms > 0) & (power >= edge_response)
    return float(np.median(1.0 / rms[seen].astype(np.float64) ** 2)) if seen.any() else 0.0


def _add_tile(grid: MosaicGrid, tile: Tile, settings: MosaicSettings, sums: Sums) -> None:
    """Add one tile, bands of rows in threads."""
    pixels = map_pixels(grid, tile.image)
    if pixels is None:
        return
    image = _flat(tile)
    table = interpolation_table(pixel_beam(image).fwhm_pixels[1])
    planes = TilePlanes(
        np.require(image.data, np.float32, ["C", "A"]),
        matching_map(image, tile.rms, "rms"),
        matching_map(image, tile.primary_beam, "primary beam"),
    )
    nodes = NodeMap(pixels.x_0, pixels.y_0, pixels.n_x, pixels.step, pixels.tile_x, pixels.tile_y)

    def add(rows: slice) -> None:
        add_rows(planes, nodes, table, settings.edge_response, pixels.y_0 + rows.start, pixels.y_0 + rows.stop, sums)

    in_threads(add, slices(pixels.n_y, settings.n_threads), settings.n_threads)


def _finish(sums: Sums, highest_weight: float, settings: MosaicSettings) -> NDArray[np.float32]:
    """Divide by the weights and blank, in place; return the image."""
    weight = sums.weight
    blank = weight < settings.edge_response**2 * highest_weight
    blank |= (sums.n_tiles < 2) & (weight < settings.single_response**2 * highest_weight)
    blank |= weight <= 0
    weight[blank] = 0.0
    if not weight.any():
        raise NotEnoughDataError(
            "mosaic: every pixel is blank",
            got="no pixel with a tile of sufficient response",
            expected=f"tiles with a primary beam above {settings.single_response:g} and a positive rms somewhere",
            remedy="Look at the primary beam and rms maps of the tiles.",
            reason_code="mosaic_is_blank",
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        np.divide(sums.weighted, weight, out=sums.weighted)
    sums.weighted[blank] = np.nan
    return sums.weighted


def _extent(weight: NDArray[np.float32]) -> tuple[slice, slice]:
    """Rows and columns that hold everything that is not blank."""
    rows, columns = np.flatnonzero(weight.any(axis=1)), np.flatnonzero(weight.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _shifted(wcs: WCS, x: int, y: int) -> WCS:
    cut = wcs.deepcopy()
    cut.wcs.crpix = wcs.wcs.crpix - np.array([x, y])
    cut.wcs.set()
    return cut
