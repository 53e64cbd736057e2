"""Dagster's instance as metrics and health look at it: steps that ran, the queue, daemons, sensors. Only reads.

What belongs here: the questions, in one place, because tables of Dagster are read where it has no method that is quick
enough. What does not: requesting runs (sensors, ``contimg backfill``) and judging the answers (the portal).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import dagster as dg
import sqlalchemy as db
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorStatus
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from contimg_resources.errors import SettingsError

STEP_OUTCOMES = {"STEP_SUCCESS": "success", "STEP_FAILURE": "failure", "STEP_UP_FOR_RETRY": "retry"}
_STEP_STARTS = ("STEP_START", "STEP_RESTARTED")
_ROWS_AT_ONCE = 50_000
_ACTIVE = {
    "queued": [dg.DagsterRunStatus.QUEUED],
    "starting": [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING],
    "running": [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING],
}


@dataclass(frozen=True, slots=True)
class StepEvent:
    """A step that started or ended."""

    event_id: int
    run_id: str
    step: str
    outcome: str
    """start, or a value of `STEP_OUTCOMES`."""

    at: float
    """Unix time, s."""


@dataclass(frozen=True, slots=True)
class SensorTick:
    """The newest tick of a sensor that is switched on."""

    name: str
    status: str
    at: float
    """Unix time, s."""


class InstanceView:
    """The instance in a folder.

    Parameters
    ----------
    home : Path
        ``DAGSTER_HOME``.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._instance: dg.DagsterInstance | None = None
        self._lock = threading.Lock()

    @property
    def instance(self) -> dg.DagsterInstance:
        """The instance, opened once.

        Raises
        ------
        SettingsError
            If there is none: opening would make one.
        """
        with self._lock:
            if self._instance is None:
                if not (self._home / "dagster.yaml").exists():
                    raise SettingsError(
                        f"There is no Dagster instance in {self._home}",
                        got="no dagster.yaml",
                        expected="a folder made by scripts/dagster_home.sh",
                        remedy="Correct DAGSTER_HOME, or start the platform with scripts/start.sh.",
                    )
                self._instance = dg.DagsterInstance.from_config(str(self._home))
            return self._instance

    def step_events(self, after_id: int) -> Iterator[StepEvent]:
        """Starts and ends of steps in the order of the event log, after an event."""
        storage = self.instance.event_log_storage
        if not isinstance(storage, SqlEventLogStorage):
            return
        table = SqlEventLogStorageTable.c
        while True:
            query = (
                db.select(table.id, table.run_id, table.step_key, table.dagster_event_type, table.timestamp)
                .where(table.id > after_id, table.dagster_event_type.in_([*_STEP_STARTS, *STEP_OUTCOMES]))
                .order_by(table.id)
                .limit(_ROWS_AT_ONCE)
            )
            with storage.index_connection() as connection:
                rows = connection.execute(query).fetchall()
            for event_id, run_id, step, kind, at in rows:
                yield StepEvent(
                    event_id, run_id, step or "", STEP_OUTCOMES.get(kind, "start"), at.replace(tzinfo=UTC).timestamp()
                )
            if len(rows) < _ROWS_AT_ONCE:
                return
            after_id = rows[-1][0]

    def active_runs(self) -> dict[str, int]:
        """How many runs are queued, starting and running."""
        return {
            name: self.instance.get_runs_count(dg.RunsFilter(statuses=statuses)) for name, statuses in _ACTIVE.items()
        }

    def oldest_queued_at(self) -> float | None:
        """When the run that has waited longest was queued, Unix time in s."""
        filters = dg.RunsFilter(statuses=_ACTIVE["queued"])
        records = self.instance.get_run_records(filters, limit=1, ascending=True)
        return records[0].create_timestamp.timestamp() if records else None

    def daemon_heartbeats(self) -> dict[str, float | None]:
        """Last heartbeat of every daemon that this instance needs, Unix time in s; None for one that never ran."""
        beats = self.instance.get_daemon_heartbeats()
        needed = sorted(self.instance.get_required_daemon_types())
        return {name: float(beats[name].timestamp) if name in beats else None for name in needed}

    def sensor_ticks(self) -> list[SensorTick]:
        """Newest tick of every sensor that is switched on; schedules tick when their hour comes."""
        states = self.instance.all_instigator_state(
            instigator_statuses={InstigatorStatus.RUNNING, InstigatorStatus.DECLARED_IN_CODE}
        )
        names = {s.selector_id: s.name for s in states if s.instigator_type is not InstigatorType.SCHEDULE}
        ticks = self.instance.get_batch_ticks(list(names), limit=1) if names else {}
        return [
            SensorTick(names[selector], newest[0].status.value.lower(), newest[0].timestamp)
            for selector, newest in sorted(ticks.items())
            if newest
        ]


def partitions_under_way(instance: dg.DagsterInstance) -> list[str]:
    """Partition of each run that waits or is under way; a run of a range of partitions is named by its whole range."""
    statuses = [status for group in _ACTIVE.values() for status in group]
    found = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=statuses)):
        if "dagster/partition" in run.tags:
            found.add(run.tags["dagster/partition"])
        elif "dagster/asset_partition_range_start" in run.tags:
            found.add(
                f"{run.tags['dagster/asset_partition_range_start']} to {run.tags['dagster/asset_partition_range_end']}"
            )
    return sorted(found)
