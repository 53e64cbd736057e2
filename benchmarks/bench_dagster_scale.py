"""A year of observations in Dagster: how long definitions, the arrival sensor, automation and a backfill take.

Fills an instance of its own with a year's partitions (``dagster_year``, kept in ``.contimg/bench-dagster-scale``). Then measures
the code that runs in production: the definitions loaded in a new process, the sensor function with 16 new files, the memory of
10,000 looks at the folder and of 2,000 whole evaluations of the sensor, the automation conditions (without Dagster's kept
status of the partitions, and as after a restart), and a month's backfill asked of a running webserver and cancelled. The peer
is the limit of the requirement. Beside each time, ``…_cpu_s`` is the processor time it took: on a busy machine the former says
little.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dagster_year import END, FOLDER, INCOMING, ROOT, environment, fill, observation_starts

CURSOR = FOLDER / "automation_cursor.json"
N_NEW, N_TICKS, N_SENSOR_TICKS = 16, 10_000, 2_000
LIMITS_S = {
    "definitions": 5.0,
    "sensor_tick_16_new_files": 1.0,
    "sensor_tick_cold": 10.0,
    "automation_tick_cold": 10.0,
    "automation_tick_first_new_data_of_process": 10.0,
    "automation_tick_restarted": 10.0,
    "automation_tick_quiet": 10.0,
    "automation_tick_new_data": 10.0,
    "backfill_month": 30.0,
}


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


@contextmanager
def timed(found: dict[str, Any], name: str) -> Iterator[None]:
    """Note the seconds that a block takes, by the clock and of the processor."""
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    yield
    found |= {name: time.perf_counter() - started_s, f"{name}_cpu_s": time.process_time() - started_cpu_s}


def measure_sensor() -> dict[str, Any]:
    """The sensor function of production: the first tick of a process, a quiet one, two with 16 new files each."""
    import dagster as dg

    from contimg_resources.configurable import Observatory
    from contimg_sensors.arrivals import incoming_observations
    from tests.sensors.raw_folder import raw_bytes

    found: dict[str, Any] = {}

    def tick(instance: dg.DagsterInstance, name: str) -> Any:
        context = dg.build_sensor_context(instance=instance, cursor=None, resources={"observatory": Observatory()})
        with timed(found, f"sensor_tick_{name}"):
            return incoming_observations(context)

    offsets_min = {"first_observation_of_process": 5, "16_new_files": 10}
    batches = {
        name: [INCOMING / f"{END - timedelta(minutes=n):%Y-%m-%dT%H:%M:%S}_sb{sb:02d}.hdf5" for sb in range(N_NEW)]
        for name, n in offsets_min.items()
    }
    for path in [path for batch in batches.values() for path in batch]:
        path.unlink(missing_ok=True)
    with dg.DagsterInstance.get() as instance:
        tick(instance, "cold")
        tick(instance, "quiet")
        for name, batch in batches.items():
            content = raw_bytes(FOLDER, datetime.fromisoformat(batch[0].name[:19]).replace(tzinfo=UTC))
            for path in batch:
                path.write_bytes(content)
                os.utime(path, (time.time() - 60, time.time() - 60))
            result = tick(instance, name)
            if len(result.asset_events) != 1:
                raise RuntimeError(f"16 new files are one observation, not {len(result.asset_events)}")
    return found


def measure_memory() -> dict[str, Any]:
    """Resident memory of 10,000 looks at the folder, five seconds apart by the clock they are given.

    That is fourteen hours: with every hour's look at all files, and every minute's heartbeat. The store's file gets the age it
    would have by then.
    """
    from contimg_assets.arrivals import utc_now, watch_arrivals
    from contimg_resources.configurable import Observatory
    from contimg_resources.folder_watch import FolderWatch

    observatory = Observatory()
    watch, now = FolderWatch(INCOMING, settle_s=2.0), utc_now()

    def tick(number: int) -> None:
        watch_arrivals(observatory, watch, now=now + timedelta(seconds=5 * number), patience_s=60.0)
        written_s = observatory.store.path.stat().st_mtime
        if written_s > time.time() - 5:
            os.utime(observatory.store.path, (written_s - 60, written_s - 60))

    return memory_of("ticks", tick, N_TICKS)


def measure_sensor_memory() -> dict[str, Any]:
    """Resident memory of 2,000 whole evaluations of the sensor: looks, wanted runs, gate and Dagster's own part."""
    import dagster as dg

    from contimg_resources.configurable import Observatory
    from contimg_sensors.arrivals import incoming_observations

    logging.disable(logging.INFO)  # a line for each tick
    with dg.DagsterInstance.get() as instance:

        def tick(_number: int) -> None:
            context = dg.build_sensor_context(instance=instance, cursor=None, resources={"observatory": Observatory()})
            incoming_observations(context)

        return memory_of("sensor_ticks", tick, N_SENSOR_TICKS)


def memory_of(name: str, tick: Callable[[int], None], n_ticks: int) -> dict[str, Any]:
    """Do so many ticks; memory at forty points of the way, and the slope of the line through those after the first tenth.

    Resident memory goes up and down by some ten MB with what allocators keep for a while, so two points say little.
    """
    import numpy as np
    import psutil

    process = psutil.Process()
    found: dict[str, Any] = {}
    points: list[tuple[int, float]] = []
    with timed(found, f"{n_ticks}_{name}"):
        for number in range(1, n_ticks + 1):
            tick(number)
            if number % (n_ticks // 40) == 0:
                points.append((number, process.memory_info().rss / 2**20))
                print(f"{number} {name}: {points[-1][1]:.1f} MB", file=sys.stderr, flush=True)
    n, mb = np.array([point for point in points if point[0] >= n_ticks // 10]).T
    found[f"memory_mb_after_{name}"] = {str(number): round(at_mb, 1) for number, at_mb in points}
    found[f"memory_of_{name}_kb_per_1000"] = float(np.polyfit(n, mb, 1)[0]) * 1024 * 1000
    found[f"memory_of_{name}_highest_mb"] = {
        "first_half": float(mb[: len(mb) // 2].max()),
        "second_half": float(mb[len(mb) // 2 :].max()),
    }
    return found


def measure_automation() -> dict[str, Any]:
    """Ticks of the automation sensors' conditions, each with the cursor of the one before, as the daemon keeps it.

    Cold is without the status of partitions that Dagster keeps in its database; restarted is in a process of its own, with
    that status and the cursor.
    """
    import dagster as dg

    from contimg_assets.definitions import defs
    from contimg_assets.jobs import OBSERVATION_ASSETS

    found: dict[str, Any] = {}
    with dg.DagsterInstance.get() as instance:
        for asset in (*OBSERVATION_ASSETS, *defs.resolve_asset_graph().get_all_asset_keys()):
            instance.event_log_storage.wipe_asset_cached_status(getattr(asset, "key", asset))
        cursor = None
        for name in ("cold", "quiet", "first_new_data_of_process", "new_data"):
            if "new_data" in name:
                report_new_data(instance, END - timedelta(hours=2 + len(found)))
            cursor = tick_of_automation(found, name, instance, cursor)
    CURSOR.write_text(dg.serialize_value(cursor))
    return found


def measure_restarted_automation() -> dict[str, Any]:
    """The first tick of a new process, with an observation that came while there was none."""
    import dagster as dg
    from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor

    import contimg_assets.definitions  # noqa: F401  (their loading is measured by itself)

    found: dict[str, Any] = {}
    cursor = dg.deserialize_value(CURSOR.read_text(), AssetDaemonCursor)
    with dg.DagsterInstance.get() as instance:
        report_new_data(instance, END - timedelta(hours=20))
        tick_of_automation(found, "restarted", instance, cursor)
    return found


def report_new_data(instance: Any, when: datetime) -> None:
    """Materialize what days and hours follow in the window of a time."""
    import dagster as dg

    for asset in ("continuum_image", "forced_photometry", "flux_scale"):
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=f"{when:%Y-%m-%dT%H:%M}"))


def tick_of_automation(found: dict[str, Any], name: str, instance: Any, cursor: Any) -> Any:
    """Evaluate the conditions of both automation sensors once; return the next cursor."""
    import dagster as dg

    from contimg_assets.definitions import defs
    from contimg_sensors.automation import DAY_GROUPS

    followed = dg.AssetSelection.assets("blind_sources", "mosaic", "blind_detections")
    with timed(found, f"automation_tick_{name}"):
        result = dg.evaluate_automation_conditions(
            defs=defs,
            instance=instance,
            asset_selection=dg.AssetSelection.groups(*DAY_GROUPS) | followed,
            cursor=cursor,
        )
    print(f"automation tick {name}: {found[f'automation_tick_{name}']:.2f} s", file=sys.stderr, flush=True)
    return result.cursor


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, s."""
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


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
        served_cpu_s = cpu_s(server.pid)
        started = time.perf_counter()
        windows = backfill.observation_windows(*month)
        identity = backfill.launch(
            url, dict.fromkeys(backfill.PER_OBSERVATION, windows), title="the benchmark's month", remake=False
        )
        asked_s = time.perf_counter() - started
        served_cpu_s = cpu_s(server.pid) - served_cpu_s
        started = time.perf_counter()
        backfill.ask(url, backfill._CANCEL, {"id": identity})  # noqa: SLF001
        cancelled_s = time.perf_counter() - started
    finally:
        server.terminate()
        server.wait(30)
    return {
        "webserver_start": serving_s,
        "backfill_month": asked_s,
        "backfill_month_cpu_s": served_cpu_s,
        "backfill_cancelled": cancelled_s,
        "n_month_observations": len(windows),
    }


PARTS = {
    "fill": fill,
    "sensor": measure_sensor,
    "memory": measure_memory,
    "sensor_memory": measure_sensor_memory,
    "automation": measure_automation,
    "restarted": measure_restarted_automation,
    "backfill": measure_backfill,
}


def main() -> int:
    """Fill if need be, measure each part in a process of its own, print and write the result."""
    if len(sys.argv) > 1:
        found = PARTS[sys.argv[1]]() or {}
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print("RESULT " + json.dumps(found | {f"{sys.argv[1]}_peak_mb": peak_mb}))
        return 0
    from record import write_result

    found: dict[str, Any] = {}
    for part in PARTS:
        if part == "fill" and (FOLDER / "filled").exists():
            continue
        command = [sys.executable, str(Path(__file__)), part]
        ran = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
        found |= json.loads(ran.stdout.split("RESULT ")[1])
    found["definitions"] = min(measure_definitions() for _ in range(2))
    for name, limit_s in LIMITS_S.items():
        print(f"{name:44} {found[name]:8.2f} s   limit {limit_s:g} s")
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
