"""When observations are processed: arrivals in the incoming folder, and the calibrator transits among them.

What belongs here: looking, deciding, requesting. Reading and remembering files is ``contimg_assets.arrivals``. Run
keys name the observation and its files, so the same files never run twice, and a file that completes an observation
late does.

The order of things on a sidereal day: the transit's measurement set is made as soon as its files are complete; the
bandpass follows; all later observations, and the rest of the transit's own, wait for that bandpass, at most
``CONTIMG_CALIBRATION_WAIT_S`` after their completion, and then go with the nearest valid one.
"""

import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from contimg_assets.arrivals import SENSOR_NAME, utc_now, watch_arrivals
from contimg_assets.calibration_registry import SAME_TRANSIT_D
from contimg_assets.checks.observations import raw_visibilities_checks
from contimg_assets.jobs import OBSERVATION_ASSETS, bandpass_job, catalogue_job, observation_job
from contimg_assets.observations import measurement_set
from contimg_assets.partitions import observations
from contimg_resources.configurable import Observatory
from contimg_resources.folder_watch import FolderWatch
from contimg_resources.observability import OBSERVATION_TAG, TRACE_TAG
from contimg_resources.setting_changes import note_settings
from contimg_resources.tracing import trace_of
from contimg_sensors.gates import pass_gate

_READY = """
    SELECT o.observation_id, o.partition_key, o.start_mjd, o.complete_at, o.calibrator,
           string_agg(f.path || ':' || f.bytes || coalesce(':' || epoch_us(f.modified_at), ''), ' ' ORDER BY f.path)
               AS files,
           bool_or(o.partition_key IN (SELECT partition_key FROM stage_timing WHERE asset = 'measurement_set'))
               AS has_measurement_set
    FROM observation o LEFT JOIN raw_file f ON f.observation_id = o.observation_id AND f.status = 'usable'
    WHERE o.status = 'ready' GROUP BY ALL ORDER BY o.start_mjd
"""
_TRANSITS = (
    "SELECT start_mjd FROM observation WHERE calibrator IS NOT NULL AND status IN ('collecting', 'ready', 'processed')"
)
PRIORITIES = {"transit": "10", "observation": "20", "bandpass": "30"}
"""What is nearer to its end goes first (days come before all, see ``automation``): the first light curve does not wait for the
last measurement set of a backlog."""
_WATCHES: dict[tuple[Path, Path, int], FolderWatch] = {}
"""Memory of the folders by folder and store: of this process only, the store has everything it holds."""
_WATCHING = threading.Lock()
_AFTER_MEASUREMENT_SET = [asset.key for asset in OBSERVATION_ASSETS if asset is not measurement_set]


@dg.sensor(
    jobs=[observation_job, bandpass_job, catalogue_job],
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def incoming_observations(context: dg.SensorEvaluationContext, observatory: Observatory) -> dg.SensorResult:
    """Watch the incoming folder, group sub-bands into observations, and request one run per complete observation.

    New files are recorded in tables raw_file and observation, every complete observation is reported as a
    materialization of raw_visibilities, and its run is requested once the bandpass of its transit is at hand.
    """
    settings = observatory.settings
    with _WATCHING:
        watch = _watch_of(observatory)
        note_settings(observatory.store, settings, process=SENSOR_NAME, at=utc_now())
        arrived = watch_arrivals(observatory, watch, now=utc_now(), patience_s=settings.arrival_patience_s)
    wanted = wanted_requests(observatory)
    context.log.info(f"{len(arrived)} observations became ready, {len(wanted)} runs wanted")
    passed = pass_gate(context.instance, observatory, wanted)
    for reason in passed.reasons:
        context.log.warning(reason)
    return dg.SensorResult(run_requests=passed.requests, skip_reason=passed.skip_reason, asset_events=arrived)


def wanted_requests(observatory: Observatory) -> list[dg.RunRequest]:
    """Every run that the state of the store asks for, whether or not it was requested before, most urgent first."""
    return [*catalogue_requests(observatory), *observation_requests(observatory)]


def _watch_of(observatory: Observatory) -> FolderWatch:
    """The memory of the incoming folder; a new one when the store is another file, which knows other things."""
    store, settings = observatory.store, observatory.settings
    if not store.path.exists():
        store.initialise()
    key = (settings.incoming, store.path, store.path.stat().st_ino)
    if key not in _WATCHES:
        _WATCHES.clear()
        _WATCHES[key] = FolderWatch(settings.incoming, settle_s=settings.arrival_settle_s)
    return _WATCHES[key]


def catalogue_requests(observatory: Observatory) -> Iterator[dg.RunRequest]:
    """The reference catalogue once for every version of its file."""
    path = observatory.settings.catalogue
    if path is not None and path.exists():
        state = path.stat()
        yield dg.RunRequest(
            run_key=f"catalogue:{path}:{state.st_mtime_ns}:{state.st_size}", job_name=catalogue_job.name
        )


def observation_requests(observatory: Observatory) -> Iterator[dg.RunRequest]:
    """Runs of ready observations, in the order of observation, each as far as its calibration allows."""
    store = observatory.store
    if not observatory.products.holds(observatory.products.reference_catalogue()):
        return
    ready = store.query(_READY)
    if ready.is_empty():
        return
    transits = store.query(_TRANSITS)
    tables = store.query(
        "SELECT solved_at_mjd, valid_from_mjd, valid_to_mjd FROM calibration_table WHERE kind = 'B' AND status = 'active'"
    )
    wait = timedelta(seconds=observatory.settings.calibration_wait_s)
    first, last = observations.get_first_partition_key(), observations.get_last_partition_key()
    for row in ready.iter_rows(named=True):
        if first is None or last is None or not first <= row["partition_key"] <= last:
            continue  # its window is not over, or the season's bounds are being changed: it stays ready
        files = f"{zlib.crc32((row['files'] or '').encode()):08x}"
        if row["calibrator"] is not None:
            yield from _transit_requests(row, files)
        if is_calibratable(row, transits, tables, wait):
            yield dg.RunRequest(
                run_key=f"observation:{row['observation_id']}:{files}",
                job_name=observation_job.name,
                partition_key=row["partition_key"],
                asset_selection=_AFTER_MEASUREMENT_SET if row["calibrator"] is not None else None,
                tags=_tags(row) | {"dagster/priority": PRIORITIES["observation"]},
            )


def _tags(row: dict[str, Any]) -> dict[str, str]:
    """Whose run it is, and the trace it continues."""
    return {OBSERVATION_TAG: row["observation_id"], TRACE_TAG: trace_of(row["partition_key"]).traceparent}


def _transit_requests(row: dict[str, Any], files: str) -> Iterator[dg.RunRequest]:
    """A transit comes first: its measurement set, then the bandpass of its day."""
    tags = _tags(row)
    if not row["has_measurement_set"]:
        yield dg.RunRequest(
            run_key=f"transit:{row['observation_id']}:{files}",
            job_name=observation_job.name,
            partition_key=row["partition_key"],
            asset_selection=[measurement_set.key],
            asset_check_keys=[*raw_visibilities_checks.check_keys, *measurement_set.check_keys],
            tags=tags | {"dagster/priority": PRIORITIES["transit"]},
        )
    else:
        yield dg.RunRequest(
            run_key=f"bandpass:{row['observation_id']}:{files}",
            job_name=bandpass_job.name,
            partition_key=row["partition_key"][:10],
            tags=tags | {"dagster/priority": PRIORITIES["bandpass"]},
        )


def is_calibratable(row: dict[str, Any], transits: pl.DataFrame, tables: pl.DataFrame, wait: timedelta) -> bool:
    """Whether an observation need not wait (any longer) for a bandpass.

    Parameters
    ----------
    row : mapping
        ``start_mjd`` and ``complete_at`` of the observation.
    transits : polars.DataFrame
        ``start_mjd`` of the calibrator observations that are not quarantined.
    tables : polars.DataFrame
        ``solved_at_mjd``, ``valid_from_mjd``, ``valid_to_mjd`` of the active bandpass tables.
    wait : timedelta
        After completion.
    """
    now, start_mjd = datetime.now(UTC).replace(tzinfo=None), row["start_mjd"]
    if row["complete_at"] is not None and now - row["complete_at"] > wait:
        return True
    last = transits.filter(pl.col("start_mjd") <= start_mjd, pl.col("start_mjd") > start_mjd - 1.0)["start_mjd"].max()
    if last is not None and tables.filter((pl.col("solved_at_mjd") - last).abs() < SAME_TRANSIT_D).is_empty():
        return False
    return not tables.filter(pl.col("valid_from_mjd") <= start_mjd, pl.col("valid_to_mjd") >= start_mjd).is_empty()
