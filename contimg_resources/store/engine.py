"""DuckDB in memory, to which the store's file is attached for each transaction: one per process and file, renewed now and then.

What belongs here: beginning and ending that DuckDB. Attaching the file and waiting for it is ``connection.py``.

DuckDB 2.0.0 keeps 0.3 kB of every file it attached, and 2 kB of one it wrote, after the file is detached and until it is
closed itself: a process that opens the store four times a minute grows by up to 10 MB in a day. So it is closed after so many
attachments; starting the next takes 35 ms. Rejected: one for each transaction, which takes those 35 ms every time.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import duckdb

from contimg_resources.store.records import records_folder, set_records_folder

MOST_ATTACHMENTS = 1000
"""After which DuckDB is begun anew: it has kept 2 MB at most, and a store's use has become 0.04 ms longer."""


@dataclass
class _Engine:
    connection: duckdb.DuckDBPyConnection
    n_attachments: int = 0


_ENGINES: dict[tuple[int, Path], _Engine] = {}
"""By process and store: a forked process must not use its parent's."""
_GUARD = threading.Lock()


def engine_of(path: Path, *, keeps_rows: bool) -> duckdb.DuckDBPyConnection:
    """The process's DuckDB for a store, begun if there is none."""
    key = os.getpid(), path
    with _GUARD:
        if key not in _ENGINES:
            connection = duckdb.connect(":memory:")
            connection.execute("SET enable_progress_bar = false")  # it is written to stdout
            if keeps_rows:
                set_records_folder(connection, records_folder(path))
            _ENGINES[key] = _Engine(connection)
        return _ENGINES[key].connection


def note_detached(path: Path) -> None:
    """Count an attachment that is over; end the engine when it has had enough of them. Nobody may be using it."""
    with _GUARD:
        engine = _ENGINES[os.getpid(), path]
        engine.n_attachments += 1
        is_spent = engine.n_attachments >= MOST_ATTACHMENTS
    if is_spent:
        end_engine(path)


def end_engine(path: Path) -> None:
    """Close the process's DuckDB for a store; the next use begins another."""
    with _GUARD:
        engine = _ENGINES.pop((os.getpid(), path), None)
    if engine is not None:
        engine.connection.close()
