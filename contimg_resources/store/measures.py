"""What metrics ask the store: one question per metric, its labels the columns of the answer beside ``value``.

What belongs here: SQL that gives a number now. What people ask is ``queries.py``; names and types of the exposition are the
portal's ``metrics``. Ages of calibration are measured against the newest observation, for observation time rules; everything
with ``$now`` against the clock. A number that does not exist gives no row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from contimg_resources.store.backlog import BACKLOG
from contimg_resources.store.connection import Store

OBSERVATION_STAGES = ("measurement_set", "gain_table", "continuum_image", "forced_photometry", "flux_scale")
_STAGES_SQL = ", ".join(f"'{stage}'" for stage in OBSERVATION_STAGES)
_NEWEST_TABLE = """SELECT kind, {column} AS value FROM calibration_table WHERE status = 'active'
    QUALIFY row_number() OVER (PARTITION BY kind ORDER BY solved_at_mjd DESC) = 1"""
_NEWEST_OF_BAND = """SELECT band, {column} AS value FROM {table}
    QUALIFY row_number() OVER (PARTITION BY band ORDER BY observation_id DESC) = 1"""
_PER_STAGE = """SELECT asset AS stage, {aggregate} AS value FROM (SELECT * FROM stage_timing WHERE stage = 'whole'
    QUALIFY row_number() OVER (PARTITION BY asset ORDER BY started_at DESC) <= 20) GROUP BY asset"""


@dataclass(frozen=True, slots=True)
class Measure:
    """One gauge."""

    name: str
    documentation: str
    sql: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """One histogram: the question gives ``value``, one row per thing that happened."""

    name: str
    documentation: str
    sql: str
    buckets: tuple[float, ...]


MEASURES = (
    Measure(
        "observations",
        "Observations by status.",
        """SELECT status, count(o.observation_id) AS value FROM
        (VALUES ('collecting'), ('ready'), ('processed'), ('quarantined')) s(status)
        LEFT JOIN observation o USING (status) GROUP BY status""",
    ),
    Measure(
        "observations_quarantined",
        "Quarantined observations by reason.",
        """SELECT coalesce(reason_code, 'none') AS reason, count(*) AS value FROM observation
        WHERE status = 'quarantined' GROUP BY 1""",
    ),
    Measure(
        "backlog_observations",
        "Complete observations that wait for processing.",
        f"SELECT n_waiting AS value FROM ({BACKLOG})",  # noqa: S608 (a constant)
    ),
    Measure(
        "backlog_oldest_seconds",
        "How long the oldest of these has waited.",
        f"SELECT coalesce(epoch($now - oldest_at), 0) AS value FROM ({BACKLOG})",  # noqa: S608 (a constant)
    ),
    Measure(
        "last_observation_timestamp_seconds",
        "When the newest observation began, Unix time.",
        "SELECT (max(start_mjd) - 40587) * 86400 AS value FROM observation",
    ),
    Measure(
        "last_arrival_timestamp_seconds",
        "When the newest observation was complete, Unix time.",
        "SELECT epoch(max(complete_at)) AS value FROM observation",
    ),
    Measure(
        "sources_per_hour",
        "Sources measured in the full band in the last hour.",
        """SELECT count(*) AS value FROM forced_photometry WHERE band = 'full' AND partition_key IN
        (SELECT partition_key FROM stage_timing WHERE asset = 'forced_photometry'
         AND stage = 'whole' AND started_at > $now - INTERVAL 1 HOUR)""",
    ),
    Measure(
        "real_time_factor",
        "Seconds observed per second processed: median of the newest 20 observations; below 1 the telescope is faster.",
        f"""SELECT median(observed_s / busy_s) AS value FROM (
        SELECT any_value(o.duration_s) AS observed_s, sum(t.duration_s) AS busy_s, max(t.started_at) AS last_at
        FROM stage_timing t JOIN observation o USING (partition_key) WHERE t.stage = 'whole' AND t.asset IN ({_STAGES_SQL})
        GROUP BY partition_key HAVING count(DISTINCT t.asset) = {len(OBSERVATION_STAGES)} ORDER BY last_at DESC LIMIT 20)""",  # noqa: S608
    ),
    Measure(
        "calibration_snr",
        "Median signal-to-noise of the newest active table.",
        _NEWEST_TABLE.format(column="snr_median"),
    ),
    Measure(
        "calibration_flagged_fraction",
        "Flagged fraction of the newest active table, of existing antennas.",
        _NEWEST_TABLE.format(column="flagged_fraction"),
    ),
    Measure(
        "calibration_age_seconds",
        "Time from the newest active table to the newest observation.",
        """SELECT kind, greatest(0, ((SELECT max(start_mjd) FROM observation) - max(solved_at_mjd)) * 86400) AS value
        FROM calibration_table WHERE status = 'active' GROUP BY kind""",
    ),
    Measure(
        "calibration_fallbacks",
        "Tables used by the newest 100 observations, by fallback.",
        """SELECT kind, fallback, count(*) AS value FROM calibration_use WHERE observation_id IN
        (SELECT observation_id FROM observation ORDER BY start_mjd DESC LIMIT 100) GROUP BY kind, fallback""",
    ),
    Measure(
        "flagged_fraction",
        "Flagged fraction of the newest measurement set.",
        """SELECT value FROM check_result WHERE check_name = 'flagged_fraction_is_acceptable' AND value IS NOT NULL
        ORDER BY partition_key DESC LIMIT 1""",
    ),
    Measure(
        "image_rms_over_thermal",
        "Noise of the newest image over the thermal noise, by band.",
        _NEWEST_OF_BAND.format(column="rms_jy_beam / thermal_rms_jy_beam", table="image"),
    ),
    Measure(
        "image_rms_jy_per_beam",
        "Noise of the newest image, by band.",
        _NEWEST_OF_BAND.format(column="rms_jy_beam", table="image"),
    ),
    Measure(
        "image_dynamic_range",
        "Dynamic range of the newest image, by band.",
        _NEWEST_OF_BAND.format(column="dynamic_range", table="image"),
    ),
    Measure(
        "flux_scale_factor",
        "Measured over catalogue flux in the newest observation, by band.",
        _NEWEST_OF_BAND.format(column="factor", table="flux_scale"),
    ),
    Measure(
        "reference_sources",
        "References of the newest flux scale, by band.",
        _NEWEST_OF_BAND.format(column="n_references", table="flux_scale"),
    ),
    Measure(
        "candidates",
        "Candidates by tier and status.",
        """SELECT tier, status, count(c.candidate_id) AS value FROM (VALUES ('high'), ('medium'), ('low')) t(tier)
        CROSS JOIN (VALUES ('detected'), ('confirmed'), ('rejected')) s(status)
        LEFT JOIN ese_candidate c USING (tier, status) GROUP BY tier, status""",
    ),
    Measure(
        "dead_letters",
        "Dead letters by state.",
        """SELECT state, count(d.letter_id) AS value FROM
        (VALUES ('pending'), ('retrying'), ('resolved'), ('failed')) s(state)
        LEFT JOIN dead_letter d ON d.status = state GROUP BY state""",
    ),
    Measure(
        "breaker_state",
        "1 for the state a stage's breaker is in, 0 for the others.",
        """SELECT stage, s.state, CAST(b.state = s.state AS INTEGER) AS value FROM breaker b
        CROSS JOIN (VALUES ('closed'), ('half-open'), ('open')) s(state)""",
    ),
    Measure(
        "alerts_open",
        "Alerts that are not resolved, by severity.",
        """SELECT s.severity, count(a.alert_id) AS value FROM
        (VALUES ('info'), ('warning'), ('error'), ('critical')) s(severity)
        LEFT JOIN alert a ON a.severity = s.severity AND a.status <> 'resolved' GROUP BY ALL""",
    ),
    Measure(
        "heartbeat_age_seconds",
        "Time since a process last said that it lives.",
        "SELECT name, kind, epoch($now - last_at) AS value FROM heartbeat",
    ),
    Measure(
        "checks_failed",
        "Checks of the last 24 hours that did not pass.",
        """SELECT asset, check_name AS "check", count(*) FILTER (NOT passed) AS value FROM check_result
        WHERE "at" > $now - INTERVAL 24 HOUR GROUP BY ALL""",
    ),
    Measure(
        "injection_completeness",
        "Injected events recovered, newest day: mean over the bins of depth and duration.",
        """SELECT avg(completeness) AS value FROM injection_recovery
        WHERE as_of = (SELECT max(as_of) FROM injection_recovery)""",
    ),
    Measure(
        "injection_false_alarms_per_1000_sources",
        "False alarms of the newest day.",
        """SELECT avg(false_alarms_per_1000_sources) AS value FROM injection_recovery
        WHERE as_of = (SELECT max(as_of) FROM injection_recovery)""",
    ),
    Measure(
        "stage_cpu_seconds",
        "Processor time of a stage: mean of its newest 20 partitions.",
        _PER_STAGE.format(aggregate="avg(cpu_s)"),
    ),
    Measure(
        "stage_peak_memory_bytes",
        "Peak memory of a stage: largest of its newest 20 partitions.",
        _PER_STAGE.format(aggregate="max(peak_memory_mb) * 1e6"),
    ),
    Measure(
        "stage_read_bytes",
        "Bytes a stage reads: mean of its newest 20 partitions.",
        _PER_STAGE.format(aggregate="avg(read_bytes)"),
    ),
    Measure(
        "stage_written_bytes",
        "Bytes a stage writes: mean of its newest 20 partitions.",
        _PER_STAGE.format(aggregate="avg(written_bytes)"),
    ),
    Measure(
        "stage_last_success_timestamp_seconds",
        "When a stage last succeeded, Unix time.",
        "SELECT asset AS stage, epoch(max(started_at)) AS value FROM stage_timing WHERE stage = 'whole' GROUP BY asset",
    ),
)

DISTRIBUTIONS = (
    Distribution(
        "candidate_latency_seconds",
        "From the last sub-band of the day's newest observation to the candidate.",
        "SELECT latency_s AS value FROM ese_candidate WHERE latency_s IS NOT NULL",
        (60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 43_200.0, 86_400.0),
    ),
    Distribution(
        "observation_latency_seconds",
        "From a complete observation to its scaled fluxes.",
        """SELECT epoch(t.started_at - o.complete_at) + t.duration_s AS value FROM stage_timing t
        JOIN observation o USING (partition_key)
        WHERE t.asset = 'flux_scale' AND t.stage = 'whole' AND o.complete_at IS NOT NULL""",
        (30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0, 7200.0, 21_600.0, 86_400.0),
    ),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Answer of one measure: label names, and a row of label values and number for each series."""

    measure: Measure
    labels: tuple[str, ...]
    rows: list[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class Distributed:
    """Answer of one distribution: how many values lie at or below each limit (the last is infinity), and their sum."""

    distribution: Distribution
    cumulative: list[int]
    total: float


def measure_store(store: Store) -> tuple[list[Measured], list[Distributed]]:
    """All answers, of one moment."""
    now = datetime.now(UTC).replace(tzinfo=None)
    with store.reading() as connection:
        measured = [_measured(connection, measure, now) for measure in MEASURES]
        distributed = [_distributed(connection, distribution) for distribution in DISTRIBUTIONS]
    return measured, distributed


def _measured(connection: Any, measure: Measure, now: datetime) -> Measured:
    relation = connection.execute(measure.sql, {"now": now} if "$now" in measure.sql else None)
    names = [column[0] for column in relation.description]
    place = names.index("value")
    rows = [
        (tuple(str(item) for index, item in enumerate(row) if index != place), float(row[place]))
        for row in relation.fetchall()
        if row[place] is not None
    ]
    return Measured(measure, tuple(name for name in names if name != "value"), rows)


def _distributed(connection: Any, distribution: Distribution) -> Distributed:
    counts = ", ".join(f"count(*) FILTER (value <= {limit})" for limit in distribution.buckets)
    sql = f"SELECT coalesce(sum(value), 0), {counts}, count(*) FROM ({distribution.sql})"  # noqa: S608 (constants)
    [(total, *cumulative)] = connection.execute(sql).fetchall()
    return Distributed(distribution, [int(count) for count in cumulative], float(total))


def stage_durations(store: Store) -> Iterator[tuple[str, float]]:
    """Stage and seconds of every partition's newest success."""
    yield from store.query("SELECT asset, duration_s FROM stage_timing WHERE stage = 'whole'").iter_rows()
