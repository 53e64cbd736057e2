"""What the search would have found: lens events put into real light curves, and searched for.

What belongs here: injecting and counting. What does not: the search (``ese``).

Method. Copies of real light curves of steady sources are multiplied by the gain of a plasma lens in each band, with
depth and duration drawn from a bin, strength and source size from what such lenses have, and a time at which at least
the middle of the event is observed. The copies go through the same code as the real ones; an event is recovered if a
candidate peaks within its half-maximum. Copies with their points shuffled in time, all bands alike, hold no event:
what is found in them is false.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.ese.scan import scan
from contimg_assets.science.ese.series import FULL_BAND, usable_rows
from contimg_assets.science.ese.settings import SearchSettings
from contimg_assets.science.ese.templates import dip_fwhm
from contimg_assets.science.plasma_lens import lens_gain
from contimg_assets.science.variability import variability_statistics

STEADY_P_VALUE = 1e-3
"""Sources that vary more significantly than this receive no injections."""

_STRENGTH = (1.5, 8.0)
_SOURCE_FWHM = (0.4, 1.2)
"""Ranges of the injected lenses; strength at the highest frequency of the table, so that every band shows the depth."""

_MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)

INJECTION_SCHEMA = {
    "as_of": pl.String,
    "depth_bin": pl.String,
    "duration_bin": pl.String,
    "n_injected": pl.Int32,
    "n_recovered": pl.Int32,
    "completeness": pl.Float64,
    "false_alarms_per_1000_sources": pl.Float64,
}
"""Columns of the table ``injection_recovery``."""


@dataclass(frozen=True, slots=True)
class InjectionSettings:
    """How many injections, and of what kind."""

    depth_edges: tuple[float, ...] = (0.1, 0.2, 0.4, 0.7)
    """Edges of the bins of depth, relative to the quiescent flux density."""

    duration_edges_d: tuple[float, ...] = (3.0, 5.0, 10.0, 20.0)
    """Edges of the bins of duration (FWHM), d."""

    n_per_bin: int = 8
    """Injections per bin: the error of a completeness of one half is then 0.18."""

    n_shuffled: int = 200
    """Shuffled light curves searched for false alarms."""

    search: SearchSettings = field(default_factory=SearchSettings)


def injection_recovery(
    light_curve: pl.DataFrame,
    as_of_mjd: float,
    rng: np.random.Generator,
    settings: InjectionSettings | None = None,
) -> pl.DataFrame:
    """Completeness by depth and duration, and the rate of false alarms.

    Parameters
    ----------
    light_curve : polars.DataFrame
        As for ``find_candidates``.
    as_of_mjd : float
        Later points are not used; its day names the result.
    rng : numpy.random.Generator
        Draws sources, events and shuffles.
    settings : InjectionSettings, optional
        Numbers and bins.

    Returns
    -------
    polars.DataFrame
        ``INJECTION_SCHEMA``, one row per bin. ``completeness`` is NULL where nothing could be injected: no steady
        source with enough points, or events longer than half of the light curves.
    """
    chosen = settings or InjectionSettings()
    rows = usable_rows(light_curve, as_of_mjd)
    steady = _steady_sources(rows, as_of_mjd, chosen.search)
    as_of = (_MJD_EPOCH + timedelta(days=as_of_mjd, seconds=-1.0)).strftime("%Y-%m-%d")
    injected, events = _inject(rows, steady, rng, chosen)
    recovered = _recovered(injected, events, rng, chosen.search)
    false_alarms = _false_alarms(rows, steady, rng, chosen)
    records = []
    for depth_bin in _bins(chosen.depth_edges):
        for duration_bin in _bins(chosen.duration_edges_d):
            own = [hit for event, hit in zip(events, recovered, strict=True) if event.bins == (depth_bin, duration_bin)]
            completeness = sum(own) / len(own) if own else None
            records.append((as_of, depth_bin, duration_bin, len(own), sum(own), completeness, false_alarms))
    return pl.DataFrame(records, schema=INJECTION_SCHEMA, orient="row")


@dataclass(frozen=True, slots=True)
class _Event:
    source_id: str
    peak_mjd: float
    fwhm_d: float
    bins: tuple[str, str]


def _bins(edges: tuple[float, ...]) -> list[str]:
    return [f"{low:g}-{high:g}" for low, high in itertools.pairwise(edges)]


def _steady_sources(rows: pl.DataFrame, as_of_mjd: float, search: SearchSettings) -> dict[str, pl.DataFrame]:
    """Rows of each source that has enough points and does not vary in its best-measured band."""
    statistics = variability_statistics(rows, as_of_mjd).filter(pl.col("mean_flux_jy") > 0.0)
    bands = statistics["band"].unique().to_list()
    if FULL_BAND in bands:
        statistics = statistics.filter(band=FULL_BAND)
    steady = (
        statistics.group_by("source_id")
        .agg(pl.col("n_epochs").min(), pl.col("chi2_p_value").min())
        .filter(pl.col("n_epochs") >= search.n_epochs_min, pl.col("chi2_p_value") > STEADY_P_VALUE)
        .sort("source_id")["source_id"]
        .to_list()
    )
    parts = rows.filter(pl.col("source_id").is_in(steady)).partition_by("source_id", as_dict=True, maintain_order=True)
    return {str(key[0]): part for key, part in parts.items()}


def _inject(
    rows: pl.DataFrame, steady: dict[str, pl.DataFrame], rng: np.random.Generator, settings: InjectionSettings
) -> tuple[pl.DataFrame, list[_Event]]:
    """Copies of steady light curves with an event each, and what was put in."""
    copies, events = [rows.clear()], list[_Event]()
    names = list(steady)
    edges = [settings.depth_edges, settings.duration_edges_d]
    pairs = [list(zip(e[:-1], e[1:], _bins(e), strict=True)) for e in edges]
    for depth_low, depth_high, depth_bin in pairs[0]:
        for duration_low, duration_high, duration_bin in pairs[1]:
            for _ in range(settings.n_per_bin if names else 0):
                source = steady[names[rng.integers(len(names))]]
                depth, fwhm = rng.uniform(depth_low, depth_high), rng.uniform(duration_low, duration_high)
                first, last = float(source["mjd"].min()), float(source["mjd"].max())  # type: ignore[arg-type]
                if fwhm > 0.5 * (last - first):
                    continue
                peak = rng.uniform(first + fwhm, max(last - 0.5 * fwhm, first + fwhm))
                gain = _gain(source, depth, fwhm, peak, rng)
                name = f"injected{len(events)}"
                events.append(_Event(name, peak, fwhm, (depth_bin, duration_bin)))
                copies.append(source.with_columns(source_id=pl.lit(name), flux_jy=pl.col("flux_jy") * pl.Series(gain)))
    return pl.concat(copies), events


def _gain(
    source: pl.DataFrame, depth: float, fwhm_d: float, peak_mjd: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Gain of a lens of a given depth and FWHM at the source's points; weaker at higher frequencies as plasma is."""
    strength, size = float(np.exp(rng.uniform(*np.log(_STRENGTH)))), float(rng.uniform(*_SOURCE_FWHM))
    fraction = depth / (1.0 - float(lens_gain(np.zeros(1), strength, size)[0]))
    if fraction > 1.0:
        strength, fraction = (
            _STRENGTH[1],
            min(depth / (1.0 - float(lens_gain(np.zeros(1), _STRENGTH[1], size)[0])), 1.0),
        )
    width = fwhm_d / dip_fwhm(strength, size)
    frequency = source["frequency_hz"].fill_null(1.4e9).fill_nan(1.4e9).to_numpy()
    position = (source["mjd"].to_numpy() - peak_mjd) / width
    gain = np.empty(position.size)
    for value in np.unique(frequency):
        chosen = frequency == value
        gain[chosen] = lens_gain(position[chosen], strength * float(frequency.max() / value) ** 2, size)
    return 1.0 + fraction * (gain - 1.0)


def _recovered(
    injected: pl.DataFrame, events: list[_Event], rng: np.random.Generator, search: SearchSettings
) -> list[bool]:
    """Whether each event is found where it was put."""
    _, found = scan(usable_rows(injected, np.inf), rng, search)
    peaks: dict[str, list[float]] = {}
    for find in found:
        peaks.setdefault(find.source_id, []).append(find.dip.peak_mjd)
    return [any(abs(p - e.peak_mjd) < 0.5 * e.fwhm_d for p in peaks.get(e.source_id, [])) for e in events]


def _false_alarms(
    rows: pl.DataFrame, steady: dict[str, pl.DataFrame], rng: np.random.Generator, settings: InjectionSettings
) -> float | None:
    """Sources with a find per 1000 shuffled steady sources; NULL without any."""
    if not steady:
        return None
    names = list(steady)
    copies = [rows.clear()]
    for k in range(settings.n_shuffled):
        source = steady[names[k % len(names)]]
        times = source["mjd"].unique(maintain_order=True)
        shuffled = pl.DataFrame({"mjd": times, "elsewhere": rng.permutation(times.to_numpy())})
        copies.append(
            source.join(shuffled, on="mjd", how="left", maintain_order="left")
            .with_columns(source_id=pl.lit(f"shuffled{k}"), mjd=pl.col("elsewhere"))
            .drop("elsewhere")
        )
    _, found = scan(usable_rows(pl.concat(copies), np.inf), rng, settings.search)
    return 1000.0 * len({find.source_id for find in found}) / settings.n_shuffled
