"""Where sources fall on the pixels of an image, and what the restoring beam looks like there.

What belongs here: sky to pixel positions and the beam as a quadratic form in pixels. Filters built from
it are in ``filter_bank``.

Catalogue positions are ICRS. They are rotated to the frame of the image (FK5, where RADESYS says so or is missing
with equinox 2000: 23 mas) before one call of the WCS. The beam's shape on the pixels follows from the derivative of
the WCS at the centre of the image, so flipped axes, rotated and non-square pixels are right; the rotation of north
across the field (0.5 deg at 1.5 deg from the centre at declination 16) is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.coordinates import ICRS, SkyCoord
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.typing import NDArray

from contimg_assets.science.constants import SIGMA_TO_FWHM
from contimg_assets.science.coordinates import unit_vectors
from contimg_assets.science.errors import DataError
from contimg_assets.science.images import SkyImage

_STEP_ARCSEC = 1.0
"""Step of the finite differences of the WCS, arcsec."""


@dataclass(frozen=True, slots=True, eq=False)
class PixelBeam:
    """The restoring beam on the pixel grid: ``exp(-0.5 (x, y) precision (x, y)^T)``, peak 1."""

    precision: NDArray[np.float64]
    """Inverse covariance, shape (2, 2), pixel^-2, axes (x, y)."""
    jacobian: NDArray[np.float64]
    """Pixels per arcsec, shape (2, 2): rows x, y; columns east, north."""

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariance of the Gaussian, shape (2, 2), pixel^2."""
        return np.asarray(np.linalg.inv(self.precision), dtype=np.float64)

    @property
    def fwhm_pixels(self) -> tuple[float, float]:
        """Major and minor full width at half maximum, pixels."""
        minor, major = np.sqrt(np.linalg.eigvalsh(self.covariance)) * SIGMA_TO_FWHM
        return float(major), float(minor)

    def in_beams(self, x_pixel: NDArray[np.float64], y_pixel: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions scaled so that one unit is one FWHM of the beam in every direction, shape (n, 2)."""
        whitener = np.linalg.cholesky(self.precision)
        return np.asarray(np.stack([x_pixel, y_pixel], axis=-1) @ whitener / SIGMA_TO_FWHM, dtype=np.float64)


def pixel_beam(image: SkyImage) -> PixelBeam:
    """Restoring beam of an image on its pixels, at the centre of the image."""
    jacobian = _pixels_per_arcsec(image)
    pa_rad = np.deg2rad(image.beam_pa_deg)
    # Columns: unit vectors (east, north) along the major and the minor axis.
    axes = np.array([[np.sin(pa_rad), np.cos(pa_rad)], [np.cos(pa_rad), -np.sin(pa_rad)]])
    sigma_arcsec = np.array([image.beam_major_arcsec, image.beam_minor_arcsec]) / SIGMA_TO_FWHM
    shape = jacobian @ axes * sigma_arcsec
    return PixelBeam(precision=np.linalg.inv(shape @ shape.T), jacobian=jacobian)


def _pixels_per_arcsec(image: SkyImage) -> NDArray[np.float64]:
    """Derivative of the pixel position with respect to sky offsets (east, north) at the image centre."""
    n_y, n_x = image.data.shape
    centre_x, centre_y = (n_x - 1) / 2, (n_y - 1) / 2
    lon, lat = (float(v) for v in image.wcs.all_pix2world(centre_x, centre_y, 0, ra_dec_order=True))
    centre = unit_vectors(np.array(lon), np.array(lat))
    east = np.array([-np.sin(np.deg2rad(lon)), np.cos(np.deg2rad(lon)), 0.0])
    north = np.cross(centre, east)
    step = np.deg2rad(_STEP_ARCSEC / 3600.0)
    moved = centre + step * np.stack([east, -east, north, -north])
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    lon_moved = np.rad2deg(np.arctan2(moved[:, 1], moved[:, 0]))
    x, y = image.wcs.all_world2pix(lon_moved, np.rad2deg(np.arcsin(moved[:, 2])), 0, ra_dec_order=True)
    half = 0.5 / _STEP_ARCSEC
    return np.array([[x[0] - x[1], x[2] - x[3]], [y[0] - y[1], y[2] - y[3]]]) * half


def pixel_positions(
    image: SkyImage, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Pixel positions of those ICRS positions that fall on the image.

    Parameters
    ----------
    image : SkyImage
    ra_deg, dec_deg : array of float, shape (n,), deg

    Returns
    -------
    index : array of int, shape (n_inside,)
        Rows of the input that are inside, ascending.
    x_pixel, y_pixel : array of float, shape (n_inside,)
        Zero-based; the centre of the first pixel is (0, 0).
    """
    n_y, n_x = image.data.shape
    ra, dec = np.asarray(ra_deg, dtype=np.float64), np.asarray(dec_deg, dtype=np.float64)
    candidates = np.flatnonzero(_near_image(image, ra, dec))
    if candidates.size == 0:
        return candidates, np.zeros(0), np.zeros(0)
    x, y = image_pixels(image, ra[candidates], dec[candidates])
    inside = (x >= -0.5) & (x < n_x - 0.5) & (y >= -0.5) & (y < n_y - 0.5)
    return candidates[inside], np.ascontiguousarray(x[inside]), np.ascontiguousarray(y[inside])


def sky_positions(
    image: SkyImage, x_pixel: NDArray[np.float64], y_pixel: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ICRS positions (deg) of zero-based pixel positions."""
    lon, lat = image.wcs.all_pix2world(x_pixel, y_pixel, 0, ra_dec_order=True)
    sky = SkyCoord(lon * u.deg, lat * u.deg, frame=wcs_to_celestial_frame(image.wcs)).icrs
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def image_pixels(
    image: SkyImage, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Zero-based pixel positions of ICRS positions in the image's hemisphere, on the image or not."""
    lon, lat = _in_image_frame(image, ra_deg, dec_deg)
    x, y = image.wcs.all_world2pix(lon, lat, 0, ra_dec_order=True)
    return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)


def _in_image_frame(
    image: SkyImage, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    frame = wcs_to_celestial_frame(image.wcs)
    if isinstance(frame, ICRS):
        return ra_deg, dec_deg
    sky = SkyCoord(ra_deg * u.deg, dec_deg * u.deg, frame="icrs").transform_to(frame).spherical
    return np.asarray(sky.lon.deg), np.asarray(sky.lat.deg)


def _near_image(image: SkyImage, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each position lies within the circle about the image that holds its four corners.

    A whole-sky catalogue costs one dot product per row this way, and sources of the far hemisphere, which an
    orthographic projection would fold into the image, are left out.
    """
    n_y, n_x = image.data.shape
    x = np.array([(n_x - 1) / 2, -0.5, -0.5, n_x - 0.5, n_x - 0.5])
    y = np.array([(n_y - 1) / 2, -0.5, n_y - 0.5, -0.5, n_y - 0.5])
    outline = unit_vectors(*sky_positions(image, x, y))
    finite = np.isfinite(ra_deg) & np.isfinite(dec_deg)
    towards = unit_vectors(np.where(finite, ra_deg, 0.0), np.where(finite, dec_deg, 0.0)) @ outline[0]
    # A corner beyond the horizon of the projection has no direction: then take the whole near hemisphere.
    nearest = np.min(outline[1:] @ outline[0]) if np.all(np.isfinite(outline)) else 0.0
    return np.asarray(finite & (towards >= min(nearest - 1e-6, 1.0 - 1e-6)), dtype=np.bool_)


def matching_map(image: SkyImage, values: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """A map of the image's shape, native and contiguous as the kernels want it.

    Parameters
    ----------
    image : SkyImage
    values : array of float, shape (n_y, n_x)
    kind : str
        What the map is ("rms"), for the message.

    Raises
    ------
    DataError
        When the shapes differ.
    """
    if values.shape != image.data.shape:
        raise DataError(
            f"image {image.name}: the {kind} map does not belong to it",
            got=f"shape {values.shape}",
            expected=f"shape {image.data.shape}",
            remedy=f"Give the {kind} map made from this image.",
            reason_code="maps_disagree",
        )
    return np.require(values, np.float32, ["C", "A", "W"])
