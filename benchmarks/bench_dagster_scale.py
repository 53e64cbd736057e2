"""A year of observations in Dagster: how long definitions, the arrival sensor, automation and a backfill take.

Fills an instance of its own (kept in ``.contimg/bench-dagster-scale``) with the partitions of a year as the telescope
leaves them: a restart every 63 minutes makes a gap, so that 92,000 windows of 105,000 are filled in 8,300 runs. Each
per-observation asset is materialized in each, hours and days too, and the store holds their observations and raw files;
40,000 raw files lie in the incoming folder. Then measures the code that runs in production: the definitions loaded in a
new process, the sensor function with 16 new files, the automation conditions, and a month's backfill asked of a running
webserver and cancelled. The peer is the limit of the requirement.

Materializations are written as rows of SQLite, copies of one that Dagster wrote: half a million through Dagster take an hour.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FOLDER = ROOT / ".contimg" / "bench-dagster-scale"
HOME, DATA, INCOMING = FOLDER / "dagster", FOLDER / "data", FOLDER / "incoming"
END = datetime(2026, 11, 1, tzinfo=UTC)
START = END - timedelta(days=365)
CYCLE_S = (*[309.24] * 9, 604.0, 404.0)
"""Starts of observations: eleven in 63 minutes, with the two long gaps of a restart."""
N_KNOWN, N_NEW, N_TICKS = 40_000, 16, 10_000
LIMITS_S = {
    "definitions": 5.0,
    "sensor_tick_16_new_files": 1.0,
    "sensor_tick_cold": 10.0,
    "automation_tick_cold": 10.0,
    "automation_tick_quiet": 10.0,
    "automation_tick_new_data": 10.0,
    "backfill_month": 30.0,
}


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


def measure_definitions() -> float:
    """Seconds until the definitions are loaded and resolved, by the clock of the process that loads them."""
    code = (
        "import time; t = time.perf_counter()\n"
        "from contimg_assets.definitions import defs\n"
        "defs.get_repository_def().load_all_definitions()\n"
        "print('SECONDS', time.perf_counter() - t)"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    return float(ran.stdout.split("SECONDS")[1])


def measure_sensor() -> dict[str, Any]:
    """The sensor function of production: the first tick of a process, a quiet one, one with 16 new files; then memory."""
    import dagster as dg

    from contimg_resources.configurable import Observatory
    from contimg_sensors.arrivals import incoming_observations
    from tests.sensors.raw_folder import raw_bytes

    def tick(instance: dg.DagsterInstance, cursor: str | None) -> tuple[float, Any]:
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"observatory": Observatory()})
        started = time.perf_counter()
        result = incoming_observations(context)
        return time.perf_counter() - started, result

    batches = [
        [INCOMING / f"{when:%Y-%m-%dT%H:%M:%S}_sb{subband:02d}.hdf5" for subband in range(N_NEW)]
        for when in (END - timedelta(minutes=5), END - timedelta(minutes=10))
    ]
    for path in [path for batch in batches for path in batch]:
        path.unlink(missing_ok=True)
    new_s = []
    with dg.DagsterInstance.get() as instance:
        cold_s, _ = tick(instance, None)
        quiet_s, _ = tick(instance, None)
        for batch in batches:
            content = raw_bytes(FOLDER, datetime.fromisoformat(batch[0].name[:19]).replace(tzinfo=UTC))
            for path in batch:
                path.write_bytes(content)
                os.utime(path, (time.time() - 60, time.time() - 60))
            seconds, result = tick(instance, None)
            if len(result.asset_events) != 1:
                raise RuntimeError(f"16 new files are one observation, not {len(result.asset_events)}")
            new_s.append(seconds)
    return {
        "sensor_tick_cold": cold_s,
        "sensor_tick_quiet": quiet_s,
        "sensor_tick_first_observation_of_process": new_s[0],
        "sensor_tick_16_new_files": new_s[1],
        **measure_memory(Observatory()),
    }


def measure_memory(observatory: Any) -> dict[str, Any]:
    """Resident memory after 1,000 and after all ticks, five seconds apart by the clock they are given."""
    import psutil

    from contimg_assets.arrivals import utc_now, watch_arrivals
    from contimg_resources.folder_watch import FolderWatch

    process, watch, now = psutil.Process(), FolderWatch(INCOMING, settle_s=2.0), utc_now()
    after: dict[int, float] = {}
    started = time.perf_counter()
    for number in range(1, N_TICKS + 1):
        watch_arrivals(observatory, watch, now=now + timedelta(seconds=5 * number), patience_s=60.0)
        if number in {1000, N_TICKS}:
            after[number] = process.memory_info().rss / 2**20
    return {
        "memory_mb_after_1000_ticks": after[1000],
        f"memory_mb_after_{N_TICKS}_ticks": after[N_TICKS],
        "ms_per_tick": (time.perf_counter() - started) / N_TICKS * 1e3,
    }


def measure_automation() -> dict[str, float]:
    """Ticks of the automation sensors' conditions: from nothing, with nothing new, and after more observations."""
    import dagster as dg

    from contimg_assets.definitions import defs
    from contimg_sensors.automation import DAY_GROUPS

    selection = dg.AssetSelection.groups(*DAY_GROUPS) | dg.AssetSelection.assets(
        "blind_sources", "mosaic", "blind_detections"
    )
    found: dict[str, float] = {}
    with dg.DagsterInstance.get() as instance:
        cursor = None
        for name in ("cold", "quiet", "first_new_data_of_process", "new_data"):
            if "new_data" in name:
                for asset in ("continuum_image", "forced_photometry", "flux_scale"):
                    instance.report_runless_asset_event(
                        dg.AssetMaterialization(
                            asset, partition=f"{END - timedelta(hours=2 + len(found)):%Y-%m-%dT%H:%M}"
                        )
                    )
            started = time.perf_counter()
            result = dg.evaluate_automation_conditions(
                defs=defs, instance=instance, asset_selection=selection, cursor=cursor
            )
            found[f"automation_tick_{name}"] = time.perf_counter() - started
            cursor = result.cursor
    return found


def measure_backfill() -> dict[str, Any]:
    """A month asked of a running webserver by the command's own function, then cancelled."""
    import httpx

    from contimg_portal.commands import backfill

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "dagster_webserver", "-m", "contimg_assets.definitions", "-p", str(port)]
    with (FOLDER / "webserver.log").open("w") as log:
        server = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, cwd=ROOT)
    try:
        started = time.perf_counter()
        while time.perf_counter() - started < 180:
            try:
                httpx.get(f"{url}/server_info", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.5)
        serving_s = time.perf_counter() - started
        month = (END - timedelta(days=30), END - timedelta(seconds=1))
        started = time.perf_counter()
        windows = backfill.observation_windows(*month)
        identity = backfill.launch(
            url, list(backfill.PER_OBSERVATION), windows, sorted({window[:10] for window in windows})
        )
        asked_s = time.perf_counter() - started
        started = time.perf_counter()
        backfill.ask(url, backfill._CANCEL, {"id": identity})  # noqa: SLF001
        cancelled_s = time.perf_counter() - started
    finally:
        server.terminate()
        server.wait(30)
    return {
        "webserver_start": serving_s,
        "backfill_month": asked_s,
        "backfill_cancelled": cancelled_s,
        "n_month_observations": len(windows),
    }


def main() -> int:
    """Fill if need be, measure each part in a process of its own, print and write the result."""
    if len(sys.argv) > 1:
        part = {"fill": fill, "sensor": measure_sensor, "automation": measure_automation, "backfill": measure_backfill}
        found = part[sys.argv[1]]() or {}
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print("RESULT " + json.dumps(found | {f"{sys.argv[1]}_peak_mb": peak_mb}))
        return 0
    from record import write_result

    found: dict[str, Any] = {}
    for part in ([] if (FOLDER / "filled").exists() else ["fill"]) + ["sensor", "automation", "backfill"]:
        command = [sys.executable, str(Path(__file__)), part]
        ran = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
        found |= json.loads(ran.stdout.split("RESULT ")[1])
    found["definitions"] = min(measure_definitions() for _ in range(2))
    for name, limit_s in LIMITS_S.items():
        print(f"{name:28} {found[name]:8.2f} s   limit {limit_s:g} s")
    worst = max(LIMITS_S, key=lambda name: found[name] / LIMITS_S[name])
    write_result(
        {
            "name": "dagster_scale",
            "peer": f"limit of {worst}",
            "ours_s": found[worst],
            "peer_s": LIMITS_S[worst],
            "ratio": LIMITS_S[worst] / found[worst],
            "ours_peak_mb": max(value for name, value in found.items() if name.endswith("peak_mb")),
            "peer_peak_mb": None,
            "agreement": found | {"n_observations": len(observation_starts())},
            "runs": 1,
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
