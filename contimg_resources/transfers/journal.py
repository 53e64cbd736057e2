"""The agent's memory: which files wait, which are confirmed, kept in a small SQLite file so that a restart knows them.

What belongs here: rows and their states. How far a file has been sent is not kept: the receiver knows it better.

States: ``waiting`` until the receiver has the file; ``confirmed``; ``refused`` when it does not want it, with its reason;
``lost`` when the file vanished from this host before it was confirmed.

The disk it lies on is the one that raw files fill when the line is down. Space for some thousand rows is kept in the file, and its
rollback journal stays (PERSIST), so that what is confirmed can be noted, and deleted, with no byte free.
"""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from contimg_resources.errors import ResourceError
from contimg_resources.folder_watch import FileState
from contimg_resources.full_disks import disk_full

_SCHEMA = """
CREATE TABLE IF NOT EXISTS file (
    name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, modified_us INTEGER NOT NULL, sha256 TEXT,
    state TEXT NOT NULL, reason TEXT, n_failures INTEGER NOT NULL DEFAULT 0, confirmed_s REAL
);
CREATE INDEX IF NOT EXISTS file_state ON file (state, n_failures, name);
"""
_MOST_LOST = 1000
"""Lost files remembered."""
_RESERVE_BYTES = 1 << 20
_PAGE_BYTES = 4096
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_WRITE})
"""What SQLite says where there is no space: for pages, for its rollback journal's name, for its content."""


@dataclass(frozen=True, slots=True)
class JournalFile:
    """A file as the agent knows it."""

    name: str
    bytes: int
    modified_us: int
    sha256: str | None
    """None until it was computed for this content."""
    n_failures: int
    """Times the whole file had to be sent anew."""


class Journal:
    """The memory of one agent; a second agent that opens it is refused. For one thread.

    Parameters
    ----------
    path : Path
        The SQLite file; made when absent.

    Raises
    ------
    ResourceError
        If another agent has it open.
    DiskFullError
        Here, and from what writes, if there is no space even for that.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise ResourceError(
                f"Another agent works with {path}",
                remedy="Stop it first, or give this one a data folder of its own (CONTIMG_DATA).",
            ) from error
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        with self._writing():
            self._connection.execute("PRAGMA journal_mode = PERSIST")
            self._connection.executescript(_SCHEMA)
        self._reserve()

    def close(self) -> None:
        """Let another agent have it."""
        self._connection.close()
        self._lock.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode in _FULL:
                raise disk_full(f"the agent's journal {self._path} was written") from error
            raise

    def _reserve(self) -> None:
        """Keep free pages in the file, where the disk has them."""
        missing = _RESERVE_BYTES - self._connection.execute("PRAGMA freelist_count").fetchone()[0] * _PAGE_BYTES
        if missing > 0:
            with suppress(sqlite3.OperationalError):
                self._connection.execute("CREATE TABLE IF NOT EXISTS reserve (filling BLOB)")
                self._connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", [missing])
            with suppress(sqlite3.OperationalError):
                self._connection.execute("DROP TABLE IF EXISTS reserve")

    def states(self) -> dict[str, FileState]:
        """Files that are known, as they were seen."""
        rows = self._connection.execute("SELECT name, bytes, modified_us FROM file WHERE state <> 'lost'")
        return {name: FileState(n_bytes, modified_us) for name, n_bytes, modified_us in rows}

    def add(self, files: Mapping[str, FileState]) -> None:
        """Let files wait: new ones, and known ones whose content changed."""
        rows = [(name, state.bytes, state.modified_us or 0) for name, state in files.items()]
        if not rows:
            return
        with self._writing(), self._connection:
            self._connection.execute("BEGIN")
            self._connection.executemany(
                "INSERT OR REPLACE INTO file (name, bytes, modified_us, state) VALUES (?, ?, ?, 'waiting')", rows
            )

    def next_waiting(self) -> JournalFile | None:
        """The file to send next: the oldest name of those that failed least."""
        row = self._connection.execute(
            "SELECT name, bytes, modified_us, sha256, n_failures FROM file WHERE state = 'waiting'"
            " ORDER BY n_failures, name LIMIT 1"
        ).fetchone()
        return JournalFile(*row) if row else None

    def waiting_names(self) -> list[str]:
        """Files that wait."""
        return [name for (name,) in self._connection.execute("SELECT name FROM file WHERE state = 'waiting'")]

    def note_hash(self, name: str, sha256: str) -> None:
        """Keep the hash of a file's content."""
        with self._writing():
            self._connection.execute("UPDATE file SET sha256 = ? WHERE name = ?", [sha256, name])

    def note_failure(self, name: str, reason: str) -> None:
        """A file has to be sent anew: its hash is forgotten, and others go first."""
        with self._writing():
            self._connection.execute(
                "UPDATE file SET n_failures = n_failures + 1, sha256 = NULL, reason = ? WHERE name = ?", [reason, name]
            )

    def confirm(self, name: str, sha256: str) -> None:
        """The receiver has that content of the file; one that changed meanwhile goes on waiting."""
        with self._writing():
            self._connection.execute(
                "UPDATE file SET state = 'confirmed', reason = NULL, confirmed_s = ? WHERE name = ? AND sha256 = ?",
                [time.time(), name, sha256],
            )

    def refuse(self, name: str, reason: str) -> None:
        """The receiver does not want the file."""
        with self._writing():
            self._connection.execute("UPDATE file SET state = 'refused', reason = ? WHERE name = ?", [reason, name])

    def forget(self, name: str) -> bool:
        """A file is gone from the host; one that was waiting is kept as lost. Returns whether it is lost."""
        with self._writing():
            was_waiting = self._connection.execute(
                "UPDATE file SET state = 'lost', reason = 'gone before it was confirmed' WHERE name = ? AND state = 'waiting'",
                [name],
            ).rowcount
            if not was_waiting:
                self._connection.execute("DELETE FROM file WHERE name = ? AND state <> 'lost'", [name])
            self._connection.execute(
                "DELETE FROM file WHERE state = 'lost' AND name NOT IN"
                " (SELECT name FROM file WHERE state = 'lost' ORDER BY name DESC LIMIT ?)",
                [_MOST_LOST],
            )
        return bool(was_waiting)

    def confirmed_beyond(self, keep_bytes: float) -> list[JournalFile]:
        """Confirmed files, oldest confirmation first, that are more than may be kept."""
        rows = self._connection.execute(
            "SELECT name, bytes, modified_us, sha256, n_failures FROM (SELECT *, sum(bytes) OVER"
            " (ORDER BY confirmed_s DESC, name DESC) AS newer_bytes FROM file WHERE state = 'confirmed')"
            " WHERE newer_bytes > ? ORDER BY confirmed_s, name",
            [keep_bytes],
        )
        return [JournalFile(*row) for row in rows]

    def counts(self) -> dict[str, tuple[int, int]]:
        """Number of files and their bytes, by state."""
        return _counts(self._connection)


def read_journal(path: Path, *, limit: int) -> tuple[dict[str, tuple[int, int]], list[dict[str, object]]]:
    """Counts and bytes by state, and the files that are not confirmed, while the agent may be at work.

    Parameters
    ----------
    path : Path
    limit : int
        Files at most.
    """
    if not path.exists():
        return {}, []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        connection.row_factory = sqlite3.Row
        with suppress(sqlite3.OperationalError):  # an agent that has just begun has made no table
            rows = connection.execute(
                "SELECT name, state, bytes, n_failures, reason FROM file WHERE state <> 'confirmed'"
                " ORDER BY state, name LIMIT ?",
                [limit],
            )
            return _counts(connection), [dict(row) for row in rows]
        return {}, []
    finally:
        connection.close()


def _counts(connection: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    rows = connection.execute("SELECT state, count(*), coalesce(sum(bytes), 0) FROM file GROUP BY state")
    return {state: (n_files, n_bytes) for state, n_files, n_bytes in rows}
