"""Heavy answers kept in memory while the store stays as it is, and for a while when it changes all the time.

What belongs here: when an answer is still good. An answer is as good as new while the store's file has not been written;
the file changes with every observation, so an answer younger than ``ttl_s`` is good in any case, and one that is a little
older is shown once more while a thread makes the next. Pages say how old what they show is.

Rejected: Redis, which this needs only if several portals run side by side on hosts too small to each keep a frame of
1e5 rows (20 MB); and waiting for the new answer, which makes one visitor in a hundred wait for seconds.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from contimg_resources.errors import ResourceError

T = TypeVar("T")
_LOG = structlog.get_logger(__name__)
_MOST_ENTRIES = 256
_GRACE = 10.0
"""An answer up to so many times ``ttl_s`` old is shown while the next is made; an older one is not shown."""


@dataclass(frozen=True, slots=True)
class _Entry:
    value: Any
    made_at: float
    version: tuple[int, int]


class StoreCache:
    """Answers of one store by key.

    Parameters
    ----------
    path : Path
        The store's file, whose time and size tell whether it changed.
    ttl_s : float
        How long an answer is good although the store changed, s; 0 keeps answers only while it does not change.
    clock : callable
        Monotonic time, s.
    """

    def __init__(self, path: Path, ttl_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._ttl_s, self._clock = path, ttl_s, clock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._locks: dict[Hashable, threading.Lock] = {}
        self._renewed: set[Hashable] = set()
        self._guard = threading.Lock()
        self._maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="portal-cache")

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the answer of that name, made by ``make`` when there is none that is good."""
        entry = self._find(key)
        if entry is not None:
            age_s = self._clock() - entry.made_at
            if age_s < self._ttl_s or entry.version == self._version():
                return entry.value  # type: ignore[no-any-return]
            if age_s < _GRACE * self._ttl_s:
                self._renew(key, make)
                return entry.value  # type: ignore[no-any-return]
        return self._make_once(key, make, entry)

    def _find(self, key: Hashable) -> _Entry | None:
        with self._guard:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def _version(self) -> tuple[int, int]:
        if not self._path.exists():
            return 0, 0
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size

    def _make_once(self, key: Hashable, make: Callable[[], T], known: _Entry | None) -> T:
        """Make an answer; whoever asks for the same meanwhile waits for it instead of making it again."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            entry = self._find(key)
            if entry is not None and entry is not known:
                return entry.value  # type: ignore[no-any-return]
            version = self._version()
            value = make()
            with self._guard:
                self._entries[key] = _Entry(value, self._clock(), version)
                self._entries.move_to_end(key)
                while len(self._entries) > _MOST_ENTRIES:
                    oldest, _ = self._entries.popitem(last=False)
                    self._locks.pop(oldest, None)
            return value

    def _renew(self, key: Hashable, make: Callable[[], Any]) -> None:
        with self._guard:
            if key in self._renewed:
                return
            self._renewed.add(key)
        self._maker.submit(self._make_next, key, make)

    def _make_next(self, key: Hashable, make: Callable[[], Any]) -> None:
        try:
            self._make_once(key, make, self._find(key))
        except ResourceError as error:
            _LOG.warning("answer_not_renewed", key=str(key), cause=str(error))
        finally:
            with self._guard:
                self._renewed.discard(key)
