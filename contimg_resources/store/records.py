"""Rows that lie in no product, kept as Parquet beside the products: with those, all that a lost store is rebuilt from.

What belongs here: which table is kept where, and the writing, which is part of the transaction that changed the rows. Tables
whose rows are an asset's Parquet file are not kept a second time (``PRODUCT_OF``), nor is what the platform finds again by
itself (``FOUND_AGAIN``). Putting rows back is ``rebuild.py``.

A record holds all rows of one partition, day or table, with the columns of the store, at
``products/store_rows/<table>/<day>/<key>.parquet``. It is written, whole or not at all, before the transaction commits: after a
kill in between, the record is ahead of the store until the run is made again, as any product is. `insert` keeps what it
inserts; whoever changes rows by other statements calls `keep_rows`. Rejected: a journal of changes (it grows with every tick
and has to be played back from the first day), and a daily dump (a day of reviews could be lost).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl

from contimg_resources.products import atomic_write, unfinished_remains
from contimg_resources.store.schema import TABLES, Table

_FOLDER_VARIABLE = "kept_rows_folder"
_DAY_LENGTH = len("2026-01-25")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class Record:
    """Which rows of a table are kept together: those that share a column's value, or its day; all without a column."""

    column: str = ""
    by_day: bool = False


_OF_PARTITION, _OF_DAY = Record("partition_key"), Record("partition_key", by_day=True)
OF_HISTORY = Record("at", by_day=True)

KEPT: dict[str, Record] = {
    **dict.fromkeys(
        (
            "calibration_table",
            "calibration_use",
            "image",
            "mosaic",
            "flux_scale",
            "flux_reference",
            "flux_scale_comparison",
            "ese_candidate",
            "check_result",
            "stage_timing",
        ),
        _OF_PARTITION,
    ),
    **dict.fromkeys(("observation", "arrival_decision", "dead_letter", "archived_product"), _OF_DAY),
    **dict.fromkeys(("candidate_event", "source_comment", "dead_letter_event", "alert_history"), OF_HISTORY),
    "raw_file": Record("observation_id", by_day=True),
    "alert": Record("first_at", by_day=True),
    "setting_change": Record("changed_at", by_day=True),
    "source": Record(),
}
"""Tables kept as records; human decisions among them."""

PRODUCT_OF = {
    "forced_photometry": "forced_photometry",
    "light_curve": "light_curves",
    "variability_statistics": "variability_statistics",
    "injection_recovery": "injection_recovery",
    "image_injection": "image_injection",
    "blind_detection": "blind_detections",
    "blind_association": "blind_association",
    "blind_photometry": "blind_photometry",
    "blind_source": "blind_sources",
}
"""Tables whose rows are an asset's Parquet files, and the asset."""

FOUND_AGAIN = frozenset({"partition_content", "breaker", "breaker_event", "heartbeat", "alert_condition"})
"""Follows from the rows, or is the state of this moment, which the next tick finds again."""


def records_folder(store_path: Path) -> Path:
    """Where the records of a store lie."""
    return store_path.parent / "products" / "store_rows"


def set_records_folder(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Let everything written through a connection be kept there; without this nothing is."""
    quoted = str(folder).replace("'", "''")
    connection.execute(f"SET VARIABLE {_FOLDER_VARIABLE} = '{quoted}'")


def record_path(folder: Path, table: str, key: str) -> Path:
    """File of a record, e.g. ``flux_scale/2026-01-25/2026-01-25T2225.parquet``; keys that are no time are under ``all``."""
    group = key[:_DAY_LENGTH] if _DAY.match(key) else "all"
    return folder / table / group / f"{key.replace(':', '') or 'all'}.parquet"


def keep_inserted(connection: duckdb.DuckDBPyConnection, table: Table, fitted: pl.DataFrame) -> None:
    """Keep the records of the rows just inserted as ``incoming_rows``."""
    record = KEPT.get(table.name)
    if record is None or _folder(connection) is None:
        return
    if not record.column:
        keep_rows(connection, table.name, [""])
        return
    values = fitted
    if record.column not in fitted.columns:
        values = connection.sql(
            f'SELECT DISTINCT "{record.column}" FROM "{table.name}" SEMI JOIN incoming_rows USING ({", ".join(table.key)})'  # noqa: S608
        ).pl()
    keep_rows(connection, table.name, values[record.column].cast(pl.String).unique().to_list())


def keep_rows(connection: duckdb.DuckDBPyConnection, table: str, keys: Iterable[str | None]) -> None:
    """Write the records of some partitions or days as the open transaction leaves them; one without rows is removed.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Inside a transaction of `Store.transaction`.
    table : str
        One of ``KEPT``.
    keys : iterable of str
        Values of the record's column; of tables kept by day, whole values are cut to their day.
    """
    record, folder = KEPT[table], _folder(connection)
    if folder is None:
        return
    for key in sorted({(key or "")[: _DAY_LENGTH if record.by_day else None] for key in keys}):
        condition, parameters = _rows_of(TABLES[table], record, key)
        order = ", ".join(f'"{name}"' for name in TABLES[table].key)
        rows = connection.sql(
            f'SELECT * FROM "{table}" WHERE {condition} ORDER BY {order}',  # noqa: S608 (from the schema)
            params=parameters,
        ).pl()
        path = record_path(folder, table, key)
        # Of a process that was killed: nobody else writes while this transaction is open.
        for left in unfinished_remains(path):
            left.unlink()
        if rows.is_empty():
            path.unlink(missing_ok=True)
        else:
            _write(path, rows, table, key)


def keep_everything(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Write every record of a store that was filled before rows were kept; return how many there are of each table."""
    written = {}
    for table, record in KEPT.items():
        keys = record_keys(connection, table, record)
        keep_rows(connection, table, keys)
        written[table] = len(keys)
    return written


def record_keys(connection: duckdb.DuckDBPyConnection, table: str, record: Record) -> list[str]:
    """Keys of the records that a table's rows should have."""
    if not record.column:
        found = connection.execute(f"SELECT DISTINCT '' FROM \"{table}\"").fetchall()  # noqa: S608 (from the schema)
    else:
        value = f"coalesce(CAST(\"{record.column}\" AS VARCHAR), '')"
        value = f"substr({value}, 1, {_DAY_LENGTH})" if record.by_day else value
        found = connection.execute(f'SELECT DISTINCT {value} FROM "{table}" ORDER BY 1').fetchall()  # noqa: S608
    return [str(row[0]) for row in found]


def _rows_of(table: Table, record: Record, key: str) -> tuple[str, list[str | datetime]]:
    """Condition that chooses a record's rows, by ranges where it can: DuckDB then skips the blocks of other days."""
    if not record.column:
        return "true", []
    if not key:
        return f"coalesce(CAST(\"{record.column}\" AS VARCHAR), '') = ''", []
    if not (record.by_day and _DAY.fullmatch(key)):
        return f'"{record.column}" = ?', [key]
    first, after = date.fromisoformat(key), date.fromisoformat(key) + timedelta(days=1)
    condition = f'"{record.column}" >= ? AND "{record.column}" < ?'
    if table.column(record.column).sql_type == "TIMESTAMP":
        return condition, [datetime.combine(day, datetime.min.time()) for day in (first, after)]
    return condition, [first.isoformat(), after.isoformat()]


def _folder(connection: duckdb.DuckDBPyConnection) -> Path | None:
    [(folder,)] = connection.execute(f"SELECT getvariable('{_FOLDER_VARIABLE}')").fetchall()
    return None if folder is None else Path(folder)


def _write(path: Path, rows: pl.DataFrame, table: str, key: str) -> None:
    made_by = {name: ", ".join(rows[name].drop_nulls().unique().sort()) for name in _PROVENANCE if name in rows.columns}
    metadata = {f"contimg.{name}": value for name, value in {"table": table, "record": key, **made_by}.items()}
    atomic_write(path, lambda stream: rows.write_parquet(stream, compression="zstd", metadata=metadata))


_PROVENANCE = ("partition_key", "run_id", "code_version")
