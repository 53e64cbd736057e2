"""Where the antennas stand: the DSA-110 itself, or a small array of the same kind for tests and the demo.

What belongs here: slots, names, positions and which of them deliver data. What the antennas do to a signal is in
``instrument``.

The full array is the T of the DSA-110: an east-west arm on a 5.75 m grid with gaps, a north-south arm of 8.653 m
spacing and outriggers up to 2.6 km apart; 117 slots, 96 of them active (the arms' tops and the last slot have no
antenna). Positions follow the published station survey to about a metre, which is all a simulation needs because the
files carry their own positions. A small array is a T with outriggers on a spiral; its shape was chosen by the side
lobes of its snapshot synthesized beam (24 antennas: 18 % peak, 1.4 % rms). Taking every fourth DSA-110 antenna was
rejected: the T's regular spacing leaves side lobes above 30 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.coordinates import EarthLocation
from numpy.typing import NDArray

from contimg_assets.science.coordinates import enu_basis_itrf
from contimg_assets.science.errors import DataError

SITE_LATITUDE_DEG, SITE_LONGITUDE_DEG, SITE_ALTITUDE_M = 37.2334, -118.2834, 1188.0
"""Crossing of the two arms (WGS84)."""

DISH_DIAMETER_M = 4.65
"""Diameter of a DSA-110 dish, m."""

_EAST_WEST_GRID = (*range(22), *range(32, 38), 41, *range(45, 51), *range(54, 70))
"""Occupied places of the 5.754 m grid of the east-west arm, slots 1-51 from west to east."""

_OUTRIGGERS_M = (
    (189.0, -377.0, -6.7),
    (583.0, 206.0, -5.6),
    (591.0, 1064.0, -4.0),
    (589.0, 1511.0, -2.7),
    (587.0, 1683.0, -2.1),
    (592.0, 1843.0, -1.5),
    (354.0, 1838.0, -1.8),
    (-42.0, 1835.0, -2.1),
    (-246.0, 1837.0, -2.0),
    (-404.0, 1832.0, -2.7),
    (-697.0, 1836.0, -1.7),
    (-1104.0, 1837.0, -3.4),
    (-1046.0, 1286.0, -7.2),
    (-994.0, -220.0, -9.9),
    (-1177.0, -207.0, -5.4),
)
"""East, north, up of slots 103-117 from the crossing, m."""

_GOLDEN_ANGLE_RAD = np.pi * (3.0 - np.sqrt(5.0))


@dataclass(frozen=True, slots=True, eq=False)
class ArrayLayout:
    """Slots of a telescope and which of them deliver data."""

    antenna_names: tuple[str, ...]
    """One name per slot, counted from 1 as the telescope does."""
    positions_m: NDArray[np.float64]
    """Geocentric ITRF positions, shape (n_slot, 3), m."""
    site_itrf_m: NDArray[np.float64]
    """Geocentric position of the reference point, shape (3,), m."""
    active: NDArray[np.int32]
    """Ascending indices of slots whose antennas deliver data."""
    reversed_slots: tuple[int, ...]
    """Slots whose baselines the writer stores the other way round (a quirk of the correlator)."""

    def baselines(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """All pairs of active antennas, antenna1 < antenna2, as slot indices."""
        first, second = np.triu_indices(len(self.active), k=1)
        return self.active[first], self.active[second]


def _layout(east_north_up_m: NDArray[np.float64], active: list[int], reversed_slots: tuple[int, ...]) -> ArrayLayout:
    location = EarthLocation.from_geodetic(SITE_LONGITUDE_DEG * u.deg, SITE_LATITUDE_DEG * u.deg, SITE_ALTITUDE_M * u.m)
    site_itrf_m = np.array([location.x.to_value(u.m), location.y.to_value(u.m), location.z.to_value(u.m)])
    return ArrayLayout(
        antenna_names=tuple(str(i + 1) for i in range(len(east_north_up_m))),
        positions_m=site_itrf_m + east_north_up_m @ enu_basis_itrf(site_itrf_m),
        site_itrf_m=site_itrf_m,
        active=np.array(sorted(active), dtype=np.int32),
        reversed_slots=reversed_slots,
    )


def full_array() -> ArrayLayout:
    """The DSA-110: 117 slots, 96 active (slots 1-51 without 10, 21, 22, 23; 68-102; 103-116)."""
    east_west = [(5.754 * place - 198.9, -2.8, -5.4) for place in _EAST_WEST_GRID]
    north_south = [(-0.5, 5.9 + 8.653 * k, -5.4) for k in range(51)]
    idle = {10, 21, 22, 23, *range(52, 68), 117}
    active = [slot - 1 for slot in range(1, 118) if slot not in idle]
    return _layout(np.array([*east_west, *north_south, *_OUTRIGGERS_M]), active, reversed_slots=(100, 114))


def small_array(n_antennas: int, max_baseline_m: float = 900.0) -> ArrayLayout:
    """An array of a few antennas: a T and outriggers, plus three idle slots as the real telescope has them.

    Parameters
    ----------
    n_antennas : int
        Antennas that deliver data, 4 to 96.
    max_baseline_m : float
        Longest baseline, m.

    Raises
    ------
    DataError
        If the number of antennas is out of range.
    """
    if not 4 <= n_antennas <= 96:
        raise DataError(
            "small array",
            got=f"{n_antennas} antennas",
            expected="4 to 96",
            remedy="Use the full array for more.",
            reason_code="array_size",
        )
    n_arm = max(1, round(0.2 * n_antennas))
    n_outer = n_antennas - 2 * n_arm
    along = np.linspace(-1.0, 1.0, n_arm) if n_arm > 1 else np.zeros(1)
    up_the_arm = ((np.arange(n_arm) + 1.0) / n_arm) ** 2
    k = np.arange(n_outer)
    radius = 0.5 * (0.2 + 0.8 * ((k + 0.5) / n_outer) ** 0.7)
    angle = _GOLDEN_ANGLE_RAD * k + 0.3
    east = np.concatenate([0.225 * np.sign(along) * along**2, np.full(n_arm, -0.005), radius * np.cos(angle)])
    north = np.concatenate([np.zeros(n_arm), 0.45 * up_the_arm, radius * np.sin(angle)])
    longest = np.hypot(east[:, None] - east, north[:, None] - north).max()
    plane = np.stack([east, north, np.zeros(n_antennas)], axis=1) * max_baseline_m / longest
    idle = np.array([[40.0, 40.0, 0.0], [-40.0, 40.0, 0.0], [40.0, -40.0, 0.0]])
    slots = np.concatenate([plane[: n_antennas // 2], idle[:2], plane[n_antennas // 2 :], idle[2:]])
    active = [i for i in range(n_antennas + 2) if not n_antennas // 2 <= i < n_antennas // 2 + 2]
    return _layout(slots, active, reversed_slots=(active[-3], active[-1]))
