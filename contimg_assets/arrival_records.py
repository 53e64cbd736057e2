"""From examined raw files to rows of the store: regroup around what is new, decide, write all of it in one transaction.

What belongs here: tables ``raw_file``, ``observation`` and ``arrival_decision``. Seeing and reading files is
``arrivals``; the rules are ``science.grouping`` and ``science.arrival_decisions``. Time is an argument, so that arrivals
can be simulated with these same functions.

Every change of an observation's state is a row of ``arrival_decision`` with everything it was decided on, which
``contimg group --replay`` decides upon again. An observation whose files turn out to belong to another (a file with a
readable header places those that had only a name) is superseded: its row goes, its decisions stay.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from contimg_assets.catalogue import known_calibrators
from contimg_assets.partitions import mjd_of_utc, observation_partition
from contimg_assets.science.arrival_decisions import ArrivalRules, decide, facts_of, stragglers
from contimg_assets.science.flux_calibrators import FluxCalibrator, find_calibrator
from contimg_assets.science.grouping import ObservationGroup, SubbandFile, group_subbands
from contimg_assets.stages import trace_arrivals
from contimg_resources.configurable import Observatory
from contimg_resources.store.connection import Store, insert
from contimg_resources.store.frames import fit_frame
from contimg_resources.store.records import keep_rows
from contimg_resources.store.schema import TABLES

_NEAR_D = 180.0 / 86_400.0
"""Observations so near to a new file may be touched by it: the name window, the straggler window and a margin, d."""
_CALIBRATOR_RADIUS_DEG = 0.8
"""Half the drift of one observation and a margin: each transit has one observation nearer than this."""
_SECONDS_PER_DAY = 86_400.0
_DAY_LENGTH = len("2026-01-25")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  (the store's times are UTC without zone)
_NOTHING = float("nan")


@dataclass(frozen=True)
class ExaminedFile:
    """A raw file and what its header says, or why it cannot be used."""

    path: Path
    bytes: int
    name_mjd: float
    subband: int | None
    start_mjd: float = _NOTHING
    """By the header, UTC MJD; NaN if it could not be read."""
    reason_code: str = ""
    modified_us: int | None = None
    """Microseconds since 1970."""
    duration_s: float = _NOTHING
    pointing_dec_deg: float = _NOTHING
    site_deg_m: tuple[float, float, float] = (_NOTHING,) * 3


@dataclass
class _Scene:
    """What is around the news: observations as the store knows them, files of old and new, and what is gone."""

    previous: dict[str, dict[str, Any]]
    files: dict[str, ExaminedFile]
    observation_of: dict[str, str]
    fresh: set[str]
    gone: set[str] = field(default_factory=set)
    """Ids of observations that lost a file."""
    overdue: set[str] = field(default_factory=set)


def arrival_rules(observatory: Observatory) -> ArrivalRules:
    """The rules that the settings ask for."""
    settings = observatory.settings
    start = datetime.combine(settings.season_start, datetime.min.time(), UTC)
    end = settings.season_end
    return ArrivalRules(
        wait_s=settings.arrival_wait_s,
        min_subbands=settings.min_subbands,
        n_subbands=observatory.telescope.n_subbands,
        first_mjd=mjd_of_utc(start),
        last_mjd=None if end is None else mjd_of_utc(datetime.combine(end, datetime.min.time(), UTC)) + 1.0,
    )


def record_arrivals(
    observatory: Observatory, examined: Sequence[ExaminedFile], *, now: datetime, gone: Sequence[Path] = ()
) -> list[dg.AssetMaterialization]:
    """Record new files, drop those that are gone, and decide about every observation they touch or that waited enough.

    Parameters
    ----------
    observatory : Observatory
    examined : sequence of ExaminedFile
        New or changed files.
    now : datetime
        UTC without zone; from it follows how long an observation has waited.
    gone : sequence of Path
        Recorded files that are no longer there. Observations already processed are left alone.

    Returns
    -------
    list of dagster.AssetMaterialization
        One of ``raw_visibilities`` for every observation that became ready.
    """
    store, rules = observatory.store, arrival_rules(observatory)
    known = known_calibrators(observatory)
    calibrators = [find_calibrator(name, known) for name in observatory.settings.calibrators]
    removed = _removed(store, gone)
    overdue = _overdue(store, now, rules.wait_s)
    centres = [item.start_mjd if item.start_mjd == item.start_mjd else item.name_mjd for item in examined]
    centres += [*removed["start_mjd"], *overdue["start_mjd"]]
    if not centres:
        return []
    scene = _scene(store, examined, removed, overdue, centres)
    groups = group_subbands(
        [_bare(item) for item in scene.files.values()], name_window_s=rules.name_window_s, n_subbands=rules.n_subbands
    )
    small = stragglers(groups)
    observations, decisions, raw_files = [], [], []
    for group in groups:
        if not _is_touched(group, scene):
            continue
        row, facts = _judged(group, scene, rules, calibrators, now, is_straggler=group.observation_id in small)
        observations.append(row)
        raw_files += [_file_row(file, group, scene.files[file.name]) for file in group.files]
        if facts is not None:
            decisions.append(_decision_row(row, facts, now))
    superseded, emptied = _without_files(groups, scene)
    observations += emptied
    decisions += [_decision_row(row, {}, now) for row in emptied]
    decisions += [
        _decision_row(scene.previous[name] | {"status": "superseded", "reason_code": "regrouped"}, {}, now)
        for name in superseded
    ]
    _write(store, raw_files, observations, decisions, superseded, removed["path"].to_list())
    decided = {row["observation_id"] for row in decisions}
    ready = [row for row in observations if row["status"] == "ready" and row["observation_id"] in decided]
    trace_arrivals(store, [row["partition_key"] for row in ready])
    return [_materialization(row) for row in ready]


def _removed(store: Store, gone: Sequence[Path]) -> pl.DataFrame:
    """Files that vanished under observations that were not processed yet."""
    if not gone:
        return pl.DataFrame(schema={"path": pl.String, "observation_id": pl.String, "start_mjd": pl.Float64})
    return store.query(
        "SELECT f.path, f.observation_id, o.start_mjd FROM raw_file f JOIN observation o USING (observation_id)"
        " WHERE f.status <> 'removed' AND o.status <> 'processed' AND f.path IN (SELECT unnest(?::VARCHAR[]))",
        [[str(path) for path in gone]],
    )


def _overdue(store: Store, now: datetime, wait_s: float) -> pl.DataFrame:
    return store.query(
        "SELECT observation_id, start_mjd FROM observation WHERE status = 'collecting' AND first_seen_at <= ?",
        [now - timedelta(seconds=wait_s)],
    )


def _scene(
    store: Store,
    examined: Sequence[ExaminedFile],
    removed: pl.DataFrame,
    overdue: pl.DataFrame,
    centres: list[float],
) -> _Scene:
    """Everything the news may touch: the observations within `_NEAR_D` of it and the files of those."""
    news = pl.Series("mjd", centres, dtype=pl.Float64).drop_nans().unique().sort()
    around = store.query(
        "SELECT * FROM observation WHERE start_mjd BETWEEN ? AND ? ORDER BY start_mjd",
        [news.min() - _NEAR_D, news.max() + _NEAR_D] if len(news) else [0.0, -1.0],  # type: ignore[operator]
    )
    first = news.search_sorted(around["start_mjd"] - _NEAR_D)
    previous = {
        row["observation_id"]: row
        for row, place in zip(around.iter_rows(named=True), first, strict=True)
        if place < len(news) and news[place] <= row["start_mjd"] + _NEAR_D
    }
    known = store.query(
        "SELECT path, observation_id, bytes, subband, start_mjd, coalesce(reason_code, '') AS reason_code,"
        " epoch_us(modified_at) AS modified_us FROM raw_file"
        " WHERE status <> 'removed' AND observation_id IN (SELECT unnest(?::VARCHAR[]))",
        [list(previous)],
    )
    lost = set(removed["path"])
    files = {row["path"]: _known_file(row) for row in known.iter_rows(named=True) if row["path"] not in lost}
    files |= {str(item.path): item for item in examined}
    return _Scene(
        previous=previous,
        files=files,
        observation_of={row["path"]: row["observation_id"] for row in known.iter_rows(named=True)},
        fresh={str(item.path) for item in examined},
        gone=set(removed["observation_id"]),
        overdue=set(overdue["observation_id"]),
    )


def _known_file(row: dict[str, Any]) -> ExaminedFile:
    from contimg_resources.uvh5_header import parse_file_name

    path = Path(row["path"])
    named = parse_file_name(path.name)
    return ExaminedFile(
        path=path,
        bytes=row["bytes"],
        name_mjd=named[0] if named else _NOTHING,
        subband=row["subband"],
        start_mjd=_NOTHING if row["start_mjd"] is None else row["start_mjd"],
        reason_code=row["reason_code"],
        modified_us=row["modified_us"],
    )


def _bare(item: ExaminedFile) -> SubbandFile:
    return SubbandFile(str(item.path), item.name_mjd, item.subband, item.start_mjd, item.reason_code)


def _is_touched(group: ObservationGroup, scene: _Scene) -> bool:
    """Whether a group is not as the store knows it, or has waited long enough."""
    names = {file.name for file in group.files}
    came_from = {scene.observation_of.get(name) for name in names}
    return (
        bool(names & scene.fresh)
        or came_from != {group.observation_id}
        or bool({group.observation_id} & (scene.gone | scene.overdue))
    )


def _judged(
    group: ObservationGroup,
    scene: _Scene,
    rules: ArrivalRules,
    calibrators: Sequence[FluxCalibrator],
    now: datetime,
    *,
    is_straggler: bool,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Row of table ``observation`` of one group, and the facts of a decision that is news (else None)."""
    origins = {scene.observation_of[file.name] for file in group.files if file.name in scene.observation_of}
    earlier = [scene.previous[name] for name in sorted(origins)]
    first_seen_at = min((row["first_seen_at"] for row in earlier if row["first_seen_at"]), default=now)
    waited_s = (now - first_seen_at).total_seconds()
    before = scene.previous.get(group.observation_id) or (earlier[0] if earlier else {})
    decided = decide(group, rules, waited_s=waited_s, is_straggler=is_straggler)
    row = before | {
        "observation_id": group.observation_id,
        "partition_key": observation_partition(group.start_mjd),
        "start_mjd": group.start_mjd,
        "n_subbands": group.n_subbands,
        "raw_bytes": sum(scene.files[file.name].bytes for file in group.files),
        "first_seen_at": first_seen_at,
    }
    usable_news = any(file.name in scene.fresh and not file.reason_code for file in group.files)
    facts = None
    # What was ready once stays as it is (processed, or refused by its run) until a usable file comes or goes.
    if not before.get("complete_at") or usable_news or group.observation_id in scene.gone or len(origins) > 1:
        row |= {"status": decided.decision, "reason_code": decided.reason_code or None}
        if decided.decision == "ready":
            row["complete_at"] = now
        is_news = any(row[name] != before.get(name) for name in ("observation_id", "status", "reason_code"))
        if is_news or (usable_news and decided.decision != "collecting"):
            facts = facts_of(group, rules, waited_s=waited_s, is_straggler=is_straggler)
    described = [scene.files[file.name] for file in group.files if not file.reason_code]
    described = [item for item in described if item.site_deg_m[0] == item.site_deg_m[0]]
    if described and before.get("pointing_dec_deg") is None:
        row |= _pointing(described[0], calibrators)
    return row, facts


def _without_files(groups: list[ObservationGroup], scene: _Scene) -> tuple[list[str], list[dict[str, Any]]]:
    """Observations that are no more: ids whose files belong to another now, and rows of those that have no file left."""
    kept = {group.observation_id for group in groups}
    lost = [name for name in scene.previous if name not in kept]
    moved = {scene.observation_of[name] for name in scene.files if name in scene.observation_of}
    emptied = [
        scene.previous[name] | {"status": "quarantined", "reason_code": "files_removed", "n_subbands": 0}
        for name in lost
        if name not in moved and name in scene.gone
    ]
    return [name for name in lost if name in moved], emptied


def _file_row(file: SubbandFile, group: ObservationGroup, item: ExaminedFile) -> dict[str, Any]:
    return {
        "path": file.name,
        "observation_id": group.observation_id,
        "subband": file.subband,
        "bytes": item.bytes,
        "modified_at": None if item.modified_us is None else _EPOCH + timedelta(microseconds=item.modified_us),
        "status": "corrupt" if file.reason_code else "usable",
        "reason_code": file.reason_code or None,
        "start_mjd": file.start_mjd,
    }


def _decision_row(row: dict[str, Any], facts: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Row of table ``arrival_decision``; the same decision at the same time has the same id."""
    for file in facts.get("files", []):
        file[0] = Path(file[0]).name
    text = json.dumps(facts, separators=(",", ":"))
    identity = f"{row['observation_id']} {now.isoformat()} {row['status']} {row['reason_code']} {text}"
    return {
        "decision_id": sha256(identity.encode()).hexdigest()[:20],
        "observation_id": row["observation_id"],
        "partition_key": row["partition_key"],
        "at": now,
        "decision": row["status"],
        "reason_code": row["reason_code"],
        "n_subbands": row["n_subbands"],
        "files": text,
    }


def _write(
    store: Store,
    raw_files: list[dict[str, Any]],
    observations: list[dict[str, Any]],
    decisions: list[dict[str, Any]],
    superseded: list[str],
    removed: list[str],
) -> None:
    """All rows in one transaction."""
    rows = {"raw_file": raw_files, "observation": observations, "arrival_decision": decisions}
    with store.transaction() as connection:
        # Files may move from an observation of one day to one of another: both days' records change.
        moved = connection.execute(
            "SELECT DISTINCT observation_id FROM raw_file WHERE path IN (SELECT unnest(?::VARCHAR[]))",
            [[*(row["path"] for row in raw_files), *removed]],
        ).fetchall()
        for table, content in rows.items():
            if content:
                frame = pl.DataFrame(content, infer_schema_length=None)
                fitted = fit_frame(TABLES[table], frame, partial=True)
                insert(connection, TABLES[table], fitted, on_conflict="update")
        connection.execute(
            "UPDATE raw_file SET status = 'removed' WHERE path IN (SELECT unnest(?::VARCHAR[]))", [removed]
        )
        connection.execute(
            "DELETE FROM observation WHERE observation_id IN (SELECT unnest(?::VARCHAR[]))", [superseded]
        )
        touched = {name[:_DAY_LENGTH] for (name,) in moved}
        if not removed:
            touched -= {row["observation_id"][:_DAY_LENGTH] for row in raw_files}  # kept as they were inserted
        keep_rows(connection, "raw_file", touched)
        if superseded:
            keep_rows(connection, "observation", superseded)


def _pointing(item: ExaminedFile, calibrators: Sequence[FluxCalibrator]) -> dict[str, Any]:
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
    in_view = calibrators_in_view(ra_deg, dec_deg, _CALIBRATOR_RADIUS_DEG, calibrators)
    calibrator, apart = in_view[0] if in_view else (None, None)
    return {
        "duration_s": item.duration_s,
        "pointing_ra_deg": ra_deg,
        "pointing_dec_deg": dec_deg,
        "calibrator": calibrator.name if calibrator else None,
        "calibrator_separation_deg": apart,
    }


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
