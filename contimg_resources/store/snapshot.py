"""A store that is read from a copy, so that whoever looks never waits for whoever writes.

What belongs here: when the copy is brought up to date, and which questions it can answer. What the copy is made of is
``mirror.py``; writing goes to the file as ever (``connection.py``). DuckDB lets nobody read a file that another process
writes: pages that open the file wait for every observation that is being stored. The copy is a DuckDB of the reading
process, renewed with what changed whenever the file is free; its age is known (`SnapshotStore.age_s`).

A small store is compared at every question, which takes milliseconds; a large one in a thread of its own, at most a
sixth of the time, so that neither writers nor readers notice. Until the first copy is there, and for tables too large to
be copied, questions go to the file.

Rejected: copying the whole file (1 GB at 1e7 points, for every transaction), and a server that owns the file (one more
thing to keep alive).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import duckdb
import polars as pl
import structlog

from contimg_resources.errors import StoreBusyError, StoreError
from contimg_resources.store.connection import Store
from contimg_resources.store.mirror import CopySizes, Mirror

_LOG = structlog.get_logger(__name__)
_HASTE_S = 0.2
"""So long a comparison waits for the file while a question waits for the comparison."""
_REST = 5.0
"""After a long comparison nothing is done for this many times its duration."""
_TURN_OF_WRITERS_S = 0.1
"""Between two parts of the first copy, in which whoever waits for the file can have it."""
_BUSY_REST_S = 0.5
"""After a comparison that did not get the file."""


class _Routed:
    """What `Store.reading` gives, asking copy or file as each question needs."""

    def __init__(
        self, mirror: Mirror, cursor: duckdb.DuckDBPyConnection, open_file: Callable[[], duckdb.DuckDBPyConnection]
    ) -> None:
        self._mirror, self._cursor, self._open_file = mirror, cursor, open_file
        self._file: duckdb.DuckDBPyConnection | None = None

    def _asked(self, sql: str) -> duckdb.DuckDBPyConnection:
        if self._mirror.has_tables_of(sql):
            return self._cursor
        self._file = self._file or self._open_file()
        return self._file

    def sql(self, sql: str, params: object = None) -> duckdb.DuckDBPyRelation:
        """Relation of a question."""
        return self._asked(sql).sql(sql, params=params)

    def execute(self, sql: str, parameters: object = None) -> duckdb.DuckDBPyConnection:
        """Connection that has executed a question."""
        return self._asked(sql).execute(sql, parameters)


class SnapshotStore(Store):
    """The store as its newest copy says; writing as `Store` does, after which the copy is renewed.

    Parameters
    ----------
    path : Path
        The DuckDB file.
    wait_s : float
        How long writing, or a question the copy cannot answer, waits for the file.
    sizes : CopySizes
        From which sizes things are done differently.
    """

    def __init__(self, path: Path, *, wait_s: float = 60.0, sizes: CopySizes | None = None) -> None:
        super().__init__(path, wait_s=wait_s)
        self._sizes = sizes or CopySizes()
        self._mirror: Mirror | None = None
        self._begun: Mirror | None = None
        """A first copy that is not complete yet."""
        self._mirrored: tuple[int, int] | None = None
        self._checked_at = 0.0
        self._next_look = 0.0
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None
        self._generation = 0
        self.n_written = 0
        """Transactions of this process, after which nothing older may be shown."""

    @property
    def newest_statistics(self) -> str:
        """Table of the copy, or what `Store` says while there is none."""
        mirror = self._mirror
        return "newest_statistics" if mirror and "newest_statistics" in mirror.names else super().newest_statistics

    @property
    def age_s(self) -> float | None:
        """How old the copy is; 0 when the file has not changed since, None without a copy."""
        if self._mirror is None:
            return None
        return 0.0 if self._mirrored == self._signature() else time.monotonic() - self._checked_at

    def generation(self) -> int | None:
        """Number of the copy if an answer made from it may be given now, None if a question would renew the copy first."""
        if self._mirror is None or not self.path.exists():
            return None
        if self._is_due():
            if self.is_small():
                return None
            self._renew_beside()
        return self._generation

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Answer of one SELECT, from the copy where it has the tables; arguments and errors as of `Store.query`."""
        mirror = self._current()
        if mirror is None or not mirror.has_tables_of(sql):
            return super().query(sql, parameters)
        try:
            return mirror.query(sql, parameters)
        except duckdb.Error as error:
            raise StoreError(
                "The store's copy cannot answer",
                got=str(error).splitlines()[0],
                expected="an answer",
                remedy="Start the portal again; if this stays, report it.",
            ) from error

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Read-only connection to one moment of the copy; of the file for the tables the copy has not."""
        mirror = self._current()
        with ExitStack() as stack:
            if mirror is None:
                yield stack.enter_context(super().reading())
                return
            cursor = stack.enter_context(mirror.one_moment())
            open_file = super().reading
            routed = _Routed(mirror, cursor, lambda: stack.enter_context(open_file()))
            yield cast("duckdb.DuckDBPyConnection", routed)

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Writing connection to the file, as of `Store.transaction`; afterwards the copy has what was written."""
        with super().transaction() as connection:
            yield connection
        self.n_written += 1
        if self._mirror is not None:
            with self._turn:
                self._renew(self.wait_s)

    def close(self) -> None:
        """Wait for a comparison under way and remove the copy."""
        if self._thread is not None:
            self._thread.join()
        with self._turn:
            self._remove_copies()

    def _remove_copies(self) -> None:
        for copy in (self._mirror, self._begun):
            if copy is not None:
                copy.close()
        self._mirror = self._begun = None

    def _signature(self) -> tuple[int, int] | None:
        """Changes with every transaction: DuckDB writes the file whenever it is let go."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size

    def _is_due(self) -> bool:
        return self._mirrored != self._signature() and time.monotonic() >= self._next_look

    def is_small(self) -> bool:
        """Whether the file is small enough to be compared at every question."""
        signature = self._signature()
        return signature is not None and signature[1] <= self._sizes.small_file_bytes

    def _current(self) -> Mirror | None:
        """The copy to ask, renewed first if that is quick; None if the file must be asked."""
        if not self.path.exists():
            return None
        if self._is_due():
            if not self.is_small():
                self._renew_beside()
            elif self._turn.acquire(blocking=self._mirror is None):
                try:
                    if self._is_due():
                        self._renew(_HASTE_S)
                finally:
                    self._turn.release()
        return self._mirror

    def _renew_beside(self) -> None:
        """Start a comparison in a thread of its own, unless one is under way."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._renew_patiently, name="store-copy", daemon=True)
                self._thread.start()
        finally:
            self._turn.release()

    def _renew_patiently(self) -> None:
        with self._turn:
            while not self._renew(self.wait_s):
                time.sleep(_TURN_OF_WRITERS_S)

    def _renew(self, wait_s: float) -> bool:
        """Compare and copy; whether the copy is complete, or cannot be made now. Only with the turn."""
        started = time.monotonic()
        made = self._mirror or self._begun or Mirror(self._sizes)
        self._begun = None if made is self._mirror else made
        known = made.names
        try:
            with Store(self.path, wait_s=wait_s).reading() as connection:
                signature = self._signature()
                changes = made.changes(connection)
            made.apply(changes)
        except StoreBusyError:
            self._next_look = time.monotonic() + _BUSY_REST_S
            return True
        except StoreError as error:
            _LOG.warning("store_not_copied", path=str(self.path), error=str(error))
            self._remove_copies()
            self._next_look = time.monotonic() + _BUSY_REST_S
            return True
        self._generation += bool(changes.tables) or made.names != known
        if not changes.is_complete:
            return False
        self._begun, self._mirror, self._mirrored, self._checked_at = None, made, signature, started
        now = time.monotonic()
        self._next_look = now if self.is_small() else now + _REST * (now - started)
        return True
