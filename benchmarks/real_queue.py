"""Dagster's own queue on an empty instance: its coordinator, its daemon and the limits of ``deploy/dagster.yaml``.

What belongs here: the real parts of ``queue_simulation``, and the launcher in the place of the broker, which keeps what it gets.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import dagster as dg
import yaml
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._serdes import ConfigurableClass, ConfigurableClassData

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


class VirtualLauncher(RunLauncher, ConfigurableClass):
    """Keeps the runs that are handed to the broker."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self.launched: list[dg.DagsterRun] = []
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What the instance was configured with."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> VirtualLauncher:  # noqa: ARG003
        """Build it from the instance's file."""
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Take the run; a worker begins it when the simulation says so."""
        self.launched.append(context.dagster_run)

    def terminate(self, run_id: str) -> bool:  # noqa: ARG002
        """Nothing is terminated here."""
        return False


@contextmanager
def instance_of_cluster(*, postgres: bool = False) -> Iterator[dg.DagsterInstance]:
    """An empty instance with queue and limits of ``deploy/dagster.yaml``, on its own storage or on SQLite as embedded."""
    shipped = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())
    kept = {key: shipped[key] for key in ("concurrency", "run_coordinator", "compute_logs", "telemetry")}
    kept["run_launcher"] = {"module": "real_queue", "class": "VirtualLauncher", "config": {}}
    with tempfile.TemporaryDirectory(prefix="capacity-queue-") as home:
        if postgres:
            kept["storage"] = shipped["storage"]
        else:
            for key, name in (
                ("run_storage", "Run"),
                ("event_log_storage", "EventLog"),
                ("schedule_storage", "Schedule"),
            ):
                kept[key] = {
                    "module": "contimg_resources.instance_storage",
                    "class": f"Pooled{name}Storage",
                    "config": {"home": home},
                }
        (Path(home) / "dagster.yaml").write_text(yaml.safe_dump(kept))
        with dg.DagsterInstance.from_config(home) as instance:
            yield instance


class RealQueue:
    """Dagster's queue: its record of runs, the daemon that empties it, and what that costs."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self._daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
        self._workspace = WorkspaceProcessContext(instance, EmptyWorkspaceTarget())
        self.wall_s = self.cpu_s = 0.0
        self.n_dequeued = 0

    def __enter__(self) -> Self:
        self._workspace.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._daemon.__exit__(*error)
        self._workspace.__exit__(*error)

    def submit(self, job_name: str, tags: dict[str, str], location: str) -> dg.DagsterRun:
        """Put a run of a code location into the queue, through Dagster's coordinator."""
        run = self.record(job_name, tags, location, dg.DagsterRunStatus.NOT_STARTED)
        request = self._workspace.create_request_context()
        return self.instance.run_coordinator.submit_run(SubmitRunContext(run, request))

    def record(self, job_name: str, tags: dict[str, str], location: str, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """Write a run down as if it had come so far."""
        repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
        origin = RemoteJobOrigin(repository, job_name)
        return self.instance.add_run(dg.DagsterRun(job_name, tags=tags, remote_job_origin=origin, status=status))

    def dequeue(self, at_s: float) -> list[dg.DagsterRun]:
        """One look of the daemon: the runs that it hands to the broker."""
        launcher = self.instance.run_launcher
        if not isinstance(launcher, VirtualLauncher):
            raise TypeError(f"the instance would really launch runs, with {type(launcher).__name__}")
        launched = launcher.launched
        launched.clear()
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        list(self._daemon.run_iteration(self._workspace, fixed_iteration_time=at_s))
        self.wall_s += time.perf_counter() - began_s
        self.cpu_s += time.process_time() - began_cpu_s
        self.n_dequeued += len(launched)
        return list(launched)

    def note(self, run: dg.DagsterRun, what: DagsterEventType) -> None:
        """Record that a worker began or ended a run."""
        self.instance.report_dagster_event(DagsterEvent(what.value, run.job_name), run.run_id)
