"""Which raw files belong to which observation, remembered in the store: shared by the sensor and by backfills.

What belongs here: the scan of the incoming folder, the judgement of each file and observation, and their rows in
tables ``raw_file`` and ``observation``. The grouping rule itself is ``science.grouping``; when to look is
``contimg_sensors.arrivals``.

Status of an observation: ``collecting`` until all sub-bands are there or the wait is over, then ``ready`` (from 12 of
16 on) or ``quarantined`` with a reason code. Files are never moved, and a late or replaced file opens its observation
again.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from contimg_assets.partitions import observation_partition, window_mjd_range
from contimg_assets.stages import trace_arrivals
from contimg_resources.configurable import Observatory
from contimg_resources.errors import RawFileError
from contimg_resources.store.connection import Store

_MOST_FILES_PER_SCAN = 1600
"""Headers read in one scan; the rest waits for the next one, so that a tick stays short."""
_NAME_MARGIN_D = 120.0 / 86_400.0
"""Names may be off from header times by this much when a single window is searched for, d."""
_CALIBRATOR_RADIUS_DEG = 0.8
"""Half the drift of one observation and a margin: each transit has one observation nearer than this."""
_SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class ExaminedFile:
    """A raw file and what its header says, or why it cannot be used."""

    path: Path
    bytes: int
    name_mjd: float
    subband: int | None
    start_mjd: float
    duration_s: float
    pointing_dec_deg: float
    site_deg_m: tuple[float, float, float]
    reason_code: str


def scan_incoming(folder: Path, known: dict[str, int]) -> list[Path]:
    """Sub-band files in the incoming folder that are new or changed size, oldest name first.

    Temporary names (leading dot, ``_incomplete``) are not there yet.
    """
    from contimg_resources.uvh5_header import parse_file_name

    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        fresh = [
            entry.path
            for entry in entries
            if parse_file_name(entry.name) is not None and known.get(entry.path) != entry.stat().st_size
        ]
    return [Path(path) for path in sorted(fresh)[:_MOST_FILES_PER_SCAN]]


def examine(path: Path, telescope_names: Sequence[str]) -> ExaminedFile:
    """Read the header of one raw file; a file that cannot be used keeps its place with a reason code."""
    from contimg_resources.uvh5_header import parse_file_name, read_subband_header

    name_mjd, subband = parse_file_name(path.name) or (float("nan"), None)
    nothing = float("nan")
    try:
        header = read_subband_header(path)
    except RawFileError as error:
        size = path.stat().st_size if path.exists() else 0
        return ExaminedFile(path, size, name_mjd, subband, nothing, nothing, nothing, (nothing,) * 3, error.reason_code)
    return ExaminedFile(
        path=path,
        bytes=header.n_bytes,
        name_mjd=name_mjd,
        subband=subband,
        start_mjd=header.start_mjd,
        duration_s=header.n_time * header.integration_s,
        pointing_dec_deg=header.pointing_dec_deg,
        site_deg_m=(header.longitude_deg, header.latitude_deg, header.altitude_m),
        reason_code="" if header.telescope_name in telescope_names else "other_telescope",
    )


def observe_arrivals(observatory: Observatory, paths: Sequence[Path] | None = None) -> list[dg.AssetMaterialization]:
    """Record what arrived since the last look (or just these files) and settle observations that waited long enough.

    Returns
    -------
    list of dagster.AssetMaterialization
        One of ``raw_visibilities`` for every observation that became ready.
    """
    store, settings = observatory.store, observatory.settings
    store.initialise()
    rows = store.query("SELECT path, bytes FROM raw_file")
    known = dict(zip(rows["path"], rows["bytes"], strict=True))
    fresh = scan_incoming(settings.incoming, known) if paths is None else list(paths)
    examined = [examine(path, observatory.telescope.names) for path in fresh]
    ready = _register(observatory, examined) if examined else []
    ready += _settle(store, settings.arrival_wait_s, settings.min_subbands)
    trace_arrivals(store, [str(materialization.partition) for materialization in ready])
    return ready


def raw_files_of(partition_key: str, observatory: Observatory) -> list[Path]:
    """Usable raw files of the observation that began in a window; the incoming folder is searched if the store knows none."""
    found = _known_files(observatory.store, partition_key)
    if not found:
        first, last = window_mjd_range(partition_key)
        near = [
            path
            for path in scan_incoming(observatory.settings.incoming, {})
            if first - _NAME_MARGIN_D <= _name_mjd(path) <= last + _NAME_MARGIN_D
        ]
        observe_arrivals(observatory, near)
        found = _known_files(observatory.store, partition_key)
    return found


def _name_mjd(path: Path) -> float:
    from contimg_resources.uvh5_header import parse_file_name

    parsed = parse_file_name(path.name)
    return parsed[0] if parsed else float("nan")


def _known_files(store: Store, partition_key: str) -> list[Path]:
    if not store.path.exists():
        return []
    rows = store.query(
        "SELECT f.path FROM raw_file f JOIN observation o USING (observation_id)"
        " WHERE o.partition_key = ? AND f.status = 'usable' ORDER BY f.path",
        [partition_key],
    )
    return [Path(path) for path in rows["path"]]


def _register(observatory: Observatory, examined: list[ExaminedFile]) -> list[dg.AssetMaterialization]:
    """Group new files with those of observations still open, and write the rows of every group they touch."""
    from contimg_assets.science.grouping import SubbandFile, group_subbands

    store, n_subbands = observatory.store, observatory.telescope.n_subbands
    files = {str(item.path): item for item in [*_open_files(store, examined), *examined]}
    groups = group_subbands(
        [
            SubbandFile(
                name=name, name_mjd=f.name_mjd, subband=f.subband, start_mjd=f.start_mjd, reason_code=f.reason_code
            )
            for name, f in files.items()
        ],
        n_subbands=n_subbands,
    )
    fresh = {str(item.path) for item in examined}
    touched = [group for group in groups if any(file.name in fresh for file in group.files)]
    now = datetime.now(UTC).replace(tzinfo=None)
    seen = store.query("SELECT observation_id, first_seen_at FROM observation")
    first_seen = dict(seen.iter_rows())
    observations = [
        _observation_row(group, files, observatory) | {"first_seen_at": first_seen.get(group.observation_id, now)}
        for group in touched
    ]
    raw_files = [
        {
            "path": file.name,
            "observation_id": group.observation_id,
            "subband": file.subband,
            "bytes": files[file.name].bytes,
            "status": "corrupt" if file.reason_code else "usable",
            "reason_code": file.reason_code or None,
        }
        for group in touched
        for file in group.files
    ]
    store.upsert(
        "raw_file", pl.DataFrame(raw_files, schema_overrides={"reason_code": pl.String(), "subband": pl.Int32()})
    )
    store.upsert("observation", pl.DataFrame(observations, schema=_OBSERVATION_SCHEMA))
    return [_materialization(row) for row in observations if row["status"] == "ready"]


def _open_files(store: Store, examined: list[ExaminedFile]) -> Iterable[ExaminedFile]:
    """Files already known of the observations around the new ones, so that late files join theirs."""
    starts = [item.start_mjd if item.start_mjd == item.start_mjd else item.name_mjd for item in examined]
    rows = store.query(
        "SELECT f.path, f.bytes, f.subband, coalesce(f.reason_code, '') AS reason_code, o.start_mjd, o.duration_s,"
        " o.pointing_dec_deg FROM raw_file f JOIN observation o USING (observation_id)"
        " WHERE o.start_mjd BETWEEN ? AND ?",
        [min(starts) - _NAME_MARGIN_D, max(starts) + _NAME_MARGIN_D],
    )
    nothing = float("nan")
    for row in rows.iter_rows(named=True):
        path = Path(row["path"])
        if path.exists():
            yield ExaminedFile(
                path=path,
                bytes=row["bytes"],
                name_mjd=_name_mjd(path),
                subband=row["subband"],
                start_mjd=nothing if row["reason_code"] else row["start_mjd"],
                duration_s=row["duration_s"] or nothing,
                pointing_dec_deg=nothing,
                site_deg_m=(nothing,) * 3,
                reason_code=row["reason_code"],
            )


_OBSERVATION_SCHEMA: dict[str, pl.DataType] = {
    "observation_id": pl.String(),
    "partition_key": pl.String(),
    "start_mjd": pl.Float64(),
    "duration_s": pl.Float64(),
    "pointing_ra_deg": pl.Float64(),
    "pointing_dec_deg": pl.Float64(),
    "n_subbands": pl.Int32(),
    "status": pl.String(),
    "reason_code": pl.String(),
    "first_seen_at": pl.Datetime("us"),
    "complete_at": pl.Datetime("us"),
    "raw_bytes": pl.Int64(),
    "calibrator": pl.String(),
    "calibrator_separation_deg": pl.Float64(),
}


def _observation_row(group: Any, files: dict[str, ExaminedFile], observatory: Observatory) -> dict[str, Any]:
    """Row of table ``observation`` of one group of files."""
    usable = [files[file.name] for file in group.files if not file.reason_code]
    row: dict[str, Any] = {
        "observation_id": group.observation_id,
        "partition_key": observation_partition(group.start_mjd),
        "start_mjd": group.start_mjd,
        "n_subbands": group.n_subbands,
        "raw_bytes": sum(files[file.name].bytes for file in group.files),
        "status": "collecting",
        "reason_code": group.reason_code or None,
    }
    if group.status == "complete":
        row |= {"status": "ready", "complete_at": datetime.now(UTC).replace(tzinfo=None)}
    elif group.status == "duplicate" or not usable:
        row |= {"status": "quarantined"}
    described = [item for item in usable if item.site_deg_m[0] == item.site_deg_m[0]]
    return row | (_pointing(described[0], observatory) if described else {})


def _pointing(item: ExaminedFile, observatory: Observatory) -> dict[str, Any]:
    """Where the dishes looked in the middle of an observation, and the calibrator that was there."""
    import astropy.units as u
    import numpy as np
    from astropy.coordinates import EarthLocation

    from contimg_assets.science.coordinates import meridian_icrs
    from contimg_assets.science.field_model import calibrators_in_view

    longitude, latitude, altitude = item.site_deg_m
    site = EarthLocation.from_geodetic(longitude * u.deg, latitude * u.deg, altitude * u.m)
    site_itrf_m = np.array([site.x.to_value(u.m), site.y.to_value(u.m), site.z.to_value(u.m)])
    middle = np.array([item.start_mjd + 0.5 * item.duration_s / _SECONDS_PER_DAY])
    ra_deg, dec_deg = (float(value[0]) for value in meridian_icrs(item.pointing_dec_deg, middle, site_itrf_m))
    wanted = tuple(observatory.settings.calibrators)
    in_view = calibrators_in_view(ra_deg, dec_deg, _CALIBRATOR_RADIUS_DEG, wanted)
    name, apart = in_view[0] if in_view else (None, None)
    return {
        "duration_s": item.duration_s,
        "pointing_ra_deg": ra_deg,
        "pointing_dec_deg": dec_deg,
        "calibrator": name,
        "calibrator_separation_deg": apart,
    }


def _settle(store: Store, wait_s: float, min_subbands: int) -> list[dg.AssetMaterialization]:
    """Decide about observations that have waited for their missing sub-bands long enough."""
    oldest = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=wait_s)
    waiting = store.query("SELECT * FROM observation WHERE status = 'collecting' AND first_seen_at <= ?", [oldest])
    if waiting.is_empty():
        return []
    is_enough = pl.col("n_subbands") >= min_subbands
    settled = waiting.select(
        "observation_id",
        "partition_key",
        "start_mjd",
        "n_subbands",
        status=pl.when(is_enough).then(pl.lit("ready")).otherwise(pl.lit("quarantined")),
        reason_code=pl.when(is_enough).then(pl.lit("missing_subbands")).otherwise(pl.lit("too_few_subbands")),
        complete_at=pl.lit(datetime.now(UTC).replace(tzinfo=None)),
    )
    store.upsert("observation", settled)
    return [_materialization(row) for row in settled.iter_rows(named=True) if row["status"] == "ready"]


def _materialization(row: dict[str, Any]) -> dg.AssetMaterialization:
    metadata = {
        name: row[name]
        for name in ("observation_id", "n_subbands", "raw_bytes", "calibrator")
        if row.get(name) is not None
    }
    return dg.AssetMaterialization(
        asset_key="raw_visibilities",
        partition=row["partition_key"],
        description=row.get("reason_code"),
        metadata=metadata,
    )
