"""A small drift-scanning interferometer for the imaging tests: visibilities by a direct sum over sources."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.coordinates import (
    baseline_uvw_m,
    direction_cosines,
    meridian_icrs,
    phase_centre_basis_itrf,
    separation_deg,
)
from contimg_assets.science.primary_beam import airy_power
from contimg_assets.science.sky_model import SkyModel
from contimg_assets.science.visibilities import Visibilities

SITE_ITRF_M = np.array([-2409150.0, -4478573.0, 3838617.0])
DISH_DIAMETER_M = 4.65
INTEGRATION_S = 12.885
START_MJD = 61_041.93


def antenna_positions_m(n_antennas, longest_m=500.0):
    """A spiral of antennas in the local horizontal plane, ITRF."""
    angle = 2.399963 * np.arange(n_antennas)
    radius = 0.5 * longest_m * ((np.arange(n_antennas) + 0.5) / n_antennas) ** 0.8
    east_north = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    up = SITE_ITRF_M / np.linalg.norm(SITE_ITRF_M)
    east = np.cross([0.0, 0.0, 1.0], up)
    east /= np.linalg.norm(east)
    return SITE_ITRF_M + east_north @ np.stack([east, np.cross(up, east)])


def observe(
    sources,
    *,
    n_antennas=16,
    n_time=6,
    n_chan=16,
    rms_jy=0.0,
    rng=None,
    pointing_dec_deg=16.27,
    drifts=True,
    primary_beam=True,
    time_step_s=INTEGRATION_S,
):
    """Visibilities of sources (east_deg, north_deg, flux_jy, spectral_index) about the phase centre.

    ``rms_jy`` is the noise of a naturally weighted image of all the data. Returns visibilities and an array of the
    sources' ICRS positions, shape (n_source, 2).
    """
    positions = antenna_positions_m(n_antennas)
    time = START_MJD + (np.arange(n_time) - 0.5 * (n_time - 1)) * time_step_s / 86_400.0
    pointing_ra, pointing_dec = meridian_icrs(pointing_dec_deg, time, SITE_ITRF_M)
    ra0, dec0 = (float(a[0]) for a in meridian_icrs(pointing_dec_deg, np.array([START_MJD]), SITE_ITRF_M))
    if not drifts:
        pointing_ra, pointing_dec = np.full(n_time, ra0), np.full(n_time, dec0)
    antenna1, antenna2 = (a.astype(np.int32) for a in np.triu_indices(n_antennas, k=1))
    uvw = baseline_uvw_m(positions, antenna1, antenna2, phase_centre_basis_itrf(ra0, dec0, time, SITE_ITRF_M))
    width = 187.5e6 / n_chan
    frequency = 1311.25e6 + width * (np.arange(n_chan) + 0.5)
    east, north, flux, index = np.atleast_2d(np.asarray(sources, dtype=np.float64)).T
    dec = dec0 + north
    ra = ra0 + east / np.cos(np.deg2rad(dec))
    vis = np.zeros((n_time, antenna1.size, n_chan), dtype=np.complex128)
    l, m, n = direction_cosines(ra, dec, ra0, dec0)
    for k in range(ra.size):
        power = airy_power(
            separation_deg(ra[k], dec[k], pointing_ra, pointing_dec)[:, None], frequency, DISH_DIAMETER_M
        )
        amplitude = flux[k] * (frequency / 1.4e9) ** index[k] * (power if primary_beam else np.ones_like(power))
        delay_m = uvw @ np.array([l[k], m[k], n[k] - 1.0])
        vis += amplitude[:, None, :] * np.exp(2j * np.pi * delay_m[..., None] * frequency / SPEED_OF_LIGHT_M_S)
    n_row = n_time * antenna1.size
    both = np.repeat(vis.reshape(n_row, n_chan, 1), 2, axis=2).astype(np.complex64)
    sigma_jy = rms_jy * np.sqrt(both.size)
    if rms_jy > 0:
        both += sigma_jy * (rng.standard_normal(both.shape) + 1j * rng.standard_normal(both.shape))
    visibilities = Visibilities(
        vis=both,
        flags=np.zeros(both.shape, dtype=bool),
        weights=np.full((n_row, 2), 1.0 / sigma_jy**2 if rms_jy > 0 else 1.0, dtype=np.float32),
        uvw_m=uvw.reshape(n_row, 3),
        time_mjd=np.repeat(time, antenna1.size),
        exposure_s=np.full(n_row, time_step_s),
        antenna1=np.tile(antenna1, n_time),
        antenna2=np.tile(antenna2, n_time),
        frequency_hz=frequency,
        channel_width_hz=width,
        correlations=("XX", "YY"),
        phase_centre_ra_deg=ra0,
        phase_centre_dec_deg=dec0,
        pointing_ra_deg=np.repeat(pointing_ra, antenna1.size),
        pointing_dec_deg=np.repeat(pointing_dec, antenna1.size),
        antenna_names=tuple(str(k + 1) for k in range(n_antennas)),
        antenna_positions_m=positions,
        dish_diameter_m=DISH_DIAMETER_M,
        telescope_name="OVRO_MMA",
        field_name="drift",
    )
    return visibilities, np.stack([ra, dec], axis=1)


def sky_model(radec_deg, flux_jy, spectral_index=0.0):
    """What a catalogue says of sources at positions of shape (n_source, 2)."""
    radec_deg, flux_jy = np.asarray(radec_deg, dtype=np.float64), np.asarray(flux_jy, dtype=np.float64)
    return SkyModel(radec_deg[:, 0], radec_deg[:, 1], flux_jy, np.full(len(flux_jy), spectral_index))


def fitted_flux_jy(plane, wcs, ra_deg, dec_deg):
    """Least-squares amplitude of the restoring beam at a known position, over its half-power area."""
    x0, y0 = (float(v) for v in wcs.wcs_world2pix(ra_deg, dec_deg, 0))
    cell = wcs.wcs.cdelt[1] * 3600.0
    half = int(plane.beam.major_arcsec / cell) + 1
    y, x = np.mgrid[round(y0) - half : round(y0) + half + 1, round(x0) - half : round(x0) + half + 1]
    east, north, pa = (x0 - x) * cell, (y - y0) * cell, np.deg2rad(plane.beam.pa_deg)
    along = (east * np.sin(pa) + north * np.cos(pa)) / plane.beam.major_arcsec
    across = (east * np.cos(pa) - north * np.sin(pa)) / plane.beam.minor_arcsec
    beam = np.exp(-4.0 * np.log(2.0) * (along**2 + across**2))
    beam[beam < 0.5] = 0.0
    return float(np.sum(plane.restored[y, x] * beam) / np.sum(beam**2))


def value_at(image, wcs, ra_deg, dec_deg):
    """Value of a smooth image at a position, interpolated."""
    x, y = wcs.wcs_world2pix(ra_deg, dec_deg, 0)
    return float(map_coordinates(image, [[float(y)], [float(x)]], order=3, mode="nearest")[0])
