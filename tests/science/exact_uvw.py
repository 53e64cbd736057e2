"""Baseline coordinates by astropy's own way, ICRS to CIRS to ITRS, which neither pyuvdata nor our conversion goes."""

import astropy.units as u
import numpy as np
from astropy.coordinates import CIRS, ITRS, EarthLocation, SkyCoord
from astropy.time import Time

_STEP_DEG = 2.0 / 3600.0
"""North is the difference of two directions this far from the centre to both sides."""


def exact_uvw_m(vis, site_itrf_m):
    """(u, v, w) of every row of visibilities in m, shape (n_row, 3), sign of a measurement set."""
    when_mjd, index = np.unique(vis.time_mjd, return_inverse=True)
    location = EarthLocation.from_geocentric(*site_itrf_m, unit="m")
    frame = {"obstime": Time(when_mjd, format="mjd", scale="utc"), "location": location}

    def towards(dec_deg):
        sky = SkyCoord(np.full(when_mjd.size, vis.phase_centre_ra_deg) * u.deg, np.full(when_mjd.size, dec_deg) * u.deg)
        vectors = sky.transform_to(CIRS(**frame)).transform_to(ITRS(**frame)).cartesian.xyz.value.T
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    centre_deg = vis.phase_centre_dec_deg
    w, north = towards(centre_deg), towards(centre_deg + _STEP_DEG) - towards(centre_deg - _STEP_DEG)
    north -= np.sum(north * w, axis=1, keepdims=True) * w
    north /= np.linalg.norm(north, axis=1, keepdims=True)
    axes = np.stack([np.cross(north, w), north, w], axis=1)
    baselines_m = vis.antenna_positions_m[vis.antenna1] - vis.antenna_positions_m[vis.antenna2]
    return np.einsum("rij,rj->ri", axes[index], baselines_m)
