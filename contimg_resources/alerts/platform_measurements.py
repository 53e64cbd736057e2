"""What alert rules can measure of the machinery: daemon, runs, queue, stages, hosts, disk, memory, store, dead letters.

Each function is a metric under its own name; its docstring says what the number is. Windows are by the clock. What the
data say is ``science_measurements``.
"""

from __future__ import annotations

import os
import shutil
from datetime import timedelta

import dagster as dg

from contimg_resources.alerts.probe import Probe, Reading, measurement
from contimg_resources.machine import available_memory_bytes

FEWEST_RUNS = 5
"""Runs that must have finished before their failures are a fraction."""
_RUN_WINDOW = timedelta(hours=1)
_MOST_RUNS = 500
_RECENT_PARTITIONS, _EARLIER_PARTITIONS, FEWEST_EARLIER = 5, 200, 20


def _heartbeat_ages_s(instance: dg.DagsterInstance, now_s: float) -> dict[str, float]:
    return {name: now_s - beat.timestamp for name, beat in instance.get_daemon_heartbeats().items()}


@measurement
def daemon_heartbeat_age_s(probe: Probe) -> list[Reading] | None:
    """Seconds since any of Dagster's daemons gave a sign of life (they do every 30 s); nothing before the first one."""
    if probe.instance is None:
        return None
    ages = _heartbeat_ages_s(probe.instance, probe.now.timestamp())
    if not ages:
        return []
    youngest = min(ages.values())
    return [Reading(youngest, detail=f"last sign of life {youngest:.0f} s ago")]


@measurement
def daemon_part_age_s(probe: Probe) -> list[Reading] | None:
    """Seconds by which the heartbeat of one daemon is older than the newest of all, by daemon."""
    if probe.instance is None:
        return None
    ages = _heartbeat_ages_s(probe.instance, probe.now.timestamp())
    youngest = min(ages.values(), default=0.0)
    return [Reading(age - youngest, name, f"{age:.0f} s without a heartbeat") for name, age in sorted(ages.items())]


@measurement
def run_failure_fraction(probe: Probe) -> list[Reading] | None:
    """Fraction of the runs finished within the last hour that failed; of at least five."""
    if probe.instance is None:
        return None
    finished = probe.instance.get_run_records(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE], updated_after=probe.now - _RUN_WINDOW
        ),
        limit=_MOST_RUNS,
    )
    failed = [record for record in finished if record.dagster_run.status is dg.DagsterRunStatus.FAILURE]
    if len(finished) < FEWEST_RUNS:
        return []
    jobs = ", ".join(sorted({record.dagster_run.job_name for record in failed}))
    detail = f"{len(failed)} of {len(finished)} runs failed" + (f" ({jobs})" if jobs else "")
    return [Reading(len(failed) / len(finished), detail=detail)]


@measurement
def queued_runs(probe: Probe) -> list[Reading] | None:
    """Runs that wait in Dagster's queue."""
    if probe.instance is None:
        return None
    n_queued = probe.instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    return [Reading(n_queued, detail=f"{n_queued} runs queued")]


@measurement
def stage_slowdown(probe: Probe) -> list[Reading]:
    """Median duration of a stage's last five partitions over that of up to 200 before them, by stage."""
    rows = probe.rows(
        """WITH ranked AS (
            SELECT asset, duration_s, row_number() OVER (PARTITION BY asset ORDER BY started_at DESC) AS nth
            FROM stage_timing WHERE stage = 'whole')
        SELECT asset, median(duration_s) FILTER (nth <= $1), median(duration_s) FILTER (nth > $1)
        FROM ranked WHERE nth <= $1 + $2 GROUP BY asset HAVING count(*) >= $1 + $3 ORDER BY asset""",
        _RECENT_PARTITIONS,
        _EARLIER_PARTITIONS,
        FEWEST_EARLIER,
    )
    return [
        Reading(recent / earlier, asset, f"{recent:.1f} s now, {earlier:.1f} s before")
        for asset, recent, earlier in rows
        if earlier > 0
    ]


@measurement
def heartbeat_intervals_missed(probe: Probe) -> list[Reading]:
    """Age of a heartbeat in units of the interval it promised, by name."""
    rows = probe.rows("SELECT name, host, last_at, interval_s FROM heartbeat WHERE interval_s > 0 ORDER BY name")
    return [
        Reading(probe.age_s(at) / interval_s, name, f"{host or 'unknown host'}, last {probe.age_s(at):.0f} s ago")
        for name, host, at, interval_s in rows
    ]


def _free_gb(probe: Probe) -> tuple[float, str]:
    data = probe.settings.data
    existing = next(place for place in (data, *data.parents) if place.is_dir())
    free_gb = shutil.disk_usage(existing).free / 1e9
    return free_gb, f"{free_gb:.1f} GB free on the disk of {data}"


@measurement
def disk_free_gb(probe: Probe) -> list[Reading]:
    """Free space on the disk of the data folder, GB."""
    free_gb, detail = _free_gb(probe)
    return [Reading(free_gb, detail=detail)]


@measurement
def disk_reserve_ratio(probe: Probe) -> list[Reading]:
    """Free space over the reserve below which nothing is written (CONTIMG_MINIMUM_FREE_GB)."""
    reserve_gb = probe.settings.minimum_free_gb
    free_gb, detail = _free_gb(probe)
    return [Reading(free_gb / reserve_gb, detail=detail)] if reserve_gb > 0 else []


@measurement
def memory_available_fraction(_probe: Probe) -> list[Reading]:
    """Memory that can be had without swapping, over the machine's."""
    available = available_memory_bytes()
    total = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    return [] if available is None else [Reading(available / total, detail=f"{available / 1e9:.1f} GB available")]


@measurement
def store_inconsistencies(probe: Probe) -> list[Reading]:
    """How much the daily check of the store found that does not agree; nothing before the first check."""
    rows = probe.rows(
        "SELECT value FROM check_result WHERE asset = 'reference_catalogue' AND check_name = 'store_agrees_with_products'"
    )
    return [Reading(n_found, detail=f"{n_found:.0f} inconsistencies") for (n_found,) in rows]


@measurement
def store_wait_s(probe: Probe) -> list[Reading]:
    """How long the store took to open, s; all of the wait when it did not open."""
    detail = probe.store_problem or f"opened after {probe.store_wait_s:.1f} s"
    return [Reading(probe.store_wait_s, detail=detail)]


@measurement
def dead_letters_pending(probe: Probe) -> list[Reading]:
    """Dead letters that are not resolved, by asset."""
    rows = probe.rows(
        """SELECT asset, count(*), string_agg(DISTINCT coalesce(reason_code, error_class), ', ') FROM dead_letter
        WHERE status IN ('pending', 'failed') GROUP BY asset ORDER BY asset"""
    )
    return [Reading(n, asset, f"{n} waiting" + (f": {reasons}" if reasons else "")) for asset, n, reasons in rows]


@measurement
def breaker_open(probe: Probe) -> list[Reading]:
    """1 for every stage whose breaker is open or half-open."""
    rows = probe.rows("SELECT stage, state, reason FROM breaker WHERE state <> 'closed' ORDER BY stage")
    return [Reading(1.0, stage, f"{state}: {reason or 'no reason given'}") for stage, state, reason in rows]


@measurement
def undelivered_notices(probe: Probe) -> list[Reading]:
    """Notices of the last day whose delivery has failed and has not succeeded since, by channel."""
    rows = probe.rows(
        """SELECT channel, count(DISTINCT split_part(event_id, '/', 1)), arg_max(detail, "at") FROM alert_history
        WHERE kind = 'delivery_failed' AND "at" > $1 AND (split_part(event_id, '/', 1), channel) NOT IN (
            SELECT (split_part(event_id, '/', 1), channel) FROM alert_history WHERE kind IN ('delivered', 'delivery_abandoned'))
        GROUP BY channel ORDER BY channel""",
        (probe.now - timedelta(days=1)).replace(tzinfo=None),
    )
    return [Reading(n, channel, f"{n} undelivered, last error: {error}") for channel, n, error in rows]
