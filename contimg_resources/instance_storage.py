"""Dagster's embedded instance: its SQLite storages with connections that stay open.

What belongs here: the storages named in ``dagster.yaml`` for an installation of one machine. What does not: PostgreSQL,
which replaces them in production by a ``storage:`` block (``dagster-postgres``).

Dagster's own SQLite storages make an engine and a connection for every statement, compile the statement anew, and on
closing the last connection SQLite writes its log back into the file and syncs it; and every run gets a file of its own,
with tables to create. A run of an observation stores about a hundred events: that was a quarter of its time. Here each
process keeps one engine per file, and all runs share one event log, which also lets sensors follow events across runs.
``synchronous = NORMAL`` syncs at checkpoints only: a power failure may lose the last events, and corrupts nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import dagster as dg
import sqlalchemy as db
from dagster._core.loader import LoadingContext
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.partition_status_cache import (
    AssetStatusCacheValue,
    get_and_update_asset_status_cache_value,
)
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._serdes import ConfigurableClassData

from contimg_resources.partition_status import start_status

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

    def get_asset_status_cache_values(
        self,
        partitions_defs_by_key: Iterable[tuple[dg.AssetKey, dg.PartitionsDefinition | None]],
        context: LoadingContext,
    ) -> Sequence[AssetStatusCacheValue | None]:
        """Status of the partitions of each asset; the first reckoning of many windows is ``partition_status``'s."""
        values: list[AssetStatusCacheValue | None] = []
        for asset_key, partitions_def in partitions_defs_by_key:
            if start_status(self._instance, asset_key, partitions_def):
                # Not through the context, which may remember the asset without a status.
                values.append(get_and_update_asset_status_cache_value(self._instance, asset_key, partitions_def))
            else:
                values += super().get_asset_status_cache_values([(asset_key, partitions_def)], context)
        return values


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
