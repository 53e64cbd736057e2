"""Whether the process of a run lives, wherever it is: each run tells the broker every few seconds.

What belongs here: writing and reading that sign. What follows from its absence is the launcher's business.

Celery cannot tell: the state of a task stays STARTED for ever when its worker is killed with its host. The sign comes from the
run's own process, so that a run whose worker died but which goes on counts as alive. It is a key that expires by itself;
a broker that was away has none, therefore absence counts only when the broker answers and goes on being silent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis
import structlog

from contimg_resources.cluster.celery_settings import KEY_PREFIX
from contimg_resources.errors import BrokerError

_LOG = structlog.get_logger(__name__)
_KEY = KEY_PREFIX + "run:{run_id}"
TIMEOUT_S = 5.0
"""Of one question to the broker."""


class SignsOfLife:
    """Signs of the runs in one broker."""

    def __init__(self, broker_url: str) -> None:
        self._client = redis.Redis.from_url(
            broker_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, decode_responses=True
        )

    def give(self, run_id: str, worker: str, valid_s: float) -> None:
        """Say that a run lives, for so long."""
        with broker_answers(f"run {run_id}"):
            self._client.set(_KEY.format(run_id=run_id), worker, px=int(valid_s * 1000))

    def end(self, run_id: str) -> None:
        """Say that a run has ended."""
        with broker_answers(f"run {run_id}"):
            self._client.delete(_KEY.format(run_id=run_id))

    def worker_of(self, run_id: str) -> str | None:
        """Who runs it, or None without a sign; BrokerError when nobody can tell."""
        with broker_answers(f"run {run_id}"):
            found: str | None = self._client.get(_KEY.format(run_id=run_id))  # type: ignore[assignment]
            return found


@contextmanager
def broker_answers(about: str) -> Iterator[None]:
    """Turn what Redis raises into a BrokerError that says what was asked."""
    try:
        yield
    except redis.RedisError as error:
        raise BrokerError(
            f"The broker does not answer about {about}",
            got=str(error),
            expected="an answer within seconds",
            remedy="Start Redis again; runs go on meanwhile, and nothing is lost.",
        ) from error


@contextmanager
def giving_signs(signs: SignsOfLife, run_id: str, worker: str, *, every_s: float, valid_s: float) -> Iterator[None]:
    """Give signs from a thread while the block runs.

    Parameters
    ----------
    signs : SignsOfLife
    run_id, worker : str
    every_s, valid_s : float
        Interval, and how long each sign counts.
    """
    ended = threading.Event()

    def beat() -> None:
        while not ended.is_set():
            try:
                signs.give(run_id, worker, valid_s)
            except BrokerError as error:
                _LOG.warning("sign_of_life_not_given", run_id=run_id, error=str(error))
            ended.wait(every_s)
        try:
            signs.end(run_id)
        except BrokerError:
            _LOG.warning("sign_of_life_left", run_id=run_id)  # it expires by itself

    thread = threading.Thread(target=beat, name="signs_of_life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2 * TIMEOUT_S)
