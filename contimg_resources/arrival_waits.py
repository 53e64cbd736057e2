"""When the next observation will have waited long enough for its files: a look at the folder in which nothing came asks nobody.

What belongs here: remembering one answer of the store for as long as the store stays as it is. What follows when a wait
is over is decided in ``contimg_assets.arrival_records``, from the store itself.

Method. The store's file, and the log beside it, change with every commit of any process; while neither has, the oldest
observation that still collects files is the one found last. A file that was written a moment ago may be written again
within the resolution of its time, so what is found then is not remembered. Rejected: asking at every look, which attaches
and detaches the store 17,000 times a day to learn that nothing waits, and makes writers wait for it.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path

from contimg_resources.store.connection import Store

_TRUSTED_AFTER_S = 2.0
"""A file whose time lies so far back is certainly not written within the resolution of that time any more."""


class ArrivalWaits:
    """The observation that waits longest, as of one state of the store's file."""

    def __init__(self) -> None:
        self._state: tuple[tuple[int, int], ...] | None = None
        self._since: datetime | None = None

    def is_over(self, store: Store, *, now: datetime, wait_s: float) -> bool:
        """Whether an observation collects files since longer than ``wait_s`` at a moment (UTC, without zone)."""
        state = _state_of(store.path)
        if state != self._state:
            self._since = store.query(
                "SELECT min(first_seen_at) AS since FROM observation WHERE status = 'collecting'"
            ).item()
            newest_s = max((time_ns for time_ns, _ in state), default=0) / 1e9
            self._state = state if time.time() - newest_s > _TRUSTED_AFTER_S else None
        return self._since is not None and self._since <= now - timedelta(seconds=wait_s)


def _state_of(path: Path) -> tuple[tuple[int, int], ...]:
    """Times and sizes of the store's file and of its log."""
    states = []
    for part in (path, path.with_name(f"{path.name}.wal")):
        try:
            found = part.stat()
        except FileNotFoundError:
            states.append((0, 0))
        else:
            states.append((found.st_mtime_ns, found.st_size))
    return tuple(states)
