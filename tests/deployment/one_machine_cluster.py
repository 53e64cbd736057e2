"""A real cluster on this machine, started and stopped as an operator would, and the same campaign run by the embedded platform."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

from contimg_resources.cluster.services import is_alive
from tests.chaos.campaign import ARRIVALS, Campaign

T = TypeVar("T")
CONTIMG = [sys.executable, "-m", "contimg_portal.cli"]
RESTART_AFTER_S = 30.0
"""How long a killed service stays away."""
_END_OF_LOG = 4000
BUSY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def wait_for(condition: Callable[[], T], seconds: float, what: str) -> T:
    """Poll until a condition holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.25)
    raise AssertionError(f"{what}: not after {seconds:g} s")


def free_ports(n_ports: int) -> int:
    """First of so many ports of loopback in a row that nobody uses."""
    for first in range(20_000 + os.getpid() % 9_000, 32_000, n_ports):
        probes = [socket.socket() for _ in range(n_ports)]
        try:
            for offset, probe in enumerate(probes):
                probe.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        else:
            return first
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no free ports")


def link_raw(campaign: Path, root: Path) -> None:
    """Let the raw files arrive below a root, which then holds all that its rows name."""
    for file in sorted((campaign / "incoming").glob("*.hdf5")):
        (root / "raw" / "incoming" / file.name).hardlink_to(file)


def new_campaign(root: Path, truth: Path) -> Campaign:
    """Folders of one installation, with the catalogue of the campaign."""
    (root / "raw" / "incoming").mkdir(parents=True)
    (root / "raw" / "truth").symlink_to(truth)
    return Campaign(root, root / "raw")


def run_embedded(campaign: Campaign) -> None:
    """All runs of the campaign, one after the other, as the embedded platform does."""
    assert campaign.run(ARRIVALS) == 0
    for step in campaign.steps():
        assert campaign.run(step) == 0, step.name


def different(embedded: Campaign, other: Campaign) -> list[str]:
    """Tables whose rows differ."""
    expected, found = embedded.content(), other.content()
    return [table for table, rows in expected.items() if not rows.equals(found[table])]


class Cluster:
    """A cluster that ``contimg cluster up`` started."""

    def __init__(self, campaign: Campaign, services_folder: Path) -> None:
        self.campaign, self.services_folder = campaign, services_folder
        first = free_ports(4)
        self.ports = {"dagster": first, "portal": first + 1, "postgres": first + 2, "redis": first + 3}
        self.environment = campaign.environment | {
            "CONTIMG_SEASON_START": "2026-01-08",
            "CONTIMG_SEASON_END": "2026-02-12",
            "CONTIMG_DEAD_LETTERS__BASE_DELAY_S": "5",
            "CONTIMG_CLUSTER__SIGN_OF_LIFE_S": "1",
            "CONTIMG_CLUSTER__LOST_AFTER_S": "16",
            "CONTIMG_LOG_LEVEL": "warning",
            "NUMBA_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [*CONTIMG, "cluster", "up", "--dagster-port", str(first), "--portal-port", str(first + 1)]
        command += ["--inner-port", str(first + 2), "--services-folder", str(services_folder)]
        self._up = [*command, "--restart-after-s", str(RESTART_AFTER_S)]
        self.log = campaign.root / "up.log"
        self.start()

    def start(self, *arguments: str) -> None:
        """Start it, for the first time or again."""
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                [*self._up, *arguments],
                env=os.environ | self.environment,
                stderr=sink,
                start_new_session=True,
            )

    def await_ready(self) -> None:
        """Wait until it says where people look."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return "portal http" in self.log.read_text()

        wait_for(is_ready, 600, "the cluster is up")

    def state(self) -> dict[str, Any]:
        """What runs, by the state file."""
        return json.loads((self.campaign.data / "cluster" / "cluster.json").read_text())

    @property
    def home(self) -> str:
        """Where the workers' products meet."""
        return f"file://{self.campaign.data / 'cluster' / 'home'}"

    def data_of(self, worker: str) -> Path:
        """Data folder of a running worker, by its environment."""
        pairs = Path(f"/proc/{self.pid(worker)}/environ").read_bytes().split(b"\0")
        return Path(dict(pair.decode().partition("=")[::2] for pair in pairs)["CONTIMG_DATA"])

    def pid(self, service: str) -> int:
        """Process of a service."""
        return next(one["pid"] for one in self.state()["services"] if one["name"] == service)

    def kill(self, service: str) -> float:
        """SIGKILL to a service and all that it started; returns the time."""
        os.killpg(self.pid(service), signal.SIGKILL)
        return time.monotonic()

    def command(self, *arguments: str, environment: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        """Run a ``contimg`` verb with the settings of the cluster, and others."""
        return subprocess.run(
            [*CONTIMG, *arguments],
            env=os.environ | self.environment | dict(environment),
            check=False,
            capture_output=True,
            text=True,
        )

    def story(self, instance: dg.DagsterInstance) -> str:
        """What happened, for whoever reads of a failure: all runs, what holds runs back, and the ends of the logs."""
        runs = [
            f"{record.create_timestamp:%H:%M:%S} {record.dagster_run.job_name} {record.dagster_run.status.value}"
            f" {record.dagster_run.tags.get('dagster/partition')} {record.dagster_run.tags.get('contimg/worker')}"
            for record in reversed(instance.get_run_records(limit=100))
        ]
        beats = [str(row) for row in self.campaign.store.query("SELECT name, last_at, detail FROM heartbeat").rows()]
        logs = [
            f"--- {log.name}\n{log.read_text(errors='replace')[-_END_OF_LOG:]}"
            for log in sorted((self.campaign.data / "cluster" / "logs").glob("*.log"))
        ]
        return "\n".join([*runs, *beats, *logs])

    def wait_for(self, instance: dg.DagsterInstance, condition: Callable[[], T], seconds: float, what: str) -> T:
        """`wait_for` that tells the story when it was in vain."""
        try:
            return wait_for(condition, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story(instance)}") from error

    @contextmanager
    def instance(self, environment: Mapping[str, str] = {}) -> Iterator[dg.DagsterInstance]:
        """Dagster's instance of the cluster, or the one that other settings name."""
        secrets = self.campaign.data / "cluster" / "secrets"
        home = {
            "DAGSTER_HOME": str(self.campaign.data / "cluster" / "dagster"),
            "CONTIMG_CLUSTER__POSTGRES_URL_FILE": str(secrets / "postgres_url"),
            "CONTIMG_CLUSTER__BROKER_URL_FILE": str(secrets / "broker_url"),
        }
        before = dict(os.environ)
        os.environ |= self.environment | home | dict(environment)
        try:
            with dg.DagsterInstance.get() as instance:
                yield instance
        finally:
            os.environ.clear()
            os.environ |= before

    def end(self) -> None:
        """Stop what still runs, whatever happened."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            for pid in [one["pid"] for one in self.state()["services"]]:
                if is_alive(pid):
                    os.killpg(pid, signal.SIGKILL)


@contextmanager
def folder_of_postgres() -> Iterator[Path]:
    """Folder that user ``postgres`` can reach, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory(prefix="contimg-services-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
