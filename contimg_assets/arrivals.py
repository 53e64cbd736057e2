"""Which raw files there are and what they say: seen, read and handed on. Shared by the sensor and by backfills.

What belongs here: choosing the files to read and reading their headers in threads. What is decided about them and kept
is ``arrival_records``; when to look is ``contimg_sensors.arrivals``; the memory of the folder is
``contimg_resources.folder_watch``.

Status of an observation: ``collecting`` until all sub-bands are there or the wait is over, then ``ready`` (from 12 of
16 on) or ``quarantined`` with a reason code. Files are never moved, and a late or replaced file opens its observation
again.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl

from contimg_assets.arrival_records import ExaminedFile, record_arrivals
from contimg_assets.partitions import window_mjd_range
from contimg_resources.configurable import Observatory
from contimg_resources.errors import ProductMissingError, RawFileError
from contimg_resources.folder_watch import FileState, FolderWatch
from contimg_resources.heartbeats import SENSOR_INTERVAL_S, WRITER_INTERVAL_S, Heartbeat, note_heartbeats
from contimg_resources.process_memory import give_back_freed_memory
from contimg_resources.store.connection import Store
from contimg_resources.uvh5_header import parse_file_name, read_subband_header

SENSOR_NAME = "sensor:incoming_observations"
_MOST_FILES_PER_LOOK = 1600
"""Headers read in one look; the rest waits for the next one, so that a tick stays short."""
_NAME_MARGIN_D = 120.0 / 86_400.0
"""Names may be off from header times by this much when a single window is searched for, d."""
_READERS = 8
"""Threads that read headers: HDF5 itself works for one at a time, opening files on a network disk is what overlaps."""


def examine(path: Path, telescope_names: Sequence[str]) -> ExaminedFile | None:
    """Read the header of one raw file; one that cannot be used keeps its place with a reason code, one gone is None."""
    name_mjd, subband = parse_file_name(path.name) or (float("nan"), None)
    try:
        found = path.stat()
        bare = ExaminedFile(path, found.st_size, name_mjd, subband, modified_us=found.st_mtime_ns // 1000)
        header = read_subband_header(path)
    except RawFileError as error:
        return replace(bare, reason_code=error.reason_code)
    except (FileNotFoundError, ProductMissingError):
        return None
    return replace(
        bare,
        start_mjd=header.start_mjd,
        duration_s=header.n_time * header.integration_s,
        pointing_dec_deg=header.pointing_dec_deg,
        site_deg_m=(header.longitude_deg, header.latitude_deg, header.altitude_m),
        reason_code="" if header.telescope_name in telescope_names else "other_telescope",
    )


def examine_all(paths: Iterable[Path], telescope_names: Sequence[str]) -> list[ExaminedFile]:
    """Read headers, several at a time; files that vanished meanwhile are left out."""
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda path: examine(path, telescope_names), paths))
    return [item for item in found if item is not None]


def utc_now() -> datetime:
    """The time, UTC without zone as in the store."""
    return datetime.now(UTC).replace(tzinfo=None)


def observe_arrivals(observatory: Observatory, paths: Sequence[Path] | None = None) -> list[dg.AssetMaterialization]:
    """Record what lies in the incoming folder now (or just these files), believing that nobody is writing to it.

    Returns
    -------
    list of dagster.AssetMaterialization
        One of ``raw_visibilities`` for every observation that became ready.
    """
    observatory.store.initialise()
    if paths is None:
        watch = FolderWatch(observatory.settings.incoming, settle_s=0.0)
        return watch_arrivals(observatory, watch, now=utc_now(), patience_s=0.0)
    return record_arrivals(observatory, examine_all(paths, observatory.telescope.names), now=utc_now())


def watch_arrivals(
    observatory: Observatory, watch: FolderWatch, *, now: datetime, patience_s: float
) -> list[dg.AssetMaterialization]:
    """Record what arrived since the last look, and settle observations that waited long enough.

    Parameters
    ----------
    observatory : Observatory
    watch : FolderWatch
        The memory of the incoming folder; it need not survive, the store does.
    now : datetime
        UTC without zone.
    patience_s : float
        A file that cannot be read is believed broken, and not unfinished, when it has not changed for so long, s.

    Returns
    -------
    list of dagster.AssetMaterialization
        One of ``raw_visibilities`` for every observation that became ready.
    """
    store, now_s = observatory.store, now.replace(tzinfo=UTC).timestamp()
    if watch.is_due(now_s):
        store.initialise()
        watch.remember(*_recorded_files(store, watch))
        give_back_freed_memory()
    seen = watch.look(now_s)
    returned = _returned_files(store, watch, seen.quiet)
    watch.acknowledge(returned, [], now_s)
    quiet = [path for path in seen.quiet if path.name not in returned]
    examined = examine_all(quiet[:_MOST_FILES_PER_LOOK], observatory.telescope.names)
    settled = [
        item
        for item in examined
        if watch.state(item.path) == FileState(item.bytes, item.modified_us)  # not written to since the look
        and (not item.reason_code or watch.age_s(item.path, now_s) >= patience_s)
    ]
    ready = []
    if settled or seen.gone or watch.waits.is_over(store, now=now, wait_s=observatory.settings.arrival_wait_s):
        ready = record_arrivals(observatory, settled, now=now, gone=seen.gone)
    watch.acknowledge(
        {item.path.name: FileState(item.bytes, item.modified_us) for item in settled},
        [item.path.name for item in settled if item.reason_code],
        now_s,
    )
    watch.forget(seen.gone)
    _note_life(store, watch, settled, now)
    return ready


def raw_files_of(partition_key: str, observatory: Observatory) -> list[Path]:
    """Usable raw files of the observation that began in a window; the incoming folder is searched if the store knows none."""
    found = _known_files(observatory.store, partition_key)
    if not found:
        first, last = window_mjd_range(partition_key)
        folder = observatory.settings.incoming
        names = sorted(FolderWatch(folder, settle_s=0.0).names())
        near = [folder / name for name in names if first - _NAME_MARGIN_D <= _name_mjd(name) <= last + _NAME_MARGIN_D]
        observe_arrivals(observatory, near)
        found = _known_files(observatory.store, partition_key)
    return found


def _name_mjd(name: str) -> float:
    parsed = parse_file_name(name)
    return parsed[0] if parsed else float("nan")


def _known_files(store: Store, partition_key: str) -> list[Path]:
    """Usable files of the window's observation; where a few stragglers have a group of their own, of the larger one."""
    if not store.path.exists():
        return []
    rows = store.query(
        "SELECT path FROM raw_file WHERE status = 'usable' AND observation_id = (SELECT observation_id FROM observation"
        " WHERE partition_key = ? ORDER BY n_subbands DESC NULLS LAST, start_mjd LIMIT 1) ORDER BY path",
        [partition_key],
    )
    return [Path(path) for path in rows["path"]]


def _recorded_files(store: Store, watch: FolderWatch) -> tuple[dict[str, FileState], list[str]]:
    """What the store knows of the files that lie in the folder, and of those whose observation is not processed yet."""
    names = pl.DataFrame({"path": [f"{watch.folder}/{name}" for name in watch.names()]}, schema={"path": pl.String})
    with store.reading() as connection:
        # As a parameter, each of 40,000 names would be an object of DuckDB's.
        connection.register("incoming_rows", names)
        rows = connection.sql(
            "SELECT f.path, f.bytes, epoch_us(f.modified_at) AS modified_us, f.reason_code FROM raw_file f"
            " LEFT JOIN observation o USING (observation_id) WHERE f.status <> 'removed' AND starts_with(f.path, $folder)"
            " AND (o.status <> 'processed' OR f.path IN (SELECT path FROM incoming_rows))",
            params={"folder": f"{watch.folder}/"},
        ).pl()
    states, suspect = {}, []
    for path, n_bytes, modified_us, reason_code in rows.iter_rows():
        name = path.rpartition("/")[2]  # a Path of each of 40,000 files: a second
        states[name] = FileState(n_bytes, modified_us)
        if reason_code:
            suspect.append(name)
    return states, suspect


def _returned_files(store: Store, watch: FolderWatch, quiet: Sequence[Path]) -> dict[str, FileState]:
    """Files of processed observations that are here again as they were, brought back from the archive: nothing is new."""
    if not quiet:
        return {}
    rows = store.query(
        "SELECT f.path, f.bytes, epoch_us(f.modified_at) AS modified_us FROM raw_file f JOIN observation o USING (observation_id)"
        " WHERE f.status = 'usable' AND o.status = 'processed' AND f.path IN (SELECT unnest(?::VARCHAR[]))",
        [[str(path) for path in quiet]],
    )
    found = {Path(path): FileState(n_bytes, modified_us) for path, n_bytes, modified_us in rows.iter_rows()}
    return {path.name: state for path, state in found.items() if watch.state(path).fits(state)}


def _note_life(store: Store, watch: FolderWatch, settled: Sequence[ExaminedFile], now: datetime) -> None:
    """Heartbeats of the sensor, once a minute, and of the correlator's nodes, by the newest file of each sub-band."""
    beats = []
    if watch.beat_at is None or (now - watch.beat_at).total_seconds() >= SENSOR_INTERVAL_S:
        beats.append(Heartbeat(SENSOR_NAME, "sensor", now, SENSOR_INTERVAL_S, detail=f"{watch.n_known} files known"))
        watch.beat_at = now
    newest: dict[int, ExaminedFile] = {}
    for item in settled:
        if item.subband is not None and item.modified_us is not None:
            other = newest.get(item.subband)
            if other is None or (other.modified_us or 0) < item.modified_us:
                newest[item.subband] = item
    for subband, item in newest.items():
        written_at = datetime.fromtimestamp((item.modified_us or 0) / 1e6, UTC).replace(tzinfo=None)
        beats.append(
            Heartbeat(f"writer:sb{subband:02d}", "writer", written_at, WRITER_INTERVAL_S, detail=item.path.name)
        )
    if beats:
        note_heartbeats(store, beats)
