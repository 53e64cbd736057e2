"""An instance with a history of runs of small assets that have partitions, checks and automation, and what is known of it."""

import os
import signal
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as db
from dagster._core.definitions.data_version import DATA_VERSION_TAG, CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.event_log.schema import AssetKeyTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from contimg_assets.conventions import FOLLOWS_THE_DAY
from contimg_resources.event_sources import KINDS, from_dagster
from contimg_resources.retention import run_events
from contimg_resources.retention.run_events import RunEvents
from contimg_resources.settings_recovery import TimeoutSettings
from contimg_resources.settings_retention import RetentionSettings
from contimg_sensors.run_events import Cursor, failures_since, made_since

DAY = "2026-01-10"
WINDOWS = dg.TimeWindowPartitionsDefinition(
    start=f"{DAY}T00:00", end="2026-01-12T00:00", fmt="%Y-%m-%dT%H:%M", cron_schedule="*/5 * * * *"
)
DAYS = dg.DailyPartitionsDefinition(start_date=DAY, end_date="2026-01-12")
SUCCEEDED = [f"{DAY}T05:{minute:02d}" for minute in range(0, 20, 5)]
FAILED, CANCELED, RECENT = (f"{DAY}T06:{minute:02d}" for minute in range(0, 15, 5))
UNDER_WAY = "2026-01-11T06:00"  # of another day, because a day is not requested while anything of it is being made
AGE_DAYS = 45
SETTINGS = RetentionSettings(run_events_days=30, failed_run_events_days=90)


@dg.asset(partitions_def=WINDOWS, code_version="3")
def image(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """Made in all windows but two."""
    for n in range(5):
        context.log.critical("line %d of what is done", n)  # others are not stored, says dagster.yaml
    if context.partition_key == FAILED:
        raise ValueError(context.partition_key)
    return dg.MaterializeResult(metadata={"rms_jy": 1e-4, "window": context.partition_key}, tags={"engine": "small"})


@dg.asset(partitions_def=WINDOWS, deps=[image], code_version="1")
def fluxes(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """Measured on the image; its data version is of its own."""
    return dg.MaterializeResult(data_version=dg.DataVersion(f"of {context.partition_key}"))


@dg.asset_check(asset=image)
def noise_is_low(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Fails in a window whose image is kept all the same."""
    return dg.AssetCheckResult(passed=context.partition_key != SUCCEEDED[1], metadata={"limit_jy": 1e-3})


@dg.asset(partitions_def=DAYS, deps=[fluxes], code_version="1", automation_condition=FOLLOWS_THE_DAY)
def light_curves() -> None:
    """Follows the day as those of the platform do."""


defs = dg.Definitions(
    [image, fluxes, light_curves],
    asset_checks=[noise_is_low],
    jobs=[dg.define_asset_job("observation_job", selection=[image, fluxes])],
)
GRAPH = defs.resolve_asset_graph()
ASSETS = {"image": WINDOWS, "fluxes": WINDOWS, "light_curves": DAYS}
CHECK = dg.AssetCheckKey(dg.AssetKey("image"), "noise_is_low")


def observe(instance: dg.DagsterInstance, partition_key: str) -> str:
    """One run of an observation; its id."""
    job = defs.resolve_job_def("observation_job")
    return job.execute_in_process(partition_key=partition_key, instance=instance, raise_on_error=False).run_id


def automation(instance: dg.DagsterInstance, cursor: Any = None) -> Any:
    """One tick of automation; it requests nothing in earnest."""
    chosen = dg.AssetSelection.assets(*ASSETS)
    return dg.evaluate_automation_conditions(defs, instance, asset_selection=chosen, cursor=cursor)


def make_history(instance: dg.DagsterInstance) -> tuple[dict[str, list[str]], Any]:
    """Runs of every end and of both ages by the name of their end, and the cursor of automation before its last request.

    The windows of a day are observed, one of them twice; the day is made; one more window comes, so that it is to be requested.
    """
    cursor = automation(instance).cursor
    runs = {"succeeded": [observe(instance, key) for key in [*SUCCEEDED[:3], SUCCEEDED[0]]]}
    told = automation(instance, cursor)
    assert told.get_requested_partitions(light_curves.key) == {DAY}
    made = dg.materialize([light_curves], partition_key=DAY, instance=instance)
    runs["succeeded"].append(made.run_id)
    cursor = automation(instance, told.cursor).cursor
    runs["succeeded"].append(observe(instance, SUCCEEDED[3]))
    runs["failed"] = [observe(instance, FAILED)]
    for name, key, status in (
        ("canceled", CANCELED, dg.DagsterRunStatus.CANCELED),
        ("under way", UNDER_WAY, dg.DagsterRunStatus.STARTED),
    ):
        run = instance.create_run_for_job(defs.resolve_job_def("observation_job"), tags={"dagster/partition": key})
        runs[name] = [run.run_id]
        instance.report_engine_event("the process has started", run)
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "observation_job"), run_id=run.run_id
        )
        if status is dg.DagsterRunStatus.CANCELED:
            instance.report_run_canceling(run)
            instance.report_run_canceled(run)
    age(instance, [run for some in runs.values() for run in some], AGE_DAYS)
    runs["recent"] = [observe(instance, RECENT)]
    return runs, cursor


def age(instance: dg.DagsterInstance, run_ids: Iterable[str], days: float) -> None:
    """Let runs and their events have been so many days earlier."""
    events, runs, shift = SqlEventLogStorageTable, RunsTable, timedelta(days=days)
    chosen = list(run_ids)
    with _log(instance).index_connection() as connection:
        for event_id, at in connection.execute(
            db.select(events.c.id, events.c.timestamp).where(events.c.run_id.in_(chosen))
        ).fetchall():
            connection.execute(events.update().where(events.c.id == event_id).values(timestamp=at - shift))
    storage = instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    with storage.connect() as connection:
        connection.execute(
            runs.update()
            .where(runs.c.run_id.in_(chosen))
            .values(
                start_time=runs.c.start_time - shift.total_seconds(), end_time=runs.c.end_time - shift.total_seconds()
            )
        )


def _log(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    return storage


def rows(instance: dg.DagsterInstance, run_ids: Iterable[str] | None = None) -> list[tuple[Any, ...]]:
    """Rows of the event log, of some runs or of all."""
    table = SqlEventLogStorageTable
    query = db.select(table.c.id, table.c.dagster_event_type, table.c.event).order_by(table.c.id)
    if run_ids is not None:
        query = query.where(table.c.run_id.in_(list(run_ids)))
    with _log(instance).index_connection() as connection:
        return [tuple(row) for row in connection.execute(query).fetchall()]


def known(instance: dg.DagsterInstance, cursor: Any) -> dict[str, Any]:
    """Whatever Dagster, its automation and the platform know of what was made, checked and failed; no part of it may be empty."""
    log = _log(instance)
    keys = {name: dg.AssetKey(name) for name in ASSETS}
    staleness = CachingStaleStatusResolver(instance, GRAPH, LoadingContextForTest(instance))
    windows = {name: [*SUCCEEDED, FAILED, CANCELED, UNDER_WAY, RECENT] for name in ("image", "fluxes")}
    windows["light_curves"] = [DAY]
    made, planned = dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    told, first = automation(instance, cursor), automation(instance)
    return {
        "requests": {name: told.get_requested_partitions(key) for name, key in keys.items()},
        "requests of the first tick": {name: first.get_requested_partitions(key) for name, key in keys.items()},
        "statuses": {name: _statuses(instance, name) for name in ASSETS},
        "materializations": {name: instance.fetch_materializations(key, limit=1000) for name, key in keys.items()},
        "newest": {name: log.get_latest_storage_id_by_partition(key, made) for name, key in keys.items()},
        "planned": {name: log.get_latest_storage_id_by_partition(key, planned) for name, key in keys.items()},
        "unmade": log.get_latest_asset_partition_materialization_attempts_without_materializations(keys["image"]),
        "versions": {
            name: log.get_latest_tags_by_partition(key, made, [DATA_VERSION_TAG]) for name, key in keys.items()
        },
        "tags": instance.get_event_tags_for_asset(keys["image"]),
        "staleness": {
            (name, window): (
                staleness.get_status(keys[name], window),
                staleness.get_stale_causes(keys[name], window),
                staleness.get_current_data_version(keys[name], window),
            )
            for name, some in windows.items()
            for window in some
        },
        "checks": log.get_asset_check_execution_history(CHECK, limit=1000),
        "newest check": log.get_latest_asset_check_execution_by_key([CHECK]),
        "runs": instance.get_run_records(),
        "times of runs": {run.run_id: _ends(instance, run.run_id) for run in instance.get_runs()},
        "stream": from_dagster(instance, 0, set(KINDS), 1000),
        "failures": failures_since(instance, Cursor(), TimeoutSettings()),
        "made": made_since(instance, list(ASSETS), Cursor()),
        "end of the log": log.get_maximum_record_id(),
    }


def _statuses(instance: dg.DagsterInstance, name: str) -> list[Any]:
    """Status of partitions as it is kept, and as it is reckoned anew."""
    found = []
    for _ in range(2):
        value = get_and_update_asset_status_cache_value(instance, dg.AssetKey(name), ASSETS[name])
        assert value is not None
        subsets = (
            value.deserialize_materialized_partition_subsets(ASSETS[name]),
            value.deserialize_failed_partition_subsets(ASSETS[name]),
            value.deserialize_in_progress_partition_subsets(ASSETS[name]),
        )
        found.append([sorted(subset.get_partition_keys()) for subset in subsets])
        with _log(instance).index_connection() as connection:
            connection.execute(AssetKeyTable.update().values(cached_status_data=None))
    return found


def _ends(instance: dg.DagsterInstance, run_id: str) -> tuple[float | None, float | None]:
    stats = instance.get_run_stats(run_id)
    return stats.start_time, stats.end_time


def apply_and_be_killed(home: Path, variables: dict[str, str], kill_at: int, *, is_within: bool) -> None:
    """Remove events in small chunks, in this process, and be killed within or before the n-th chunk."""
    os.environ.update(variables | {"DAGSTER_HOME": str(home)})
    run_events._EVENTS_AT_ONCE = 10
    n_deleted = 0

    def kill(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal n_deleted
        n_deleted += statement.startswith("DELETE FROM event_logs")
        if n_deleted == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    db.event.listen(db.Engine, "after_cursor_execute" if is_within else "before_cursor_execute", kill)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        RunEvents(instance, SETTINGS).apply()


def in_days(days: float) -> Any:
    """Clock that is so many days ahead."""
    return lambda: datetime.now().astimezone() + timedelta(days=days)
