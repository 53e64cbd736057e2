"""The tables of the store: names, columns with units, types, row identity. The one place that says what a table holds.

Measurement tables carry ``partition_key``, ``run_id`` and ``code_version`` and are replaced partition by partition;
registers (observations, files, tables) are updated row by row; logs only grow. How rows get in is ``connection.py``;
what people ask is ``queries.py``. Flux densities are DOUBLE Jy, times UTC MJD or TIMESTAMP (UTC, without zone).
A column ending in ``!`` is required; others may be NULL: a number that could not be measured is NULL, never 0 or NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 7
"""Increase when a table changes; a store of another version is rebuilt from the products."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its SQL type and whether NULL is allowed."""

    name: str
    sql_type: str
    nullable: bool


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its columns in order, and the columns that identify a row."""

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    is_indexed: bool = True
    """Whether DuckDB keeps an index of the key. Tables with a row per source and day have none: at 1e7 rows it makes the
    file 4.7 times as large and a thousand rows cost 0.45 s to write instead of 0.03 s; nor has that of raw files, 1.5e6 of
    which a year brings: 16 new ones cost 0.12 s of processor time, now 0.01 s. ``partitions.py`` sees to their keys instead."""

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(column.name for column in self.columns)

    @property
    def is_partitioned(self) -> bool:
        """Whether its rows are the product of an asset's partition and are replaced with it."""
        return "partition_key" not in self.key and {"partition_key", "code_version"} <= set(self.column_names)

    def column(self, name: str) -> Column:
        """Column of that name."""
        return next(column for column in self.columns if column.name == name)

    def create_statement(self) -> str:
        """SQL that creates the table when absent."""
        columns = ", ".join(f'"{c.name}" {c.sql_type}{"" if c.nullable else " NOT NULL"}' for c in self.columns)
        key = f", PRIMARY KEY ({', '.join(self.key)})" if self.is_indexed else ""
        return f'CREATE TABLE IF NOT EXISTS "{self.name}" ({columns}{key})'


PROVENANCE = "partition_key! VARCHAR, run_id VARCHAR, code_version VARCHAR"


def _table(name: str, key: str, columns: str, *, is_indexed: bool = True) -> Table:
    """Read ``name! TYPE, name TYPE, ...``; columns of the key are required."""
    keys = tuple(key.split())
    parsed = []
    for definition in columns.replace("\n", " ").split(","):
        column, sql_type = definition.split()
        bare = column.rstrip("!")
        parsed.append(Column(bare, sql_type, nullable=not (column.endswith("!") or bare in keys)))
    return Table(name, keys, tuple(parsed), is_indexed)


_TABLES = (
    _table(
        "observation",
        "observation_id",
        """observation_id VARCHAR, partition_key! VARCHAR, start_mjd! DOUBLE, duration_s DOUBLE, pointing_ra_deg DOUBLE,
        pointing_dec_deg DOUBLE, n_subbands INTEGER, status! VARCHAR, reason_code VARCHAR, first_seen_at TIMESTAMP,
        complete_at TIMESTAMP, raw_bytes BIGINT, calibrator VARCHAR, calibrator_separation_deg DOUBLE,
        requested_at TIMESTAMP""",
    ),
    _table(
        "raw_file",
        "path",
        """path VARCHAR, observation_id VARCHAR, subband INTEGER, bytes BIGINT, modified_at TIMESTAMP, sha256 VARCHAR,
        status! VARCHAR, reason_code VARCHAR, start_mjd DOUBLE""",
        is_indexed=False,
    ),
    _table(
        "calibration_table",
        "path",
        f"""path VARCHAR, {PROVENANCE}, kind! VARCHAR, calibrator VARCHAR, solved_at_mjd! DOUBLE,
        valid_from_mjd! DOUBLE, valid_to_mjd! DOUBLE, content_hash VARCHAR, refant VARCHAR, snr_median DOUBLE,
        flagged_fraction DOUBLE, quality DOUBLE, status! VARCHAR, input_hash VARCHAR, bandpass_path VARCHAR,
        pointing_dec_deg DOUBLE, rejected_by VARCHAR, rejected_reason VARCHAR""",
    ),
    _table(
        "calibration_use",
        "observation_id kind",
        f"observation_id VARCHAR, kind VARCHAR, {PROVENANCE}, path VARCHAR, age_h DOUBLE, fallback! VARCHAR",
    ),
    _table(
        "image",
        "observation_id band",
        f"""observation_id VARCHAR, band VARCHAR, {PROVENANCE}, path! VARCHAR, frequency_hz DOUBLE,
        beam_major_arcsec DOUBLE, beam_minor_arcsec DOUBLE, beam_pa_deg DOUBLE, rms_jy_beam DOUBLE,
        thermal_rms_jy_beam DOUBLE, dynamic_range DOUBLE, n_clean_components INTEGER, astrometry_ra_arcsec DOUBLE,
        astrometry_dec_arcsec DOUBLE, n_antennas INTEGER""",
    ),
    _table(
        "mosaic",
        "partition_key",
        f"""{PROVENANCE}, path! VARCHAR, weight_path! VARCHAR, n_tiles! INTEGER, first_mjd DOUBLE, last_mjd DOUBLE,
        centre_ra_deg DOUBLE, centre_dec_deg DOUBLE, area_deg2 DOUBLE, frequency_hz DOUBLE, beam_major_arcsec DOUBLE,
        beam_minor_arcsec DOUBLE, beam_pa_deg DOUBLE, rms_jy_beam DOUBLE""",
    ),
    _table(
        "blind_detection",
        "detection_id",
        f"""detection_id VARCHAR, {PROVENANCE}, mjd! DOUBLE, frequency_hz DOUBLE, ra_deg! DOUBLE, dec_deg! DOUBLE,
        ra_err_arcsec! DOUBLE, dec_err_arcsec! DOUBLE, peak_flux_jy_beam! DOUBLE, peak_flux_err_jy_beam! DOUBLE, snr! DOUBLE,
        local_rms_jy_beam DOUBLE, chi2_reduced DOUBLE, n_pixels INTEGER, beam_major_arcsec! DOUBLE, flags! INTEGER,
        kind! VARCHAR, catalogue_source_id VARCHAR, separation_arcsec DOUBLE""",
    ),
    _table("blind_association", "detection_id", f"detection_id VARCHAR, {PROVENANCE}, source_id! VARCHAR"),
    _table(
        "blind_source",
        "source_id as_of_mjd",
        f"""source_id VARCHAR, as_of_mjd DOUBLE, {PROVENANCE}, ra_deg! DOUBLE, dec_deg! DOUBLE, ra_err_arcsec DOUBLE,
        dec_err_arcsec DOUBLE, kind! VARCHAR, n_detections! INTEGER, max_snr DOUBLE, first_mjd! DOUBLE, last_mjd! DOUBLE,
        n_epochs INTEGER, weighted_mean_flux_jy DOUBLE, weighted_mean_flux_err_jy DOUBLE, eta DOUBLE,
        chi2_p_value DOUBLE""",
    ),
    _table(
        "blind_photometry",
        "observation_id source_id band",
        f"""observation_id VARCHAR, source_id VARCHAR, band VARCHAR, {PROVENANCE}, mjd! DOUBLE, frequency_hz DOUBLE,
        peak_flux_jy_beam DOUBLE, peak_flux_err_jy_beam DOUBLE, local_rms_jy_beam DOUBLE, background_jy_beam DOUBLE,
        primary_beam DOUBLE, separation_from_centre_deg DOUBLE, chi2_reduced DOUBLE, blend_id INTEGER,
        flags! INTEGER, flux_scale_factor DOUBLE, flux_jy DOUBLE, flux_err_jy DOUBLE""",
    ),
    _table(
        "source",
        "source_id",
        """source_id VARCHAR, ra_deg! DOUBLE, dec_deg! DOUBLE, catalogue_flux_jy DOUBLE, spectral_index DOUBLE,
        is_reference BOOLEAN, is_extended BOOLEAN, catalogue VARCHAR""",
    ),
    _table(
        "forced_photometry",
        "observation_id source_id band",
        f"""observation_id VARCHAR, source_id VARCHAR, band VARCHAR, {PROVENANCE}, mjd! DOUBLE, frequency_hz DOUBLE,
        peak_flux_jy_beam DOUBLE, peak_flux_err_jy_beam DOUBLE, local_rms_jy_beam DOUBLE, background_jy_beam DOUBLE,
        primary_beam DOUBLE, separation_from_centre_deg DOUBLE, chi2_reduced DOUBLE, blend_id INTEGER,
        flags! INTEGER""",
    ),
    _table(
        "flux_scale",
        "observation_id band",
        f"""observation_id VARCHAR, band VARCHAR, {PROVENANCE}, factor DOUBLE, factor_err DOUBLE, n_references INTEGER,
        scatter DOUBLE, method VARCHAR, gradient_east_per_deg DOUBLE, gradient_north_per_deg DOUBLE,
        cross_validated_mean DOUBLE, cross_validated_plane DOUBLE""",
    ),
    _table(
        "flux_reference",
        "observation_id source_id band",
        f"""observation_id VARCHAR, source_id VARCHAR, band VARCHAR, {PROVENANCE}, mjd! DOUBLE, frequency_hz! DOUBLE,
        flux_jy! DOUBLE, flux_err_jy! DOUBLE, offset_east_deg! DOUBLE, offset_north_deg! DOUBLE""",
        is_indexed=False,
    ),
    _table(
        "flux_scale_comparison",
        "observation_id band method",
        f"""observation_id VARCHAR, band VARCHAR, method VARCHAR, {PROVENANCE}, factor DOUBLE, factor_err DOUBLE,
        n_references! INTEGER, has_plane! BOOLEAN, cross_validated_scatter DOUBLE, is_applied! BOOLEAN""",
    ),
    _table(
        "light_curve",
        "source_id epoch_mjd band",
        f"""source_id VARCHAR, epoch_mjd DOUBLE, band VARCHAR, {PROVENANCE}, mjd! DOUBLE, frequency_hz DOUBLE,
        flux_jy DOUBLE, flux_err_jy DOUBLE, flux_sys_err_jy DOUBLE, n_observations INTEGER, flags! INTEGER,
        primary_beam DOUBLE, separation_from_centre_deg DOUBLE, n_antennas DOUBLE, calibration_fallback DOUBLE""",
        is_indexed=False,
    ),
    _table(
        "variability_statistics",
        "source_id band as_of_mjd",
        f"""source_id VARCHAR, band VARCHAR, as_of_mjd DOUBLE, {PROVENANCE}, n_epochs! INTEGER, mean_flux_jy DOUBLE,
        weighted_mean_flux_jy DOUBLE, modulation_index DOUBLE, debiased_modulation_index DOUBLE, eta DOUBLE,
        chi2_p_value DOUBLE, von_neumann DOUBLE, max_pair_t_statistic DOUBLE, max_pair_modulation_index DOUBLE,
        max_deviation_sigma DOUBLE, stetson_j DOUBLE, stetson_k DOUBLE, first_mjd DOUBLE, last_mjd DOUBLE""",
        is_indexed=False,
    ),
    _table(
        "partition_content",
        "table_name partition_key",
        "table_name VARCHAR, partition_key VARCHAR, n_rows! BIGINT, content_hash! VARCHAR",
    ),
    _table(
        "ese_candidate",
        "candidate_id",
        f"""candidate_id VARCHAR, {PROVENANCE}, source_id! VARCHAR, status! VARCHAR, start_mjd DOUBLE, end_mjd DOUBLE,
        peak_mjd DOUBLE, significance! DOUBLE, tier! VARCHAR, false_alarm_probability DOUBLE, depth DOUBLE,
        duration_d DOUBLE, lens_alpha DOUBLE, lens_width_d DOUBLE, chromaticity DOUBLE, verdict VARCHAR,
        detected_at TIMESTAMP, latency_s DOUBLE, evidence JSON""",
    ),
    _table(
        "candidate_event",
        "event_id",
        """event_id VARCHAR, candidate_id! VARCHAR, at! TIMESTAMP, kind! VARCHAR, by! VARCHAR, reason VARCHAR,
        significance DOUBLE""",
    ),
    _table(
        "source_comment",
        "comment_id",
        "comment_id VARCHAR, source_id! VARCHAR, at! TIMESTAMP, by! VARCHAR, comment! VARCHAR",
    ),
    _table(
        "injection_recovery",
        "as_of depth_bin duration_bin",
        f"""as_of VARCHAR, depth_bin VARCHAR, duration_bin VARCHAR, {PROVENANCE}, n_injected! INTEGER,
        n_recovered! INTEGER, completeness DOUBLE, false_alarms_per_1000_sources DOUBLE""",
    ),
    _table(
        "image_injection",
        "as_of snr_bin",
        f"""as_of VARCHAR, snr_bin VARCHAR, {PROVENANCE}, n_images! INTEGER, n_injected! INTEGER, n_detected! INTEGER,
        completeness DOUBLE, forced_flux_ratio DOUBLE, forced_flux_ratio_err DOUBLE, forced_pull_scatter DOUBLE,
        blind_flux_ratio DOUBLE""",
    ),
    _table(
        "check_result",
        "asset check_name partition_key",
        """asset VARCHAR, check_name VARCHAR, partition_key VARCHAR, run_id VARCHAR, code_version VARCHAR,
        at! TIMESTAMP, passed! BOOLEAN, severity VARCHAR, value DOUBLE, limit_value DOUBLE, unit VARCHAR,
        detail JSON""",
    ),
    _table(
        "stage_timing",
        "asset partition_key stage",
        """asset VARCHAR, partition_key VARCHAR, stage VARCHAR, run_id VARCHAR, code_version VARCHAR,
        started_at! TIMESTAMP, duration_s! DOUBLE, peak_memory_mb DOUBLE, cpu_s DOUBLE, read_bytes BIGINT,
        written_bytes BIGINT, input_hash VARCHAR, file_state VARCHAR, row_state VARCHAR""",
    ),
    _table(
        "dead_letter",
        "letter_id",
        """letter_id VARCHAR, asset! VARCHAR, partition_key VARCHAR, run_id VARCHAR, job_name VARCHAR, first_at! TIMESTAMP,
        last_at! TIMESTAMP, error_class VARCHAR, reason_code VARCHAR, message! VARCHAR, remedy VARCHAR, n_attempts! INTEGER,
        status! VARCHAR, next_retry_at TIMESTAMP, retry_run_id VARCHAR, resolved_at TIMESTAMP, resolved_by VARCHAR,
        resolution VARCHAR, is_platform BOOLEAN""",
    ),
    _table(
        "dead_letter_event",
        "event_id",
        """event_id VARCHAR, letter_id! VARCHAR, at! TIMESTAMP, kind! VARCHAR, by! VARCHAR, run_id VARCHAR,
        detail VARCHAR, reason_code VARCHAR""",
    ),
    _table(
        "breaker",
        "stage",
        """stage VARCHAR, state! VARCHAR, n_failures! INTEGER, changed_at! TIMESTAMP, opened_at TIMESTAMP,
        probe_run_id VARCHAR, reason VARCHAR""",
    ),
    _table(
        "breaker_event",
        "event_id",
        """event_id VARCHAR, stage! VARCHAR, at! TIMESTAMP, from_state! VARCHAR, to_state! VARCHAR, run_id VARCHAR,
        reason VARCHAR""",
    ),
    _table(
        "heartbeat",
        "name",
        "name VARCHAR, kind! VARCHAR, host VARCHAR, last_at! TIMESTAMP, interval_s DOUBLE, detail VARCHAR",
    ),
    _table(
        "arrival_decision",
        "decision_id",
        """decision_id VARCHAR, observation_id VARCHAR, partition_key VARCHAR, at! TIMESTAMP, decision! VARCHAR,
        reason_code VARCHAR, n_subbands INTEGER, files JSON""",
    ),
    _table(
        "alert",
        "alert_id",
        """alert_id VARCHAR, rule! VARCHAR, severity! VARCHAR, subject VARCHAR, message! VARCHAR, status! VARCHAR,
        first_at! TIMESTAMP, last_at! TIMESTAMP, n_occurrences! INTEGER, value DOUBLE, limit_value DOUBLE,
        acknowledged_at TIMESTAMP, acknowledged_by VARCHAR, resolved_at TIMESTAMP""",
    ),
    _table(
        "alert_history",
        "event_id",
        """event_id VARCHAR, alert_id! VARCHAR, at! TIMESTAMP, kind! VARCHAR, channel VARCHAR, by VARCHAR,
        detail VARCHAR""",
    ),
    _table("alert_condition", "rule subject", "rule VARCHAR, subject VARCHAR, since! TIMESTAMP"),
    _table(
        "setting_change",
        "setting changed_at",
        """setting VARCHAR, changed_at TIMESTAMP, old_value VARCHAR, new_value VARCHAR, origin VARCHAR, seen_by! VARCHAR,
        code_version VARCHAR""",
    ),
    _table(
        "archived_product",
        "path",
        """path VARCHAR, asset! VARCHAR, partition_key VARCHAR, bytes BIGINT, content_hash VARCHAR,
        archive_path VARCHAR, archived_at! TIMESTAMP, restored_at TIMESTAMP, status! VARCHAR""",
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in _TABLES}
"""Every table by name."""
