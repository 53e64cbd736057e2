"""Questions of place to a large catalogue, answered in milliseconds: cones and strips.

What belongs here: the index and its two questions. Reading catalogues is in ``reference_catalogues``; matching them with
each other is science's.

Method. Rows are sorted by zones of declination and by right ascension within each (Gray, Nieto-Santisteban & Szalay 2007,
"The zones algorithm"): a cone touches a few zones, in each of which its rows are one run found by bisection; the exact
separation is computed for those only. Rejected: HEALPix, another dependency for the same time; a KD-tree of unit
vectors, which takes ten times as long to build and cannot answer for a strip.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

_ZONE_DEG = 0.25
"""Height of a zone: as many rows beside a cone of a quarter of a degree as in it."""
_ROUNDING_DEG = 1e-9


class CatalogueIndex:
    """A catalogue sorted so that rows near each other on the sky lie together.

    Parameters
    ----------
    catalogue : polars.DataFrame
        With ``ra_deg`` in 0 to 360 and ``dec_deg``; all other columns are handed through.
    """

    def __init__(self, catalogue: pl.DataFrame) -> None:
        ra_deg, dec_deg = catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy()
        zone = _zones(dec_deg)
        order = np.lexsort((ra_deg, zone))
        self._catalogue = catalogue
        self._row: NDArray[np.int64] = order.astype(np.int64)
        self._ra_deg: NDArray[np.float64] = np.ascontiguousarray(ra_deg[order], dtype=np.float64)
        self._dec_deg: NDArray[np.float64] = np.ascontiguousarray(dec_deg[order], dtype=np.float64)
        n_zones = int(_zones(np.array([90.0]))[0]) + 1
        self._start: NDArray[np.int64] = np.searchsorted(zone[order], np.arange(n_zones + 1))

    def cone(self, ra_deg: float, dec_deg: float, radius_deg: float) -> pl.DataFrame:
        """Sources within a radius of a position, nearest first, with their ``separation_deg``."""
        half_width_deg = _half_width_deg(dec_deg, radius_deg)
        places = self._places(
            dec_deg - radius_deg, dec_deg + radius_deg, ra_deg - half_width_deg, ra_deg + half_width_deg
        )
        apart = _separation_deg(ra_deg, dec_deg, self._ra_deg[places], self._dec_deg[places])
        near = np.flatnonzero(apart <= radius_deg)
        near = near[np.lexsort((self._row[places[near]], apart[near]))]
        found: pl.DataFrame = self._catalogue[self._row[places[near]]]
        return found.with_columns(separation_deg=pl.Series(apart[near], dtype=pl.Float64))

    def strip(
        self, dec_min_deg: float, dec_max_deg: float, ra_min_deg: float = 0.0, ra_max_deg: float = 360.0
    ) -> pl.DataFrame:
        """Sources of a declination strip, as the catalogue orders them.

        ``ra_min_deg > ra_max_deg`` is the range across right ascension zero.
        """
        across = ra_max_deg + 360.0 if ra_min_deg > ra_max_deg else ra_max_deg
        places = self._places(dec_min_deg, dec_max_deg, ra_min_deg, across)
        inside = (self._dec_deg[places] >= dec_min_deg) & (self._dec_deg[places] <= dec_max_deg)
        return self._catalogue[np.sort(self._row[places[inside]])]

    def _places(
        self, dec_min_deg: float, dec_max_deg: float, ra_min_deg: float, ra_max_deg: float
    ) -> NDArray[np.int64]:
        """Places in the sorted order of all rows of the zones and the range of right ascension."""
        first, last = _zones(np.clip([dec_min_deg - _ROUNDING_DEG, dec_max_deg + _ROUNDING_DEG], -90.0, 90.0))
        runs = []
        for zone in range(first, last + 1):
            begin, end = self._start[zone], self._start[zone + 1]
            ra_deg = self._ra_deg[begin:end]
            for low, high in _pieces(ra_min_deg, ra_max_deg):
                i, j = np.searchsorted(ra_deg, low, side="left"), np.searchsorted(ra_deg, high, side="right")
                runs.append(np.arange(begin + i, begin + j))
        return np.concatenate(runs) if runs else np.zeros(0, dtype=np.int64)


def _zones(dec_deg: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.floor((dec_deg + 90.0) / _ZONE_DEG).astype(np.int64)


def _pieces(ra_min_deg: float, ra_max_deg: float) -> list[tuple[float, float]]:
    """Range of right ascension as ranges within 0 to 360."""
    if ra_max_deg - ra_min_deg >= 360.0:
        return [(0.0, 360.0)]
    if ra_min_deg < 0.0:
        return [(ra_min_deg + 360.0, 360.0), (0.0, ra_max_deg)]
    if ra_max_deg > 360.0:
        return [(ra_min_deg, 360.0), (0.0, ra_max_deg - 360.0)]
    return [(ra_min_deg, ra_max_deg)]


def _half_width_deg(dec_deg: float, radius_deg: float) -> float:
    """Largest difference of right ascension between the middle of a cone and any point of it."""
    if abs(dec_deg) + radius_deg >= 90.0:
        return 180.0
    ratio = np.sin(np.deg2rad(radius_deg)) / np.cos(np.deg2rad(dec_deg))
    return float(np.rad2deg(np.arcsin(ratio))) + _ROUNDING_DEG


def _separation_deg(
    ra_deg: float, dec_deg: float, other_ra_deg: NDArray[np.float64], other_dec_deg: NDArray[np.float64]
) -> NDArray[np.float64]:
    from astropy.coordinates import angular_separation

    radians = (np.deg2rad(v) for v in (ra_deg, dec_deg, other_ra_deg, other_dec_deg))
    return np.asarray(np.rad2deg(angular_separation(*radians)), dtype=np.float64)
