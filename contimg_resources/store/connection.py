"""The DuckDB file: one short transaction at a time, from any number of processes.

DuckDB lets one process write a file and no other even read it meanwhile, so the file is attached for one transaction
and detached, and whoever finds it taken waits: jittered, bounded, and visible in the log. Threads of one process
take turns by a lock. The store can be lost: it is rebuilt from the products. Table definitions are in ``schema.py``,
checks of rows in ``frames.py``, questions in ``queries.py``.

Attaching to a DuckDB that the process keeps in memory (``engine.py``) takes 5 ms; starting one for the file, as
``duckdb.connect(path)`` does, takes 35 ms, of which an observation would spend a second. Rejected: the file kept attached
(nobody else could read), and a server process (one more thing to keep alive).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import stamina
import structlog

from contimg_resources.errors import StoreBusyError, StoreError
from contimg_resources.full_disks import disk_full, says_disk_is_full
from contimg_resources.products import Products
from contimg_resources.store.engine import end_engine, engine_of, note_detached
from contimg_resources.store.frames import fit_frame
from contimg_resources.store.partitions import empty_partition, note_content, refuse_known_rows, take_out_known_rows
from contimg_resources.store.records import KEPT, keep_inserted, keep_rows
from contimg_resources.store.schema import SCHEMA_VERSION, TABLES, Table
from contimg_resources.tracing import span

if TYPE_CHECKING:
    from contimg_resources.settings import Settings

_LOG = structlog.get_logger(__name__)
stamina.instrumentation.set_on_retry_hooks(())  # waiting its turn is a process's routine; long waits are logged below
# Files written by DuckDB 2.0 in its own default format cannot be read by 1.x, which many analysts still have.
_WRITABLE, _READ_ONLY = "STORAGE_VERSION 'v1.0.0'", "READ_ONLY"
WAIT_S = 60.0
"""How long a call waits for the file unless told otherwise."""
_SLOW_WAIT_S = 1.0
_LOCKS: dict[Path, threading.RLock] = {}
_GUARD = threading.Lock()


def _is_locked(error: Exception) -> bool:
    return isinstance(error, duckdb.IOException) and "Could not set lock" in str(error)


def open_store(settings: Settings, *, wait_s: float = WAIT_S) -> Store:
    """The store of an installation, which may be on another host."""
    return Store(Products(settings.data, store_path=settings.store).store_path, wait_s=wait_s)


class Store:
    """The store at a path. Holds no connection between calls, so it may be shared by threads and copied to processes.

    Parameters
    ----------
    path : Path
        The DuckDB file; created with its tables by the first write.
    wait_s : float
        How long a call waits for the file before it raises `StoreBusyError`.
    keeps_rows : bool
        Whether what is written is kept beside the products too (``records.py``).
    """

    def __init__(self, path: Path, *, wait_s: float = WAIT_S, keeps_rows: bool = True) -> None:
        self.path = path.absolute()
        self.wait_s = wait_s
        self.keeps_rows = keeps_rows

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables this version of the code knows."""
        return tuple(TABLES)

    @property
    def newest_statistics(self) -> str:
        """What to select from for the newest row of ``variability_statistics`` of every source and band."""
        return (
            "(SELECT * FROM variability_statistics"
            " QUALIFY row_number() OVER (PARTITION BY source_id, band ORDER BY as_of_mjd DESC) = 1)"
        )

    def initialise(self) -> None:
        """Create the file and its tables when absent; check their version otherwise."""
        with self.transaction():
            pass

    def replace(self, table: str, frame: pl.DataFrame, *, partition_key: str) -> int:
        """Make these rows the only ones of a partition, in one transaction.

        Parameters
        ----------
        table : str
            A measurement table.
        frame : polars.DataFrame
            Columns by name; ``partition_key`` is filled in when absent. No rows empties the partition.
        partition_key : str

        Returns
        -------
        int
            Number of rows the partition now has.

        Raises
        ------
        StoreError
            If the rows do not fit the table, or one of them belongs to another partition already.
        """
        target = _known(table)
        if not target.is_partitioned:
            raise StoreError(
                f"Table {table} is not replaced by partition",
                got="replace",
                expected="upsert or append",
                remedy="Use Store.upsert for registers, Store.append for logs.",
            )
        fitted = fit_frame(target, _in_partition(target, frame, partition_key))
        with span("load", table=table, n_rows=fitted.height), self.transaction() as connection:
            empty_partition(connection, target, partition_key)
            if not target.is_indexed:
                refuse_known_rows(connection, target, fitted)
                note_content(connection, target, fitted, partition_key)
            if not insert(connection, target, fitted) and table in KEPT:
                keep_rows(connection, table, [partition_key])
        return fitted.height

    def upsert(self, table: str, frame: pl.DataFrame) -> int:
        """Insert rows, or update the given columns of rows whose key exists; other columns keep their values."""
        target = _known(table)
        fitted = fit_frame(target, frame, partial=True)
        with span("load", table=table, n_rows=fitted.height), self.transaction() as connection:
            insert(connection, target, fitted, on_conflict="update")
        return fitted.height

    def append(self, table: str, frame: pl.DataFrame) -> int:
        """Insert rows whose key is new and leave existing rows as they are; return how many were new."""
        target = _known(table)
        fitted = fit_frame(target, frame)
        with self.transaction() as connection:
            return insert(connection, target, fitted, on_conflict="ignore")

    def delete(self, table: str, *, partition_key: str) -> None:
        """Remove a partition's rows."""
        target = _known(table)
        with self.transaction() as connection:
            empty_partition(connection, target, partition_key)
            if table in KEPT:
                keep_rows(connection, table, [partition_key])

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Answer of one SELECT, read-only.

        Parameters
        ----------
        sql : str
            With ``?`` or ``$name`` for every value that comes from outside.
        parameters : sequence or mapping, optional

        Raises
        ------
        StoreBusyError
            If a writer held the file longer than ``wait_s``.
        StoreError
            If the store does not exist, is damaged, or the question is wrong.
        """
        with self.reading() as connection:
            relation = connection.sql(sql, params=parameters)
            answer: pl.DataFrame = relation.pl()
            return answer

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Read-only connection: all answers in the block are of one moment, for nobody can write meanwhile."""
        if not self.path.exists():
            raise _missing(self.path, "no file")
        with self._connection(read_only=True) as connection, _named_errors(self.path):
            if _has_no_tables(connection, self.path):
                raise _missing(self.path, "a file without tables")
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Writing connection inside one transaction: committed when the block ends, rolled back when it raises."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection(read_only=False) as connection, _named_errors(self.path):
            if _has_no_tables(connection, self.path):
                with all_or_nothing(connection):
                    _create_tables(connection)
            with all_or_nothing(connection):
                yield connection

    @contextmanager
    def _connection(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        started = time.monotonic()
        with _GUARD:
            lock = _LOCKS.setdefault(self.path, threading.RLock())
        if not lock.acquire(timeout=self.wait_s):
            raise self._busy("another thread of this process holds it")
        try:
            connection = self._attach(read_only=read_only)
            waited_s = time.monotonic() - started
            if waited_s > _SLOW_WAIT_S:
                _LOG.info("store_waited", path=str(self.path), waited_s=round(waited_s, 2), read_only=read_only)
            try:
                yield connection
            finally:
                self._detach(connection)
        finally:
            lock.release()

    def _attach(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        attempts = stamina.retry_context(
            on=_is_locked, attempts=None, timeout=self.wait_s, wait_initial=0.005, wait_max=0.25, wait_jitter=0.05
        )
        quoted, mode = str(self.path).replace("'", "''"), _READ_ONLY if read_only else _WRITABLE
        try:
            for attempt in attempts:
                with attempt:
                    connection = engine_of(self.path, keeps_rows=self.keeps_rows)
                    connection.execute(f"ATTACH '{quoted}' AS store ({mode})")
                    connection.execute("USE store")
                    return connection
        except duckdb.Error as error:
            if _is_locked(error):
                raise self._busy(str(error)) from error
            if says_disk_is_full(error):
                raise disk_full(f"the store {self.path} was opened") from error
            raise StoreError(
                f"The store {self.path} cannot be opened",
                got=str(error),
                expected="a readable DuckDB file",
                remedy="Check folder and permissions; if it is damaged, `contimg store rebuild` makes it again.",
            ) from error
        raise self._busy("no attempt was made")

    def _detach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let the file go; after an error from which DuckDB cannot recover, let the whole engine go."""
        try:
            connection.unregister("incoming_rows")
            connection.execute("USE memory")
            connection.execute("DETACH store")
        except duckdb.Error:
            end_engine(self.path)
        else:
            note_detached(self.path)

    def _busy(self, why: str) -> StoreBusyError:
        return StoreBusyError(
            f"The store {self.path} stayed locked",
            got=f"{self.wait_s:.0f} s of waiting ({why})",
            expected="transactions of seconds",
            remedy="Find the process that keeps it open (an interactive duckdb shell?) and end it; then retry.",
        )


def insert(
    connection: duckdb.DuckDBPyConnection, table: Table, fitted: pl.DataFrame, *, on_conflict: str = "raise"
) -> int:
    """Insert a fitted frame through an open connection, and keep the rows beside the products where the store does.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Inside a transaction of `Store.transaction`.
    table : Table
    fitted : polars.DataFrame
        As `fit_frame` returns it.
    on_conflict : {"raise", "ignore", "update"}
        What to do with a row whose key exists.

    Returns
    -------
    int
        Number of rows inserted or updated.
    """
    if fitted.is_empty():
        return 0
    if on_conflict != "raise" and not table.is_indexed:
        fitted, on_conflict = take_out_known_rows(connection, table, fitted, on_conflict=on_conflict), "raise"
    names = ", ".join(f'"{name}"' for name in fitted.columns)
    changes = ", ".join(f'"{name}" = excluded."{name}"' for name in fitted.columns if name not in table.key)
    clause = ""
    if on_conflict == "ignore" or (on_conflict == "update" and not changes):
        clause = "ON CONFLICT DO NOTHING"
    elif on_conflict == "update":
        clause = f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {changes}"
    connection.register("incoming_rows", fitted)  # replaced by the next insert, gone when the file is detached
    answer = connection.execute(
        f'INSERT INTO "{table.name}" ({names}) SELECT {names} FROM incoming_rows {clause}'  # noqa: S608 (from the schema)
    )
    # fetchall, not fetchone: DuckDB 2 refuses further work on a connection whose result is not read to its end.
    n_rows = sum(int(row[0]) for row in answer.fetchall())
    keep_inserted(connection, table, fitted)
    return n_rows


def _known(table: str) -> Table:
    if table not in TABLES:
        raise StoreError(
            "The store has no such table",
            got=table,
            expected=", ".join(TABLES),
            remedy="Correct the name of the table.",
        )
    return TABLES[table]


def _in_partition(table: Table, frame: pl.DataFrame, partition_key: str) -> pl.DataFrame:
    if "partition_key" not in frame.columns:
        return frame.with_columns(partition_key=pl.lit(partition_key))
    others = frame.filter(pl.col("partition_key").ne_missing(partition_key))
    if others.height:
        raise StoreError(
            f"Rows for table {table.name} belong to another partition",
            got=str(others["partition_key"][0]),
            expected=partition_key,
            remedy="Replace each partition with its own rows.",
        )
    return frame


def _has_no_tables(connection: duckdb.DuckDBPyConnection, path: Path) -> bool:
    """Whether a file has no tables yet; one of another version is refused. Outside a transaction, which it would abort."""
    try:
        # Asking the table itself takes a tenth of the time of asking the catalogue for it.
        found = connection.execute("SELECT version FROM schema_version").fetchall()
    except duckdb.CatalogException:
        return True
    if found != [(SCHEMA_VERSION,)]:
        raise StoreError(
            f"The store {path} was written by another version of contimg",
            got=f"schema version {', '.join(str(row[0]) for row in found)}",
            expected=str(SCHEMA_VERSION),
            remedy="`contimg store upgrade` makes it one of this version, `contimg store rebuild` a new one from the products.",
            reason_code="store_version",
        )
    return False


def _create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
    connection.execute("INSERT INTO schema_version VALUES (?)", [SCHEMA_VERSION])
    for table in TABLES.values():
        connection.execute(table.create_statement())


def _missing(path: Path, got: str) -> StoreError:
    return StoreError(
        f"There is no store at {path}",
        got=got,
        expected="a DuckDB file",
        remedy="It appears with the first observation; if there were some, `contimg store rebuild` makes it again.",
        reason_code="store_missing",
    )


@contextmanager
def all_or_nothing(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """One transaction: committed when the block ends, rolled back when it raises."""
    connection.begin()
    with ExitStack() as undo:
        undo.callback(connection.rollback)
        yield
        undo.pop_all()
    connection.commit()


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn DuckDB's errors inside a transaction into ours."""
    try:
        yield
    except duckdb.ConstraintException as error:
        raise StoreError(
            f"Rows for the store {path} collide with rows of another partition",
            got=str(error).splitlines()[0],
            expected="each row in one partition",
            remedy="Two partitions made the same row: correct the asset's partition; nothing was written.",
            reason_code="row_in_two_partitions",
        ) from error
    except duckdb.Error as error:
        if says_disk_is_full(error):
            raise disk_full(f"the store {path} was written") from error
        raise StoreError(
            f"The store {path} refused a statement",
            got=str(error).splitlines()[0],
            expected="a statement that fits the schema",
            remedy="Look at the query; if the file is damaged, `contimg store rebuild` makes it again.",
        ) from error
