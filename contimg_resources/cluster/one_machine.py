"""What the services of a cluster on one machine are called with, and what each needs before it starts.

What belongs here: commands, ports, passwords and folders of ``contimg cluster up``. Starting and watching is ``services``.

Workers are to each other what hosts are: each has a data folder of its own, and products reach the others by their home alone.
The first one has that of the installation, for it stands for the host of the store. What all hosts share: the folder of raw files,
which workers only read, the home of products, and the store's file.

Everything listens on loopback. PostgreSQL and Redis are given passwords that are made once and kept in files only the owner may
read. Redis writes every message to disk before it confirms it (``appendfsync always``: a run is a message, and there are a few
per minute), so that a killed Redis forgets nothing.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from contimg_resources.cluster.code_servers import COLOURS, LOCATION, SOCKET_SETTING, CodeServers
from contimg_resources.cluster.installations import Installation
from contimg_resources.cluster.queues import QUEUES
from contimg_resources.cluster.services import Service
from contimg_resources.errors import ResourceError
from contimg_resources.settings import Settings
from contimg_resources.store.connection import open_store

_POSTGRES_FOLDERS = "/usr/lib/postgresql"
_DATABASE = _OWNER = "contimg"
_SUPERUSER = "postgres"
_STARTING_S = 120.0
_STORE_HOST = "worker1"
_WARM_MODULE = "contimg_assets.warm"
_NOT_PUBLISHED = "raw_visibilities"
"""Measurement sets are: a run that is begun again, or images made again, may fall to a worker that did not make them."""


@dataclass(frozen=True)
class Ports:
    """Ports of loopback."""

    dagster: int
    portal: int
    postgres: int
    redis: int


@dataclass(frozen=True)
class Places:
    """Where all hosts find what is not their own.

    Parameters
    ----------
    data : Path
        Data folder of the store's host.
    incoming : Path
        Raw files.
    store : Path
        The DuckDB file.
    home : str
        URL of the products' home.
    is_home_own : bool
        Whether the home was made for this cluster: then retention removes from it too.
    """

    data: Path
    incoming: Path
    store: Path
    home: str
    is_home_own: bool

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """Those of an installation; products have a home in the cluster's folder unless another one is set."""
        home = settings.products_url or f"file://{settings.data / 'cluster' / 'home'}"
        return cls(settings.data, settings.incoming, open_store(settings).path, home, settings.products_url is None)

    def variables(self, data: Path) -> list[str]:
        """Environment of a host with that data folder, as arguments of ``env``."""
        withdraw = ["CONTIMG_RETENTION__WITHDRAW=true"] if self.is_home_own else []
        return [
            *withdraw,
            f"CONTIMG_DATA={data}",
            f"CONTIMG_INCOMING={self.incoming}",
            f"CONTIMG_STORE={self.store}",
            f"CONTIMG_PRODUCTS_URL={self.home}",
            f"CONTIMG_UNPUBLISHED={_NOT_PUBLISHED}",
        ]


@dataclass(frozen=True)
class OneMachine:
    """A cluster on one machine.

    Parameters
    ----------
    folder : Path
        DAGSTER_HOME, logs, passwords, folders of the workers.
    services_folder : Path
        Data of PostgreSQL and Redis; when root starts the cluster, user ``postgres`` must be able to reach it.
    ports : Ports
    places : Places
    n_workers : int
    pinned : bool
        Whether worker number n may use core n only.
    code : Installation
        What the platform's processes run.
    colour : str
        Name of the code server with that code; the other name is for the next version.
    """

    folder: Path
    services_folder: Path
    ports: Ports
    places: Places
    n_workers: int = 2
    pinned: bool = False
    code: Installation = field(default_factory=Installation.here)
    colour: str = COLOURS[0]

    @property
    def code_servers(self) -> CodeServers:
        """Where they listen."""
        return CodeServers(self.folder / "code" / "current.sock")

    @property
    def home(self) -> Path:
        """DAGSTER_HOME."""
        return self.folder / "dagster"

    @property
    def about(self) -> dict[str, str]:
        """Where people look, and what runs."""
        return {
            "dagster": f"http://127.0.0.1:{self.ports.dagster}",
            "portal": f"http://127.0.0.1:{self.ports.portal}",
            "home": str(self.home),
            "code": str(self.code.folder),
        }

    def with_code(self, code: Installation) -> OneMachine:
        """The same with other code, on the code server that is free."""
        return replace(self, code=code, colour=next(colour for colour in COLOURS if colour != self.colour))

    @property
    def broker_url_file(self) -> Path:
        """Where the broker's URL is, with its password."""
        return self._secret_path("broker_url")

    def data_of(self, worker: str) -> Path:
        """Data folder of a worker."""
        return self.places.data if worker == _STORE_HOST else self.folder / "data" / worker

    def variables(self, worker: str = _STORE_HOST) -> list[str]:
        """Environment of every process of the platform, as arguments of ``env``: all but other workers are on the store's host."""
        return [
            "env",
            f"DAGSTER_HOME={self.home}",
            f"CONTIMG_CLUSTER__POSTGRES_URL_FILE={self._secret_path('postgres_url')}",
            f"CONTIMG_CLUSTER__BROKER_URL_FILE={self.broker_url_file}",
            f"CONTIMG_DAGSTER_URL={self.about['dagster']}",
            f"{SOCKET_SETTING}={self.code_servers.link}",
            *self.code.variables(),
            "OPENBLAS_NUM_THREADS=1",
            *self.places.variables(self.data_of(worker)),
        ]

    def restore(self, backup: Path) -> None:
        """Restore a backup beside PostgreSQL, before anything else runs; what is there is moved aside."""
        self._link_configuration()
        command = ["-m", "contimg_portal.cli", "restore", str(backup), "--replace"]
        _run([*self.variables(), self.code.python, *command], "The backup was not restored")

    def services(self) -> list[Service]:
        """All services, in the order in which they start, the database first."""
        ports = self.ports
        return [
            Service(
                "postgres", self._postgres_command(), ports.postgres, self._initialise_postgres, self._make_database
            ),
            Service("redis", [_found("redis-server"), str(self._redis_file())], ports.redis, self._write_redis_file),
            self.code_server(),
            *self.workers(),
            *self.interfaces(),
        ]

    def interfaces(self) -> list[Service]:
        """Daemon, web server and portal: what runs the queue, and what people look at."""
        python, ports = [*self.variables(), self.code.python, "-m"], self.ports
        workspace = ["-w", str(self.code.folder / "deploy" / "workspace-socket.yaml")]
        return [
            Service("daemon", [*python, "dagster._daemon", "run", *workspace]),
            Service(
                "webserver",
                [*python, "dagster_webserver", "-h", "127.0.0.1", "-p", str(ports.dagster), *workspace],
                ports.dagster,
            ),
            Service("portal", [*python, "contimg_portal.cli", "portal", "--port", str(ports.portal)], ports.portal),
        ]

    def code_server(self) -> Service:
        """Where the definitions are loaded, sensors and schedules run."""
        servers = self.code_servers
        code = ["dagster", "api", "grpc", "-m", "contimg_assets.definitions", "-d", str(self.code.folder)]
        listener = servers.socket(self.colour)
        return Service(
            f"code-{self.colour}",
            [*self.variables(), self.code.python, "-m", *code, "--location-name", LOCATION, "-s", str(listener)],
            socket=listener,
            prepare=self._prepare_instance,
            follow_up=self.lead,
        )

    def workers(self) -> list[Service]:
        """What carries out runs."""
        return [self._worker(number) for number in range(1, self.n_workers + 1)]

    def _worker(self, number: int) -> Service:
        """The first worker stands for the host of the store, the others for hosts without it."""
        name = f"worker{number}"
        queues = [queue for queue in QUEUES if name == _STORE_HOST or queue != "store"]
        core = ["taskset", "--cpu-list", str((number - 1) % (os.cpu_count() or 1))] if self.pinned else []
        command = [self.code.python, "-m", "contimg_portal.cli", "cluster", "worker", "--name", name]
        return Service(name, [*self.variables(name), *core, *command, "--queues", ",".join(queues)])

    def _secret_path(self, name: str) -> Path:
        return self.folder / "secrets" / name

    def _secret(self, name: str) -> str:
        path = self._secret_path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_private(path, secrets.token_urlsafe(24))
        return path.read_text()

    def _postgres_data(self) -> Path:
        return self.services_folder / "postgres"

    def _postgres_command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.ports.postgres),
            "unix_socket_directories": "",
            "max_connections": "300",
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [*_as_postgres(), _found("postgres"), "-D", str(self._postgres_data()), *arguments]

    def _initialise_postgres(self) -> None:
        data = self._postgres_data()
        password = quote(self._secret("postgres_password"), safe="")
        url = f"postgresql://{_OWNER}:{password}@127.0.0.1:{self.ports.postgres}/{_DATABASE}"
        _write_private(self._secret_path("postgres_url"), url)
        if (data / "PG_VERSION").exists():
            return
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        once = data.with_name("postgres_password")
        _write_private(once, self._secret("postgres_superuser_password"))
        if _as_postgres():
            owner = pwd.getpwnam("postgres")
            for path in (data, once):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        command = [_found("initdb"), "-D", str(data), "-U", _SUPERUSER, "--auth=scram-sha-256", f"--pwfile={once}"]
        try:
            _run([*_as_postgres(), *command, "--encoding=UTF8", "--locale=C"], "PostgreSQL's data folder was not made")
        finally:
            once.unlink()

    def _make_database(self) -> None:
        """The platform's database, owned by a role that may do nothing else: no service knows the superuser's password."""
        import sqlalchemy as db

        from contimg_resources.cluster.postgres_storage import patient_connection

        password = self._secret("postgres_superuser_password")
        url = db.URL.create("postgresql+psycopg2", _SUPERUSER, password, "127.0.0.1", self.ports.postgres, "postgres")
        engine = db.create_engine(url, isolation_level="AUTOCOMMIT")
        limits = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
        with patient_connection(engine, _STARTING_S) as connection:  # its port is open before it answers
            role = connection.execute(db.text("SELECT 1 FROM pg_roles WHERE rolname = :n"), {"n": _OWNER})
            if role.first() is None:
                secret = self._secret("postgres_password")  # of letters, digits, - and _
                connection.execute(db.text(f"CREATE ROLE {_OWNER} {limits} PASSWORD '{secret}'"))
            exists = connection.execute(db.text("SELECT 1 FROM pg_database WHERE datname = :n"), {"n": _DATABASE})
            if exists.first() is None:
                connection.execute(db.text(f"CREATE DATABASE {_DATABASE} OWNER {_OWNER}"))
                connection.execute(db.text(f"REVOKE CONNECT, TEMPORARY ON DATABASE {_DATABASE} FROM PUBLIC"))
        engine.dispose()

    def _redis_file(self) -> Path:
        return self.services_folder / "redis" / "redis.conf"

    def _write_redis_file(self) -> None:
        password, file = self._secret("redis_password"), self._redis_file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = [
            "bind 127.0.0.1",
            f"port {self.ports.redis}",
            f"dir {file.parent}",
            f"requirepass {password}",
            "appendonly yes",
            "appendfsync always",
            'save ""',
            "maxmemory-policy noeviction",
        ]
        _write_private(file, "\n".join(lines) + "\n")
        url = f"redis://:{quote(password, safe='')}@127.0.0.1:{self.ports.redis}/0"
        _write_private(self._secret_path("broker_url"), url)

    def _prepare_instance(self) -> None:
        """DAGSTER_HOME with our dagster.yaml, and the tables, made by one process before many ask for them."""
        self.code_servers.prepare()
        self._link_configuration()
        _run(
            [*self.variables(), self.code.python, "-m", "dagster", "instance", "info"],
            "Dagster's instance was not made",
        )

    def lead(self) -> None:
        """Lead web servers and daemon to this code, and to the configuration that came with it."""
        self._link_configuration()
        self.code_servers.switch(self.colour)

    def _link_configuration(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        file = self.home / "dagster.yaml"
        if file.is_symlink() or not file.exists():
            file.unlink(missing_ok=True)
            file.symlink_to(self.code.folder / "deploy" / "dagster.yaml")


def preload() -> Sequence[str]:
    """What a worker imports before its first run."""
    return [_WARM_MODULE]


def _as_postgres() -> list[str]:
    """PostgreSQL refuses to run as root; its own user does it there."""
    if os.geteuid() != 0:
        return []
    return [_found("setpriv"), "--reuid=postgres", "--regid=postgres", "--init-groups"]


def _found(program: str) -> str:
    """Path of a program, also where Debian hides those of PostgreSQL."""
    folders = sorted(Path(_POSTGRES_FOLDERS).glob("*/bin"), reverse=True)
    path = shutil.which(program) or next((str(f / program) for f in folders if (f / program).exists()), None)
    if path is None:
        raise ResourceError(
            f"{program} is not installed",
            got="no such program",
            expected="PostgreSQL and Redis",
            remedy="Run scripts/install_services.sh, or apt-get install postgresql redis-server.",
        )
    return path


def _write_private(path: Path, content: str) -> None:
    """Write a file that only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(content)


def _run(command: Sequence[str], what_failed: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own commands)
    if done.returncode:
        raise ResourceError(
            what_failed,
            got=(done.stderr or done.stdout)[-600:],
            expected="exit code 0",
            remedy="Mend what it says; try again.",
        )
