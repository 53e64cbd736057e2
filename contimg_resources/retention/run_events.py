"""What Dagster's event log keeps of how runs went: removed when it is old, or the log would grow without limit.

What belongs here: which events of which runs may go, and their removal. Ticks are removed by Dagster itself (``retention`` in
``dagster.yaml``); products are ``execution.py``.

Deleting a run by Dagster's own means deletes its materializations too: its partitions would count as missing and be made again,
and a sensor would request it once more, because the run key is gone. So runs stay, and of their events goes only what tells how
a run went that ended long ago: `REMOVED_TYPES` and lines of the log. Whatever tells what was made, planned, observed or checked,
what failed and why, and when a run was queued, began and ended stays; so does every type of event that is not named here.

Events go in chunks, each a statement of its own: writers wait for one chunk, a killed process leaves whole chunks, and the next
call goes on with what is left. The newest event of the log stays always, because SQLite would give its number, which cursors of
sensors remember, to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
import sqlalchemy as db
from dagster import DagsterEventType
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from contimg_resources.settings_retention import RetentionSettings

REMOVED_TYPES = frozenset(
    {
        DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,  # Dagster keeps it among the executions of the check too
        DagsterEventType.ENGINE_EVENT,
        DagsterEventType.HANDLED_OUTPUT,
        DagsterEventType.LOADED_INPUT,
        DagsterEventType.LOGS_CAPTURED,
        DagsterEventType.RESOURCE_INIT_STARTED,
        DagsterEventType.RESOURCE_INIT_SUCCESS,
        DagsterEventType.STEP_INPUT,
        DagsterEventType.STEP_OUTPUT,
        DagsterEventType.STEP_RESTARTED,
        DagsterEventType.STEP_SKIPPED,
        DagsterEventType.STEP_START,
        DagsterEventType.STEP_SUCCESS,
        DagsterEventType.STEP_UP_FOR_RETRY,
        DagsterEventType.STEP_WORKER_STARTED,
        DagsterEventType.STEP_WORKER_STARTING,
    }
)
"""Events that only tell how a run went."""
_LINE_OF_LOG = None
"""Type of what is no event of Dagster's."""
_EVENTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class RunEventTotals:
    """How much was, or would be, removed."""

    n_runs: int
    n_events: int
    n_bytes: int
    """Of their text; PostgreSQL compresses long ones."""


@dataclass(frozen=True, slots=True)
class _Event:
    event_id: int
    run_id: str
    at: datetime
    """UTC without zone."""
    n_bytes: int


class RunEvents:
    """Events of the runs of one instance.

    Parameters
    ----------
    instance : DagsterInstance
        One that keeps the events of all runs in one table of SQL; of any other nothing is removed.
    settings : RetentionSettings
    now : callable, optional
        The time.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        settings: RetentionSettings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._instance = instance
        self._now = now
        self._kept_days = {
            dg.DagsterRunStatus.SUCCESS: settings.run_events_days,
            dg.DagsterRunStatus.FAILURE: settings.failed_run_events_days,
            dg.DagsterRunStatus.CANCELED: settings.failed_run_events_days,
        }

    def plan(self) -> RunEventTotals:
        """What `apply` would remove now."""
        return _totals(self._due_chunks())

    def apply(self) -> RunEventTotals:
        """Remove what is due; a second call finds nothing."""
        return _totals(self._removed_chunks())

    def _removed_chunks(self) -> Iterator[list[_Event]]:
        table, storage = SqlEventLogStorageTable, self._instance.event_log_storage
        for chunk in self._due_chunks():
            if isinstance(storage, SqlEventLogStorage):
                with storage.index_connection() as connection:
                    connection.execute(table.delete().where(table.c.id.in_([event.event_id for event in chunk])))
            yield chunk

    def _due_chunks(self) -> Iterator[list[_Event]]:
        storage = self._instance.event_log_storage
        days = [limit for limit in self._kept_days.values() if limit is not None]
        if not days or not isinstance(storage, SqlEventLogStorage):
            return
        now = self._now()
        latest = (now - timedelta(days=min(days))).astimezone(UTC).replace(tzinfo=None)
        newest_id = storage.get_maximum_record_id() or 0
        is_due: dict[str, bool] = {}
        for kind in [_LINE_OF_LOG, *sorted(kind.value for kind in REMOVED_TYPES)]:
            after_id = 0
            while events := _events(storage, kind, after_id, newest_id):
                self._judge({event.run_id for event in events} - is_due.keys(), now, is_due)
                if due := [event for event in events if is_due[event.run_id]]:
                    yield due
                if events[-1].at >= latest:  # those of a kind come in the order of time: no later one is old enough
                    break
                after_id = events[-1].event_id

    def _judge(self, run_ids: set[str], now: datetime, is_due: dict[str, bool]) -> None:
        """Write down which runs ended so long ago that their events may go; not so a run that has no record."""
        is_due |= dict.fromkeys(run_ids, False)
        for record in self._instance.get_run_records(dg.RunsFilter(run_ids=sorted(run_ids))) if run_ids else []:
            kept_days = self._kept_days.get(record.dagster_run.status)
            ended_at = record.end_time if record.end_time is not None else record.update_timestamp.timestamp()
            is_due[record.dagster_run.run_id] = (
                kept_days is not None and ended_at < now.timestamp() - 86_400 * kept_days
            )


def _events(storage: SqlEventLogStorage, kind: str | None, after_id: int, before_id: int) -> list[_Event]:
    """The next events of a kind, in the order of the log; the index by kind and number makes this quick."""
    table = SqlEventLogStorageTable.c
    query = (
        db.select(table.id, table.run_id, table.timestamp, db.func.length(table.event))
        .where(table.dagster_event_type == kind, table.id > after_id, table.id < before_id)
        .order_by(table.id)
        .limit(_EVENTS_AT_ONCE)
    )
    with storage.index_connection() as connection:
        return [_Event(*row) for row in connection.execute(query).fetchall()]


def _totals(chunks: Iterator[list[_Event]]) -> RunEventTotals:
    runs: set[str] = set()
    n_events = n_bytes = 0
    for chunk in chunks:
        runs |= {event.run_id for event in chunk}
        n_events += len(chunk)
        n_bytes += sum(event.n_bytes for event in chunk)
    return RunEventTotals(len(runs), n_events, n_bytes)
