"""Computations of the API one after the other: a bounded queue, and results kept for a while.

What belongs here: whose turn it is. One computation runs at a time, so that pages stay quick; what waits is bounded, and
more is refused with 503. State is in memory: a job does not outlive the portal, and whoever asked asks again.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from contimg_assets.science.errors import DataError
from contimg_resources.errors import ResourceError

_MOST_KEPT = 64
_PATIENCE_S = 30.0


class QueueFullError(ResourceError):
    """Raise when so much is computed that no more is taken on."""

    transient = True
    reason_code = "queue_full"


@dataclass(slots=True)
class Job:
    """One computation."""

    job_id: str
    kind: str
    status: Literal["queued", "running", "done", "failed"] = "queued"
    detail: str | None = None
    result: Any = field(default=None, repr=False)


class Jobs:
    """Computations by id.

    Parameters
    ----------
    most_queued : int
        So many may wait.
    """

    def __init__(self, most_queued: int) -> None:
        self._most_queued = most_queued
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._guard = threading.Lock()
        self._turn = threading.Lock()
        self._waiting = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="computation")

    def run(self, compute: Callable[[], Any]) -> Any:
        """Compute now, when those before have ended; `QueueFullError` when that takes too long."""
        self._queue_up()
        try:
            if not self._turn.acquire(timeout=_PATIENCE_S):
                raise self._full()
            try:
                return compute()
            finally:
                self._turn.release()
        finally:
            self._leave()

    def submit(self, kind: str, compute: Callable[[], Any]) -> Job:
        """Queue a computation."""
        self._queue_up()
        job = Job(uuid.uuid4().hex, kind)
        with self._guard:
            self._jobs[job.job_id] = job
            ended = [name for name, other in self._jobs.items() if other.status in {"done", "failed"}]
            for name in ended[: max(0, len(self._jobs) - _MOST_KEPT)]:
                del self._jobs[name]
        self._worker.submit(self._execute, job, compute)
        return job

    def find(self, job_id: str) -> Job | None:
        """Job of that id, or None."""
        with self._guard:
            return self._jobs.get(job_id)

    def close(self) -> None:
        """Take on nothing more and drop what waits."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _execute(self, job: Job, compute: Callable[[], Any]) -> None:
        try:
            with self._turn:
                job.status = "running"
                job.result = compute()
            job.status = "done"
        except (DataError, ResourceError) as error:
            job.status, job.detail = "failed", str(error)
        finally:
            if job.status == "running":
                job.status, job.detail = "failed", "The computation broke off; the portal's log says why."
            self._leave()

    def _queue_up(self) -> None:
        with self._guard:
            if self._waiting > self._most_queued:
                raise self._full()
            self._waiting += 1

    def _leave(self) -> None:
        with self._guard:
            self._waiting -= 1

    def _full(self) -> QueueFullError:
        return QueueFullError(
            "The portal computes already",
            got=f"{self._waiting} computations",
            expected=f"at most {self._most_queued} that wait",
            remedy="Ask again in a minute.",
        )
