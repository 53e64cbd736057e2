"""The daily quality report: one HTML file that holds everything it shows.

What belongs here: which numbers, tables and pictures of a day stand in the report, and in what order. What does not:
fetching the rows (asset ``quality_report``), drawing (``pictures``, ``source_pictures``), judging (``checks``). Inputs
are the rows of the store's tables for one day, with the store's column names; the page is
``templates/quality_report.html``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import jinja2
import polars as pl

from contimg_assets.canvas import data_uri

_MOST_ROWS = 60
"""Rows shown of one table; the page says how many there are more."""
_DETECTION_SIGMA = 5.0
"""A forced measurement above this many sigma counts as a detection."""

_UNITS = {
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
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    """Pictures by section: observations, calibration, imaging, photometry, variability, candidates, injections."""


@dataclass(frozen=True, slots=True)
class _Number:
    label: str
    value: str
    is_alarming: bool = False


@dataclass(frozen=True, slots=True)
class _Table:
    headings: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]
    n_hidden: int


@dataclass(frozen=True, slots=True)
class _Section:
    key: str
    title: str
    about: str
    numbers: tuple[_Number, ...]
    table: _Table | None
    pictures: tuple[tuple[str, str], ...]


def render_quality_report(report: QualityReport) -> str:
    """HTML page of one day, self-contained: style and pictures are inside.

    Parameters
    ----------
    report : QualityReport

    Returns
    -------
    str
        A whole HTML document.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("contimg_assets", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    sections = [
        _checks(report),
        _observations(report),
        _calibration(report),
        _imaging(report),
        _photometry(report),
        _variability(report),
        _candidates(report),
        _injections(report),
    ]
    failed = report.checks.filter(~pl.col("passed"))
    return environment.get_template("quality_report.html").render(
        report=report, sections=sections, n_failed=failed.height, n_checks=report.checks.height
    )


def _section(report: QualityReport, key: str, title: str, about: str, *contents: _Number | _Table) -> _Section:
    return _Section(
        key=key,
        title=title,
        about=about,
        numbers=tuple(item for item in contents if isinstance(item, _Number)),
        table=next((item for item in contents if isinstance(item, _Table)), None),
        pictures=tuple((data_uri(picture.png), picture.caption) for picture in report.pictures.get(key, ())),
    )


def _checks(report: QualityReport) -> _Section:
    checks = report.checks.sort("passed", "asset", "check_name", "partition_key")
    failed = checks.filter(~pl.col("passed"))
    columns = ("asset", "check_name", "partition_key", "passed", "severity", "value", "limit_value", "unit")
    return _section(
        report,
        "checks",
        "Checks",
        "What was measured against what would have been acceptable; failed checks first.",
        _Number("checks", str(checks.height)),
        _Number("failed", str(failed.height), is_alarming=failed.height > 0),
        _table(checks, columns),
    )


def _observations(report: QualityReport) -> _Section:
    rows = report.observations.sort("start_mjd")
    quarantined = rows.filter(status="quarantined").height
    columns = ("observation_id", "status", "reason_code", "n_subbands", "duration_s", "pointing_dec_deg", "calibrator")
    return _section(
        report,
        "observations",
        "Observations",
        "What arrived, and what became of it.",
        _Number("observations", str(rows.height)),
        _Number("processed", str(rows.filter(status="processed").height)),
        _Number("quarantined", str(quarantined), is_alarming=quarantined > 0),
        _table(rows, columns),
    )


def _calibration(report: QualityReport) -> _Section:
    rows = report.calibration_tables.sort("solved_at_mjd")
    fallbacks = report.calibration_use.filter(pl.col("fallback") != "none").height
    columns = ("kind", "calibrator", "solved_at_mjd", "refant", "snr_median", "flagged_fraction", "quality", "status")
    return _section(
        report,
        "calibration",
        "Calibration",
        "Tables solved from this day's data. Fallback: an observation calibrated with an older table or without gains.",
        _Number("bandpass tables", str(rows.filter(kind="B").height)),
        _Number("gain tables", str(rows.filter(kind="G").height)),
        _Number("observations on a fallback", str(fallbacks), is_alarming=fallbacks > 0),
        _Number("median signal to noise", _median(rows, "snr_median")),
        _table(rows, columns),
    )


def _imaging(report: QualityReport) -> _Section:
    rows = report.images.filter(band="full").sort("observation_id")
    columns = (
        "observation_id",
        "beam_major_arcsec",
        "beam_minor_arcsec",
        "rms_jy_beam",
        "thermal_rms_jy_beam",
        "dynamic_range",
        "n_clean_components",
        "astrometry_ra_arcsec",
        "astrometry_dec_arcsec",
    )
    return _section(
        report,
        "imaging",
        "Imaging",
        "Full-band image of each observation.",
        _Number("images", str(rows.height)),
        _Number("median rms", _median(rows, "rms_jy_beam", "Jy/beam")),
        _Number("median dynamic range", _median(rows, "dynamic_range")),
        _table(rows, columns),
    )


def _photometry(report: QualityReport) -> _Section:
    measured = report.forced_photometry.filter(band="full")
    significance = pl.col("peak_flux_jy_beam") / pl.col("peak_flux_err_jy_beam")
    rows = (
        measured.group_by("observation_id")
        .agg(
            n_sources=pl.len(),
            n_detected=(significance > _DETECTION_SIGMA).sum(),
            median_rms_jy_beam=pl.col("local_rms_jy_beam").median(),
            median_chi2_reduced=pl.col("chi2_reduced").median(),
        )
        .join(report.flux_scale.filter(band="full"), on="observation_id", how="left")
        .sort("observation_id")
    )
    columns = (
        "observation_id",
        "n_sources",
        "n_detected",
        "median_rms_jy_beam",
        "median_chi2_reduced",
        "factor",
        "factor_err",
        "n_references",
        "scatter",
    )
    return _section(
        report,
        "photometry",
        "Photometry",
        f"Every catalogue source in the beam is measured; detected means above {_DETECTION_SIGMA:.0f} sigma. "
        "The factor is the flux scale found from the reference sources.",
        _Number("measurements", str(measured.height)),
        _Number("sources", str(measured["source_id"].n_unique())),
        _Number("median flux scale", _median(rows, "factor")),
        _table(rows, columns),
    )


def _variability(report: QualityReport) -> _Section:
    rows = report.statistics.sort("eta", descending=True, nulls_last=True)
    columns = (
        "source_id",
        "n_epochs",
        "weighted_mean_flux_jy",
        "modulation_index",
        "debiased_modulation_index",
        "eta",
        "chi2_p_value",
        "max_deviation_sigma",
    )
    return _section(
        report,
        "variability",
        "Variability",
        "The most variable sources first.",
        _Number("sources with statistics", str(rows.height)),
        _Number("median eta", _median(rows, "eta")),
        _table(rows.head(20), columns),
    )


def _candidates(report: QualityReport) -> _Section:
    rows = report.candidates.sort("significance", descending=True)
    columns = (
        "candidate_id",
        "source_id",
        "status",
        "verdict",
        "tier",
        "significance",
        "peak_mjd",
        "depth",
        "duration_d",
        "chromaticity",
        "false_alarm_probability",
    )
    return _section(
        report,
        "candidates",
        "ESE candidates",
        "Extreme scattering events and the named negatives: achromatic, scintillation, systematic.",
        _Number("candidates", str(rows.height)),
        _Number("with verdict ese", str(rows.filter(verdict="ese").height)),
        _table(rows, columns),
    )


def _injections(report: QualityReport) -> _Section:
    rows = report.injection_recovery.sort("depth_bin", "duration_bin")
    n_injected, n_recovered = int(rows["n_injected"].sum()), int(rows["n_recovered"].sum())
    share = f"{100.0 * n_recovered / n_injected:.0f} %" if n_injected else "none injected"
    columns = (
        "depth_bin",
        "duration_bin",
        "n_injected",
        "n_recovered",
        "completeness",
        "false_alarms_per_1000_sources",
    )
    return _section(
        report,
        "injections",
        "Injection and recovery",
        "Simulated events added to real light curves, and how many the search found again.",
        _Number("injected", str(n_injected)),
        _Number("recovered", share),
        _table(rows, columns),
    )


def _median(frame: pl.DataFrame, column: str, unit: str = "") -> str:
    return f"{_text(frame[column].median())} {unit}".strip()


def _table(frame: pl.DataFrame, columns: Sequence[str]) -> _Table:
    shown = frame.select(columns).head(_MOST_ROWS)
    return _Table(
        headings=tuple(_heading(column) for column in columns),
        rows=tuple(tuple(_text(value) for value in row) for row in shown.iter_rows()),
        n_hidden=frame.height - shown.height,
    )


def _heading(column: str) -> tuple[str, str]:
    """Words and unit of a column's name."""
    for suffix, unit in _UNITS.items():
        if column.endswith(suffix):
            return column.removesuffix(suffix).replace("_", " "), unit
    return column.replace("_", " "), ""


def _text(value: Any) -> str:
    """Show a value as a person reads it; what could not be measured is a dash."""
    if value is None or value != value:  # noqa: PLR0124  NaN differs from itself
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)
