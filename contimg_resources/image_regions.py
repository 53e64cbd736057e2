"""Parts of our FITS images, read without the rest: what a viewer asks for.

What belongs here: one plane's geometry, and a rectangle of its pixels, reduced when it is larger than a screen. Whole
images, other packages' headers and writing are ``fits_images``. Rejected: memory maps, which break when a product is
replaced under them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from numpy.typing import NDArray

from contimg_resources.fits_images import ImageFileError, require_bounded
from contimg_resources.products import require


@dataclass(frozen=True, slots=True)
class ImageGeometry:
    """What is known of an image without its pixels."""

    n_x: int
    n_y: int
    cell_arcsec: float
    """Side of a pixel."""
    wcs: WCS
    rms_jy_beam: float
    """Noise noted in the header; NaN when it is not."""
    beam_major_arcsec: float


def read_geometry(path: Path) -> ImageGeometry:
    """Size, scale, noise and coordinates of one of our images.

    Raises
    ------
    ProductMissingError
        If there is no such file.
    ImageFileError
        If it is damaged or not an image of two axes.
    """
    with _plane(path) as plane:
        header = plane.header
        return ImageGeometry(
            n_x=int(header["NAXIS1"]),
            n_y=int(header["NAXIS2"]),
            cell_arcsec=abs(float(header["CDELT2"])) * 3600.0,
            wcs=WCS(header),
            rms_jy_beam=float(header.get("IMGRMS", np.nan)),
            beam_major_arcsec=float(header.get("BMAJ", np.nan)) * 3600.0,
        )


def read_region(
    path: Path, x_range: tuple[int, int], y_range: tuple[int, int], most_pixels: int
) -> NDArray[np.float32]:
    """Pixels of a rectangle; where it reaches beyond the image, NaN.

    Parameters
    ----------
    path : Path
    x_range, y_range : (first, last)
        Pixels counted from 0, the last exclusive.
    most_pixels : int
        A side that would be longer is reduced: each block of pixels by its brightest, so that no source vanishes.

    Returns
    -------
    array of float32, shape (n_y, n_x)
        North up: the first row is the southernmost.
    """
    with _plane(path) as plane:
        n_y, n_x = plane.shape
        inside_x, inside_y = _clipped(x_range, n_x), _clipped(y_range, n_y)
        region = np.full((y_range[1] - y_range[0], x_range[1] - x_range[0]), np.nan, dtype=np.float32)
        if inside_x[0] < inside_x[1] and inside_y[0] < inside_y[1]:
            pixels = plane.section[slice(*inside_y), slice(*inside_x)]
            at_y, at_x = inside_y[0] - y_range[0], inside_x[0] - x_range[0]
            region[at_y : at_y + pixels.shape[0], at_x : at_x + pixels.shape[1]] = pixels
    return _block_maximum(region, most_pixels)


def _clipped(span: tuple[int, int], size: int) -> tuple[int, int]:
    return max(span[0], 0), min(span[1], size)


def _block_maximum(region: NDArray[np.float32], most_pixels: int) -> NDArray[np.float32]:
    step = -(-max(region.shape) // most_pixels)
    if step <= 1:
        return region
    n_y, n_x = (step * (-(-size // step)) for size in region.shape)
    padded = np.full((n_y, n_x), np.nan, dtype=np.float32)
    padded[: region.shape[0], : region.shape[1]] = region
    blocks = padded.reshape(n_y // step, step, n_x // step, step)
    brightest = np.where(np.isnan(blocks), -np.inf, blocks).max(axis=(1, 3))
    return np.asarray(np.where(np.isinf(brightest), np.nan, brightest), dtype=np.float32)


@contextmanager
def _plane(path: Path) -> Iterator[Any]:
    """The first unit of a file, which must be an image of two axes."""
    require(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore", AstropyWarning)
            require_bounded(path, stream)
            with fits.open(stream, memmap=False) as units:
                unit = units[0]
                if not unit.is_image or unit.header.get("NAXIS", 0) != 2:
                    raise ImageFileError(
                        f"{path} is not an image of two axes", got=f"NAXIS {unit.header.get('NAXIS', 0)}", expected="2",
                        remedy="Make the images of this observation again.", reason_code="image_not_planar",
                    )  # fmt: skip
                yield unit
    except (OSError, ValueError, TypeError, KeyError, fits.VerifyError) as error:
        raise ImageFileError(
            f"{path} cannot be read as FITS", got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            expected="a whole FITS image", remedy="Make the images of this observation again.",
        ) from error  # fmt: skip
