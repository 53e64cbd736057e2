"""Dagster's instance on PostgreSQL, in a form that outlives a restart of the server.

What belongs here: the storage named in ``deploy/dagster.yaml``. The embedded one is ``contimg_resources.instance_storage``.

dagster-postgres opens a connection for every statement and gives up six seconds after the server went away; a run that
cannot store an event fails. Here each process keeps a connection per storage, tests it before use, and waits for the server
as long as the settings say: a restart, a failover or a reboot delays runs, sensors and daemon and fails none of them. A
statement that was under way when the server died is not repeated, because it may have been carried out: such a run fails and
is started anew by Dagster's run retries.

The URL comes from the settings, not from ``dagster.yaml``, so that the password is in neither that file nor any run's record.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import sqlalchemy as db
import stamina
from dagster._serdes import ConfigurableClassData
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import set_pg_statement_timeout

from contimg_resources.cluster.addresses import postgres_url
from contimg_resources.settings import load_settings

_CONNECT_TIMEOUT_S = 5
_MOST_CONNECTIONS = 20
"""Of one storage in one process: the daemon's threads are the most."""


def kept_engine(url: str) -> db.Engine:
    """Engine whose one connection stays open and is tested before it is used."""
    return db.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=1,
        max_overflow=_MOST_CONNECTIONS,
        pool_pre_ping=True,
        pool_recycle=3600,
        # A host that vanished without a word is noticed by the kernel, not waited for.
        connect_args={"connect_timeout": _CONNECT_TIMEOUT_S, "tcp_user_timeout": 30_000},
    )


@contextmanager
def patient_connection(engine: db.Engine, patience_s: float) -> Iterator[db.Connection]:
    """Connection of an engine; while the server is away it is waited for.

    Parameters
    ----------
    engine : sqlalchemy.Engine
    patience_s : float
        After which the server's error is raised.
    """
    attempts = stamina.retry_context(
        on=(db.exc.OperationalError, db.exc.TimeoutError),
        attempts=None,
        timeout=patience_s,
        wait_initial=0.1,
        wait_max=2.0,
        wait_jitter=0.2,
    )
    connection = None
    for attempt in attempts:
        with attempt:
            connection = engine.connect()
    if connection is None:  # for the type: stamina has raised
        return
    try:
        yield connection
    finally:
        connection.close()


class _Patient:
    """What the three storages share: an engine that is kept, and patience."""

    _engine: db.Engine
    patience_s: float = 120.0

    def keep_connections(self, url: str, patience_s: float) -> None:
        """Replace the engine that connects anew for every statement."""
        self.patience_s = patience_s
        self._engine = kept_engine(url)

    def connect(self, *_: object) -> Any:
        """One connection, waited for."""
        return patient_connection(self._engine, self.patience_s)

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:  # noqa: ARG002
        """Limit the time of one statement; connections are kept anyway."""
        db.event.listen(self._engine, "connect", lambda conn, _: set_pg_statement_timeout(conn, statement_timeout))

    def dispose(self) -> None:
        """Close the connections."""
        super().dispose()  # type: ignore[misc]  # of the storage that this is mixed into
        self._engine.dispose()


class PatientRunStorage(_Patient, PostgresRunStorage):
    """Runs and their tags."""


class PatientEventLogStorage(_Patient, PostgresEventLogStorage):
    """Events of all runs."""

    _connect = _Patient.connect


class PatientScheduleStorage(_Patient, PostgresScheduleStorage):
    """Sensors, schedules and their ticks."""


class PatientPostgresStorage(DagsterPostgresStorage):
    """The three storages of an instance in one PostgreSQL database."""

    def __init__(self, url: str, patience_s: float, inst_data: ConfigurableClassData | None = None) -> None:
        with patient_connection(kept_engine(url), patience_s):
            pass  # from here on the server is there, and the tables can be looked for
        self.postgres_url, self.should_autocreate_tables, self._inst_data = url, True, inst_data
        self._run_storage = PatientRunStorage(url)
        self._event_log_storage = PatientEventLogStorage(url)
        self._schedule_storage = PatientScheduleStorage(url)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage.keep_connections(url, patience_s)
        super(DagsterPostgresStorage, self).__init__()  # type: ignore[no-untyped-call]  # whose own constructor would make the impatient ones

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing: the URL and the patience are settings (``CONTIMG_CLUSTER__…``)."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:  # noqa: ARG003
        """Build the storage from the settings."""
        cluster = load_settings().cluster
        return cls(postgres_url(cluster), cluster.postgres_patience_s, inst_data)
