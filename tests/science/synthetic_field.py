"""The field that forced photometry is judged by: a large image of known sources in noise correlated like the beam.

4800 x 4800 pixels of 3 arcsec, beam 12 x 9 arcsec, rms 0.25 to 0.5 mJy across the field, background of 20 microjansky,
integral counts N(> S) ~ S^-0.9 from five sigma to 1 Jy, one source in eleven a companion at 0.6 to 1.5 beams of another.
Used by the acceptance test and by ``benchmarks/bench_measure.py``.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from contimg_assets.science.photometry.pixel_grid import pixel_beam, sky_positions
from tests.science.noisy_sky import add_sources, beam_noise, sky_image

RMS_JY_BEAM = 0.25e-3
BACKGROUND_JY_BEAM = 20e-6
BRIGHTEST_JY = 1.0
MARGIN_PIXELS = 20


@dataclass(frozen=True)
class Field:
    """Maps and truth; positions in pixels and ICRS degrees, distances in beams (FWHM)."""

    image: object
    rms: np.ndarray
    background: np.ndarray
    x_pixel: np.ndarray
    y_pixel: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    flux_jy: np.ndarray
    nearest_beams: np.ndarray


def synthetic_field(rng, *, n_pixels=4800, n_sources=10_000):
    """Make the field; the same generator state gives the same field."""
    n_companions = n_sources // 11
    x, y = rng.uniform(MARGIN_PIXELS, n_pixels - MARGIN_PIXELS, (2, n_sources - n_companions))
    angle = rng.uniform(0, 2 * np.pi, n_companions)
    distance = 4.0 * rng.uniform(0.6, 1.5, n_companions)
    x = np.concatenate([x, x[:n_companions] + distance * np.cos(angle)])
    y = np.concatenate([y, y[:n_companions] + distance * np.sin(angle)])
    flux = _power_law(rng, x.size)
    ramp = np.linspace(-1, 1, n_pixels)
    rms = (RMS_JY_BEAM * (1 + (ramp[:, None] ** 2 + ramp**2) / 2)).astype(np.float32)
    wave = np.sin(3 * np.pi * ramp)
    background = (BACKGROUND_JY_BEAM * wave[:, None] * wave).astype(np.float32)
    data = rms * beam_noise(n_pixels, rng) + background
    add_sources(data, sky_image(data), x, y, flux)
    image = sky_image(data)
    ra_deg, dec_deg = sky_positions(image, x, y)
    apart = cKDTree(pixel_beam(image).in_beams(x, y)).query(pixel_beam(image).in_beams(x, y), k=2)[0][:, 1]
    return Field(image, rms, background, x, y, ra_deg, dec_deg, flux, apart)


def _power_law(rng, n, slope=0.9):
    """Fluxes of integral counts S^-slope between five sigma of the quietest part and the brightest source, Jy."""
    faint, bright = (5 * RMS_JY_BEAM) ** -slope, BRIGHTEST_JY**-slope
    return (faint + rng.uniform(size=n) * (bright - faint)) ** (-1 / slope)
