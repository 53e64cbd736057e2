"""How Dagster starts a run on another host: as a Celery task in the queue of its kind of work.

What belongs here: the launcher named in ``deploy/dagster.yaml``, a dagster-celery ``CeleryRunLauncher`` with what that lacks. The
other side is ``worker``; queues are in ``queues``.

Measured against dagster-celery 0.29.27, and mended here:

* Its health check asks Celery for the state of the task. A task whose worker was killed stays STARTED, and one of which
  nothing is known (broker away) is UNKNOWN, which makes run monitoring fail a run that is well. Here a run is lost when the
  broker answers and the run has given no sign of life for ``lost_after_s``; while the broker is away, no run is lost.
* With the broker away a launch raises, and Dagster drops the run. Here the error is the one after which Dagster puts the run
  back into its queue (``max_user_code_failure_retries`` in ``deploy/dagster.yaml``).
* A worker that is told to stop a run gets SIGTERM, which Celery does not hand on as an interruption: SIGINT here. A run that no
  worker has begun is cancelled at once.
* A message can be lost with a Redis that is killed (``messages``): its run would wait for a worker until run monitoring gives it
  up after hours. Here it is handed over again (sensor ``run_failures``).
* Resuming a run in a new worker, which Dagster would do before retrying it, is refused: steps of one process cannot be resumed.

Rejected: ``celery_executor`` (a task per step), which waits for ever for a queue without listeners or a killed worker.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import dagster as dg
import structlog
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClassData, pack_value
from dagster_celery.config import TASK_EXECUTE_JOB_NAME
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_QUEUE_TAG, DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError

from contimg_resources.cluster.addresses import broker_url
from contimg_resources.cluster.celery_settings import celery_settings
from contimg_resources.cluster.messages import Messages
from contimg_resources.cluster.queues import broker_priority, queue_of
from contimg_resources.cluster.signs_of_life import SignsOfLife
from contimg_resources.errors import BrokerError
from contimg_resources.settings import load_settings
from contimg_resources.settings_cluster import ClusterSettings

_LOG = structlog.get_logger(__name__)
_PRIORITY_TAG = "dagster/priority"
_IN_TRANSIT_S = 1.0
"""Longer than a message is between queue and worker."""


class QueueRunLauncher(CeleryRunLauncher):
    """Launch each run as a task in the queue of its kind of work.

    Parameters
    ----------
    cluster : ClusterSettings
        Without a broker's URL the launcher can be looked at and not used: guests' web server has none.
    inst_data : ConfigurableClassData, optional
    """

    def __init__(self, cluster: ClusterSettings, inst_data: ConfigurableClassData | None = None) -> None:
        self._cluster = cluster
        is_named = cluster.broker_url is not None or cluster.broker_url_file is not None
        url = broker_url(cluster) if is_named else None
        settings = celery_settings(url, cluster.redelivery_s)
        super().__init__(default_queue="image", broker=url, config_source=settings, inst_data=inst_data)
        self.celery.conf.update(settings)  # the application of dagster-celery has put a queue of its own into them
        self._signs = None if url is None else SignsOfLife(url)
        self._messages = None if url is None else Messages(url)
        self._lost_after_s = cluster.lost_after_s
        self._silent_since: dict[str, float] = {}

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing: the broker is a setting (``CONTIMG_CLUSTER__…``)."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:  # noqa: ARG003
        """Build the launcher from the settings."""
        return cls(load_settings().cluster, inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Put the run into its queue; the task carries the run's id, so that sending it twice does no harm."""
        broker_url(self._cluster)  # the error that names the setting, and no broker that Celery would guess
        run = context.dagster_run
        assets = None if run.asset_selection is None else [key.to_user_string() for key in run.asset_selection]
        queue = run.tags.get(DAGSTER_CELERY_QUEUE_TAG) or queue_of(run.job_name, assets)
        origin = run.job_code_origin
        if origin is None:
            raise dg.DagsterInvariantViolationError(
                f"run {run.run_id} carries no code origin; launch it from a code location"
            )
        arguments = ExecuteRunArgs(job_origin=origin, run_id=run.run_id, instance_ref=self._instance.get_ref())
        try:
            self.celery.send_task(
                TASK_EXECUTE_JOB_NAME,
                kwargs={"execute_job_args_packed": pack_value(arguments)},
                task_id=run.run_id,
                queue=queue,
                routing_key=f"{queue}.{TASK_EXECUTE_JOB_NAME}",
                priority=broker_priority(run.tags.get(_PRIORITY_TAG)),
                retry=False,
            )
        except OperationalError as error:
            raise DagsterUserCodeUnreachableError(
                f"The broker does not answer ({error}): the run waits in Dagster's queue until it does."
            ) from error
        self._instance.add_run_tags(
            run.run_id, {DAGSTER_CELERY_QUEUE_TAG: queue, DAGSTER_CELERY_TASK_ID_TAG: run.run_id}
        )
        self._instance.report_engine_event(f"Waits in queue {queue} of the cluster.", run, cls=type(self))

    def hand_over_lost_runs(self) -> list[str]:
        """Hand over again the runs that have waited for ``lost_after_s``, are in no queue and on no worker; returns their ids."""
        if self._messages is None:
            return []
        try:
            lost = self._waiting().keys() - self._messages.held()
            if not lost:
                return []
            time.sleep(_IN_TRANSIT_S)
            held = self._messages.held()
            found = [run for run in self._waiting().values() if run.run_id in lost - held]
            found = [run for run in found if self._messages.claim(run.run_id, self._lost_after_s)]
        except BrokerError as error:
            _LOG.warning("lost_runs_not_looked_for", error=str(error))
            return []
        for run in found:
            self._instance.report_engine_event("Was in no queue and on no worker.", run, cls=type(self))
            self.launch_run(LaunchRunContext(run, workspace=None))
        return [run.run_id for run in found]

    def _waiting(self) -> dict[str, dg.DagsterRun]:
        """Runs that were handed over a while ago and that no worker has begun."""
        since = datetime.now(UTC) - timedelta(seconds=self._lost_after_s)
        filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING], updated_before=since)
        return {run.run_id: run for run in self._instance.get_runs(filters)}

    def terminate(self, run_id: str) -> bool:
        """Interrupt the run where it is, or take it out of its queue; False when it has ended or the broker is away."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        broker_url(self._cluster)
        try:
            self.celery.control.revoke(run_id, terminate=True, signal="SIGINT")
        except OperationalError as error:
            _LOG.warning("run_not_terminated", run_id=run_id, why=str(error))
            return False
        has_begun = run.status not in {dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED}
        self._instance.report_run_canceling(run)
        if not has_begun:
            self._instance.report_run_canceled(run, "No worker had begun it.")
        return True

    @property
    def supports_resume_run(self) -> bool:
        """A lost run is retried, not resumed."""
        return False

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """FAILED when the broker answers and the run has been silent for too long, RUNNING otherwise."""
        if self._signs is None:
            return CheckRunHealthResult(WorkerStatus.UNKNOWN, msg="This process knows no broker.")
        try:
            worker = self._signs.worker_of(run.run_id)
        except BrokerError as error:
            self._silent_since.clear()
            return CheckRunHealthResult(WorkerStatus.RUNNING, msg=str(error))
        if worker is not None:
            self._silent_since.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING, msg=f"On {worker}.")
        now = time.monotonic()
        # Keys expire after half the time, and the other half passes here: a broker that has just come back knows no run.
        silent_s = now - self._silent_since.setdefault(run.run_id, now)
        if silent_s < self._lost_after_s / 2:
            return CheckRunHealthResult(WorkerStatus.RUNNING, msg=f"Silent for {silent_s:.0f} s.")
        self._silent_since.pop(run.run_id)
        return CheckRunHealthResult(
            WorkerStatus.FAILED, msg=f"The run gave no sign of life for {self._lost_after_s:g} s."
        )

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:  # noqa: ARG002, FBT001, FBT002
        """Where the run was, for its record."""
        return f"worker {run.tags.get('contimg/worker', 'unknown')}, queue {run.tags.get(DAGSTER_CELERY_QUEUE_TAG)}"
