"""The platform as it runs in production, of real processes that can be killed: Dagster's daemon, its code server, its runs.

Everything that a daemon has started is found by its environment, so that *everything* can be killed at once, as by a power
cut. Nothing is done by hand but starting the daemon again: what a supervisor does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import dagster as dg
import psutil
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick

from contimg_resources.run_launcher import WarmRunLauncher
from tests.chaos.campaign import Campaign

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
T = TypeVar("T")
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Expected:
    """A partition that will have been made when all is done."""

    asset: str
    partition_key: str | None


class DaemonPlatform:
    """One installation with a daemon; ``campaign`` has its folders."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self.home = campaign.root / "dagster"
        self.home.mkdir()
        shutil.copy(PROJECT / "dagster.yaml", self.home)
        self._mark = f"DAGSTER_HOME={self.home}".encode()
        season = {"CONTIMG_SEASON_START": "2026-01-08", "CONTIMG_SEASON_END": "2026-01-14"}
        own = {"DAGSTER_HOME": str(self.home), "CONTIMG_CALIBRATION_WAIT_S": "86400", "CONTIMG_LOG_LEVEL": "warning"}
        self._environment = os.environ | campaign.environment | season | own | {"PYTHONPATH": str(PROJECT)}
        os.environ["DAGSTER_HOME"] = str(self.home)
        self.instance = dg.DagsterInstance.get()
        self.instance.get_runs_count()
        self.instance.all_instigator_state()
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon, as a supervisor does."""
        command = [sys.executable, "-W", "ignore", "-m", "dagster._daemon", "run", "-w", "workspace.yaml"]
        with (self.home / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                command, cwd=PROJECT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, kind: str) -> int:
        """SIGKILL to ``worker``, ``daemon`` or ``everything``; how many processes died."""
        return {"worker": self._kill_worker, "daemon": self._kill_daemon, "everything": self._kill_everything}[kind]()

    def _kill_daemon(self) -> int:
        """SIGKILL to the daemon alone; its code server and the processes of its runs live on. How many died."""
        assert self._daemon is not None
        was_alive = self._daemon.poll() is None
        self._daemon.kill()
        self._daemon.wait()
        return int(was_alive)

    def _kill_worker(self) -> int:
        """SIGKILL to the process of a run that is under way; how many died."""
        launcher = self.instance.run_launcher
        assert isinstance(launcher, WarmRunLauncher)
        for run in self.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
            pid = launcher._worker_pid(run.run_id)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                return 1
        return 0

    def _kill_everything(self) -> int:
        """SIGKILL to all there is, until nothing is left; how many died."""
        n_killed = 0
        while found := self.processes():
            for process in found:
                process.kill()
            n_killed += len(found)
            psutil.wait_procs(found, timeout=10)
            if self._daemon is not None:
                self._daemon.wait()
        return n_killed

    def processes(self) -> list[psutil.Process]:
        """Everything that runs in this installation."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                try:
                    if self._mark in (folder / "environ").read_bytes():
                        found.append(psutil.Process(int(folder.name)))
                except (OSError, psutil.NoSuchProcess):
                    continue
        return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def is_working(self, after_runs: int) -> bool:
        """Whether a run is under way after so many that succeeded."""
        n_done = self.instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))
        n_started = self.instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        return n_done >= after_runs and n_started > 0

    def done_at(self, expected: list[Expected]) -> float | None:
        """When the last run ended, if nothing is left to be done; None while there is.

        Nothing is left when every expected partition has been made, no run waits or is under way, no dead letter waits for its
        retry, and every sensor has looked since the last run ended and asked for nothing.
        """
        if self._retries_wait() or self.instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED)):
            return None
        if not all(self._is_made(one) for one in expected):
            return None
        ended = max(record.end_time or 0.0 for record in self.instance.get_run_records(limit=50))
        looked = [
            max((tick.timestamp for tick in self._ticks(state) if tick.is_completed), default=0.0)
            for state in self.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
            if state.is_running
        ]
        return ended if looked and min(looked) > ended else None

    def _retries_wait(self) -> bool:
        """Whether something failed and will be retried by itself."""
        store = self.campaign.store
        if not store.path.exists():
            return False
        waiting = "SELECT count(*) FROM dead_letter WHERE status = 'retrying' OR next_retry_at IS NOT NULL"
        return bool(store.query(waiting).item())

    def _is_made(self, one: Expected) -> bool:
        key = dg.AssetKey(one.asset)
        if one.partition_key is None:
            return self.instance.get_latest_materialization_event(key) is not None
        return one.partition_key in self.instance.get_materialized_partitions(key)

    def _ticks(self, state: InstigatorState) -> Sequence[InstigatorTick]:
        return self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=3)


def wait_for(condition: Callable[[], T | None], what: str, latest_s: float) -> T:
    """What a condition gives once it holds; fails when it takes too long."""
    until = time.monotonic() + latest_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < until, what
        time.sleep(0.25)
