"""How Dagster starts a run here: by forking a warm process instead of starting a cold one.

What belongs here: the run launcher named in ``dagster.yaml``. What does not: queueing, priorities, retries and
monitoring, which are Dagster's own.

Dagster's default launcher starts every run in a fresh interpreter that imports Dagster, the definitions, numba and
astropy before the first step: seconds of processor time for an observation that computes for a few seconds. This
launcher keeps one idle process (multiprocessing's fork server) which has imported everything; each run is a fork of
it: its own process, its own memory, killed and monitored like any other, without the start-up. Rejected:
``dagster-celery``'s launcher is as fast but needs a broker even on one machine; it stays the choice beyond one
machine.

The fork server is started by the process that launches (the daemon) and dies with it; new code is picked up
when the daemon is restarted, as ``dagster dev`` does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster._cli.api import execute_run_command
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, deserialize_value, serialize_value

from contimg_resources.deadlines import let_process_end
from contimg_resources.tracing import finish_tracing

_WORKER_TAG = "contimg/worker"
"""Run tag: process id and kernel start time of the run's process, so that a reused id is not mistaken for it."""


def _start_ticks(pid: int) -> str | None:
    """Kernel start time of a process, or None when it is gone or a zombie."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] != "Z":
            return fields[19]
    return None


def execute_run(serialized_arguments: str) -> None:
    """Run in the forked process: what ``dagster api execute_run`` does, in a process group of its own.

    The process names itself in the run's tags before the run starts. Were it named by the daemon that forked it, a daemon
    killed in between would leave a run that its successor takes for lost and starts again beside it.
    """
    os.setsid()
    arguments = deserialize_value(serialized_arguments, ExecuteRunArgs)
    if arguments.instance_ref is not None:
        with dg.DagsterInstance.from_ref(arguments.instance_ref) as instance:
            instance.add_run_tags(arguments.run_id, {_WORKER_TAG: f"{os.getpid()}:{_start_ticks(os.getpid())}"})
    warnings.filterwarnings("ignore", "Handling yaml-defined logging", category=dg.BetaWarning)
    let_process_end()
    callback = execute_run_command.callback
    try:
        if callback is not None:
            callback(serialized_arguments, None)
    finally:
        finish_tracing()  # a forked process ends without what `atexit` would do


class WarmRunLauncher(RunLauncher[Any], ConfigurableClass):
    """Launch each run as a fork of a process that has already imported the platform.

    Parameters
    ----------
    preload_modules : sequence of str
        Modules imported once, in the fork server.
    """

    def __init__(self, preload_modules: Sequence[str], inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._preload_modules = list(preload_modules)
        self._context: ForkServerContext | None = None
        self._processes: dict[str, ForkServerProcess] = {}
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What ``dagster.yaml`` said."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Configuration accepted in ``dagster.yaml``."""
        return {"preload_modules": dg.Field([str], default_value=["contimg_assets.definitions"])}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Build the launcher from ``dagster.yaml``."""
        return cls(inst_data=inst_data, **config_value)

    def _fork_server(self) -> ForkServerContext:
        if self._context is None:
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(self._preload_modules)
        return self._context

    def launch_run(self, context: LaunchRunContext) -> None:
        """Fork the run's process, which names itself in the run's tags."""
        run = context.dagster_run
        if run.job_code_origin is None:
            raise dg.DagsterInvariantViolationError(
                f"run {run.run_id} carries no code origin; launch it from a code location"
            )
        arguments = ExecuteRunArgs(
            job_origin=run.job_code_origin, run_id=run.run_id, instance_ref=self._instance.get_ref()
        )
        process = self._fork_server().Process(target=execute_run, args=(serialize_value(arguments),), daemon=False)
        process.start()
        self._processes = {k: p for k, p in self._processes.items() if p.is_alive()} | {run.run_id: process}

    def _worker_pid(self, run_id: str) -> int | None:
        run = self._instance.get_run_by_id(run_id)
        pid, _, ticks = (run.tags.get(_WORKER_TAG, "") if run else "").partition(":")
        return int(pid) if pid and _start_ticks(int(pid)) == ticks else None

    def terminate(self, run_id: str) -> bool:
        """Interrupt the run's process; False when it is gone already."""
        run = self._instance.get_run_by_id(run_id)
        pid = self._worker_pid(run_id)
        if run is None or run.is_finished or pid is None:
            return False
        self._instance.report_run_canceling(run)
        os.kill(pid, signal.SIGINT)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring may ask whether the process lives."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """RUNNING while the run's process exists."""
        if self._worker_pid(run.run_id) is not None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, msg="The process of the run is gone.")

    def join(self, timeout: int = 30) -> None:
        """Wait for the runs this launcher started."""
        for process in self._processes.values():
            process.join(timeout)
