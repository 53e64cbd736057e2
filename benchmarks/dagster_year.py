"""A Dagster instance, a store and an incoming folder as a year of observations leaves them, for ``bench_dagster_scale``.

Partitions are those of the telescope: a restart every 63 minutes makes a gap, so that 92,000 windows of 105,000 are filled in
8,300 runs. Each per-observation asset is materialized in each, hours and days too, and the store holds their observations and
raw files; 40,000 raw files lie in the incoming folder.

Materializations are written as rows of SQLite, copies of one that Dagster wrote: half a million through Dagster take an hour.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FOLDER = ROOT / ".contimg" / "bench-dagster-scale"
HOME, DATA, INCOMING = FOLDER / "dagster", FOLDER / "data", FOLDER / "incoming"
CURSOR = FOLDER / "automation_cursor.json"
END = datetime(2026, 11, 1, tzinfo=UTC)
START = END - timedelta(days=365)
CYCLE_S = (*[309.24] * 9, 604.0, 404.0)
"""Starts of observations: eleven in 63 minutes, with the two long gaps of a restart."""
N_KNOWN = 40_000
"""Raw files in the folder."""


def environment() -> dict[str, str]:
    """Environment of every process of this benchmark."""
    return os.environ | {
        "DAGSTER_HOME": str(HOME),
        "CONTIMG_DATA": str(DATA),
        "CONTIMG_INCOMING": str(INCOMING),
        "CONTIMG_SEASON_START": f"{START:%Y-%m-%d}",
        "CONTIMG_SEASON_END": f"{END - timedelta(days=1):%Y-%m-%d}",
        "PYTHONPATH": str(ROOT),
    }


def observation_starts() -> list[datetime]:
    """Starts of a year's observations."""
    starts, when, place = [], START, 0
    while when < END - timedelta(minutes=10):
        starts.append(when)
        when += timedelta(seconds=CYCLE_S[place % len(CYCLE_S)])
        place += 1
    return starts


def fill() -> None:
    """Store, incoming folder and instance; kept between runs of the benchmark."""
    os.environ |= environment()
    shutil.rmtree(FOLDER, ignore_errors=True)
    HOME.mkdir(parents=True)
    shutil.copy(ROOT / "dagster.yaml", HOME / "dagster.yaml")
    starts = observation_starts()
    fill_store(starts)
    fill_instance(starts)
    (FOLDER / "filled").touch()


def fill_store(starts: list[datetime]) -> None:
    """A year of processed observations and their files, the newest of which lie in the incoming folder."""
    import polars as pl

    from contimg_assets.arrival_records import observation_partition
    from contimg_assets.partitions import mjd_of_utc
    from contimg_resources.configurable import Observatory
    from contimg_resources.store.connection import insert
    from contimg_resources.store.frames import fit_frame
    from contimg_resources.store.schema import TABLES

    INCOMING.mkdir(parents=True)
    seed = FOLDER / "raw"
    seed.write_bytes(b"x" * 64)
    os.utime(seed, (START.timestamp(), START.timestamp()))
    names = [f"{s:%Y-%m-%dT%H:%M:%S}_sb{n:02d}.hdf5" for s in starts for n in range(16)]
    for name in names[-N_KNOWN:]:
        (INCOMING / name).hardlink_to(seed)
    observations = pl.DataFrame(
        {
            "observation_id": [f"{s:%Y-%m-%dT%H:%M:%S}" for s in starts],
            "partition_key": [observation_partition(mjd_of_utc(s)) for s in starts],
            "start_mjd": [mjd_of_utc(s) for s in starts],
            "n_subbands": 16,
            "status": "processed",
            "first_seen_at": [s.replace(tzinfo=None) for s in starts],
            "complete_at": [s.replace(tzinfo=None) for s in starts],
        }
    )
    files = pl.DataFrame(
        {
            "path": [f"{INCOMING}/{name}" for name in names],
            "observation_id": [f"{s:%Y-%m-%dT%H:%M:%S}" for s in starts for _ in range(16)],
            "subband": [n for _ in starts for n in range(16)],
            "bytes": 64,
            "modified_at": START.replace(tzinfo=None),
            "status": "usable",
            "start_mjd": [mjd_of_utc(s) for s in starts for _ in range(16)],
        }
    )
    with Observatory().store.transaction() as connection:
        for table, frame in (("observation", observations), ("raw_file", files)):
            insert(connection, TABLES[table], fit_frame(TABLES[table], frame, partial=True))


def fill_instance(starts: list[datetime]) -> None:
    """Every asset materialized in every partition of the year."""
    import dagster as dg

    from contimg_assets.arrival_records import observation_partition
    from contimg_assets.jobs import DAY_ASSETS, HOUR_ASSETS, OBSERVATION_ASSETS
    from contimg_assets.partitions import mjd_of_utc

    windows = [observation_partition(mjd_of_utc(s)) for s in starts]
    by_hour = sorted({f"{s:%Y-%m-%d-%H}:00" for s in starts})
    by_day = sorted({f"{s:%Y-%m-%d}" for s in starts})
    keys = {"raw_visibilities": windows, "bandpass_table": by_day}
    keys |= {asset.key.to_user_string(): windows for asset in OBSERVATION_ASSETS}
    keys |= {asset.key.to_user_string(): by_hour for asset in HOUR_ASSETS}
    keys |= {asset.key.to_user_string(): by_day for asset in DAY_ASSETS}
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("reference_catalogue"))
        for asset, partitions in keys.items():
            copy_materializations(instance, asset, partitions)


def copy_materializations(instance: Any, asset: str, partitions: list[str]) -> None:
    """One materialization by Dagster, copies of its row for all partitions but the last, and the last by Dagster."""
    import dagster as dg

    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partitions[0]))
    path = HOME / "history" / "event_log.db"
    with closing(sqlite3.connect(path)) as database, database:
        columns = "run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition"
        row = list(
            database.execute(f"SELECT {columns} FROM event_logs WHERE asset_key LIKE ?", [f'%"{asset}"%']).fetchone()
        )
        event, first = row[1], partitions[0]
        database.executemany(
            f"INSERT INTO event_logs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((row[0], event.replace(f'"{first}"', f'"{key}"'), *row[2:6], key) for key in partitions[1:-1]),
        )
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partitions[-1]))
