"""The demo: a simulated campaign arrives file by file, and the platform turns it into candidates while you watch.

Starts the simulator, Dagster (webserver and daemon) and the portal, each a process of its own, follows the store until
every simulated observation and day is done, and prints what was found beside the truth. Then it serves, or with
``DEMO_EXIT=1`` stops everything and exits 0 only if every asset was materialized, every check ran and every blocking
check passed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from contimg_resources.errors import StoreError
from contimg_resources.store.connection import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
CAMPAIGN = ROOT / "demo" / "campaign.toml"
DATA = ROOT / ".contimg" / "demo"
TIMEOUT_S = 45 * 60.0
POLL_S = 5.0

out = Console(width=110, highlight=False)


@dataclass(frozen=True)
class Service:
    """A child process in a process group of its own, with its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """End the whole group, gently first."""
        for sign, patience_s in ((signal.SIGINT, 15.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            if self.process.poll() is not None:
                break
            os.killpg(self.process.pid, sign)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue


@contextmanager
def running(name: str, command: list[str], environment: dict[str, str]) -> Iterator[Service]:
    """Run a service with its output in a log file, and stop it at the end."""
    log = DATA / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    service = Service(name, process, log)
    try:
        yield service
    finally:
        service.stop()


def environment() -> dict[str, str]:
    """Settings of the demo: its own data folder and season, one thread a run because two runs share two cores."""
    truth = DATA / "truth"
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CONTIMG_DATA": str(DATA),
        "CONTIMG_INCOMING": str(DATA / "incoming"),
        "CONTIMG_CATALOGUE": str(truth / "catalogue.parquet"),
        "CONTIMG_SEASON_START": "2026-01-08",
        "CONTIMG_SEASON_END": "2026-02-12",
        "CONTIMG_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "DAGSTER_HOME": str(DATA / "dagster"),
    }


def require_free_port(name: str, port: int) -> int:
    """Exit with what to do when a port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            out.print(f"[red]port {port} is in use; set {name} to a free one, e.g. {name}={port + 7} make demo[/]")
            raise SystemExit(2) from None
    return port


def dagster_dev(port: int) -> list[str]:
    """Webserver and daemon of the embedded platform, from the project's folder."""
    return [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]


_PROGRESS = """
    SELECT (SELECT count(*) FROM observation) AS arrived,
           (SELECT count(*) FROM image WHERE band = 'full') AS imaged,
           (SELECT count(*) FROM observation WHERE status = 'processed') AS processed,
           (SELECT count(*) FROM observation WHERE status = 'quarantined') AS quarantined,
           (SELECT count(DISTINCT partition_key) FROM stage_timing WHERE asset = 'quality_report') AS days,
           (SELECT count(*) FROM ese_candidate) AS candidates
"""


def progress(store: Store) -> dict[str, int]:
    """How far the campaign has come; nothing while the store does not exist yet or is busy."""
    try:
        return store.query(_PROGRESS).row(0, named=True)
    except StoreError:
        return dict.fromkeys(("arrived", "imaged", "processed", "quarantined", "days", "candidates"), 0)


def follow(store: Store, services: list[Service], n_observations: int, n_days: int) -> float:
    """Print progress until the campaign is done; return the seconds until the first image."""
    began, first_image_s, last_line = time.monotonic(), 0.0, ""
    while True:
        elapsed_s = time.monotonic() - began
        state = progress(store)
        if state["imaged"] and not first_image_s:
            first_image_s = elapsed_s
            out.print(f"[bold green]first image after {first_image_s:.0f} s[/]")
        line = (
            f"arrived {state['arrived']}/{n_observations}  imaged {state['imaged']}  scaled {state['processed']}"
            f"  days {state['days']}/{n_days}  candidates {state['candidates']}"
        )
        if line != last_line:
            out.print(f"[dim]{elapsed_s:6.0f} s[/]  {line}")
            last_line = line
        if state["processed"] + state["quarantined"] >= n_observations and state["days"] >= n_days and idle():
            return first_image_s
        for service in services:
            if service.process.poll() not in (None, 0):
                out.print(f"[red]{service.name} ended with code {service.process.returncode}; see {service.log}[/]")
                raise SystemExit(1)
        if elapsed_s > TIMEOUT_S:
            out.print(f"[red]not finished after {TIMEOUT_S / 60:.0f} minutes; logs are in {DATA / 'logs'}[/]")
            raise SystemExit(1)
        time.sleep(POLL_S)


def idle() -> bool:
    """Whether Dagster has no run queued or going but mosaics, for which nothing waits."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        busy = dg.RunsFilter(
            statuses=[
                dg.DagsterRunStatus.QUEUED,
                dg.DagsterRunStatus.NOT_STARTED,
                dg.DagsterRunStatus.STARTING,
                dg.DagsterRunStatus.STARTED,
            ]
        )
        return all(run.tags.get("contimg/cadence") == "hour" for run in instance.get_runs(busy))


def main() -> int:
    """Run the demo; see the module's docstring."""
    # A shell starts background jobs with SIGINT ignored, and children would inherit that and not stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.filterwarnings(
        "ignore", module="contimg_assets"
    )  # Dagster's notes on its newer features, shown by the checks
    sys.path.insert(0, str(ROOT))
    from demo.verdict import print_found, verify

    ports = {
        name: require_free_port(name, int(os.environ.get(name, default)))
        for name, default in (("DAGSTER_PORT", "3000"), ("PORTAL_PORT", "8000"))
    }
    shutil.rmtree(DATA, ignore_errors=True)
    env = environment()
    os.environ.update(env)
    (DATA / "incoming").mkdir(parents=True)
    (DATA / "dagster").mkdir()
    shutil.copy(ROOT / "dagster.yaml", DATA / "dagster" / "dagster.yaml")
    initialise_instance()

    python = sys.executable
    simulate = [python, "-m", "contimg_portal.cli", "simulate", str(CAMPAIGN), "--out", str(DATA / "incoming")]
    portal = [python, "-m", "contimg_portal.cli", "portal", "--port", str(ports["PORTAL_PORT"])]
    dagster_url, portal_url = (f"http://127.0.0.1:{ports[name]}" for name in ("DAGSTER_PORT", "PORTAL_PORT"))
    out.print(f"Dagster {dagster_url}   portal {portal_url}   data {DATA}\n")

    with ExitStack() as stack:
        services = [
            stack.enter_context(running("simulator", [*simulate, "--truth", str(DATA / "truth")], env)),
            stack.enter_context(running("dagster", dagster_dev(ports["DAGSTER_PORT"]), env)),
            stack.enter_context(running("portal", portal, env | {"CONTIMG_DAGSTER_URL": dagster_url})),
        ]
        store = Store(DATA / "contimg.duckdb")
        n_observations, n_days = planned()
        began = time.monotonic()
        first_image_s = follow(store, services, n_observations, n_days)
        out.print(
            f"\n[bold]{n_observations} observations and {n_days} days in {(time.monotonic() - began) / 60:.1f} minutes;"
            f" first image after {first_image_s:.0f} s[/]\n"
        )
        print_found(out, store, DATA / "truth")
        problems = verify(store)
        for problem in problems:
            out.print(f"[red]- {problem}[/]")
        if os.environ.get("DEMO_EXIT") == "1":
            return 1 if problems else 0
        out.print(f"\nServing. Lineage {dagster_url}/asset-groups   candidates {portal_url}/candidates   (Ctrl-C ends)")
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


def initialise_instance() -> None:
    """Create Dagster's databases once, before several processes would at the same time."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        instance.get_runs_count()


def planned() -> tuple[int, int]:
    """Numbers of observations and days in the campaign file; an outage of all sub-bands is no observation."""
    from contimg_resources.campaigns import load_campaign

    campaign = load_campaign(CAMPAIGN)
    n_days = campaign.campaign.n_days
    n_lost = sum(len(outage.subbands) == 16 for outage in campaign.outages)
    return n_days * len(campaign.tiles) - n_lost, n_days


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
