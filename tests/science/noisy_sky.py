"""Images for tests of photometry: a sky grid, noise correlated like the beam, point sources."""

import numpy as np
from astropy.wcs import WCS

from contimg_assets.science.images import SkyImage
from contimg_assets.science.photometry.pixel_grid import pixel_beam

RA0_DEG, DEC0_DEG = 50.0, 16.0


def grid(n_pixels, cell_arcsec=3.0, *, parity=-1, rotation_deg=0.0, radesys="ICRS"):
    """SIN projection with its centre in the middle of the image."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [RA0_DEG, DEC0_DEG]
    wcs.wcs.crpix = [(n_pixels + 1) / 2, (n_pixels + 1) / 2]
    angle = np.deg2rad(rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = turn @ np.diag([parity * cell_arcsec / 3600.0, cell_arcsec / 3600.0])
    wcs.wcs.radesys = radesys
    wcs.wcs.set()
    return wcs


def sky_image(data, wcs=None, *, major=12.0, minor=9.0, pa=30.0):
    """A plane with its geometry and a beam of 4 by 3 pixels."""
    wcs = grid(data.shape[0]) if wcs is None else wcs
    return SkyImage(data.astype(np.float32), wcs, major, minor, pa, 1.4e9, name="test")


def beam_noise(n_pixels, rng, **beam):
    """Noise of unit rms whose autocorrelation is the beam, shape (n_pixels, n_pixels)."""
    covariance = pixel_beam(sky_image(np.zeros((n_pixels, n_pixels)), **beam)).covariance
    ky, kx = np.fft.fftfreq(n_pixels)[:, None], np.fft.rfftfreq(n_pixels)[None, :]
    form = covariance[0, 0] * kx**2 + 2 * covariance[0, 1] * kx * ky + covariance[1, 1] * ky**2
    white = np.fft.rfft2(rng.standard_normal((n_pixels, n_pixels)))
    noise = np.fft.irfft2(white * np.exp(-((np.pi) ** 2) * form), (n_pixels, n_pixels))
    return noise / noise.std()


def add_sources(data, image, x, y, flux):
    """Add the beam of ``image`` at pixel positions, out to where it is below 1e-9."""
    precision = pixel_beam(image).precision
    reach = int(np.ceil(2.8 * pixel_beam(image).fwhm_pixels[0])) + 1
    n_y, n_x = data.shape
    for source_x, source_y, source_flux in zip(x, y, flux, strict=True):
        rows = np.arange(max(0, int(source_y) - reach), min(n_y, int(source_y) + reach + 1))
        cols = np.arange(max(0, int(source_x) - reach), min(n_x, int(source_x) + reach + 1))
        dx, dy = (cols - source_x)[None, :], (rows - source_y)[:, None]
        form = precision[0, 0] * dx * dx + 2 * precision[0, 1] * dx * dy + precision[1, 1] * dy * dy
        data[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] += source_flux * np.exp(-0.5 * form)
