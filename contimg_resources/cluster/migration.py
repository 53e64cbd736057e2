"""Taking the embedded instance along: its runs, events, ticks and partitions, copied into PostgreSQL.

What belongs here: the copy. Dagster has no tool for it, but its storages share their table definitions, so rows are read with
them from SQLite and written with them to PostgreSQL, with their ids. Products and store are not touched: they are the same
for both instances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as db
from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata

from contimg_resources.errors import ResourceError

_FILES = {
    "history/runs.db": RunStorageSqlMetadata,
    "history/event_log.db": SqlEventLogStorageMetadata,
    "schedules/schedules.db": ScheduleStorageSqlMetadata,
}
_KNOWS_ITSELF = {"secondary_indexes", "instance_info", "daemon_heartbeats"}
"""Tables in which an instance notes its own state; the new one has its own."""
_AT_ONCE = 2000


def copy_instance(home: Path, url: str) -> dict[str, int]:
    """Copy an embedded instance into an empty one on PostgreSQL, in one transaction.

    Parameters
    ----------
    home : Path
        DAGSTER_HOME of the embedded instance, whose processes are stopped.
    url : str
        Of the database, in which Dagster has made its tables and remembers no run.

    Returns
    -------
    dict
        Number of rows by table.
    """
    for name in _FILES:
        if not (home / name).is_file():
            raise ResourceError(
                f"There is no embedded instance in {home}",
                got=f"no {name}",
                expected="DAGSTER_HOME of an installation of one machine",
                remedy="Give the folder that scripts/dagster_home.sh prints, by default .contimg/dagster.",
            )
    target, copied = db.create_engine(url), {}
    with target.begin() as into:
        n_runs = into.execute(db.select(db.func.count()).select_from(RunStorageSqlMetadata.tables["runs"])).scalar()
        if n_runs:
            raise ResourceError(
                "The instance on PostgreSQL is not empty",
                got=f"{n_runs} runs",
                expected="none",
                remedy="Copy before the first run: into a fresh database, with the sensors off.",
            )
        for name, metadata in _FILES.items():
            source = db.create_engine(f"sqlite:///file:{home / name}?mode=ro&uri=true")
            with source.connect() as from_:
                for table in _copied_tables(metadata, db.inspect(source).get_table_names()):
                    copied[table.name] = _copy_table(table, from_, into)
            source.dispose()
    target.dispose()
    return copied


def _copied_tables(metadata: db.MetaData, existing: Sequence[str]) -> Iterator[db.Table]:
    """Tables of a storage in the order in which rows may refer to each other."""
    for table in metadata.sorted_tables:
        if table.name in existing and table.name not in _KNOWS_ITSELF:
            yield table


def _copy_table(table: db.Table, from_: db.Connection, into: db.Connection) -> int:
    into.execute(db.delete(table))
    n_rows = 0
    for rows in from_.execute(db.select(table)).mappings().partitions(_AT_ONCE):
        given: list[dict[str, Any]] = [dict(row) for row in rows]
        into.execute(db.insert(table), given)
        n_rows += len(given)
    for column in table.primary_key:
        if isinstance(column.type, db.Integer):  # numbers go on after the copied ones
            highest = db.select(db.func.coalesce(db.func.max(column), 0) + 1).scalar_subquery()
            sequence = db.func.pg_get_serial_sequence(table.name, column.name)
            into.execute(db.select(db.func.setval(sequence, highest, db.false())))
    return n_rows
