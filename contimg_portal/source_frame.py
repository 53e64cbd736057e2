"""The register of sources in memory: filtered, searched by name and position, ranked and cut into pages.

What belongs here: questions about many sources, answered from one frame that ``store_cache`` keeps (1e5 rows: 20 MB,
each answer some milliseconds). Asking the store each time would read the statistics of all days anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl

from contimg_assets.science.coordinates import separation_deg
from contimg_portal.store_cache import StoreCache
from contimg_resources.store import register
from contimg_resources.store.connection import Store

SORTS = {
    "eta": ("eta", True),
    "v": ("modulation_index", True),
    "deviation": ("max_deviation_sigma", True),
    "flux": ("weighted_mean_flux_jy", True),
    "epochs": ("n_epochs", True),
    "name": ("source_id", False),
    "ra": ("ra_deg", False),
    "distance": ("separation_deg", False),
}
"""Column and whether the largest comes first, by the name in the address."""
_DEGREES = re.compile(r"\s*([+-]?\d+(?:\.\d*)?)\s*[, ]\s*([+-]?\d+(?:\.\d*)?)\s*")
_SEXAGESIMAL = re.compile(
    r"\s*(\d{1,2})[:h ]\s*(\d{1,2})(?:[:m ]\s*(\d{1,2}(?:\.\d*)?))?\s*[ms]?[\s,]*"
    r"([+-]\d{1,2})[:d ]\s*(\d{1,2})(?:[:m' ]\s*(\d{1,2}(?:\.\d*)?))?\s*[ms'\"]?\s*"
)


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """What is asked of the list of sources."""

    text: str = ""
    """Part of a name, or a position."""
    radius_arcmin: float = 10.0
    eta_min: float | None = None
    v_min: float | None = None
    epochs_min: int | None = None
    kind: str = "all"
    """all, candidates, references or extended."""
    sort: str = ""
    """One of ``SORTS``; empty: by distance when a position was asked for, else by eta."""


def read_position(text: str) -> tuple[float, float] | None:
    """Right ascension and declination (deg) of a typed position, or None when it is not one.

    Understood: degrees (``83.1 16.5``), and hours with degrees (``05:32:24.0 +16:30:00``, ``05h32m24s +16d30m``).
    """
    found = _SEXAGESIMAL.fullmatch(text)
    if found:
        hours, minutes, seconds, degrees, arcminutes, arcseconds = (part or "0" for part in found.groups())
        ra_deg = 15.0 * (int(hours) + int(minutes) / 60.0 + float(seconds) / 3600.0)
        size_deg = abs(int(degrees)) + int(arcminutes) / 60.0 + float(arcseconds) / 3600.0
        dec_deg = -size_deg if degrees.startswith("-") else size_deg
    else:
        found = _DEGREES.fullmatch(text)
        if not found:
            return None
        ra_deg, dec_deg = float(found[1]), float(found[2])
    return (ra_deg, dec_deg) if 0 <= ra_deg <= 360 and -90 <= dec_deg <= 90 else None


def source_frame(cache: StoreCache, store: Store, band: str = "full") -> pl.DataFrame:
    """Register of a band, kept in memory."""
    return cache.get(("register", band), lambda: register.source_register(store, band=band))


def filtered_sources(frame: pl.DataFrame, wanted: SourceFilter) -> pl.DataFrame:
    """Sources that pass, in the order asked for; ``separation_deg`` is there when a position was asked for."""
    position = read_position(wanted.text) if wanted.text else None
    if position is not None:
        frame = _near(frame, *position, wanted.radius_arcmin / 60.0)
    elif wanted.text:
        frame = frame.filter(pl.col("source_id").str.to_lowercase().str.contains(wanted.text.lower(), literal=True))
    minima = {"eta": wanted.eta_min, "modulation_index": wanted.v_min, "n_epochs": wanted.epochs_min}
    conditions = [pl.col(column) >= limit for column, limit in minima.items() if limit is not None]
    kinds = {
        "candidates": pl.col("n_candidates") > 0,
        "references": pl.col("is_reference"),
        "extended": pl.col("is_extended"),
    }
    if wanted.kind in kinds:
        conditions.append(kinds[wanted.kind])
    if conditions:
        frame = frame.filter(*conditions)
    column, descending = SORTS.get(wanted.sort, ("", False))
    if column not in frame.columns:
        return frame  # as they are: by eta, or by distance from the position asked for
    return frame.sort(column, descending=descending, nulls_last=True, maintain_order=True)


def _near(frame: pl.DataFrame, ra_deg: float, dec_deg: float, radius_deg: float) -> pl.DataFrame:
    strip = frame.filter(*_around(ra_deg, dec_deg, radius_deg))
    distance = separation_deg(ra_deg, dec_deg, strip["ra_deg"].to_numpy(), strip["dec_deg"].to_numpy())
    near = strip.with_columns(separation_deg=pl.Series(np.atleast_1d(distance)))
    return near.filter(pl.col("separation_deg") <= radius_deg).sort("separation_deg")


def _around(ra_deg: float, dec_deg: float, radius_deg: float) -> list[pl.Expr]:
    """What every source within the radius fulfils: a strip of declination and, away from the poles, of right ascension."""
    conditions = [pl.col("dec_deg").is_between(dec_deg - radius_deg, dec_deg + radius_deg)]
    cos_dec = np.cos(np.radians(dec_deg))
    if np.sin(np.radians(radius_deg)) < cos_dec and radius_deg < 90:
        # Widest where the meridian touches the circle: sin(difference) = sin(radius) / cos(declination).
        width_deg = float(np.degrees(np.arcsin(np.sin(np.radians(radius_deg)) / cos_dec)))
        difference = (pl.col("ra_deg") - ra_deg + 540.0) % 360.0 - 180.0
        conditions.append(difference.abs() <= width_deg * (1.0 + 1e-9))
    return conditions


def sources_near(cache: StoreCache, store: Store, ra_deg: float, dec_deg: float, radius_deg: float) -> pl.DataFrame:
    """Sources around a position, the nearest first, with ``separation_deg``."""
    return _near(source_frame(cache, store), ra_deg, dec_deg, radius_deg)
