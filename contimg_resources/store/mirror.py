"""A copy of the store in a DuckDB of this process: which rows changed, taken from the file and put into the copy.

What belongs here: comparing and copying. When it happens is ``snapshot.py``. Tables whose partitions have noted content
(``partitions.py``) are compared by that and copied by partition; others by a hash of their rows and copied whole, up to
``CopySizes.largest_table`` rows.

Light-curve points of the copy lie in runs of up to ``CopySizes.rows_at_once`` rows, each in the order of sources: DuckDB
knows the smallest and largest name in each of its groups of rows, and reads one or two groups of a run for one source (in
the order of days, as in the file, everything must be read). Groups are small for that reason. What came later is a small
run until there is enough for a large one.

Rejected: all points in one order. It must be made anew whenever enough points came later, which keeps a processor busy
for as long as the first copy takes, and 1e8 rows need several times the disk space of the copy.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from contimg_resources.store.connection import all_or_nothing
from contimg_resources.store.few_rows import answer_of
from contimg_resources.store.partitions import partition_contents
from contimg_resources.store.schema import TABLES

_BY_PARTITION = ("light_curve", "variability_statistics")
_NOT_SHOWN = ("flux_reference", "partition_content")
_WORD = re.compile(r"\w+")
_ROWS_OF_GROUP = 16_384
"""An eighth of DuckDB's own choice: half the time for the points of one source."""
_BY_SOURCE = ("source_id", "band", "epoch_mjd")
_NEWEST_STATISTICS = """
    CREATE OR REPLACE TABLE newest_statistics AS SELECT * FROM variability_statistics
    QUALIFY row_number() OVER (PARTITION BY source_id, band ORDER BY as_of_mjd DESC) = 1 ORDER BY source_id, band
"""


@dataclass(frozen=True, slots=True)
class CopySizes:
    """What is copied, and how."""

    small_file_bytes: int = 32_000_000
    """A file up to this size is compared while a question waits: some 20 to 100 ms."""
    largest_table: int = 300_000
    """Rows of a table that is still copied whole; larger ones (forced photometry) are asked in the file."""
    rows_at_once: int = 1_000_000
    """Rows of partitions taken from the file at once for the first copy, so that writers wait 0.2 s and memory stays small;
    so many points are a run in the order of sources."""


@dataclass(frozen=True, slots=True)
class TableChange:
    """New rows of a table."""

    rows: pl.DataFrame
    partitions: tuple[str, ...] | None
    """Partitions whose rows these are, in the place of earlier ones; all of the table when None."""
    mark: Mapping[str, str] | tuple[int, int]
    """Content of the partitions that the copy then has, or what the table is compared by."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What the file has and the copy has not."""

    tables: dict[str, TableChange] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    """Tables too large to be copied."""
    is_complete: bool = True
    """Whether there is no more than this."""


class Mirror:
    """The copy. Safe for threads: everyone asks through a cursor of their own.

    Parameters
    ----------
    sizes : CopySizes
    """

    def __init__(self, sizes: CopySizes) -> None:
        self._sizes = sizes
        folder = tempfile.mkdtemp(prefix="contimg-portal-")
        self._remove_folder = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        # One thread for each question: the portal answers several at once.
        self._engine = duckdb.connect(config={"threads": 1, "temp_directory": folder})
        self._engine.execute("SET enable_progress_bar = false")
        # It costs a seventh of a light curve's question, and helps only where millions of rows are sorted.
        self._engine.execute("SET disabled_optimizers = 'compressed_materialization'")
        path = str(Path(folder) / "copy.duckdb").replace("'", "''")
        self._engine.execute(f"ATTACH '{path}' AS copy (ROW_GROUP_SIZE {_ROWS_OF_GROUP})")
        self._engine.execute("USE copy")
        self._beside: dict[str, int] = {}
        """Rows of the partitions whose points are in small runs."""
        self._marks: dict[str, Mapping[str, str] | tuple[int, int]] = {}
        self._tables_of: dict[str, frozenset[str]] = {}
        self.names: frozenset[str] = frozenset()
        """Tables that can be asked."""
        for table in TABLES.values():
            if table.name not in _NOT_SHOWN:
                self._engine.execute(table.create_statement())
        self._engine.execute(_NEWEST_STATISTICS)

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._engine.cursor() as cursor:
            cursor.execute("USE copy")
            yield cursor

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Answer of one SELECT."""
        with self._cursor() as cursor:
            return answer_of(cursor, sql, parameters)

    @contextmanager
    def one_moment(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Cursor whose answers are all of one moment."""
        with self._cursor() as cursor:
            cursor.begin()
            yield cursor

    def has_tables_of(self, sql: str) -> bool:
        """Whether the copy has all tables that a SELECT names."""
        if sql not in self._tables_of:
            # Any word that is a table's name counts, so that a doubtful question goes to the file, which has them all.
            self._tables_of[sql] = frozenset(_WORD.findall(sql)) & set(TABLES)
        return self._tables_of[sql] <= self.names

    def close(self) -> None:
        """Remove the copy."""
        self._engine.close()
        self._remove_folder()

    def changes(self, connection: duckdb.DuckDBPyConnection) -> Changes:
        """What the file has and the copy has not.

        Parameters
        ----------
        connection : duckdb.DuckDBPyConnection
            As `Store.reading` gives it; the file is held meanwhile.
        """
        tables: dict[str, TableChange] = {}
        left_out = set(_NOT_SHOWN)
        is_complete = True
        for name in sorted(set(TABLES) - left_out):
            [(n_rows,)] = connection.execute(f'SELECT count(*) FROM "{name}"').fetchall()  # noqa: S608 (from the schema)
            if name in _BY_PARTITION:
                contents = partition_contents(connection, name)
                if n_rows == sum(rows for _, rows in contents.values()):
                    change, is_all = self._changed_partitions(connection, name, contents)
                    is_complete &= is_all
                    if change is not None:
                        tables[name] = change
                    continue
            if n_rows > self._sizes.largest_table:
                left_out.add(name)
            elif (whole := self._changed_table(connection, name, n_rows)) is not None:
                tables[name] = whole
        return Changes(tables, frozenset(left_out), is_complete)

    def _changed_partitions(
        self, connection: duckdb.DuckDBPyConnection, name: str, contents: Mapping[str, tuple[str, int]]
    ) -> tuple[TableChange | None, bool]:
        known = self._marks.get(name, {})
        held = known if isinstance(known, Mapping) else {}
        gone = [partition for partition in held if partition not in contents]
        changed = [partition for partition in contents if held.get(partition) != contents[partition][0]]
        if not gone and not changed and isinstance(known, Mapping):
            return None, True
        taken: list[str] = []
        n_rows = 0
        for partition in changed:
            if taken and n_rows + contents[partition][1] > self._sizes.rows_at_once and not self.names:
                break
            taken.append(partition)
            n_rows += contents[partition][1]
        rows = connection.sql(
            f'SELECT * FROM "{name}" WHERE partition_key IN (SELECT unnest(?::VARCHAR[]))',  # noqa: S608
            params=[taken],
        ).pl()
        mark = {partition: mark for partition, mark in held.items() if partition not in gone}
        mark |= {partition: contents[partition][0] for partition in taken}
        replaced = (*taken, *gone) if isinstance(known, Mapping) else None
        return TableChange(rows, replaced, mark), len(taken) == len(changed)

    def _changed_table(self, connection: duckdb.DuckDBPyConnection, name: str, n_rows: int) -> TableChange | None:
        [(total,)] = connection.execute(f'SELECT sum(hash(t)) FROM "{name}" t').fetchall()  # noqa: S608
        mark = n_rows, int(total or 0)
        if self._marks.get(name, (0, 0)) == mark:
            return None
        return TableChange(connection.sql(f'SELECT * FROM "{name}"').pl(), None, mark)  # noqa: S608

    def apply(self, changes: Changes) -> None:
        """Put changes into the copy: whoever asks sees all of them or none."""
        beside = self._beside
        with self._cursor() as cursor, all_or_nothing(cursor):
            for name, change in changes.tables.items():
                _empty(cursor, name, change)
                if name == "light_curve":
                    beside = self._insert_points(cursor, change)
                else:
                    _insert(cursor, name, change.rows)
            if "variability_statistics" in changes.tables and changes.is_complete:
                cursor.execute(_NEWEST_STATISTICS)
        self._beside = beside
        self._marks |= {name: change.mark for name, change in changes.tables.items()}
        if changes.is_complete:
            derived = set() if "variability_statistics" in changes.left_out else {"newest_statistics"}
            self.names = frozenset(set(TABLES) - changes.left_out | derived)

    def _insert_points(self, cursor: duckdb.DuckDBPyConnection, change: TableChange) -> dict[str, int]:
        """Insert points as a run, and make one of all small runs if they are enough; return what then lies beside."""
        fewest, rows = self._sizes.rows_at_once // 2, change.rows.sort(*_BY_SOURCE)
        _insert(cursor, "light_curve", rows)
        replaced = change.partitions or ()
        beside = {key: n_rows for key, n_rows in self._beside.items() if change.partitions and key not in replaced}
        if rows.height < fewest:
            beside |= dict(rows.group_by("partition_key").len().iter_rows())
        if sum(beside.values()) >= fewest:
            _make_run(cursor, list(beside))
            return {}
        return beside


def _make_run(cursor: duckdb.DuckDBPyConnection, partitions: list[str]) -> None:
    """Put the points of some partitions into one order."""
    of_these = "FROM light_curve WHERE partition_key IN (SELECT unnest(?::VARCHAR[]))"
    cursor.execute(f"CREATE TEMP TABLE run AS SELECT * {of_these} ORDER BY {', '.join(_BY_SOURCE)}", [partitions])
    cursor.execute(f"DELETE {of_these}", [partitions])
    cursor.execute("INSERT INTO light_curve FROM run")
    cursor.execute("DROP TABLE run")


def _empty(cursor: duckdb.DuckDBPyConnection, name: str, change: TableChange) -> None:
    if change.partitions is None:
        cursor.execute(f'TRUNCATE "{name}"')
    else:
        cursor.execute(
            f'DELETE FROM "{name}" WHERE partition_key IN (SELECT unnest(?::VARCHAR[]))',  # noqa: S608
            [list(change.partitions)],
        )


def _insert(cursor: duckdb.DuckDBPyConnection, name: str, rows: pl.DataFrame) -> None:
    if rows.height:
        cursor.register("incoming_rows", rows)
        cursor.execute(f'INSERT INTO "{name}" BY NAME FROM incoming_rows')
        cursor.unregister("incoming_rows")
