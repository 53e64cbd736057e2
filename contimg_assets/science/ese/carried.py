"""What was found in a source, kept until its light curve changes.

What belongs here: scores of sources as a table, and finds made again from it. What does not: the search (``scan``) and
which sources have changed, which the caller knows by the marks of their points.

What is found in a source follows from its points, the settings and the calibration of the day of its newest point.
A source without new points keeps all three, however often the day is made: a new observation costs the sources it saw.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import polars as pl

from contimg_assets.science.ese.calibration import Calibration, calibrate
from contimg_assets.science.ese.detect import Dip
from contimg_assets.science.ese.scan import Find, finds, series_to_search
from contimg_assets.science.ese.series import Series, usable_rows
from contimg_assets.science.ese.settings import SearchSettings

CALIBRATED_WITH = 1000
"""Sources a day is calibrated with."""

FOUND_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {"source_id": pl.String, "dips": pl.String}
"""Columns of ``found_in_sources``."""


def calibration_of(light_curve: pl.DataFrame, settings: SearchSettings, rng: np.random.Generator) -> Calibration:
    """What light curves say about noise; rows as for ``candidates.find_candidates``."""
    return calibrate(searched_series(light_curve, settings), settings, rng)


def searched_series(light_curve: pl.DataFrame, settings: SearchSettings) -> list[Series]:
    """The series of a table that are searched, without glitches."""
    return [item.clean for item in series_to_search(usable_rows(light_curve, np.inf), settings)]


def found_in_sources(
    light_curve: pl.DataFrame, source_ids: list[str], calibration: Calibration, settings: SearchSettings
) -> pl.DataFrame:
    """Search sources.

    Parameters
    ----------
    light_curve : polars.DataFrame
        All points of the sources, as for ``candidates.find_candidates``.
    source_ids : list of str
        The sources: each has a row, also without usable points.
    calibration : Calibration
        What they are judged by.
    settings : SearchSettings
        Limits of the search.

    Returns
    -------
    polars.DataFrame
        ``FOUND_SCHEMA``: ``dips`` is JSON, one entry per dip, NULL without any.
    """
    dips: dict[str, list[dict[str, object]]] = {}
    for find in finds(series_to_search(usable_rows(light_curve, np.inf), settings), calibration, settings):
        entry = {
            "dip": asdict(find.dip),
            "place": find.searched.place,
            "false_alarm_probability": find.false_alarm_probability,
        }
        dips.setdefault(find.source_id, []).append(entry)
    found = [json.dumps(dips[name]) if name in dips else None for name in source_ids]
    return pl.DataFrame({"source_id": source_ids, "dips": found}, schema=FOUND_SCHEMA)


def finds_again(found: pl.DataFrame, light_curve: pl.DataFrame, settings: SearchSettings) -> list[Find]:
    """The finds of sources that have some, from ``found_in_sources`` and their points."""
    items = {
        (item.source_id, item.place): item for item in series_to_search(usable_rows(light_curve, np.inf), settings)
    }
    return [
        Find(Dip(**entry["dip"]), items[source_id, entry["place"]], entry["false_alarm_probability"])
        for source_id, dips in found.select("source_id", "dips").drop_nulls().iter_rows()
        for entry in json.loads(dips)
    ]
