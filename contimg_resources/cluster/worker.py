"""What carries runs out on a host: a Celery worker whose processes are forks of one that has imported the platform.

What belongs here: the worker's side of ``run_launcher``. Each run is a process of its own that ends with it; the worker itself
computes nothing.

A run says that it lives while it runs (``signs_of_life``), waits for PostgreSQL when that is away (``postgres_storage``), and notes
in its tags where it ran. Celery's own word on a task is not used.
"""

from __future__ import annotations

import importlib
import os
import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from celery import Celery
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool
from dagster._cli.api import _execute_run_command_body
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import unpack_value
from dagster_celery.config import TASK_EXECUTE_JOB_NAME

from contimg_resources.cluster.addresses import broker_url
from contimg_resources.cluster.celery_settings import celery_settings
from contimg_resources.cluster.signs_of_life import SignsOfLife, giving_signs
from contimg_resources.deadlines import let_process_end
from contimg_resources.settings import load_settings
from contimg_resources.settings_cluster import ClusterSettings
from contimg_resources.tracing import finish_tracing

WORKER_TAG = "contimg/worker"
"""Run tag: the worker, host and process id of the run."""


_NEXT_PROCESS_S = 0.1
"""Within which a run that has ended makes room for the next, s."""


class _RunProcesses(AsynPool):  # type: ignore[misc]
    """Celery's processes, the next of which is forked as soon as the last has ended."""

    @property
    def timers(self) -> dict[Any, float]:
        """What the worker does regularly."""
        return {**super().timers, self.maintain_pool: _NEXT_PROCESS_S}


class RunPool(TaskPool):  # type: ignore[misc]
    """A process per run, without the pause of up to 5 s that Celery makes between two of them.

    Celery looks for an ended process when its pipe closes, which is a moment before the kernel calls it ended, and then every 5 s.
    """

    Pool = _RunProcesses


@dataclass(frozen=True)
class WorkerPlan:
    """What one worker is."""

    name: str
    queues: Sequence[str]
    n_runs: int = 1
    """Runs at once."""
    preload: Sequence[str] = ()
    """Modules imported once, before the first run."""


def worker_application(cluster: ClusterSettings, name: str) -> Celery:
    """The Celery application of a worker, with the one task it knows."""
    url = broker_url(cluster)
    application = Celery("contimg", set_as_current=False)
    application.conf.update(celery_settings(url, cluster.redelivery_s))
    signs = SignsOfLife(url)

    def execute_job(execute_job_args_packed: Any) -> None:
        """Carry out one run; what became of it is in Dagster's instance."""
        arguments = unpack_value(execute_job_args_packed, as_type=ExecuteRunArgs)
        worker = f"{name}@{socket.gethostname()}:{os.getpid()}"
        warnings.filterwarnings("ignore", "Handling yaml-defined logging", category=dg.BetaWarning)
        let_process_end()
        try:
            with dg.DagsterInstance.get() as instance:
                if not _has_begun(instance, arguments.run_id):
                    # Signs count for half of the time: the launcher waits for the other half (see there).
                    with giving_signs(
                        signs,
                        arguments.run_id,
                        worker,
                        every_s=cluster.sign_of_life_s,
                        valid_s=cluster.lost_after_s / 2,
                    ):
                        _carry_out(instance, arguments.run_id, worker)
        finally:
            finish_tracing()  # a forked process ends without what `atexit` would do

    application.task(execute_job, name=TASK_EXECUTE_JOB_NAME)
    return application


def _has_begun(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether somebody works on the run already, or it is over: a message may come twice."""
    run = instance.get_run_by_id(run_id)
    return run is None or run.status not in {dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED}


def _carry_out(instance: dg.DagsterInstance, run_id: str, worker: str) -> None:
    instance.add_run_tags(run_id, {WORKER_TAG: worker})
    _execute_run_command_body(
        run_id=run_id, instance=instance, write_stream_fn=lambda _: None, set_exit_code_on_failure=False
    )


def run_worker(plan: WorkerPlan) -> None:
    """Carry out runs until SIGTERM, which lets those under way end first."""
    application = worker_application(load_settings().cluster, plan.name)
    for module in plan.preload:
        importlib.import_module(module)
    options = [
        f"--hostname={plan.name}@%h",
        f"--queues={','.join(plan.queues)}",
        f"--concurrency={plan.n_runs}",
        "--pool=prefork",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "--loglevel=INFO",
    ]
    application.worker_main(["worker", *options])
