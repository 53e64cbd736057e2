"""The portal as the one who notices that Dagster's daemon is down: it evaluates alert rules while the sensor is quiet.

A thread of the command ``contimg portal``, not of the application, so that any number of applications can be made in one
process. Rules, ledger and delivery are ``contimg_resources.alerts``; both sides may evaluate at once without harm.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import structlog

from contimg_resources.alerts.evaluation import evaluate_alerts, seconds_since_sensor
from contimg_resources.errors import ResourceError
from contimg_resources.settings import Settings

LOOK_EVERY_S = 10.0
SENSOR_QUIET_S = 45.0
"""One and a half intervals of the sensor."""
_LOG = structlog.get_logger(__name__)


@contextmanager
def watching(settings: Settings, *, every_s: float = LOOK_EVERY_S, quiet_s: float = SENSOR_QUIET_S) -> Iterator[None]:
    """Look after alert rules in a thread for as long as the block lasts.

    Parameters
    ----------
    settings : Settings
    every_s : float
        Time between two looks, s.
    quiet_s : float
        The sensor is trusted when it evaluated less than this ago, s.
    """
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(every_s):
            look(settings, quiet_s=quiet_s)

    thread = threading.Thread(target=watch, name="alert-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(timeout=every_s)


def look(settings: Settings, *, quiet_s: float = SENSOR_QUIET_S) -> bool:
    """Evaluate unless the sensor does; return whether it was necessary. Errors we name are logged, not raised."""
    age_s = seconds_since_sensor(settings, datetime.now(UTC))
    if age_s is not None and age_s < quiet_s:
        return False
    try:
        found = evaluate_alerts(settings)
    except ResourceError as error:
        _LOG.warning("alerts_not_evaluated", reason_code=error.reason_code, problem=str(error))
        return True
    _LOG.debug("alerts_evaluated", n_broken=len(found.broken()), n_delivered=found.n_delivered)
    return True
