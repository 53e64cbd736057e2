"""Independent observations on a cluster of one worker and of two, each on a core of its own: how much sooner two are done.

Starts ``contimg cluster up --pinned`` on a campaign of one day, lets it process everything once, switches the sensors off, and asks
for the same observations again as a backfill, with one worker and with two in turn. Each worker has a data folder of its own.
Seconds are from the start of the first run to the end of the last, read from Dagster's record of the runs; PostgreSQL, Redis,
daemon and webserver work beside them on the same cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from full_observation import CONTIMG, ROOT
from record import write_result

DATA = ROOT / ".contimg" / "bench-cluster"
N_OBSERVATIONS = 8
ROUNDS = 3
LEAST_RATIO = 1.7
"""Of one worker's seconds to two workers', the median of the pairs; one pair alone says too little to fail."""
DAY = "2026-01-10"
ASSETS = "measurement_set,gain_table,continuum_image,forced_photometry,flux_scale"
DAGSTER, PORTAL, INNER = 3921, 8921, 4921
CAMPAIGN = f"""
[campaign]
start_date = {DAY}
n_days = 1
seed = 7
[array]
n_antennas = 24
max_baseline_m = 500.0
channels_per_subband = 16
n_integrations = 24
[pointing]
apparent_dec_deg = 16.66
[[tiles]]
name = "3C138"
ra_deg = 80.291
""" + "".join(f'[[tiles]]\nname = "field{i}"\nra_deg = {90.0 + 4.0 * i}\n' for i in range(1, N_OBSERVATIONS))
_SENSORS = '{sensorsOrError(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "contimg"})'
_SENSORS += " {... on Sensors {results {id name sensorState {status}}}}}"
_STOP = "mutation Stop($id: String!) {stopSensor(id: $id) {__typename ... on PythonError {message}}}"
_RUNS = "query Runs($of: RunsFilter) {runsOrError(filter: $of) {... on Runs {results {status startTime endTime tags {key value}}}}}"


def ask(query: str, **variables: Any) -> Any:
    """Answer of the webserver's GraphQL."""
    answer = httpx.post(
        f"http://127.0.0.1:{DAGSTER}/graphql", json={"query": query, "variables": variables}, timeout=60
    ).json()
    if "errors" in answer:
        raise SystemExit(str(answer["errors"]))
    return next(iter(answer["data"].values()))


def wait_for(condition: Callable[[], Any], what: str, limit_s: float = 1200.0) -> Any:
    """Poll until a condition holds."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.5)
    raise SystemExit(f"{what}: not within {limit_s:g} s; logs are in {DATA / 'cluster' / 'logs'}")


@contextmanager
def cluster(n_workers: int) -> Iterator[None]:
    """A cluster with so many workers, each pinned to a core."""
    command = [*CONTIMG, "cluster", "up", "--pinned", "--workers", str(n_workers), "--dagster-port", str(DAGSTER)]
    log = DATA / "up.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--portal-port", str(PORTAL), "--inner-port", str(INNER)], stderr=sink, start_new_session=True
        )
    try:
        wait_for(lambda: process.poll() is not None or "portal http" in log.read_text(), "the cluster is up")
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        workers = [DATA / "cluster" / "logs" / f"worker{n + 1}.log" for n in range(n_workers)]
        wait_for(lambda: all(is_warm(path) for path in workers), "the workers are warm")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def is_warm(log: Path) -> bool:
    """Whether a worker takes runs: what it says after its last start."""
    text = log.read_text() if log.exists() else ""
    return text.rfind(" ready.") > max(text.rfind("[tasks]"), text.rfind("Warm shutdown"))


def prepare() -> None:
    """Simulate, let everything be processed once, and switch the sensors off."""
    from contimg_resources.store.connection import Store

    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    (DATA / "campaign.toml").write_text(CAMPAIGN)
    output = ["--out", str(DATA / "incoming"), "--truth", str(DATA / "truth")]
    subprocess.run([*CONTIMG, "simulate", str(DATA / "campaign.toml"), *output], check=True)
    with cluster(2):
        store = Store(DATA / "contimg.duckdb")
        query = "SELECT count(*) FROM observation WHERE status = 'processed'"
        wait_for(
            lambda: store.path.exists() and store.query(query).item() == N_OBSERVATIONS,
            "all observations are processed",
        )
        for sensor in ask(_SENSORS)["results"]:
            ask(_STOP, id=sensor["id"])
        wait_for(lambda: not runs(["QUEUED", "NOT_STARTED", "STARTING", "STARTED"]), "nothing runs")


def runs(statuses: list[str]) -> list[dict[str, Any]]:
    """Runs in one of these states."""
    found: list[dict[str, Any]] = ask(_RUNS, of={"statuses": statuses})["results"]
    return found


def measure(n_workers: int) -> float:
    """Seconds from the first start to the last end of a backfill of all observations."""
    with cluster(n_workers):
        began = time.time()
        asked = [*CONTIMG, "backfill", "--from", DAY, "--to", DAY, "--assets", ASSETS, "--remake"]
        asked += ["--dagster-url", f"http://127.0.0.1:{DAGSTER}"]
        subprocess.run(asked, check=True, stdout=subprocess.DEVNULL)
        done = wait_for(lambda: finished_since(began), "the backfill is done")
        if any(run["status"] != "SUCCESS" for run in done):
            raise SystemExit("a run failed")
        used = {tag["value"].split("@")[0] for run in done for tag in run["tags"] if tag["key"] == "contimg/worker"}
        if len(used) != n_workers:
            raise SystemExit(f"{used} worked, {n_workers} should have")
        return max(run["endTime"] for run in done) - min(run["startTime"] for run in done)


def finished_since(began: float) -> list[dict[str, Any]]:
    """All runs of a backfill, once they have ended."""
    ended = [run for run in runs(["SUCCESS", "FAILURE", "CANCELED"]) if run["startTime"] and run["startTime"] > began]
    return ended if len(ended) == N_OBSERVATIONS else []


def main() -> int:
    """Measure in turn, print and write the result."""
    os.environ |= {
        "CONTIMG_DATA": str(DATA),
        "CONTIMG_INCOMING": str(DATA / "incoming"),
        "CONTIMG_CATALOGUE": str(DATA / "truth" / "catalogue.parquet"),
        "CONTIMG_SEASON_START": "2026-01-08",
        "CONTIMG_SEASON_END": "2026-02-12",
        "CONTIMG_THREADS": "1",
        "CONTIMG_MINIMUM_FREE_GB": "0",
        "CONTIMG_LOG_LEVEL": "info",
        "CONTIMG_DAGSTER_URL": f"http://127.0.0.1:{DAGSTER}",
        "NUMBA_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of measurements, default %(default)s")
    n_rounds = parser.parse_args().rounds
    prepare()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(n_rounds):
        for n_workers, measured in seconds.items():
            measured.append(measure(n_workers))
            sys.stderr.write(f"{n_workers} worker(s): {measured[-1]:.1f} s\n")
    ratios = [one_s / two_s for one_s, two_s in zip(seconds[1], seconds[2], strict=True)]
    one_s, two_s = (statistics.median(seconds[n]) for n in (1, 2))
    write_result(
        {
            "name": "cluster",
            "peer": "one worker",
            "ours_s": two_s,
            "peer_s": one_s,
            "ratio": one_s / two_s,
            "ours_peak_mb": None,
            "peer_peak_mb": None,
            "agreement": {
                "n_observations": N_OBSERVATIONS,
                "one_worker_s": seconds[1],
                "two_workers_s": seconds[2],
                "ratios": ratios,
                "least_ratio": LEAST_RATIO,
                "observations_per_hour_per_core": 3600.0 * N_OBSERVATIONS / one_s,
            },
            "runs": n_rounds,
        }
    )
    shutil.rmtree(DATA, ignore_errors=True)
    return 0 if n_rounds < 2 or statistics.median(ratios) >= LEAST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
