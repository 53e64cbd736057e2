"""Partitions of a table inside a transaction: emptied, kept apart from others, and their content noted.

What belongs here: what an index would do for tables too large for one (``Table.is_indexed``): no row in two partitions, one
row of a register for each key;
and the content hash of each partition (table ``partition_content``), by which copies kept elsewhere
(``source_order.py``) know whether they are still true. Not here: transactions themselves (``connection.py``).
"""

from __future__ import annotations

import hashlib

import duckdb
import polars as pl

from contimg_resources.errors import StoreError
from contimg_resources.store.schema import Table


def empty_partition(connection: duckdb.DuckDBPyConnection, table: Table, partition_key: str) -> None:
    """Remove a partition's rows and what is noted of its content."""
    connection.execute(f'DELETE FROM "{table.name}" WHERE partition_key = ?', [partition_key])  # noqa: S608 (from the schema)
    if not table.is_indexed:
        connection.execute(
            "DELETE FROM partition_content WHERE table_name = ? AND partition_key = ?", [table.name, partition_key]
        )


def refuse_known_rows(connection: duckdb.DuckDBPyConnection, table: Table, fitted: pl.DataFrame) -> None:
    """Raise if a row exists already, the own partition having been emptied.

    DuckDB reads only where the times of the new rows lie (smallest and largest value of each block of rows), which costs
    milliseconds where an index of the whole table costs tenths of seconds.

    Raises
    ------
    StoreError
        Reason code ``row_in_two_partitions``.
    """
    connection.register("incoming_rows", fitted)
    key = ", ".join(table.key)
    found = connection.execute(
        f'SELECT {key}, partition_key FROM "{table.name}" SEMI JOIN incoming_rows USING ({key}) ORDER BY ALL LIMIT 1'  # noqa: S608
    ).fetchall()
    if found:
        *row, partition = found[0]
        raise StoreError(
            f"Rows for table {table.name} collide with rows of another partition",
            got=f"({', '.join(map(str, row))}), which belongs to {partition}",
            expected="each row in one partition",
            remedy="Two partitions made the same row: correct the asset's partition; nothing was written.",
            reason_code="row_in_two_partitions",
        )


def take_out_known_rows(
    connection: duckdb.DuckDBPyConnection, table: Table, fitted: pl.DataFrame, *, on_conflict: str
) -> pl.DataFrame:
    """Remove the rows of a register that new rows are to replace, and complete the new ones with what they do not say.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Inside a transaction, in which the answer is inserted.
    table : Table
        Without an index.
    fitted : polars.DataFrame
        As `fit_frame` returns it; columns may be missing.
    on_conflict : {"ignore", "update"}

    Returns
    -------
    polars.DataFrame
        The new rows, with the values that removed ones had in columns not given.

    Raises
    ------
    StoreError
        If the table is one of partitions, or existing rows were to stay.
    """
    if table.is_partitioned or on_conflict != "update":
        raise StoreError(
            f"Rows of table {table.name} cannot be compared with existing ones one by one",
            got=f"on conflict {on_conflict}",
            expected="a whole partition" if table.is_partitioned else "on conflict update",
            remedy="Use Store.replace: the table has no index of its rows."
            if table.is_partitioned
            else "Use Store.upsert.",
        )
    connection.register("incoming_rows", fitted)
    names = [*table.key, *(name for name in table.column_names if name not in fitted.columns)]
    known: pl.DataFrame = connection.sql(
        f'SELECT {", ".join(names)} FROM "{table.name}" SEMI JOIN incoming_rows USING ({", ".join(table.key)})'  # noqa: S608
    ).pl()
    if known.is_empty():
        return fitted
    same = " AND ".join(f'"{table.name}"."{name}" = incoming_rows."{name}"' for name in table.key)
    connection.execute(f'DELETE FROM "{table.name}" USING incoming_rows WHERE {same}').fetchall()  # noqa: S608
    return fitted.join(known, on=table.key, how="left", maintain_order="left")


def note_content(connection: duckdb.DuckDBPyConnection, table: Table, fitted: pl.DataFrame, partition_key: str) -> None:
    """Note how many rows an emptied partition now gets, and a hash of them; no rows, no note."""
    if fitted.height:
        connection.execute(
            "INSERT INTO partition_content (table_name, partition_key, n_rows, content_hash) VALUES (?, ?, ?, ?)",
            [table.name, partition_key, fitted.height, content_hash(fitted)],
        )


def content_hash(fitted: pl.DataFrame) -> str:
    """Hash of rows without the run that wrote them: the same for the same rows, so that a re-run changes nothing.

    Another version of polars may give another hash; copies made with the old one are then made again.
    """
    rows = fitted.drop("run_id").hash_rows()
    return hashlib.sha256(rows.to_numpy().tobytes()).hexdigest()


def partition_contents(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, tuple[str, int]]:
    """Content hash and number of rows of each partition of a table that has no index."""
    rows = connection.execute(
        "SELECT partition_key, content_hash, n_rows FROM partition_content WHERE table_name = ? ORDER BY partition_key",
        [table],
    ).fetchall()
    return {partition: (content, n_rows) for partition, content, n_rows in rows}
