"""Pixels of FITS images as PNG: the colour scale of the portal, and the two addresses that serve it.

What belongs here: parts of an observation's images for the viewer, and cut-outs around a position. Reading them is
``contimg_resources.image_regions``. A picture is made when it is asked for and kept by the browser, not on disk.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import numpy as np
from bokeh.palettes import Inferno256
from fastapi import APIRouter, HTTPException, Query, Request, Response
from numpy.typing import NDArray
from PIL import Image

from contimg_portal.api import OpenStore
from contimg_resources.image_regions import ImageGeometry, read_geometry, read_region
from contimg_resources.products import Products, open_products
from contimg_resources.store import nights

router = APIRouter(include_in_schema=False)

_SCREEN_PIXELS = 1100
_CUTOUT_PIXELS = 220
_SOFT_SIGMA = 4.0
"""Brightness (in units of the noise) around which the scale changes from linear to logarithmic."""
_BLANK = (128, 128, 128)
_PALETTE = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in Inferno256], dtype=np.uint8)
_KEEP = {"Cache-Control": "private, max-age=300"}

Band = Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{1,20}$")]
Pixel = Annotated[int | None, Query(ge=-100_000, le=100_000)]
RightAscension = Annotated[float, Query(ge=0, le=360, allow_inf_nan=False)]
Declination = Annotated[float, Query(ge=-90, le=90, allow_inf_nan=False)]
Size = Annotated[float, Query(ge=0.1, le=180, allow_inf_nan=False)]
Peak = Annotated[float | None, Query(gt=0, le=1e6, allow_inf_nan=False)]


def image_path(store: OpenStore, products: Products, observation_id: str, band: str) -> Path:
    """FITS file of an observation's image in a band; 404 when there is none."""
    found = nights.image_of(store, observation_id, band)
    if found is None:
        raise HTTPException(404, f"There is no image of {observation_id} in band {band}.")
    path = products.brought(found["path"])
    return path / f"{band}_image.fits" if path.is_dir() else path


@router.get("/observations/{observation_id}/sky.png")
def show_image(
    request: Request,
    store: OpenStore,
    observation_id: str,
    band: Band = "full",
    x0: Pixel = None,
    x1: Pixel = None,
    y0: Pixel = None,
    y1: Pixel = None,
) -> Response:
    """A rectangle of an image (pixels from 0, the last exclusive), or all of it."""
    path = image_path(store, open_products(request.app.state.settings), observation_id, band)
    geometry = read_geometry(path)
    left, right = _span(x0, x1, geometry.n_x)
    low, high = _span(y0, y1, geometry.n_y)
    pixels = read_region(path, (left, right), (low, high), _SCREEN_PIXELS)
    return _answer(_png(pixels, _noise(geometry, pixels), None))


@router.get("/observations/{observation_id}/cutout.png")
def show_cutout(
    request: Request,
    store: OpenStore,
    observation_id: str,
    ra_deg: RightAscension,
    dec_deg: Declination,
    band: Band = "full",
    size_arcmin: Size = 12.0,
    peak_jy: Peak = None,
) -> Response:
    """A square around a position; with ``peak_jy`` on a scale that several cut-outs share."""
    path = image_path(store, open_products(request.app.state.settings), observation_id, band)
    geometry = read_geometry(path)
    x, y = (float(v) for v in geometry.wcs.world_to_pixel_values(ra_deg, dec_deg))
    if not (np.isfinite(x) and np.isfinite(y) and -1 < x < geometry.n_x and -1 < y < geometry.n_y):
        raise HTTPException(404, "This position is outside the image.")
    half = max(4, round(0.5 * size_arcmin * 60.0 / geometry.cell_arcsec))
    centre_x, centre_y = round(x), round(y)
    pixels = read_region(
        path, (centre_x - half, centre_x + half + 1), (centre_y - half, centre_y + half + 1), _CUTOUT_PIXELS
    )
    return _answer(_png(pixels, _noise(geometry, pixels), peak_jy))


def _span(first: int | None, last: int | None, size: int) -> tuple[int, int]:
    """Pixels asked for, inside the image and at least one."""
    start = min(max(first or 0, 0), size - 1)
    return start, max(min(last if last is not None else size, size), start + 1)


def _noise(geometry: ImageGeometry, pixels: NDArray[np.float32]) -> float:
    if np.isfinite(geometry.rms_jy_beam) and geometry.rms_jy_beam > 0:
        return geometry.rms_jy_beam
    known = pixels[np.isfinite(pixels)]
    return max(float(1.4826 * np.median(np.abs(known - np.median(known)))), 1e-9) if known.size else 1e-9


def _png(pixels: NDArray[np.float32], sigma_jy: float, peak_jy: float | None) -> bytes:
    """North up, east left; asinh scale from -4 sigma to the peak; blank sky grey."""
    low = -_SOFT_SIGMA * sigma_jy
    brightest = float(np.nanmax(pixels)) if np.isfinite(pixels).any() else 0.0
    high = max(peak_jy or brightest, 10.0 * sigma_jy)
    soft = _SOFT_SIGMA * sigma_jy
    scaled = (np.arcsinh(pixels / soft) - np.arcsinh(low / soft)) / (np.arcsinh(high / soft) - np.arcsinh(low / soft))
    colours = _PALETTE[np.clip(np.nan_to_num(scaled) * 255.0, 0, 255).astype(np.uint8)]
    colours[~np.isfinite(pixels)] = _BLANK
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours[::-1])).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def _answer(png: bytes) -> Response:
    return Response(png, media_type="image/png", headers=_KEEP)
