"""Dagster's embedded instance: its SQLite storages with connections that stay open.

What belongs here: the storages named in ``dagster.yaml`` for an installation of one machine. What does not: PostgreSQL,
which replaces them in production by a ``storage:`` block (``dagster-postgres``).

Dagster's own SQLite storages make an engine and a connection for every statement, compile the statement anew, and on
closing the last connection SQLite writes its log back into the file and syncs it; and every run gets a file of its own,
with tables to create. A run of an observation stores about a hundred events: that was a quarter of its time. Here each
process keeps one engine per file, and all runs share one event log, which also lets sensors follow events across runs.
``synchronous = NORMAL`` syncs at checkpoints only: a power failure may lose the last events, and corrupts nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import dagster as dg
import sqlalchemy as db
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._serdes import ConfigurableClassData

_BUSY_TIMEOUT_S = 30.0
"""How long a statement waits for another process's transaction."""


def _pooled_engine(connection_string: str) -> db.Engine:
    engine = db.create_engine(connection_string, connect_args={"timeout": _BUSY_TIMEOUT_S})

    @db.event.listens_for(engine, "connect")
    def sync_at_checkpoints(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine


class _Pooled:
    """What the three storages share: where they lie, and an engine that is made once."""

    _conn_string: str
    _kept_engine: db.Engine | None = None

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Configuration accepted in ``dagster.yaml``: ``home``, the folder that holds ``history`` and ``schedules``."""
        return {"home": dg.StringSource}

    @contextmanager
    def connect(self, *_: object) -> Iterator[db.Connection]:
        """One transaction on a connection of the pool."""
        if self._kept_engine is None:
            self._kept_engine = _pooled_engine(self._conn_string)
        with self._kept_engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close the connections."""
        super().dispose()  # type: ignore[misc]  # of the storage that this is mixed into
        if self._kept_engine is not None:
            self._kept_engine.dispose()


class PooledEventLogStorage(_Pooled, ConsolidatedSqliteEventLogStorage):
    """Events of all runs in one SQLite file."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Build the storage from ``dagster.yaml``."""
        return cls(str(Path(config_value["home"]) / "history"), inst_data)

    _connect = _Pooled.connect


class PooledRunStorage(_Pooled, SqliteRunStorage):
    """Runs and their tags."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Build the storage from ``dagster.yaml``."""
        return cls.from_local(str(Path(config_value["home"]) / "history"), inst_data)


class PooledScheduleStorage(_Pooled, SqliteScheduleStorage):
    """Sensors, schedules and their ticks."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Build the storage from ``dagster.yaml``."""
        return cls.from_local(str(Path(config_value["home"]) / "schedules"), inst_data)  # type: ignore[return-value]
