"""One restoring beam for several images: its choice, and convolving an image to it.

What belongs here: Gaussian beams as covariances on the sky and their difference as a filter. Fitting a beam to a
point-spread function is ``restore``.

The common beam has the shape of the mean of the beams (mean of their covariances), widened just enough to hold every
one of them: C = s mean(C_i), s the largest eigenvalue of mean^-1 C_i. For beams of one array at one declination, which
differ by a per cent, that is within a per cent of the smallest ellipse that holds them all. If s - 1 is
below ``BEAM_TOLERANCE`` nothing is convolved and the mean is the beam. The difference of two Gaussians is a Gaussian,
applied as its analytic Fourier transform: exact however small it is against a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, linalg, ndimage

from contimg_assets.science.constants import SIGMA_TO_FWHM
from contimg_assets.science.images import SkyImage
from contimg_assets.science.imaging.restore import RestoringBeam
from contimg_assets.science.photometry.pixel_grid import pixel_beam

BEAM_TOLERANCE = 0.01
"""Difference of beam areas up to which fluxes measured with one of them are right to half of it."""
_REACH_SIGMA = 4.0
"""A blank pixel blanks its surroundings up to this many sigma of the convolving Gaussian."""


def _covariance(beam: RestoringBeam) -> NDArray[np.float64]:
    """Covariance (east, north) of a beam, arcsec^2."""
    pa = np.deg2rad(beam.pa_deg)
    axes = np.array([[np.sin(pa), np.cos(pa)], [np.cos(pa), -np.sin(pa)]])
    sigma = np.array([beam.major_arcsec, beam.minor_arcsec]) / SIGMA_TO_FWHM
    return np.asarray(axes @ np.diag(sigma**2) @ axes.T)


def _beam(covariance: NDArray[np.float64]) -> RestoringBeam:
    variances, axes = np.linalg.eigh(covariance)
    minor, major = np.sqrt(variances) * SIGMA_TO_FWHM
    pa_deg = float(np.rad2deg(np.arctan2(axes[0, 1], axes[1, 1])))
    return RestoringBeam(float(major), float(minor), (pa_deg + 90.0) % 180.0 - 90.0)


def beam_of(image: SkyImage) -> RestoringBeam:
    """The restoring beam of an image."""
    return RestoringBeam(image.beam_major_arcsec, image.beam_minor_arcsec, image.beam_pa_deg)


def choose_common_beam(beams: Sequence[RestoringBeam]) -> tuple[RestoringBeam, bool]:
    """Beam for all images, and whether they must be convolved to have it.

    Parameters
    ----------
    beams : sequence of RestoringBeam
        At least one.
    """
    covariances = [_covariance(beam) for beam in beams]
    mean = np.mean(covariances, axis=0)
    largest = max(float(linalg.eigh(covariance, mean, eigvals_only=True)[-1]) for covariance in covariances)
    if largest - 1.0 <= BEAM_TOLERANCE:
        return _beam(mean), False
    return _beam(largest * mean), True


def convolve_to_beam(image: SkyImage, beam: RestoringBeam, *, n_threads: int = 1) -> SkyImage:
    """Image with a wider restoring beam, still in Jy/beam: the peak of a point source stays.

    Parameters
    ----------
    image : SkyImage
        Beyond its edges the sky is taken as empty; blank pixels and their surroundings stay blank.
    beam : RestoringBeam
        Nowhere narrower than the image's.
    n_threads : int

    Returns
    -------
    SkyImage
    """
    wider = replace(
        image, beam_major_arcsec=beam.major_arcsec, beam_minor_arcsec=beam.minor_arcsec, beam_pa_deg=beam.pa_deg
    )
    before, after = pixel_beam(image).covariance, pixel_beam(wider).covariance
    difference = after - before
    reach = int(np.ceil(_REACH_SIGMA * np.sqrt(max(float(np.linalg.eigvalsh(difference)[-1]), 0.0))))
    blank = ~np.isfinite(image.data)
    shape = [fft.next_fast_len(n + reach, real=True) for n in image.data.shape]
    spectrum = fft.rfft2(np.where(blank, np.float32(0.0), image.data), shape, workers=n_threads)
    u, v = np.fft.rfftfreq(shape[1])[None, :], np.fft.fftfreq(shape[0])[:, None]
    form = difference[0, 0] * u**2 + 2.0 * difference[0, 1] * u * v + difference[1, 1] * v**2
    gain = np.sqrt(np.linalg.det(after) / np.linalg.det(before))
    spectrum *= (gain * np.exp(-2.0 * np.pi**2 * form)).astype(np.float32)
    data = fft.irfft2(spectrum, shape, workers=n_threads)[: image.data.shape[0], : image.data.shape[1]]
    data = np.ascontiguousarray(data, dtype=np.float32)
    if blank.any():
        data[ndimage.maximum_filter(blank, size=2 * reach + 1)] = np.nan
    return replace(wider, data=data)
