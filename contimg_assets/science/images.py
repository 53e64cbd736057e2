"""SkyImage: one image of the sky with its geometry and restoring beam.

What belongs here: the shape in which imaging hands images to photometry and to the writers. FITS files are
read and written in ``contimg_resources.fits_images``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from contimg_assets.science.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class SkyImage:
    """An image in Jy/beam on a celestial grid. ``data[y, x]``, x towards decreasing RA, NaN = blank."""

    data: NDArray[np.float32]
    """Brightness, shape (n_y, n_x), Jy/beam; not corrected for the primary beam unless it says so."""
    wcs: WCS
    """Celestial WCS of two axes."""
    beam_major_arcsec: float
    """FWHM of the restoring beam."""
    beam_minor_arcsec: float
    beam_pa_deg: float
    """Position angle of the major axis, north through east."""
    frequency_hz: float
    """Effective frequency; NaN when the image does not say."""
    name: str = ""
    """Name of the product it came from, for messages."""

    def __post_init__(self) -> None:
        if self.data.ndim != 2 or self.wcs.naxis != 2:
            raise DataError(
                f"image {self.name}: not a plane",
                got=f"{self.data.ndim} data axes and {self.wcs.naxis} WCS axes",
                expected="two axes, right ascension and declination",
                remedy="Extract one plane of the cube first.",
                reason_code="image_not_planar",
            )
        if not (self.beam_major_arcsec > 0 and self.beam_minor_arcsec > 0):
            raise DataError(
                f"image {self.name}: no restoring beam",
                got=f"{self.beam_major_arcsec} x {self.beam_minor_arcsec} arcsec",
                expected="BMAJ and BMIN above zero",
                remedy="Add BMAJ, BMIN and BPA to the FITS header.",
                reason_code="image_without_beam",
            )

    @property
    def pixel_arcsec(self) -> float:
        """Pixel side, arcsec (geometric mean of both axes)."""
        return float(np.sqrt(np.abs(np.linalg.det(self.wcs.pixel_scale_matrix))) * 3600.0)
