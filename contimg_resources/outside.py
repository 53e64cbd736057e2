"""Calls to services outside the observatory, each with a breaker: catalogue servers, notifications.

What belongs here: the breakers (library purgatory), one per service and process: a service that failed a few times in a
row is not asked again until some time has passed, so that nobody waits for it again and again. The breakers of our own
stages, which are shared by all processes and survive them, are ``contimg_resources.store.breakers``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from purgatory import SyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from contimg_resources.errors import CircuitOpenError

Answer = TypeVar("Answer")
FAILURES = 3
COOL_DOWN_S = 60.0
_BREAKERS = SyncCircuitBreakerFactory(default_threshold=FAILURES, default_ttl=COOL_DOWN_S)


def call_outside(
    service: str, call: Callable[[], Answer], *, cool_down_s: float = COOL_DOWN_S, failures: int = FAILURES
) -> Answer:
    """Call a service, unless it failed repeatedly a moment ago.

    Parameters
    ----------
    service : str
        Name of the service; its first call decides its threshold and cool-down.
    call : callable
        Any error it raises counts and is raised again.
    cool_down_s : float
        Seconds after which one call is let through again.
    failures : int
        Failures in a row after which it is not asked.

    Raises
    ------
    CircuitOpenError
        If it is not asked now.
    """
    breaker = _BREAKERS.get_breaker(service, threshold=failures, ttl=cool_down_s)
    try:
        with breaker:
            return call()
    except OpenedState as error:
        raise CircuitOpenError(
            f"{service} is not asked", got=f"{failures} failures in a row",
            expected="a service that answers", remedy=f"Look at the earlier errors. It is tried again after {cool_down_s:g} s.",
        ) from error  # fmt: skip
