"""Dagster's instance in a backup: SQLite files by SQLite's own backup, PostgreSQL by ``pg_dump``; both while it is in use.

What belongs here: copying what Dagster remembers, and putting it back. Each database is of one moment; the three SQLite files are
taken one after the other, events last, so that no run is known without its events.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import dagster as dg
import sqlalchemy as db

from contimg_resources.backup.manifest import BackupError
from contimg_resources.instance_view import InstanceView

_DUMP = "postgresql.dump"
_LONGEST_S = 3600.0
_TOOLS = "/usr/lib/postgresql/*/bin"
_CONFIGURATION = "dagster.yaml"
_ASIDE = "before_restore_"
"""Schemas of what restoring has moved aside: for a person to look at and drop, and in no backup."""


def dump_instance(home: Path, target: Path) -> str:
    """Copy the instance of a ``DAGSTER_HOME`` into a folder; return ``sqlite`` or ``postgresql``."""
    target.mkdir(parents=True)
    shutil.copy2(home / _CONFIGURATION, target / _CONFIGURATION)
    url = _url_of_home(home)
    if url is not None:
        options = ["--format=custom", "--no-owner", f"--exclude-schema={_ASIDE}*"]
        _run_tool("pg_dump", [*options, f"--file={target / _DUMP}"], url)
        return "postgresql"
    for source in sorted(home.rglob("*.db"), key=lambda path: (path.stem == "event_log", path)):
        place = target / source.relative_to(home)
        place.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(place)) as copy:
            live.backup(copy)
            [(answer,)] = copy.execute("PRAGMA quick_check").fetchall()
        if answer != "ok":
            raise BackupError(
                f"The copy of {source} is not sound",
                got=answer,
                expected="ok",
                remedy="Check the disk, then try again.",
            )
    return "sqlite"


def database_in_use(dumped: Path, home: Path) -> str | None:
    """PostgreSQL database that restoring would change, if Dagster remembers something there, as a person would call it.

    That is the one of ``home``'s ``dagster.yaml``, or of the dumped one where ``home`` has none yet.
    """
    if not (dumped / _DUMP).exists():
        return None
    # What Dagster makes for itself where it finds its configuration belongs neither to home nor to the backup.
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy2((home if (home / _CONFIGURATION).exists() else dumped) / _CONFIGURATION, folder)
        url = _url_of_home(Path(folder))
    if url is None:
        return None
    engine = db.create_engine(url)
    try:
        with engine.connect() as connection:
            [(is_in_use,)] = connection.execute(
                db.text("SELECT EXISTS (SELECT FROM runs) OR EXISTS (SELECT FROM event_logs)")
            )
    finally:
        engine.dispose()
    return db.make_url(url).render_as_string(hide_password=True) if is_in_use else None


def restore_instance(dumped: Path, home: Path, stamp: str) -> list[str]:
    """Put an instance back: its SQLite files into an emptied ``DAGSTER_HOME``, or its tables into its PostgreSQL database.

    Parameters
    ----------
    dumped : Path
        As `dump_instance` left it.
    home : Path
        Keeps its ``dagster.yaml`` if it has one; that of PostgreSQL says where the database is.
    stamp : str
        Names the schema of the database that takes tables that are there.

    Returns
    -------
    list of str
        That schema, if there was something to move aside.
    """
    home.mkdir(parents=True, exist_ok=True)
    if not (home / _CONFIGURATION).exists():
        shutil.copy2(dumped / _CONFIGURATION, home / _CONFIGURATION)
    if (dumped / _DUMP).exists():
        url = _url_of_home(home)
        if url is None:
            raise BackupError(
                f"The backup is of PostgreSQL, {home} is not",
                got=f"another storage in {home / _CONFIGURATION}",
                expected="the storage of the backup",
                remedy=f"Put {dumped / _CONFIGURATION} there, or choose another DAGSTER_HOME.",
            )
        aside = [_move_tables_aside(url, f"{_ASIDE}{stamp.lower()}")] if database_in_use(dumped, home) else []
        _run_tool(
            "pg_restore", ["--clean", "--if-exists", "--no-owner", "--single-transaction", str(dumped / _DUMP)], url
        )
        return aside
    for source in sorted(dumped.rglob("*.db")):
        place = home / source.relative_to(dumped)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, place)
    return []


def _move_tables_aside(url: str, schema: str) -> str:
    """Move all tables of a database into a schema of their own, in one transaction; return where they are."""
    engine = db.create_engine(url)
    try:
        with engine.begin() as connection:
            tables = db.inspect(connection).get_table_names()
            quoted = engine.dialect.identifier_preparer.quote_identifier
            connection.execute(db.text(f"CREATE SCHEMA {quoted(schema)}"))
            for table in tables:
                connection.execute(db.text(f"ALTER TABLE {quoted(table)} SET SCHEMA {quoted(schema)}"))
    finally:
        engine.dispose()
    return f"schema {schema} of {db.make_url(url).render_as_string(hide_password=True)}"


def _url_of_home(home: Path) -> str | None:
    instance = InstanceView(home).instance
    try:
        return _postgres_url(instance)
    finally:
        instance.dispose()


def _postgres_url(instance: dg.DagsterInstance) -> str | None:
    """Address of the database if the instance is on PostgreSQL."""
    url = getattr(
        instance.run_storage, "postgres_url", None
    )  # dagster-postgres is an extra: its class may not be there
    return str(url) if url is not None else None


def _run_tool(name: str, arguments: list[str], url: str) -> None:
    """Run a program of PostgreSQL; the password goes by the environment, where other users do not see it."""
    newest = sorted(Path("/").glob(f"{_TOOLS}/{name}".lstrip("/")))
    program = shutil.which(name) or (str(newest[-1]) if newest else None)
    if program is None:
        raise BackupError(
            f"{name} is not installed",
            got="no such program",
            expected="the client programs of PostgreSQL",
            remedy="apt-get install postgresql-client",
            reason_code="postgresql_client_not_installed",
        )
    address = db.make_url(url)
    environment = {"PGPASSWORD": address.password} if address.password else {}
    bare = address.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    done = subprocess.run(  # noqa: S603 (own arguments)
        [program, f"--dbname={bare}", *arguments],
        env={"LC_ALL": "C", **{key: str(value) for key, value in environment.items()}},
        capture_output=True,
        text=True,
        check=False,
        timeout=_LONGEST_S,
    )
    if done.returncode != 0:
        raise BackupError(
            f"{name} failed",
            got=f"exit status {done.returncode}: {done.stderr.strip()[-500:]}",
            expected="0",
            remedy="Look at the server and its log; its version must not be newer than that of the client programs.",
        )
