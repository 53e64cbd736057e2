"""The search over all sources of a table: scoring, events one after the other, false-alarm probabilities.

What belongs here: the order of the steps. What does not: each step (``series``, ``detect``, ``false_alarms``), and
rows of tables (``candidates``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.ese.calibration import Calibration, calibrate
from contimg_assets.science.ese.detect import Dip, find_dip
from contimg_assets.science.ese.false_alarms import false_alarm_probability
from contimg_assets.science.ese.score import score
from contimg_assets.science.ese.series import Series, source_series, split_bands, without_outliers
from contimg_assets.science.ese.settings import SearchSettings

_LOOKS_PER_EVENT = 2
"""Glitches that look significant are cut out too; this bounds how many."""


_UNUSUAL_SIGNIFICANCE = 2.5
"""Light curves unlike the population's noise are looked at in detail from this score on."""


@dataclass(frozen=True, slots=True)
class SearchedSeries:
    """One series to search, as observed and without glitches, and the bands that tell colours."""

    raw: Series
    clean: Series
    bands: list[Series]
    n_searched: int
    """Series of this source that are searched: each is a trial."""

    place: int
    """Which of them this one is."""

    @property
    def source_id(self) -> str:
        """The source it belongs to."""
        return self.raw.source_id


@dataclass(frozen=True, slots=True)
class Find:
    """A dip with everything known about it."""

    dip: Dip
    searched: SearchedSeries
    false_alarm_probability: float

    @property
    def source_id(self) -> str:
        """The source the dip was found in."""
        return self.searched.raw.source_id


def scan(
    rows: pl.DataFrame, rng: np.random.Generator, settings: SearchSettings
) -> tuple[list[SearchedSeries], list[Find]]:
    """Search every source of a table, against the noise of that table.

    Parameters
    ----------
    rows : polars.DataFrame
        Result of ``series.usable_rows``.
    rng : numpy.random.Generator
        For the noise that calibrates false alarms.
    settings : SearchSettings
        Limits of the search.

    Returns
    -------
    searched : list of SearchedSeries
        Every series that has points.
    found : list of Find
        As of ``finds``.
    """
    searched = series_to_search(rows, settings)
    calibration = calibrate([item.clean for item in searched], settings, rng)
    return searched, finds(searched, calibration, settings)


def finds(searched: list[SearchedSeries], calibration: Calibration, settings: SearchSettings) -> list[Find]:
    """Dips up to the largest allowed false-alarm probability, most significant first, one per event.

    What is found in a source depends on its own series and the calibration alone.
    """
    scores = score([item.clean for item in searched], calibration, settings)
    found: list[Find] = []
    promising = scores.false_alarm_probability * [item.n_searched for item in searched] <= (
        settings.false_alarm_probability_max
    )
    promising |= scores.is_unusual & (scores.significance >= _UNUSUAL_SIGNIFICANCE)
    promising |= scores.significance >= settings.significance_min
    for k in np.flatnonzero(promising):
        item = searched[k]
        found += _search(item, settings, scores.models, item.n_searched * float(scores.trials[k]))
    return _one_per_event(found)


def series_to_search(rows: pl.DataFrame, settings: SearchSettings) -> list[SearchedSeries]:
    """Every series to search, with the bands it is compared in."""
    searched = []
    for bands in source_series(rows):
        clean_bands = [without_outliers(series, settings.fractional_error_floor) for series in bands]
        clean, to_compare = split_bands(clean_bands)
        raw = split_bands(bands)[0]
        searched += [
            SearchedSeries(r, c, to_compare, len(clean), k) for k, (r, c) in enumerate(zip(raw, clean, strict=True))
        ]
    return searched


def _search(item: SearchedSeries, settings: SearchSettings, models: NDArray[np.float64], trials: float) -> list[Find]:
    """Dips of one series that noise does not make, strongest first; each is cut out before the next is sought."""
    found: list[Find] = []
    remaining = item.clean
    for _ in range(_LOOKS_PER_EVENT * settings.events_per_source_max):
        dip = find_dip(remaining, settings, models)
        if dip is None:
            break
        probability = false_alarm_probability(dip.significance, trials)
        is_noise = probability > settings.false_alarm_probability_max and dip.significance < settings.significance_min
        if is_noise or len(found) == settings.events_per_source_max:
            break
        if dip.is_credible and _is_fainter_than_mostly(dip, item.clean):
            found.append(Find(dip, item, probability))
        remaining = remaining.select(np.abs(remaining.time_mjd - dip.peak_mjd) > 1.5 * dip.fwhm_d)
    return found


def _is_fainter_than_mostly(dip: Dip, series: Series) -> bool:
    """Whether the dip goes below the source's usual flux, in all of the series: the end of a high state does not.

    Where earlier events were cut out, what is left may be the high state alone.
    """
    is_core = np.abs(series.time_mjd - dip.peak_mjd) <= 0.5 * dip.fwhm_d
    return bool(np.median(series.value[is_core]) < np.median(series.value[~is_core]))


def _one_per_event(found: list[Find]) -> list[Find]:
    """Of dips of one source that overlap in time (seen in two bands), the most significant."""
    kept: list[Find] = []
    for find in sorted(found, key=lambda f: (-f.dip.significance, f.source_id, f.dip.peak_mjd)):
        if not any(
            other.source_id == find.source_id
            and abs(other.dip.peak_mjd - find.dip.peak_mjd) < 0.5 * (other.dip.fwhm_d + find.dip.fwhm_d)
            for other in kept
        ):
            kept.append(find)
    return kept
