"""A store of an earlier schema version becomes one of the present version, or is put back as it was.

What belongs here: what happened to tables between two versions, and the exchange of files. Tables and columns as they are now are
``schema.py``; a version that no step here leads from is rebuilt from the products.

Method: a new file is made with the present tables and filled from the old one, table by table, columns by name; columns that were
renamed or became required are named below. The rows are counted, then the new file takes the old one's name in one step, and the
old one stays beside it, so that a crash leaves one or the other and the way back is a rename. Rejected: ALTER TABLE in place, which
cannot make a column required that has an index, and would leave the old version nowhere.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from contimg_resources.errors import StoreError
from contimg_resources.products import sync_names
from contimg_resources.store.connection import Store
from contimg_resources.store.schema import SCHEMA_VERSION, TABLES
from contimg_resources.table_folders import require_space

_CHANGED: dict[int, dict[str, dict[str, str]]] = {
    4: {"dead_letter": {"first_at": '"at"', "last_at": '"at"', "n_attempts": "coalesce(n_attempts, 1)"}},
    5: {},
    6: {},
}
"""By version that is left: table, column, and what it is made of where it is not the column of that name. Columns that are named in
neither are empty."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What was done to a store."""

    from_version: int
    to_version: int
    n_rows: int
    kept: Path
    """The file of before."""


def upgrade_store(path: Path) -> Upgraded:
    """Make a store one of the present version; the old file is kept beside it as ``<name>.version<N>``.

    Raises
    ------
    StoreError
        If it has the present version already, one from which no step leads, or cannot be read; it is unchanged then.
    """
    version = stored_version(path)
    if version == SCHEMA_VERSION:
        raise StoreError(
            f"The store {path} is up to date",
            got=f"schema version {version}",
            expected="an earlier one",
            remedy="Nothing is to be done.",
            reason_code="store_version",
        )
    if version not in _CHANGED:
        raise StoreError(
            f"The store {path} cannot be upgraded",
            got=f"schema version {version}",
            expected=f"a version that this code upgrades: {', '.join(map(str, _CHANGED))}",
            remedy="Move it away and make the rows again with `contimg backfill`.",
            reason_code="store_version",
        )
    kept = path.with_name(f"{path.name}.version{version}")
    if kept.exists():
        raise StoreError(
            f"{kept} is there already",
            got="the file of an earlier upgrade",
            expected="no such file",
            remedy="Move it away; it is the way back from that upgrade.",
        )
    require_space(path, 2.0 * path.stat().st_size)
    fresh = path.with_name(f".{path.name}.upgrade")
    fresh.unlink(missing_ok=True)
    try:
        n_rows = _fill(path, fresh, _CHANGED[version])
        os.link(path, kept)
        fresh.replace(path)
        sync_names(path.parent)
    finally:
        fresh.unlink(missing_ok=True)
    return Upgraded(version, SCHEMA_VERSION, n_rows, kept)


def roll_back_store(path: Path) -> Path:
    """Put the file of before the last upgrade back; return where the upgraded one lies now."""
    kept = sorted(path.parent.glob(f"{path.name}.version*"), key=lambda file: int(file.name.rsplit("version", 1)[1]))
    if not kept:
        raise StoreError(
            f"There is no way back for {path}",
            got="no file of before an upgrade",
            expected=f"{path.name}.version<N> beside it",
            remedy="Restore a backup: `contimg restore`.",
        )
    aside = path.with_name(f"{path.name}.rolled-back-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}")
    if path.exists():
        os.link(path, aside)
    kept[-1].replace(path)
    sync_names(path.parent)
    return aside


def stored_version(path: Path) -> int:
    """Schema version of a store; StoreError if there is none."""
    if not path.exists():
        raise StoreError(
            f"There is no store at {path}", remedy="It appears with the first observation.", reason_code="store_missing"
        )
    try:
        with closing(_opened(path)) as connection:
            [(version,)] = connection.execute("SELECT version FROM previous.schema_version").fetchall()
            return int(version)
    except (duckdb.Error, ValueError) as error:
        raise StoreError(
            f"The store {path} does not say its version",
            got=str(error).splitlines()[0],
            expected="a table schema_version with one row, and no other process that writes",
            remedy="Stop Dagster and the portal; if the file is damaged, restore a backup.",
        ) from error


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    """Columns of each table of the old store."""
    rows = connection.execute(
        "SELECT table_name, list(column_name) FROM duckdb_columns()"
        " WHERE database_name = 'previous' AND NOT internal GROUP BY table_name"
    ).fetchall()
    return {table: set(columns) for table, columns in rows}


def _opened(path: Path) -> duckdb.DuckDBPyConnection:
    """Connection with the store as ``previous``, held for reading: nobody writes meanwhile."""
    connection = duckdb.connect(":memory:")
    quoted = str(path).replace("'", "''")
    connection.execute(f"ATTACH '{quoted}' AS previous (READ_ONLY)")
    return connection


def _fill(path: Path, fresh: Path, changed: dict[str, dict[str, str]]) -> int:
    """Fill a new file from an old one; return the number of rows, which is that of the old one."""
    Store(fresh).initialise()
    quoted = str(fresh).replace("'", "''")
    n_rows = 0
    with closing(_opened(path)) as connection:
        connection.execute(f"ATTACH '{quoted}' AS present")
        before = _columns(connection)
        connection.begin()
        for table in TABLES.values():
            if table.name not in before:
                continue
            special = changed.get(table.name, {})
            made_of = {name: special.get(name, f'"{name}"') for name in table.column_names}
            made_of = {name: made for name, made in made_of.items() if name in special or name in before[table.name]}
            names = ", ".join(f'"{name}"' for name in made_of)
            connection.execute(
                f'INSERT INTO present."{table.name}" ({names}) SELECT {", ".join(made_of.values())} FROM previous."{table.name}"'  # noqa: S608 (from the schema)
            )
            n_rows += _equal_counts(connection, table.name)
        connection.commit()
        lost = sorted(before.keys() - TABLES.keys() - {"schema_version"})
        if lost:
            raise StoreError(
                f"The store {path} has tables that this version does not know",
                got=", ".join(lost),
                expected="tables of the schema",
                remedy="Move them away with DuckDB, or run the version that wrote them.",
            )
        connection.execute("DETACH present")
    return n_rows


def _equal_counts(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    [(old, new)] = connection.execute(
        f'SELECT (SELECT count(*) FROM previous."{table}"), (SELECT count(*) FROM present."{table}")'  # noqa: S608
    ).fetchall()
    if old != new:
        raise StoreError(
            f"Table {table} lost rows", got=str(new), expected=str(old), remedy="Report it; the store is unchanged."
        )
    return int(new)
