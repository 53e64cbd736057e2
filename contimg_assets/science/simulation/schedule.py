"""When the simulated telescope observes what, and under which names the 16 nodes write their files.

What belongs here: transit times of tiles over sidereal days, jittered file names, outages. The simulation itself is
``observe``; reading a campaign file is ``contimg_resources.campaigns``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import SECONDS_PER_DAY, SIDEREAL_DAY_S
from contimg_assets.science.coordinates import meridian_icrs
from contimg_assets.science.simulation.instrument import Purpose
from contimg_assets.science.simulation.observe import INTEGRATION_S, N_SUBBANDS

_MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)

_RESTART_CHANCE = 0.1
"""Share of observations right after a correlator restart, whose file names spread over half a minute."""


@dataclass(frozen=True, slots=True)
class PlannedObservation:
    """One observation of the plan."""

    day: int
    tile: int
    start_mjd: float
    """Start of the first integration, UTC MJD."""
    file_names: tuple[tuple[int, str], ...]
    """Sub-band and final file name of every file that will be written."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Sub-bands that are not written on a day."""

    day: int
    tile: int
    subbands: tuple[int, ...]


def transit_mjd(ra_deg: float, after_mjd: float, pointing_dec_deg: float, site_itrf_m: NDArray[np.float64]) -> float:
    """First time after a given one at which the meridian at the pointing's declination has an ICRS right ascension."""
    turn_d = SIDEREAL_DAY_S / SECONDS_PER_DAY
    now_mjd = after_mjd
    for step in range(3):
        meridian_ra_deg, _ = meridian_icrs(pointing_dec_deg, np.array([now_mjd]), site_itrf_m)
        ahead_deg = (ra_deg - float(meridian_ra_deg[0])) % 360.0
        if step > 0 and ahead_deg > 180.0:
            ahead_deg -= 360.0
        now_mjd += ahead_deg / 360.0 * turn_d
    return now_mjd


def tile_centre(
    ra_deg: float, after_mjd: float, pointing_dec_deg: float, site_itrf_m: NDArray[np.float64]
) -> tuple[float, float]:
    """ICRS centre of a tile in deg: where the dishes look when its right ascension first transits."""
    when_mjd = transit_mjd(ra_deg, after_mjd, pointing_dec_deg, site_itrf_m)
    centre_ra_deg, centre_dec_deg = meridian_icrs(pointing_dec_deg, np.array([when_mjd]), site_itrf_m)
    return float(centre_ra_deg[0]), float(centre_dec_deg[0])


def plan_observations(
    tile_ra_deg: Sequence[float],
    *,
    first_mjd: float,
    n_days: int,
    pointing_dec_deg: float,
    site_itrf_m: NDArray[np.float64],
    n_integrations: int,
    outages: Sequence[Outage],
    seed: int,
) -> list[PlannedObservation]:
    """All observations of a campaign in time order: each tile at its transit of each sidereal day.

    Parameters
    ----------
    tile_ra_deg : sequence of float
        ICRS right ascensions of the tiles' centres, deg.
    first_mjd : float
        Midnight (UTC) the campaign starts at.
    n_days : int
        Sidereal days.
    pointing_dec_deg : float
        Apparent declination, deg.
    site_itrf_m : array of float, shape (3,)
    n_integrations : int
        Per observation.
    outages : sequence of Outage
        Files that are missing.
    seed : int
        Of the campaign.
    """
    missing = {(outage.day, outage.tile): set(outage.subbands) for outage in outages}
    half_d = 0.5 * n_integrations * INTEGRATION_S / SECONDS_PER_DAY
    plan = []
    for tile, ra_deg in enumerate(tile_ra_deg):
        first_transit_mjd = transit_mjd(ra_deg, first_mjd, pointing_dec_deg, site_itrf_m)
        for day in range(n_days):
            # the equinox moves by less than a second of time within a season: every transit is found anew
            guess_mjd = first_transit_mjd + day * SIDEREAL_DAY_S / SECONDS_PER_DAY - 0.01
            start_mjd = transit_mjd(ra_deg, guess_mjd, pointing_dec_deg, site_itrf_m) - half_d
            rng = np.random.default_rng([seed, Purpose.NAMES, day, tile])
            names = subband_file_names(start_mjd, rng)
            kept = tuple((n, name) for n, name in names if n not in missing.get((day, tile), ()))
            plan.append(PlannedObservation(day, tile, start_mjd, kept))
    return sorted((item for item in plan if item.file_names), key=lambda item: item.start_mjd)


def subband_file_names(start_mjd: float, rng: np.random.Generator) -> tuple[tuple[int, str], ...]:
    """Names of the 16 files of an observation: every node stamps its own clock when it opens its file.

    Usually the stamps agree to 0-2 s; after a restart of the correlator they spread over 11-30 s.
    """
    spread_s = rng.uniform(11.0, 30.0) if rng.random() < _RESTART_CHANCE else rng.uniform(0.0, 2.0)
    opened = _MJD_EPOCH + timedelta(days=start_mjd)
    delays_s = 0.3 + np.clip(rng.random(N_SUBBANDS), 0.0, 1.0) * spread_s
    return tuple(
        (n, f"{opened + timedelta(seconds=float(delay_s)):%Y-%m-%dT%H:%M:%S}_sb{n:02d}.hdf5")
        for n, delay_s in enumerate(delays_s)
    )
