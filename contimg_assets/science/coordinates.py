"""Directions, baselines and times: a thin layer over astropy and erfa.

What belongs here: ICRS to Earth-fixed apparent directions, direction cosines, uvw and angular
separations on bare arrays (degrees, metres, UTC MJD). What does not: WCS of images (astropy.wcs where
images are made) and anything that reads a file.

Delays must use the *apparent* direction (precession, nutation, annual aberration, Earth rotation), since that
is where the wavefront comes from; u and v axes follow the ICRS grid as it appears in the sky at that instant, taken
by small finite differences. The rejected alternative, a pure rotation of the baseline to J2000, leaves up
to 20 arcsec of aberration in w, i.e. a phase gradient across the array.

Earth orientation comes from the IERS table bundled with astropy; nothing is downloaded.
"""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers
from numpy.typing import NDArray

from contimg_assets.science.constants import MJD_OF_JD_ZERO

_OFFSET_DEG = 1.0 / 60.0
"""Step of the finite differences that give the u and v axes, deg."""


def load_earth_orientation() -> None:
    """Read the bundled IERS table, which takes a second once in a process: for those who have something to do meanwhile."""
    iers.conf.auto_download = False
    iers.conf.iers_degraded_accuracy = "ignore"
    iers.conf.auto_max_age = None  # predictions of any age: months old, UT1 is off by some 10 ms, 0.2 arcsec
    iers.earth_orientation_table.get()


def times(mjd: NDArray[np.float64] | float) -> Time:
    """Astropy UTC times of Modified Julian Dates, evaluated with the bundled Earth orientation."""
    load_earth_orientation()
    return Time(mjd, format="mjd", scale="utc")


def jd_to_mjd(jd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Modified Julian Date of a Julian Date."""
    return np.asarray(jd, dtype=np.float64) - MJD_OF_JD_ZERO


def local_sidereal_time_deg(mjd: float, longitude_deg: float) -> float:
    """Apparent local sidereal time: the right ascension (of date) on the meridian, deg.

    Parameters
    ----------
    mjd : float
        UTC; UT1, which differs by less than 0.9 s, is taken to be the same: the bundled table knows no present times.
    longitude_deg : float
        East positive.
    """
    now = Time(mjd, format="mjd", scale="utc")
    now.delta_ut1_utc = 0.0
    greenwich = now.sidereal_time("apparent", "greenwich")
    return float((greenwich.deg + longitude_deg) % 360.0)


def unit_vectors(lon_deg: NDArray[np.float64], lat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cartesian unit vectors of spherical coordinates, shape (..., 3)."""
    lon, lat = np.deg2rad(lon_deg), np.deg2rad(lat_deg)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def separation_deg(
    ra1_deg: NDArray[np.float64] | float,
    dec1_deg: NDArray[np.float64] | float,
    ra2_deg: NDArray[np.float64] | float,
    dec2_deg: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """Angle between directions, deg, by Vincenty's formula; inputs broadcast."""
    ra1, dec1, ra2, dec2 = (np.deg2rad(np.asarray(x, dtype=np.float64)) for x in (ra1_deg, dec1_deg, ra2_deg, dec2_deg))
    d_ra = ra2 - ra1
    across = np.hypot(
        np.cos(dec2) * np.sin(d_ra),
        np.cos(dec1) * np.sin(dec2) - np.sin(dec1) * np.cos(dec2) * np.cos(d_ra),
    )
    along = np.sin(dec1) * np.sin(dec2) + np.cos(dec1) * np.cos(dec2) * np.cos(d_ra)
    return np.asarray(np.rad2deg(np.arctan2(across, along)), dtype=np.float64)


def direction_cosines(
    ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], ra0_deg: float, dec0_deg: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Direction cosines (l east, m north, n) about a phase centre (orthographic, SIN projection)."""
    d_ra = np.deg2rad(np.asarray(ra_deg, dtype=np.float64) - ra0_deg)
    dec, dec0 = np.deg2rad(np.asarray(dec_deg, dtype=np.float64)), np.deg2rad(dec0_deg)
    l = np.cos(dec) * np.sin(d_ra)
    m = np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(d_ra)
    n = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(d_ra)
    return l, m, n


def apparent_directions_itrf(
    ra_deg: NDArray[np.float64],
    dec_deg: NDArray[np.float64],
    time_mjd: NDArray[np.float64],
    site_itrf_m: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Apparent unit vectors of ICRS directions in the Earth-fixed (ITRF) frame.

    Parameters
    ----------
    ra_deg, dec_deg : array of float, shape (n_direction,)
        ICRS coordinates, deg.
    time_mjd : array of float, shape (n_time,)
        UTC MJD.
    site_itrf_m : array of float, shape (3,)
        Geocentric position of the array centre, m (for diurnal aberration).

    Returns
    -------
    array of float, shape (n_time, n_direction, 3)

    Notes
    -----
    Topocentric apparent place without refraction (astropy ``ICRS -> AltAz``, pressure 0), then rotated from the local
    horizon to ITRF with the geodetic longitude and latitude of the site.
    """
    site = EarthLocation.from_geocentric(*np.asarray(site_itrf_m, dtype=np.float64), unit=u.m)
    when = times(np.asarray(time_mjd, dtype=np.float64))[:, None]
    sky = SkyCoord(np.asarray(ra_deg) * u.deg, np.asarray(dec_deg) * u.deg, frame="icrs")[None, :]
    horizon = sky.transform_to(AltAz(obstime=when, location=site, pressure=0 * u.hPa))
    east_north_up = np.stack(
        [
            np.cos(horizon.alt.rad) * np.sin(horizon.az.rad),
            np.cos(horizon.alt.rad) * np.cos(horizon.az.rad),
            np.sin(horizon.alt.rad),
        ],
        axis=-1,
    )
    return np.asarray(east_north_up @ enu_basis_itrf(site_itrf_m), dtype=np.float64)


def enu_basis_itrf(site_itrf_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors east, north, up of a site as rows of a 3x3 matrix in ITRF (geodetic vertical)."""
    site = EarthLocation.from_geocentric(*np.asarray(site_itrf_m, dtype=np.float64), unit=u.m)
    lon, lat = site.geodetic.lon.rad, site.geodetic.lat.rad
    return np.array(
        [
            [-np.sin(lon), np.cos(lon), 0.0],
            [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)],
            [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)],
        ]
    )


def phase_centre_basis_itrf(
    ra_deg: float, dec_deg: float, time_mjd: NDArray[np.float64], site_itrf_m: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Axes (u, v, w) of an ICRS phase centre in ITRF for each time, shape (n_time, 3, 3), rows u, v, w.

    w is the apparent direction of the phase centre; v points to the apparent place of ICRS north, u to ICRS east.
    """
    step = min(_OFFSET_DEG, 90.0 - abs(dec_deg))
    north = dec_deg + step
    directions = apparent_directions_itrf(np.array([ra_deg, ra_deg]), np.array([dec_deg, north]), time_mjd, site_itrf_m)
    w = directions[:, 0]
    v = directions[:, 1] - np.sum(directions[:, 1] * w, axis=-1, keepdims=True) * w
    v /= np.linalg.norm(v, axis=-1, keepdims=True)
    return np.stack([np.cross(v, w), v, w], axis=1)


def meridian_basis_itrf(apparent_dec_deg: float, site_itrf_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axes (u, v, w) of the fixed direction (hour angle 0, apparent declination) in ITRF, shape (3, 3)."""
    site = EarthLocation.from_geocentric(*np.asarray(site_itrf_m, dtype=np.float64), unit=u.m)
    lon, dec = site.geodetic.lon.rad, np.deg2rad(apparent_dec_deg)
    return np.array(
        [
            [-np.sin(lon), np.cos(lon), 0.0],
            [-np.sin(dec) * np.cos(lon), -np.sin(dec) * np.sin(lon), np.cos(dec)],
            [np.cos(dec) * np.cos(lon), np.cos(dec) * np.sin(lon), np.sin(dec)],
        ]
    )


def meridian_icrs(
    apparent_dec_deg: float, time_mjd: NDArray[np.float64], site_itrf_m: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ICRS coordinates (deg) of the meridian at an apparent declination: where a drift scan looks at each time."""
    site = EarthLocation.from_geocentric(*np.asarray(site_itrf_m, dtype=np.float64), unit=u.m)
    east_north_up = meridian_basis_itrf(apparent_dec_deg, site_itrf_m)[2] @ enu_basis_itrf(site_itrf_m).T
    altitude = np.arcsin(east_north_up[2])
    azimuth = np.arctan2(east_north_up[0], east_north_up[1])
    when = times(np.atleast_1d(np.asarray(time_mjd, dtype=np.float64)))
    sky = SkyCoord(
        az=np.full(when.shape, azimuth) * u.rad,
        alt=np.full(when.shape, altitude) * u.rad,
        frame=AltAz(obstime=when, location=site, pressure=0 * u.hPa),
    ).icrs
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def baseline_uvw_m(
    positions_m: NDArray[np.float64],
    antenna1: NDArray[np.int32],
    antenna2: NDArray[np.int32],
    basis_itrf: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Project baselines ``position(antenna1) - position(antenna2)`` on bases, see ``visibilities`` for the sign.

    Parameters
    ----------
    positions_m : array of float, shape (n_ant, 3)
        ITRF positions (absolute or relative to any origin), m.
    antenna1, antenna2 : array of int, shape (n_baseline,)
    basis_itrf : array of float, shape (n_time, 3, 3)
        Rows u, v, w.

    Returns
    -------
    array of float, shape (n_time, n_baseline, 3), m
    """
    baselines = positions_m[antenna1] - positions_m[antenna2]
    return np.einsum("tij,bj->tbi", basis_itrf, baselines)
