"""What imaging hands on: planes of the full band and of each band on one grid.

What belongs here: the dataclasses. They are made in ``imager`` and written by ``contimg_resources.fits_images``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from contimg_assets.science.images import SkyImage
from contimg_assets.science.imaging.restore import RestoringBeam
from contimg_assets.science.sky_model import SkyModel


@dataclass(frozen=True, slots=True, eq=False)
class ImagePlane:
    """Images of one band, each of shape (n_y, n_x)."""

    name: str
    """"full", or "band0", "band1"... in ascending frequency."""
    frequency_hz: float
    """Mean frequency, weighted as the image is."""
    bandwidth_hz: float
    """Sum of the widths of the channels."""
    beam: RestoringBeam
    restored: NDArray[np.float32]
    """Jy/beam, not corrected for the primary beam: noise is even, a source's peak is S times ``primary_beam``."""
    residual: NDArray[np.float32]
    """Jy/beam."""
    dirty: NDArray[np.float32]
    """Jy/beam."""
    model: NDArray[np.float32]
    """CLEAN components, and known sources on their nearest pixels, Jy/pixel."""
    psf: NDArray[np.float32]
    """Point-spread function, peak 1 at [n_y / 2, n_x / 2]."""
    rms: NDArray[np.float32]
    """Local noise at a source, Jy/beam: that of the residual and what the fit of known sources took out of it."""
    background: NDArray[np.float32]
    """Local zero level of the residual, Jy/beam."""
    primary_beam: NDArray[np.float32]
    """Drift-averaged power pattern."""
    rms_jy_beam: float
    """Median of ``rms`` inside the field of view."""
    thermal_rms_jy_beam: float
    """Rms expected from the noise of the visibilities and their imaging weights."""

    def without_margin(self, margin_x: int, margin_y: int) -> ImagePlane:
        """The plane without so many pixels on either side, in memory of its own; itself if there are none."""
        if margin_x == margin_y == 0:
            return self
        n_y, n_x = self.restored.shape
        kept = (slice(margin_y, n_y - margin_y), slice(margin_x, n_x - margin_x))
        whole = ((field.name, getattr(self, field.name)) for field in fields(self))
        cut: dict[str, Any] = {name: value[kept].copy() for name, value in whole if isinstance(value, np.ndarray)}
        return replace(self, **cut)

    def columns(self) -> dict[str, Any]:
        """Fields as a flat mapping without copying, the beam as three numbers, for the FITS writer."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "beam"}
        return plain | {
            "beam_major_arcsec": self.beam.major_arcsec,
            "beam_minor_arcsec": self.beam.minor_arcsec,
            "beam_pa_deg": self.beam.pa_deg,
        }


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """All images of one observation; ``planes[0]`` is the full band.

    A band without a single unflagged visibility has no plane; the names of the others do not change.
    """

    planes: tuple[ImagePlane, ...]
    found_sky: SkyModel
    """Known sources with fitted flux densities and CLEAN components, not attenuated by the primary beam."""
    wcs: WCS
    n_known_sources: int
    """Sources fitted at their catalogue positions."""
    n_clean_components: int
    """Components that CLEAN found besides."""
    n_major_cycles: int
    has_diverged: bool
    """True if CLEAN stopped because the residual grew; the images are those before that cycle."""
    mid_time_mjd: float
    duration_s: float
    telescope_name: str
    field_name: str
    source_name: str
    engine: str = "contimg"
    """What made the images: "contimg", "wsclean" or "tclean"."""

    @property
    def full(self) -> ImagePlane:
        """The plane of the full band."""
        return self.planes[0]

    @property
    def dynamic_range(self) -> float:
        """Peak of the full-band image over its rms."""
        return float(np.nanmax(self.full.restored) / self.full.rms_jy_beam)

    def sky_image(self, plane: ImagePlane) -> SkyImage:
        """A plane's restored image as photometry takes it."""
        return SkyImage(
            data=plane.restored,
            wcs=self.wcs,
            beam_major_arcsec=plane.beam.major_arcsec,
            beam_minor_arcsec=plane.beam.minor_arcsec,
            beam_pa_deg=plane.beam.pa_deg,
            frequency_hz=plane.frequency_hz,
            name=f"{self.source_name or self.field_name} {plane.name}",
        )

    def columns(self) -> dict[str, Any]:
        """Fields as a mapping, ``planes`` as a list of mappings, for the FITS writer; without the sky found."""
        kept = [field.name for field in fields(self) if field.name not in {"planes", "found_sky"}]
        plain = {name: getattr(self, name) for name in kept}
        return plain | {"planes": [plane.columns() for plane in self.planes]}
