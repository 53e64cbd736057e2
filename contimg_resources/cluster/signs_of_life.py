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

from contimg_resources.errors import BrokerError

_LOG = structlog.get_logger(__name__)
_KEY = "contimg:run:{run_id}"
_TIMEOUT_S = 5.0


class SignsOfLife:
    """Signs of the runs in one broker."""

    def __init__(self, broker_url: str) -> None:
        self._client = redis.Redis.from_url(
            broker_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, decode_responses=True
        )

    def give(self, run_id: str, worker: str, valid_s: float) -> None:
        """Say that a run lives, for so long."""
        with _named(run_id):
            self._client.set(_KEY.format(run_id=run_id), worker, px=int(valid_s * 1000))

    def end(self, run_id: str) -> None:
        """Say that a run has ended."""
        with _named(run_id):
            self._client.delete(_KEY.format(run_id=run_id))

    def worker_of(self, run_id: str) -> str | None:
        """Who runs it, or None without a sign; BrokerError when nobody can tell."""
        with _named(run_id):
            found: str | None = self._client.get(_KEY.format(run_id=run_id))  # type: ignore[assignment]
            return found


@contextmanager
def _named(run_id: str) -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise BrokerError(
            f"The broker does not answer about run {run_id}",
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
        thread.join(2 * _TIMEOUT_S)
