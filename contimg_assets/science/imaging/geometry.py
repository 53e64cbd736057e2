"""Where the pixels of an image lie on the sky, and how to choose them.

What belongs here: the pixel grid, its WCS, and the choice of cell, size and channel averaging from the uv coverage
and the primary beam. Gridding itself is in ``gridding``.

The projection is SIN, in general slanted. For a short observation with a flat array, w = a u + b v to good accuracy,
so that u l + v m + w (n - 1) = u l' + v m' with l' = l + a (n - 1), m' = m + b (n - 1): a plain two-dimensional Fourier
transform, exact in the coordinates (l', m'), which are FITS' SIN projection with PV2_1 = -a, PV2_2 = -b (Calabretta &
Greisen 2002, section 5.1.5; Perley 1999, "Imaging with non-coplanar arrays"). The sources then have the same
point-spread function everywhere, and gridding costs one Fourier transform instead of one per w plane. What is left
over, the bend w - a u - b v, loses a predictable amplitude at the edge of the field; where that exceeds the limit
(longer observations) the gridder treats the bend as w. Where the bend is large (long tracks, curved arrays) the
projection stays plain, a = b = 0, and the gridder treats the whole of w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.coordinates import direction_cosines
from contimg_assets.science.errors import DataError

_CURVATURE_FWHM = 0.3748
"""FWHM of a point-spread function of Gaussian shape, times the rms of u: sqrt(2 ln 2) / pi."""
_CELLS_PER_BEAM = 4.5
"""Pixels per FWHM of the narrow axis of the restoring beam."""
_PATCH_CELLS_PER_BEAM = 8.0
_PATCH_PIXELS = 96
_NYQUIST_FRACTION = 0.9
"""The cell is at most this fraction of half the fringe period of the longest baseline."""
_FIXED_POINT_STEPS = 8
_LARGEST_SLANTED_BEND = 0.02
"""Loss by the bend above which the projection stays plain: n - 1 of slanted coordinates is a few per cent off."""


@dataclass(frozen=True, slots=True)
class ImageGeometry:
    """A pixel grid ``[y, x]``, x towards decreasing RA; the phase centre is at x = n_x / 2, y = n_y / 2."""

    n_x: int
    n_y: int
    cell_rad: float
    """Pixel side in projected radians."""
    slant_u: float
    """Coefficient a of w = a u + b v; 0 for a plain SIN projection."""
    slant_v: float
    needs_w: bool
    """True if w - a u - b v must not be neglected."""
    phase_centre_ra_deg: float
    phase_centre_dec_deg: float

    @property
    def is_slanted(self) -> bool:
        """True if the projection follows a flat array."""
        return self.slant_u != 0.0 or self.slant_v != 0.0

    @property
    def cell_arcsec(self) -> float:
        """Pixel side at the phase centre, arcsec."""
        return float(np.rad2deg(self.cell_rad) * 3600.0)

    def wcs(self) -> WCS:
        """Celestial WCS of the grid, FITS convention (pixel 1 is the first)."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crval = [self.phase_centre_ra_deg, self.phase_centre_dec_deg]
        wcs.wcs.crpix = [self.n_x / 2 + 1, self.n_y / 2 + 1]
        cell_deg = float(np.rad2deg(self.cell_rad))
        wcs.wcs.cdelt = [-cell_deg, cell_deg]
        wcs.wcs.radesys = "ICRS"
        if self.is_slanted:
            wcs.wcs.set_pv([(2, 1, -self.slant_u), (2, 2, -self.slant_v)])
        wcs.wcs.set()
        return wcs

    def pixels(
        self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fractional zero-based pixel (x, y) of ICRS directions; NaN on the far side of the sky."""
        l, m, n = direction_cosines(ra_deg, dec_deg, self.phase_centre_ra_deg, self.phase_centre_dec_deg)
        x = self.n_x / 2 - (l + self.slant_u * (n - 1.0)) / self.cell_rad
        y = self.n_y / 2 + (m + self.slant_v * (n - 1.0)) / self.cell_rad
        return np.where(n > 0, x, np.nan), np.where(n > 0, y, np.nan)

    def directions(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Unit vectors (l, m, n) of pixels, shape (..., 3); NaN outside the sky."""
        l_slant, m_slant = (self.n_x / 2 - x) * self.cell_rad, (y - self.n_y / 2) * self.cell_rad
        l, m = l_slant, m_slant
        for _ in range(_FIXED_POINT_STEPS if self.is_slanted else 1):
            with np.errstate(invalid="ignore"):
                n = np.sqrt(1.0 - l**2 - m**2)
            l, m = l_slant - self.slant_u * (n - 1.0), m_slant - self.slant_v * (n - 1.0)
        return np.stack([l, m, n], axis=-1)


@dataclass(frozen=True, slots=True)
class UvSurvey:
    """Moments of the weighted uv coverage that decide about the grid."""

    beam_arcsec: float
    """FWHM of the narrow axis of the point-spread function, from the curvature of its peak."""
    longest_wavelengths: float
    """Longest projected baseline in wavelengths."""
    widest_rms_m: float
    """Weighted rms of the projected baselines along the direction in which it is largest, m."""
    slant_u: float
    slant_v: float
    rms_bend_wavelengths: float
    """Weighted rms of w - a u - b v in wavelengths."""
    rms_bend_m: float
    """The same in m."""


def survey_uv(uvw_m: NDArray[np.float64], frequency_hz: NDArray[np.float64], weights: NDArray[np.float32]) -> UvSurvey:
    """Weighted moments of the uv coverage.

    Parameters
    ----------
    uvw_m : array of float, shape (n_row, 3)
    frequency_hz : array of float, shape (n_chan,)
    weights : array of float32, shape (n_row, n_chan)
        Imaging weights; rows of weight 0 do not count.

    Returns
    -------
    UvSurvey
    """
    inverse_wavelength = frequency_hz / SPEED_OF_LIGHT_M_S
    row_weights = weights @ inverse_wavelength.astype(np.float32) ** 2
    total = weights.sum(dtype=np.float64)
    used = row_weights > 0
    uv, w = uvw_m[used, :2], uvw_m[used, 2]
    row_weights = row_weights[used].astype(np.float64)
    moments = (uv * row_weights[:, None]).T @ uv
    widest = float(np.sqrt(np.linalg.eigvalsh(moments / total)[-1]))
    slant = np.linalg.lstsq(moments, (uv * row_weights[:, None]).T @ w, rcond=None)[0]
    rms_bend = float(np.sqrt(np.sum(row_weights * (w - uv @ slant) ** 2) / total))
    # The rms wavelength of the coverage: it turns a moment in wavelengths into one in metres.
    per_metre = np.sqrt(total / np.sum(row_weights))
    length_m = np.hypot(uv[:, 0], uv[:, 1])
    if widest == 0.0:
        raise DataError(
            "imaging: the baselines have no length",
            got="projected baselines of 0 m",
            expected="baselines that resolve something",
            remedy="Look at the UVW column of the measurement set.",
            reason_code="no_baselines",
        )
    return UvSurvey(
        beam_arcsec=float(np.rad2deg(_CURVATURE_FWHM / widest) * 3600.0),
        longest_wavelengths=float(length_m.max() * inverse_wavelength.max()),
        widest_rms_m=float(widest * per_metre),
        slant_u=float(slant[0]),
        slant_v=float(slant[1]),
        rms_bend_wavelengths=rms_bend,
        rms_bend_m=float(rms_bend * per_metre),
    )


def choose_projection(survey: UvSurvey, edge_rad: float, loss_limit: float) -> tuple[float, float, bool]:
    """Slant (a, b) of the projection and whether the gridder must treat what is left of w."""
    loss = bend_loss(survey, edge_rad)
    if loss > _LARGEST_SLANTED_BEND:
        return 0.0, 0.0, True
    return survey.slant_u, survey.slant_v, loss > loss_limit


def beam_patch(survey: UvSurvey, ra_deg: float, dec_deg: float) -> ImageGeometry:
    """A small fine grid around the phase centre on which the main lobe of the beam can be fitted."""
    cell_rad = float(np.deg2rad(survey.beam_arcsec / 3600.0)) / _PATCH_CELLS_PER_BEAM
    return ImageGeometry(
        n_x=_PATCH_PIXELS,
        n_y=_PATCH_PIXELS,
        cell_rad=cell_rad,
        slant_u=0.0,
        slant_v=0.0,
        needs_w=False,
        phase_centre_ra_deg=ra_deg,
        phase_centre_dec_deg=dec_deg,
    )


def choose_cell_rad(survey: UvSurvey, beam_minor_arcsec: float) -> float:
    """Pixel side that samples the beam with four to five pixels and the longest baseline with more than two."""
    beam_cell = np.deg2rad(beam_minor_arcsec / 3600.0) / _CELLS_PER_BEAM
    return float(min(beam_cell, _NYQUIST_FRACTION * 0.5 / survey.longest_wavelengths))


def bend_loss(survey: UvSurvey, edge_rad: float) -> float:
    """Fractional loss of amplitude at an angle from the phase centre when the array is taken as flat."""
    phase_rad = 2.0 * np.pi * survey.rms_bend_wavelengths * (1.0 - np.cos(edge_rad))
    return float(0.5 * phase_rad**2)


def averaging_factor(survey: UvSurvey, channel_width_hz: float, edge_rad: float, limit: float) -> int:
    """Channels that may be averaged with a fractional loss of amplitude at the edge of the field below a limit.

    The amplitude of a channel of width B is sinc(B tau) for a delay tau = (u l + v m + w (n - 1)) / c; the loss to second
    order, (pi B tau)^2 / 6, is never below the true one. It is that of the direction in which the array is widest, where it
    is largest; with w = a u + b v + bend, the rms of tau is at most the sum of what each term adds.
    """
    sagitta = 1.0 - np.cos(edge_rad)
    offset = np.sin(edge_rad) + np.hypot(survey.slant_u, survey.slant_v) * sagitta
    rms_delay_s = (survey.widest_rms_m * offset + survey.rms_bend_m * sagitta) / SPEED_OF_LIGHT_M_S
    loss_of_one = (np.pi * channel_width_hz * rms_delay_s) ** 2 / 6.0
    # Channels are samples at their centres: averaging k of them adds (k^2 - 1) times the loss of one.
    return max(1, int(np.sqrt(1.0 + limit / loss_of_one)))


def good_even_size(minimum: float) -> int:
    """Smallest even number of at least ``minimum`` and 32 with no prime factor above 5."""
    size = max(32, int(np.ceil(minimum / 2.0)) * 2)
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2
