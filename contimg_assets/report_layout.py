"""How a report is laid out: its content, sections of numbers, tables and pictures, and how values read.

What belongs here: the shapes. Which numbers stand in which section is ``report`` and ``report_operations``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl

from contimg_assets.canvas import data_uri

MOST_ROWS = 60
"""Rows shown of one table; the page says how many there are more."""

UNITS = {
    "_jy_beam": "Jy/beam",
    "_jy": "Jy",
    "_hz": "Hz",
    "_arcsec": "arcsec",
    "_deg": "deg",
    "_mjd": "MJD",
    "_s": "s",
    "_h": "h",
    "_d": "d",
}
"""Unit by the suffix of a column's name, longest suffix first."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG with the sentence that stands below it."""

    png: bytes
    caption: str


@dataclass(frozen=True, slots=True, eq=False)
class QualityReport:
    """Everything the report of one day is made of: rows of the store's tables, as frames."""

    day: str
    """Partition key, ``YYYY-MM-DD``."""
    made_at: datetime
    """When the report was made, UTC."""
    code_version: str
    run_id: str
    observations: pl.DataFrame
    """Table ``observation``."""
    calibration_tables: pl.DataFrame
    """Table ``calibration_table``: tables solved from this day's data."""
    calibration_use: pl.DataFrame
    """Table ``calibration_use``: what was applied to each observation."""
    images: pl.DataFrame
    """Table ``image``."""
    forced_photometry: pl.DataFrame
    """Table ``forced_photometry``."""
    flux_scale: pl.DataFrame
    """Table ``flux_scale``."""
    statistics: pl.DataFrame
    """Table ``variability_statistics`` as of this day, full band."""
    candidates: pl.DataFrame
    """Table ``ese_candidate``."""
    injection_recovery: pl.DataFrame
    """Table ``injection_recovery`` as of this day."""
    checks: pl.DataFrame
    """Table ``check_result`` of this day's partitions."""
    blind_sources: pl.DataFrame
    """Table ``blind_source`` as of this day."""
    image_injection: pl.DataFrame
    """Table ``image_injection`` as of this day."""
    timings: pl.DataFrame
    """Table ``stage_timing`` of this day's partitions."""
    dead_letters: pl.DataFrame
    """Table ``dead_letter``: those of this day's partitions, and all that wait."""
    alerts: pl.DataFrame
    """Table ``alert``: those that are open when the report is made."""
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    """Pictures by section: observations, calibration, imaging, photometry, variability, candidates, injections."""


@dataclass(frozen=True, slots=True)
class Number:
    """One number with its label."""

    label: str
    value: str
    is_alarming: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Headings with units, and rows of text."""

    headings: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]
    n_hidden: int


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page."""

    key: str
    title: str
    about: str
    numbers: tuple[Number, ...]
    table: Table | None
    pictures: tuple[tuple[str, str], ...]


def section(report: QualityReport, key: str, title: str, about: str, *contents: Number | Table) -> Section:
    """A section with the pictures that the report has for it."""
    return Section(
        key=key,
        title=title,
        about=about,
        numbers=tuple(item for item in contents if isinstance(item, Number)),
        table=next((item for item in contents if isinstance(item, Table)), None),
        pictures=tuple((data_uri(picture.png), picture.caption) for picture in report.pictures.get(key, ())),
    )


def median(frame: pl.DataFrame, column: str, unit: str = "") -> str:
    """Median of a column, as text."""
    return f"{text(frame[column].median())} {unit}".strip()


def table(frame: pl.DataFrame, columns: Sequence[str]) -> Table:
    """The first rows of a frame."""
    shown = frame.select(columns).head(MOST_ROWS)
    return Table(
        headings=tuple(heading(column) for column in columns),
        rows=tuple(tuple(text(value) for value in row) for row in shown.iter_rows()),
        n_hidden=frame.height - shown.height,
    )


def heading(column: str) -> tuple[str, str]:
    """Words and unit of a column's name."""
    for suffix, unit in UNITS.items():
        if column.endswith(suffix):
            return column.removesuffix(suffix).replace("_", " "), unit
    return column.replace("_", " "), ""


def text(value: Any) -> str:
    """Show a value as a person reads it; what could not be measured is a dash."""
    if value is None or value != value:  # noqa: PLR0124  NaN differs from itself
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)
