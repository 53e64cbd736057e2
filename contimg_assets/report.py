"""The daily quality report: one HTML file that holds everything it shows.

What belongs here: which numbers, tables and pictures of a day stand in the report, and in what order; what a person has
to do, timings and failures are ``report_operations``. What does not: fetching the rows (asset ``quality_report``),
drawing (``pictures``, ``source_pictures``), judging (``checks``). Inputs are the rows of the store's tables for one day,
with the store's column names; the page is ``templates/quality_report.html``.
"""

from __future__ import annotations

import jinja2
import polars as pl

from contimg_assets.report_layout import Number, QualityReport, Section, median, section, table
from contimg_assets.report_operations import attention, blind_sources, failures, image_injections, timings

_DETECTION_SIGMA = 5.0
"""A forced measurement above this many sigma counts as a detection."""


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
        attention(report),
        _checks(report),
        _observations(report),
        _calibration(report),
        _imaging(report),
        _photometry(report),
        _variability(report),
        _candidates(report),
        blind_sources(report),
        _injections(report),
        image_injections(report),
        timings(report),
        failures(report),
    ]
    failed = report.checks.filter(~pl.col("passed"))
    return environment.get_template("quality_report.html").render(
        report=report, sections=sections, n_failed=failed.height, n_checks=report.checks.height
    )


def _checks(report: QualityReport) -> Section:
    checks = report.checks.sort("passed", "asset", "check_name", "partition_key")
    failed = checks.filter(~pl.col("passed"))
    columns = ("asset", "check_name", "partition_key", "passed", "severity", "value", "limit_value", "unit")
    return section(
        report,
        "checks",
        "Checks",
        "What was measured against what would have been acceptable; failed checks first.",
        Number("checks", str(checks.height)),
        Number("failed", str(failed.height), is_alarming=failed.height > 0),
        table(checks, columns),
    )


def _observations(report: QualityReport) -> Section:
    rows = report.observations.sort("start_mjd")
    quarantined = rows.filter(status="quarantined").height
    columns = ("observation_id", "status", "reason_code", "n_subbands", "duration_s", "pointing_dec_deg", "calibrator")
    return section(
        report,
        "observations",
        "Observations",
        "What arrived, and what became of it.",
        Number("observations", str(rows.height)),
        Number("processed", str(rows.filter(status="processed").height)),
        Number("quarantined", str(quarantined), is_alarming=quarantined > 0),
        table(rows, columns),
    )


def _calibration(report: QualityReport) -> Section:
    rows = report.calibration_tables.sort("solved_at_mjd")
    fallbacks = report.calibration_use.filter(pl.col("fallback") != "none").height
    columns = ("kind", "calibrator", "solved_at_mjd", "refant", "snr_median", "flagged_fraction", "quality", "status")
    return section(
        report,
        "calibration",
        "Calibration",
        "Tables solved from this day's data. Fallback: an observation calibrated with an older table or without gains.",
        Number("bandpass tables", str(rows.filter(kind="B").height)),
        Number("gain tables", str(rows.filter(kind="G").height)),
        Number("observations on a fallback", str(fallbacks), is_alarming=fallbacks > 0),
        Number("median signal to noise", median(rows, "snr_median")),
        table(rows, columns),
    )


def _imaging(report: QualityReport) -> Section:
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
    return section(
        report,
        "imaging",
        "Imaging",
        "Full-band image of each observation.",
        Number("images", str(rows.height)),
        Number("median rms", median(rows, "rms_jy_beam", "Jy/beam")),
        Number("median dynamic range", median(rows, "dynamic_range")),
        table(rows, columns),
    )


def _photometry(report: QualityReport) -> Section:
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
    return section(
        report,
        "photometry",
        "Photometry",
        f"Every catalogue source in the beam is measured; detected means above {_DETECTION_SIGMA:.0f} sigma. "
        "The factor is the flux scale found from the reference sources.",
        Number("measurements", str(measured.height)),
        Number("sources", str(measured["source_id"].n_unique())),
        Number("median flux scale", median(rows, "factor")),
        table(rows, columns),
    )


def _variability(report: QualityReport) -> Section:
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
    return section(
        report,
        "variability",
        "Variability",
        "The most variable sources first.",
        Number("sources with statistics", str(rows.height)),
        Number("median eta", median(rows, "eta")),
        table(rows.head(20), columns),
    )


def _candidates(report: QualityReport) -> Section:
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
    return section(
        report,
        "candidates",
        "ESE candidates",
        "Extreme scattering events and the named negatives: achromatic, scintillation, systematic.",
        Number("candidates", str(rows.height)),
        Number("with verdict ese", str(rows.filter(verdict="ese").height)),
        table(rows, columns),
    )


def _injections(report: QualityReport) -> Section:
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
    return section(
        report,
        "injections",
        "Injection and recovery",
        "Simulated events added to real light curves, and how many the search found again.",
        Number("injected", str(n_injected)),
        Number("recovered", share),
        table(rows, columns),
    )
