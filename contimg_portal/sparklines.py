"""Light curves the size of a word: the drawing in a row of a table, and the same in words.

What belongs here: scaling to the little picture. It is SVG in the page, because fifty Bokeh figures would take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from contimg_portal.formats import number

SPARKLINE_D = 180
"""Days that a drawing shows: what a candidate is judged by, at little more than a day a pixel."""
WIDTH, HEIGHT = 132, 30
_MARGIN = 2.5
_LEAST_RANGE = 0.1
"""Fraction of the flux that the height spans at least, so that noise does not look like variability."""


@dataclass(frozen=True, slots=True)
class Sparkline:
    """One drawing."""

    points: str
    """Coordinates for ``polyline``."""
    last: tuple[float, float]
    label: str
    """What a reader who does not see it is told."""


def sparklines(points: pl.DataFrame) -> dict[str, Sparkline]:
    """Drawing for each source that has two or more points.

    Parameters
    ----------
    points : polars.DataFrame
        ``source_id, mjd, flux_jy`` in order of source and time.
    """
    if points.is_empty():
        return {}
    first, last = (float(points["mjd"].min()), float(points["mjd"].max()))  # type: ignore[arg-type]
    drawn = {}
    for (source_id,), rows in points.group_by("source_id", maintain_order=True):
        if rows.height < 2:
            continue
        drawn[str(source_id)] = _draw(rows["mjd"].to_numpy(), rows["flux_jy"].to_numpy(), first, last)
    return drawn


def _draw(mjd: np.ndarray, flux_jy: np.ndarray, first_mjd: float, last_mjd: float) -> Sparkline:
    low, high, middle = float(flux_jy.min()), float(flux_jy.max()), float(np.median(flux_jy))
    half = max(0.5 * (high - low), 0.5 * _LEAST_RANGE * abs(middle), 1e-12)
    centre = 0.5 * (high + low)
    x = _MARGIN + (WIDTH - 2 * _MARGIN) * (mjd - first_mjd) / max(last_mjd - first_mjd, 1e-9)
    y = HEIGHT / 2 - (HEIGHT / 2 - _MARGIN) * (flux_jy - centre) / half
    label = f"{len(mjd)} epochs from {number(low)} to {number(high)} Jy, median {number(middle)} Jy"
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return Sparkline(points, (round(float(x[-1]), 1), round(float(y[-1]), 1)), label)
