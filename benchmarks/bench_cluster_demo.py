"""The demo's campaign on the embedded platform and on a cluster of two workers: seconds of each, and whether the rows are the same.

The same raw files arrive at both, all at once: ``dagster dev`` with its own database and runs as processes, then ``contimg
cluster up`` with PostgreSQL, Redis and Celery. Seconds are from the first look at the files until every observation is
processed, every day has its report and no run is left. Compared is what tests compare after they have killed processes: each
table whose rows follow from the data.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from full_observation import CONTIMG, ROOT
from record import write_result

sys.path.insert(0, str(ROOT))

FOLDER = ROOT / ".contimg" / "bench-cluster-demo"
CAMPAIGN = ROOT / "demo" / "campaign.toml"
DAGSTER, PORTAL, INNER = 3931, 8931, 4931
LIMIT_S = 2400.0
POLL_S = 5.0
N_QUIET = 6
"""Looks in a row that must find everything done: automation asks for runs in between."""


def environment(kind: str) -> dict[str, str]:
    """Settings of one platform: those of the demo, with a data folder of its own."""
    from demo.run import environment as of_the_demo

    data = FOLDER / kind
    cluster = {
        "DAGSTER_HOME": str(data / "cluster" / "dagster"),
        "CONTIMG_CLUSTER__POSTGRES_URL_FILE": str(data / "cluster" / "secrets" / "postgres_url"),
        "CONTIMG_CLUSTER__BROKER_URL_FILE": str(data / "cluster" / "secrets" / "broker_url"),
    }
    return of_the_demo() | {
        "CONTIMG_DATA": str(data),
        "CONTIMG_INCOMING": str(FOLDER / "incoming"),
        "CONTIMG_CATALOGUE": str(FOLDER / "truth" / "catalogue.parquet"),
        "CONTIMG_MINIMUM_FREE_GB": "0",
        "CONTIMG_DAGSTER_URL": f"http://127.0.0.1:{DAGSTER}",
        "DAGSTER_HOME": str(data / "dagster"),
        **(cluster if kind == "cluster" else {}),
    }


@contextmanager
def platform(kind: str) -> Iterator[None]:
    """One platform, started as its users start it, with its settings in this process."""
    from demo.run import dagster_dev

    data = FOLDER / kind
    data.mkdir(parents=True)
    before = dict(os.environ)
    os.environ |= environment(kind)
    if kind == "embedded":
        home = data / "dagster"
        home.mkdir()
        shutil.copy(ROOT / "dagster.yaml", home)
        command = dagster_dev(DAGSTER)
        started = os.environ
    else:
        command = [*CONTIMG, "cluster", "up", "--workers", "2", "--dagster-port", str(DAGSTER)]
        command += ["--portal-port", str(PORTAL), "--inner-port", str(INNER)]
        started = {name: value for name, value in os.environ.items() if "CLUSTER__" not in name}
    with (FOLDER / f"{kind}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=started, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT if kind == "embedded" else signal.SIGTERM)
        process.wait(120)
        os.environ.clear()
        os.environ |= before


def seconds_to_the_end(kind: str, n_observations: int, n_days: int) -> float:
    """Seconds from the first look at the files until nothing is left to do."""
    import dagster as dg

    from contimg_resources.errors import StoreError
    from contimg_resources.store.connection import Store
    from demo.run import progress

    store, began, n_quiet, done_at = Store(FOLDER / kind / "contimg.duckdb"), time.monotonic(), 0, 0.0
    first_look_at = 0.0
    while n_quiet < N_QUIET:
        time.sleep(POLL_S)
        now = time.monotonic()
        if now - began > LIMIT_S:
            raise SystemExit(f"{kind}: not done after {LIMIT_S:g} s; logs are in {FOLDER}")
        state = progress(store)
        first_look_at = first_look_at or (now if state["arrived"] else 0.0)
        sys.stderr.write(f"{kind} {now - began:5.0f} s  {state}\n")
        if state["processed"] + state["quarantined"] < n_observations or state["days"] < n_days:
            continue
        with dg.DagsterInstance.get() as instance:
            busy = instance.get_runs_count(dg.RunsFilter(statuses=unfinished()))
        try:
            left = store.query("SELECT count(*) FROM dead_letter WHERE status <> 'resolved'").item()
        except StoreError:
            continue
        n_quiet = 0 if busy or left else n_quiet + 1
        done_at = now if n_quiet == 1 else done_at
    return done_at - first_look_at


def unfinished() -> list[Any]:
    """States of runs that have not ended."""
    from tests.deployment.one_machine_cluster import BUSY

    return BUSY


def differing_tables() -> tuple[dict[str, str], int]:
    """Tables whose rows differ, with an example, and how many rows were compared."""
    from contimg_resources.store.connection import Store
    from tests.chaos.campaign import rows_to_compare

    embedded, cluster = (
        rows_to_compare(Store(FOLDER / kind / "contimg.duckdb"), (FOLDER / kind,)) for kind in ("embedded", "cluster")
    )
    differing = {}
    for table, rows in embedded.items():
        if not rows.equals(cluster[table]):
            extra = [row for row in rows.rows() if row not in set(cluster[table].rows())]
            differing[table] = f"{rows.height} and {cluster[table].height} rows; {len(extra)} others, e.g. {extra[:1]}"
    return differing, sum(rows.height for rows in embedded.values())


def main() -> int:
    """Simulate, let each platform work, compare, print and write the result."""
    from contimg_resources.campaigns import load_campaign

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    arrive = ["simulate", CAMPAIGN, "--out", FOLDER / "incoming", "--truth", FOLDER / "truth"]
    subprocess.run([*CONTIMG, *arrive], check=True)
    campaign = load_campaign(CAMPAIGN)
    n_days = campaign.campaign.n_days
    n_observations = n_days * len(campaign.tiles) - sum(len(outage.subbands) == 16 for outage in campaign.outages)
    seconds = {}
    for kind in ("embedded", "cluster"):
        with platform(kind):
            seconds[kind] = seconds_to_the_end(kind, n_observations, n_days)
    differing, n_rows = differing_tables()
    for table, difference in differing.items():
        print(f"{table}: {difference}")
    write_result(
        {
            "name": "cluster_demo",
            "peer": "the embedded platform",
            "ours_s": seconds["cluster"],
            "peer_s": seconds["embedded"],
            "ratio": seconds["embedded"] / seconds["cluster"],
            "ours_peak_mb": None,
            "peer_peak_mb": None,
            "agreement": {"n_rows": n_rows, "differing_tables": sorted(differing)},
            "runs": 1,
        }
    )
    if not differing:
        shutil.rmtree(FOLDER)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
