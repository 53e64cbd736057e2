"""Parts of the daily report beside the way from raw data to candidates: what a person has to do, timings, failures.

Also sources outside the catalogue and injections into images. The rest is ``report``; shapes are ``report_layout``.
"""

from __future__ import annotations

import polars as pl

from contimg_assets.report_layout import Number, QualityReport, Section, section, table

_SIGNIFICANT = 7.0
"""Sigma of tier high."""
_FALLBACK_MANY = 0.5


def attention(report: QualityReport) -> Section:
    """What needs a person, the most urgent first; empty on a good day."""
    rows = [*_failed_checks(report), *_alerts(report), *_observations(report), *_letters(report), *_candidates(report)]
    frame = pl.DataFrame(rows, schema=["what", "how_many", "which", "what_to_do"], orient="row") if rows else None
    return section(
        report,
        "attention",
        "What needs a person",
        "Everything on this page that will not go away by itself.",
        Number("matters", str(len(rows)), is_alarming=bool(rows)),
        *([table(frame, frame.columns)] if frame is not None else []),
    )


_Matter = tuple[str, str, str, str]


def _names(values: pl.Series, most: int = 3) -> str:
    listed = [str(value) for value in values.drop_nulls().unique(maintain_order=True).to_list()]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _failed_checks(report: QualityReport) -> list[_Matter]:
    failed = report.checks.filter(~pl.col("passed"))
    matters = []
    for (asset, check_name), rows in failed.group_by("asset", "check_name", maintain_order=True):
        what_to_do = "see Checks below: measured value and limit"
        matters.append((f"{asset}: {check_name} failed", str(rows.height), _names(rows["partition_key"]), what_to_do))
    return sorted(matters, key=lambda matter: -int(matter[1]))


def _alerts(report: QualityReport) -> list[_Matter]:
    return [
        (f"{row['severity']}: {row['rule']}", "1", row["message"], "contimg alerts acknowledge, docs/alerts.md")
        for row in report.alerts.filter(status="open").iter_rows(named=True)
    ]


def _observations(report: QualityReport) -> list[_Matter]:
    matters = []
    quarantined = report.observations.filter(status="quarantined")
    for (reason,), rows in quarantined.group_by("reason_code", maintain_order=True):
        what_to_do = "docs/operating.md, Statuses and reason codes"
        matters.append((f"quarantined: {reason}", str(rows.height), _names(rows["observation_id"]), what_to_do))
    used = report.calibration_use.group_by("observation_id").agg((pl.col("fallback") != "none").any())
    fallen = used.filter("fallback")
    if used.height and fallen.height > _FALLBACK_MANY * used.height:
        what_to_do = "look at Calibration: why are gains not solved?"
        matters.append(("calibrated with a fallback", str(fallen.height), _names(fallen["observation_id"]), what_to_do))
    return matters


def _letters(report: QualityReport) -> list[_Matter]:
    waiting = report.dead_letters.filter(pl.col("status").is_in(["pending", "failed"]))
    return [
        (f"{asset} has failed for good", str(rows.height), _names(rows["partition_key"]), "contimg dead-letters list")
        for (asset,), rows in waiting.group_by("asset", maintain_order=True)
    ]


def _candidates(report: QualityReport) -> list[_Matter]:
    waiting = report.candidates.filter(pl.col("significance") >= _SIGNIFICANT, status="detected", verdict="ese")
    if waiting.is_empty():
        return []
    what_to_do = "confirm or reject in the portal"
    return [("candidates wait for review", str(waiting.height), _names(waiting["candidate_id"]), what_to_do)]


def blind_sources(report: QualityReport) -> Section:
    """Sources that are not in the catalogue."""
    rows = report.blind_sources.sort("max_snr", descending=True, nulls_last=True)
    columns = ("source_id", "kind", "ra_deg", "dec_deg", "n_detections", "max_snr", "n_epochs")
    return section(
        report,
        "blind",
        "Sources outside the catalogue",
        "Found in mosaics, joined by position, and measured in every observation since.",
        Number("sources", str(rows.height)),
        table(rows, (*columns, "weighted_mean_flux_jy", "weighted_mean_flux_err_jy", "eta")),
    )


def image_injections(report: QualityReport) -> Section:
    """Point sources put into images, measured and looked for."""
    rows = report.image_injection
    n_injected, n_detected = int(rows["n_injected"].sum()), int(rows["n_detected"].sum())
    columns = ("snr_bin", "n_images", "n_injected", "n_detected", "completeness", "forced_flux_ratio")
    return section(
        report,
        "image-injections",
        "Sources injected into images",
        "By signal to noise: the fraction found, and measured flux over the truth.",
        Number("injected", str(n_injected)),
        Number("detected", f"{100.0 * n_detected / n_injected:.0f} %" if n_injected else "none injected"),
        table(rows, (*columns, "forced_flux_ratio_err", "forced_pull_scatter", "blind_flux_ratio")),
    )


def timings(report: QualityReport) -> Section:
    """How long stages took."""
    rows = report.timings.filter(stage="whole").group_by("asset")
    summary = rows.agg(
        n_partitions=pl.len(),
        median_s=pl.col("duration_s").median(),
        slowest_s=pl.col("duration_s").max(),
        slowest_partition=pl.col("partition_key").sort_by("duration_s").last(),
        total_s=pl.col("duration_s").sum(),
        peak_memory_mb=pl.col("peak_memory_mb").max(),
    ).sort("total_s", descending=True)
    return section(
        report,
        "timings",
        "Timings",
        "Stages of this day's partitions, the most expensive first.",
        Number("stages", str(summary.height)),
        Number("processing", f"{float(summary['total_s'].sum()) / 60.0:.1f} min"),
        table(summary, summary.columns),
    )


def failures(report: QualityReport) -> Section:
    """What failed for good."""
    rows = report.dead_letters.sort("last_at", descending=True)
    waiting = rows.filter(pl.col("status").is_in(["pending", "failed"])).height
    columns = ("asset", "partition_key", "status", "reason_code", "n_attempts", "last_at", "message", "remedy")
    return section(
        report,
        "failures",
        "Failures",
        "Dead letters of this day, and all that still wait.",
        Number("dead letters", str(rows.height)),
        Number("waiting", str(waiting), is_alarming=waiting > 0),
        table(rows, columns),
    )
