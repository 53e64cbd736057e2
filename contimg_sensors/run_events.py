"""What Dagster's event log says of runs: which partitions failed and why, and which were made.

What belongs here: reading the log from a cursor on, and giving each failed run its reason, also where nothing was raised
because the process was killed, crashed or hung. What follows from it is ``failures``.

The log is followed by the number of its records. Records of failed runs and of materializations have cursors of their
own, the latter one per asset, so that a page that ends in the middle loses nothing. Without a cursor the last day is read.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster import AssetRecordsFilter, RunStatusChangeRecordsFilter

from contimg_assets.failures import INSTANCE_UNREACHABLE
from contimg_resources.settings_recovery import TimeoutSettings
from contimg_resources.store.dead_letters import StageFailure
from contimg_resources.store.makings import WHY_SKIPPED

PAGE = 200
"""Records of one kind read in one tick."""
_FIRST_LOOK = timedelta(days=1)
_PARTITION_TAG = "dagster/partition"
LETTER_TAG = "contimg/dead_letter"
"""Run tag: the dead letter that the run retries."""
_OF_A_DATABASE = {"OperationalError", "InterfaceError"}
"""Errors (PEP 249) of Dagster's own database, which end a step without anything of ours having raised."""
_INTERRUPTED = {"DagsterExecutionInterruptedError", "KeyboardInterrupt"}
_STARTED = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
_ENDED = {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_SKIPPED}


@dataclass(frozen=True)
class Made:
    """One partition of an asset that a run made."""

    asset: str
    partition_key: str
    run_id: str
    at: datetime
    is_skipped: bool = False
    """Whether it was there already, so that the stage had nothing to do and says nothing of how well it works."""


@dataclass
class Cursor:
    """How far the log has been read."""

    failures: int | None = None
    made: dict[str, int] = field(default_factory=dict)
    since: float = 0.0
    """Time before which nothing is read where there is no number yet, seconds since 1970."""

    @classmethod
    def parse(cls, text: str | None) -> "Cursor":
        """Read what `text` wrote; a new one begins a day ago."""
        if text is None:
            return cls(since=(datetime.now(UTC) - _FIRST_LOOK).timestamp())
        return cls(**json.loads(text))

    def text(self) -> str:
        """For Dagster to keep."""
        return json.dumps({"failures": self.failures, "made": self.made, "since": self.since})


def naive_utc(timestamp: float) -> datetime:
    """Time of an event as the store keeps it."""
    return datetime.fromtimestamp(timestamp, UTC).replace(tzinfo=None)


def made_since(instance: dg.DagsterInstance, assets: Sequence[str], cursor: Cursor) -> list[Made]:
    """Partitions made since the cursor, which is moved on."""
    found = []
    for asset in assets:
        after = cursor.made.get(asset)
        page = instance.fetch_materializations(
            AssetRecordsFilter(
                asset_key=dg.AssetKey(asset),
                after_storage_id=after,
                after_timestamp=cursor.since if after is None else None,
            ),
            limit=PAGE,
            ascending=True,
        )
        for record in page.records:
            cursor.made[asset] = record.storage_id
            told = record.asset_materialization
            is_skipped = told is not None and WHY_SKIPPED in told.metadata
            at = naive_utc(record.timestamp)
            found.append(Made(asset, record.partition_key or "", record.run_id, at, is_skipped=is_skipped))
    return found


def failures_since(instance: dg.DagsterInstance, cursor: Cursor, timeouts: TimeoutSettings) -> list[StageFailure]:
    """Failures of runs that failed since the cursor, which is moved on."""
    page = instance.fetch_run_status_changes(
        RunStatusChangeRecordsFilter(
            event_type=dg.DagsterEventType.RUN_FAILURE,
            after_storage_id=cursor.failures,
            after_timestamp=cursor.since if cursor.failures is None else None,
        ),
        limit=PAGE,
        ascending=True,
    )
    found = []
    for record in page.records:
        cursor.failures = record.storage_id
        run = instance.get_run_by_id(record.event_log_entry.run_id)
        if run is not None:
            found += failures_of_run(instance, run, record.event_log_entry, timeouts)
    return found


def failures_of_run(
    instance: dg.DagsterInstance, run: dg.DagsterRun, ended: dg.EventLogEntry, timeouts: TimeoutSettings
) -> list[StageFailure]:
    """What failed in a failed run: each step with its error, or else the stage that was under way when it was lost."""
    entries = [entry for entry in instance.all_logs(run.run_id) if entry.dagster_event is not None]
    assets = dict(_assets_of_steps(entries))
    raised = [entry for entry in entries if _is(entry, {dg.DagsterEventType.STEP_FAILURE})]
    raised = [entry for entry in raised if _error_of(entry)[0] not in _INTERRUPTED]
    common = {
        "run_id": run.run_id,
        "job_name": run.job_name,
        "is_retry": LETTER_TAG in run.tags or run.parent_run_id is not None,
        "dagster_retries": run.tags.get("dagster/will_retry") == "true",
    }
    if raised:
        return [_raised(entry, assets, run.tags.get(_PARTITION_TAG, ""), common) for entry in raised]
    lost = _lost(entries, assets, run, ended, timeouts, common)
    return [lost] if lost is not None else []


def _is(entry: dg.EventLogEntry, types: set[dg.DagsterEventType]) -> bool:
    return entry.dagster_event is not None and entry.dagster_event.event_type in types


def _assets_of_steps(entries: Sequence[dg.EventLogEntry]) -> Iterator[tuple[str, str]]:
    """Asset that each step of a run was to make or to check, in the order of the plan."""
    for entry in entries:
        event = entry.dagster_event
        if event is None or event.step_key is None:
            continue
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED:
            yield event.step_key, event.asset_check_planned_data.asset_key.to_user_string()
    for entry in entries:
        event = entry.dagster_event
        if event is not None and event.step_key is not None and event.is_asset_materialization_planned:
            yield event.step_key, event.asset_materialization_planned_data.asset_key.to_user_string()


def _error_of(entry: dg.EventLogEntry) -> tuple[str, str]:
    """Class and message of the innermost error of a failed step."""
    error = entry.get_dagster_event().step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return (error.cls_name or "Error", error.message.strip()) if error is not None else ("Error", "no error was kept")


def _raised(
    entry: dg.EventLogEntry, assets: dict[str, str], partition_key: str, common: dict[str, Any]
) -> StageFailure:
    """The failure of a step that raised."""
    event = entry.get_dagster_event()
    said = event.step_failure_data.user_failure_data
    known = {name: value.value for name, value in said.metadata.items()} if said is not None else {}
    error_class, message = _error_of(entry)
    if not known and error_class in _OF_A_DATABASE:
        known = asdict(INSTANCE_UNREACHABLE) | {"retry_can_help": INSTANCE_UNREACHABLE.retry_later}
    is_check = error_class == "DagsterAssetCheckFailedError"
    bug = "A bug or a wrong setting: the run's log has the traceback. Correct it, then retry."
    return StageFailure(
        asset=assets.get(event.step_key or "", event.step_key or "unknown"),
        partition_key=str(known.get("partition") or partition_key),
        at=naive_utc(entry.timestamp),
        error_class=str(known.get("error_class", error_class)),
        reason_code=str(known.get("reason_code", "blocking_check_failed" if is_check else "software_error")),
        message=(said.description if said is not None and known else None) or message,
        remedy=str(known.get("remedy", "Look at the checks of the asset: one of them blocks." if is_check else bug)),
        retry_helps=bool(known.get("retry_can_help", False)),
        is_platform=bool(known.get("is_platform", not is_check)),
        **common,
    )


def _lost(
    entries: Sequence[dg.EventLogEntry],
    assets: dict[str, str],
    run: dg.DagsterRun,
    ended: dg.EventLogEntry,
    timeouts: TimeoutSettings,
    common: dict[str, Any],
) -> StageFailure | None:
    """The failure of a run that was lost without an error: its process was killed, crashed, hung or never started."""
    over = {entry.dagster_event.step_key for entry in entries if entry.dagster_event and _is(entry, _ENDED)}
    under_way = [
        (entry.dagster_event.step_key, entry.timestamp)
        for entry in entries
        if entry.dagster_event and _is(entry, _STARTED) and entry.dagster_event.step_key not in over
    ]
    waiting = [step for step in assets if step not in over]
    if not under_way and not waiting:
        return None
    step, began = under_way[-1] if under_way else (waiting[0], ended.timestamp)
    asset = assets.get(step or "", step or "unknown")
    lasted_s, limit_s = ended.timestamp - began, timeouts.of_stage(asset)
    message = (ended.dagster_event.message if ended.dagster_event else "") or ended.user_message
    is_timeout = "maximum runtime" in message or (limit_s is not None and lasted_s > limit_s)
    return StageFailure(
        asset=asset,
        partition_key=run.tags.get(_PARTITION_TAG, ""),
        at=naive_utc(ended.timestamp),
        error_class="StageTimeoutError" if is_timeout else "ProcessLostError",
        reason_code="timeout" if is_timeout else "process_lost",
        message=f"{asset} ended without an error after {lasted_s:.0f} s ({message.strip() or 'no reason was given'})",
        remedy=(
            "The daemon's log has where every thread stood; raise the stage's limit if it was only slow."
            if is_timeout
            else "Look for the cause in the kernel's log (out of memory?) and in the daemon's; CASA crashes again when retried."
        ),
        retry_helps=True,
        is_platform=True,
        **common,
    )
