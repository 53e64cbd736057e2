"""What follows from failed runs: dead letters, breakers, and retries that start by themselves.

What belongs here: the two sensors. What failed and why is read in ``run_events``; states are kept in the store
(``dead_letters``, ``breakers``), so that restarts change nothing; Dagster's own retries of steps and of lost processes come
first and are none of this.

* ``run_failures`` follows the event log: a failure writes its dead letter and counts for the breaker of its stage, a
  materialization resolves the letter and closes the breaker. It sees to cool-downs, to retries that came to nothing, and to runs
  of a cluster that were lost before a worker began them.
* ``dead_letter_retries`` starts the retries that somebody asked for or whose time has come: the stage and all after it, of
  the code that is loaded now. While the breaker of one of these stages is not closed they wait, but one may be its probe. What
  automation requested of such a stage (``breaker_open``) waits among them, counts as no failure, and loses nothing.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import duckdb

from contimg_assets.jobs import bandpass_job, catalogue_job, daily_job, mosaic_job, observation_job
from contimg_resources.configurable import Observatory
from contimg_resources.errors import BreakerOpenError
from contimg_resources.settings import Settings
from contimg_resources.settings_recovery import DeadLetterSettings
from contimg_resources.store import breakers, dead_letters
from contimg_resources.store.connection import Store
from contimg_resources.store.dead_letters import RetryRules, StageFailure
from contimg_sensors.gates import JOBS, PROBE_TAG, STAGES, BreakerGuard, disk_is_full, n_waiting_runs, stages_of
from contimg_sensors.run_events import LETTER_TAG, Cursor, Made, failures_since, made_since, naive_utc

_MOST_RETRIES_PER_TICK = 12
_LOST_AFTER = timedelta(minutes=3)
"""Time within which the run of a request that was let through must have appeared."""
_SETTLED_AFTER = timedelta(seconds=30)
_CLOCKS = timedelta(seconds=5)
"""By which the clock of the instance's database may be behind."""
_MOST_LETTERS = 500
_PRIORITY = "25"
"""Of retries: before observations that catch up, after live ones."""
_RAW_VISIBILITIES = "raw_visibilities"
_STAGE_ASSETS = {asset.key.to_user_string(): asset for assets in JOBS.values() for asset in assets}
_STAGE_ASSETS[_RAW_VISIBILITIES] = JOBS[observation_job.name][0]  # its checks run with the first stage


def hand_over_lost_runs(instance: dg.DagsterInstance) -> list[str]:
    """Let the launcher of a cluster hand over again what its broker has lost; one line for each run."""
    hand_over = getattr(instance.run_launcher, "hand_over_lost_runs", list)  # others start runs themselves
    return [f"run {run_id} was in no queue and on no worker: handed over again" for run_id in hand_over()]


@dg.sensor(minimum_interval_seconds=10, default_status=dg.DefaultSensorStatus.RUNNING)
def run_failures(context: dg.SensorEvaluationContext, observatory: Observatory) -> dg.SensorResult | dg.SkipReason:
    """Follow the event log: failures become dead letters and count for breakers, what is made resolves and closes them.

    Writes tables dead_letter, dead_letter_event, breaker and breaker_event.
    """
    cursor, settings, store = Cursor.parse(context.cursor), observatory.settings, observatory.store
    if not store.path.exists():
        return dg.SkipReason("there is no store yet")
    lines = hand_over_lost_runs(context.instance)
    failed = failures_since(context.instance, cursor, settings.timeouts)
    made = made_since(context.instance, STAGES, cursor)
    lines += record_events(store, failed, made, settings)
    lines += look_after(context.instance, store, settings)
    for line in lines:
        context.log.info(line)
    return dg.SensorResult(
        cursor=cursor.text(), skip_reason="; ".join(lines) or f"{len(made)} partitions made, nothing failed"
    )


@dg.sensor(
    jobs=[observation_job, bandpass_job, mosaic_job, daily_job, catalogue_job],
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def dead_letter_retries(
    context: dg.SensorEvaluationContext, observatory: Observatory
) -> dg.SensorResult | dg.SkipReason:
    """Start the retries of dead letters that somebody asked for or whose time has come, in the order of observation."""
    store, settings = observatory.store, observatory.settings
    full = disk_is_full(settings)
    if full is not None or not store.path.exists():
        return dg.SkipReason(full or "there is no store yet")
    now = datetime.now(UTC).replace(tzinfo=None)
    guard = BreakerGuard(store, now)
    room = max(settings.queue.most_waiting - n_waiting_runs(context.instance), 0)
    requests: list[dg.RunRequest] = []
    for letter in _candidates(store, guard, now):
        if len(requests) == _MOST_RETRIES_PER_TICK:
            break
        request = retry_request(letter)
        if request is None:
            with store.transaction() as connection:
                why = "this version of the code has no such partition"
                dead_letters.return_to_pending(connection, letter["letter_id"], at=now, why=why)
            continue
        allowed = _allowed(request, letter, guard, has_room=len(requests) < room)
        if allowed is not None:
            requests.append(allowed)
            detail = f"code version {_STAGE_ASSETS[letter['asset']].code_versions_by_key[dg.AssetKey(letter['asset'])]}"
            dead_letters.note_started(store, letter["letter_id"], at=now, detail=detail)
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else "no retry is due")


def _candidates(store: Store, guard: BreakerGuard, now: datetime) -> list[dict[str, Any]]:
    """Letters that are due, and one for the probe of each half-open breaker, in the order of observation."""
    due = dead_letters.due_letters(store, now=now, limit=_MOST_LETTERS).to_dicts()
    known = {letter["letter_id"] for letter in due}
    for stage in guard.half_open():
        oldest = dead_letters.oldest_of_platform(store, stage)
        due += [letter for letter in oldest.to_dicts() if letter["letter_id"] not in known]
    return due


def retry_request(letter: dict[str, Any]) -> dg.RunRequest | None:
    """The run that retries a letter: its stage and all after it in its job; None where there is no such partition.

    From the first stage on it is the whole job: checks of raw files run with it, too.
    """
    asset, partition_key = letter["asset"], letter["partition_key"]
    definition = _STAGE_ASSETS.get(asset)
    if definition is None:
        return None
    partitions = definition.partitions_def
    if (partitions is None) != (partition_key is None):
        return None
    if partitions is not None and not partitions.has_partition_key(partition_key):
        return None
    job_name = next(name for name, assets in JOBS.items() if definition in assets)
    assets = JOBS[job_name]
    chosen = assets[assets.index(definition) :]
    return dg.RunRequest(
        run_key=f"dead letter:{letter['letter_id']}:{uuid.uuid4().hex}",
        job_name=job_name,
        partition_key=partition_key,
        asset_selection=None if chosen == assets else [one.key for one in chosen],
        tags={LETTER_TAG: letter["letter_id"], "dagster/priority": _PRIORITY},
    )


def _allowed(
    request: dg.RunRequest, letter: dict[str, Any], guard: BreakerGuard, *, has_room: bool
) -> dg.RunRequest | None:
    """The request as it may go now. What a person asked for goes at once: they say that the stage works again."""
    if letter["status"] == "retrying":
        return request
    if not has_room:
        return None
    blocked = guard.holds(stages_of(request))
    if blocked is None:
        return request
    if blocked.stage == letter["asset"] and guard.claim(blocked.stage):
        return request.with_replaced_attrs(tags={**request.tags, PROBE_TAG: blocked.stage})
    return None


def record_events(store: Store, failed: Sequence[StageFailure], made: Sequence[Made], settings: Settings) -> list[str]:
    """Let failures and successes have their effects in the order in which they happened; say what changed."""
    if not failed and not made:
        return []
    lines: list[str] = []
    with store.transaction() as connection:
        events: list[StageFailure | Made] = [*failed, *made]
        for event in sorted(events, key=lambda one: one.at):
            if isinstance(event, Made):
                lines += _record_made(connection, event)
            else:
                lines += _record_failed(connection, event, settings)
    return lines


def retry_rules(settings: DeadLetterSettings) -> RetryRules:
    """Rules of the store from those of the operator."""
    return RetryRules(**settings.model_dump())


def _record_failed(connection: duckdb.DuckDBPyConnection, failure: StageFailure, settings: Settings) -> list[str]:
    if not dead_letters.record_failure(connection, failure, retry_rules(settings.dead_letters)):
        return []
    lines = [f"{failure.letter_id}: {failure.reason_code}"]
    if failure.reason_code == BreakerOpenError.reason_code:  # no failure of the stage, which was not started
        if breakers.is_closed(connection, failure.asset):  # by a success that was read before
            dead_letters.release(connection, failure.asset, at=failure.at)
    elif failure.is_platform:
        state = breakers.count_failure(
            connection,
            failure.asset,
            failure.at,
            run_id=failure.run_id,
            reason=f"{failure.reason_code} ({failure.error_class})",
            threshold=settings.breakers.failures,
            is_retry=failure.is_retry,
        )
        lines += [f"breaker of {failure.asset} is {state}"] if state != breakers.CLOSED else []
    return lines


def _record_made(connection: duckdb.DuckDBPyConnection, made: Made) -> list[str]:
    lines = []
    if dead_letters.record_success(connection, made.asset, made.partition_key, made.run_id, made.at):
        lines.append(f"{dead_letters.letter_id(made.asset, made.partition_key)}: resolved")
    if not made.is_skipped and breakers.count_success(connection, made.asset, made.at, run_id=made.run_id):
        n_released = dead_letters.release(connection, made.asset, at=made.at)
        lines.append(f"breaker of {made.asset} is closed; {n_released} dead letters are retried")
    return lines


def look_after(instance: dg.DagsterInstance, store: Store, settings: Settings) -> list[str]:
    """Half-open breakers whose cool-down is over, and take back probes and retries that came to nothing."""
    now = datetime.now(UTC).replace(tzinfo=None)
    lines: list[str] = []
    probes = [one for one in breakers.breakers(store) if one.state == breakers.HALF_OPEN and one.probe_run_id]
    is_cooling = any(one.state == breakers.OPEN for one in breakers.breakers(store))
    retrying = store.query("SELECT * FROM dead_letter WHERE status = 'retrying' AND next_retry_at IS NULL")
    if not (probes or is_cooling or retrying.height):
        return []
    with store.transaction() as connection:
        cooled = breakers.cool_down(connection, now, settings.breakers.cool_down_s)
        lines += [f"breaker of {stage} is half-open" for stage in cooled]
        for probe in probes:
            _follow_probe(instance, connection, probe, now)
        for letter in retrying.iter_rows(named=True):
            lines += _follow_retry(instance, connection, letter, now)
    return lines


def _follow_probe(
    instance: dg.DagsterInstance, connection: duckdb.DuckDBPyConnection, probe: breakers.Breaker, now: datetime
) -> None:
    """Name the run of a probe; another may go when it ended without an answer (bad data, cancelled) or never began."""
    record = _newest_run(instance, PROBE_TAG, probe.stage, since=probe.changed_at)
    if record is None:
        if now - probe.changed_at > _LOST_AFTER:
            breakers.note_probe(connection, probe.stage, None)
    elif _is_over(record, now):
        breakers.note_probe(connection, probe.stage, None)
    elif record.dagster_run.run_id != probe.probe_run_id:
        breakers.note_probe(connection, probe.stage, record.dagster_run.run_id)


def _follow_retry(
    instance: dg.DagsterInstance, connection: duckdb.DuckDBPyConnection, letter: dict[str, Any], now: datetime
) -> list[str]:
    """Name the run of a retry; take the letter back when the run was cancelled, failed elsewhere, or never began."""
    name, since = letter["letter_id"], dead_letters.last_event_at(connection, letter["letter_id"])
    record = _newest_run(instance, LETTER_TAG, name, since=since)
    record = record or _newest_run(instance, "dagster/parent_run_id", letter["run_id"], since=since)
    if record is None:
        if now - since <= _LOST_AFTER:
            return []
        dead_letters.return_to_pending(connection, name, at=now, why="the run never began", retry_at=now)
        return [f"{name}: the run of its retry never began"]
    run = record.dagster_run
    if not _is_over(record, now):
        if run.run_id != letter["retry_run_id"]:
            dead_letters.note_retry_run(connection, name, run.run_id)
        return []
    if run.status == dg.DagsterRunStatus.SUCCESS:
        dead_letters.record_success(connection, letter["asset"], letter["partition_key"] or "", run.run_id, now)
        return [f"{name}: resolved"]
    why = "cancelled" if run.status == dg.DagsterRunStatus.CANCELED else "ended before its stage"
    dead_letters.return_to_pending(connection, name, at=now, why=f"the run of its retry {run.run_id} was {why}")
    return [f"{name}: the run of its retry was {why}"]


def _newest_run(instance: dg.DagsterInstance, tag: str, value: str, *, since: datetime) -> dg.RunRecord | None:
    """Newest run with a tag that was created since a moment."""
    records = instance.get_run_records(dg.RunsFilter(tags={tag: value}), limit=1)
    created = [one for one in records if one.create_timestamp.replace(tzinfo=None) >= since - _CLOCKS]
    return created[0] if created else None


def _is_over(record: dg.RunRecord, now: datetime) -> bool:
    """Whether a run ended and its events have been read since: some ticks ago."""
    if not record.dagster_run.is_finished:
        return False
    waits = _LOST_AFTER if record.dagster_run.tags.get("dagster/will_retry") == "true" else _SETTLED_AFTER
    return record.end_time is None or now - naive_utc(record.end_time) > waits
