"""Dagster twice (for operators and for guests), its code server, the portal and a real nginx before them, on loopback."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

PROJECT = Path(__file__).resolve().parents[2]
PASSWORDS = {"alice": "operators-password", "greta": "guests-password", "ALICE": "another-guest"}
START_S = 240.0
"""Seconds on a quiet machine are minutes on one that does much else."""
_WRAPPER = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/contimg.conf;
}}
"""


@dataclass(frozen=True)
class Proxied:
    """What was started, as seen from outside."""

    port: int
    """TLS port of nginx on loopback."""
    plain_port: int
    dagster_home: Path
    tls: ssl.SSLContext
    """Knows the certificate."""

    def client(self, user: str | None = None, password: str | None = None) -> httpx.Client:
        """HTTP client of somebody: with the user's password unless another is given, anonymous without a user."""
        auth = None if user is None else (user, password if password is not None else PASSWORDS[user])
        return httpx.Client(base_url=f"https://localhost:{self.port}", auth=auth, verify=self.tls, timeout=60)

    def basic(self, user: str) -> str:
        """Header ``Authorization`` of a user."""
        return f"Basic {base64.b64encode(f'{user}:{PASSWORDS[user]}'.encode()).decode()}"

    def instance_state(self) -> dict[str, str]:
        """Everything below DAGSTER_HOME: tables of the databases by content, other files by bytes."""
        state = {}
        for path in sorted(self.dagster_home.rglob("*")):
            if path.suffix == ".db":
                with closing(sqlite3.connect(path, timeout=10)) as database:
                    content = "\n".join(database.iterdump()).encode()
            elif path.is_file() and not path.name.endswith(("-wal", "-shm", "-journal")):
                content = path.read_bytes()
            else:
                continue
            state[str(path.relative_to(self.dagster_home))] = hashlib.sha256(content).hexdigest()
        return state


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def shipped_configuration(folder: Path, ports: dict[str, int]) -> Path:
    """Write nginx.conf around deploy/nginx/contimg.conf, with this folder and these ports; nothing else is changed.

    Parameters
    ----------
    folder : Path
        Takes the place of /etc/contimg/nginx; certificate, passwords and operators are made in it.
    ports : dict
        What listens where: ``tls``, ``plain``, ``dagster``, ``guests``, ``portal``, ``ingest``.
    """
    shipped = PROJECT / "deploy" / "nginx"
    upstreams = (shipped / "upstreams.conf").read_text()
    for name, port in (("dagster", 3000), ("guests", 3001), ("portal", 8000), ("ingest", 8100)):
        upstreams = _replaced(upstreams, f"127.0.0.1:{port}", f"127.0.0.1:{ports[name]}")
    (folder / "upstreams.conf").write_text(upstreams)
    shutil.copy(shipped / "operators.map.example", folder / "operators.map")
    lines = [f"{user}:{_hashed(password)}" for user, password in PASSWORDS.items()]
    (folder / "users.htpasswd").write_text("\n".join(lines))
    _make_certificate(folder)
    configuration = (shipped / "contimg.conf").read_text()
    configuration = _replaced(configuration, "/etc/contimg/nginx/", f"{folder}/")
    for old, port in (("443 ssl", ports["tls"]), ("80;", ports["plain"])):
        ends = old.removeprefix("443").removeprefix("80")
        configuration = _replaced(configuration, f"listen {old}", f"listen 127.0.0.1:{port}{ends}")
        configuration = _replaced(configuration, f"listen [::]:{old}", f"listen [::1]:{port}{ends}")
    (folder / "contimg.conf").write_text(configuration)
    wrapper = folder / "nginx.conf"
    # Workers of a root's nginx are another user, who may not look into a test's folder.
    wrapper.write_text(_WRAPPER.format(folder=folder, user="user root;" if os.geteuid() == 0 else ""))
    return wrapper


def _replaced(text: str, old: str, new: str) -> str:
    assert old in text, f"{old} is no more in what is shipped"
    return text.replace(old, new)


def _hashed(password: str) -> str:
    command = ["openssl", "passwd", "-6", password]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _make_certificate(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"]
    command += ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    subprocess.run(command, capture_output=True, check=True)


@contextmanager
def started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Process in a group of its own, ended with all its children on leaving the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(ask: str, process: subprocess.Popen[bytes], log: Path, tls: ssl.SSLContext | None = None) -> None:
    """Until an address answers at all."""
    end = time.monotonic() + START_S
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, f"{ask} does not answer: {log.read_text()[-3000:]}"
        try:
            httpx.get(ask, verify=tls or False, timeout=START_S)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return


@contextmanager
def proxied_platform(folder: Path, portal_port: int) -> Iterator[Proxied]:
    """Start everything but the portal, which listens already."""
    _require_tools()
    home = folder / "dagster"
    python = str(Path(sys.executable).parent / "python")
    environment = _plain_environment() | {
        "PYTHONPATH": str(PROJECT),
        "CONTIMG_DATA": str(folder / "data"),
        "DAGSTER_HOME": str(home),
    }
    environment["PYTHONWARNINGS"] = "ignore"
    subprocess.run([PROJECT / "scripts" / "dagster_home.sh", home], env=environment, check=True, capture_output=True)
    ports = {name: free_port() for name in ("tls", "plain", "code", "dagster", "guests", "ingest")}
    ports["portal"] = portal_port
    environment |= {"CONTIMG_CODE_HOST": "127.0.0.1", "CONTIMG_CODE_PORT": str(ports["code"])}
    code = [python, "-m", "dagster", "api", "grpc", "--module-name", "contimg_assets.definitions"]
    code += ["--host", "127.0.0.1", "--port", str(ports["code"]), "--location-name", "contimg"]
    web = [python, "-m", "dagster_webserver", "--workspace", str(PROJECT / "deploy" / "workspace.yaml")]
    web += ["--path-prefix", "/dagster", "--host", "127.0.0.1", "--port"]
    with ExitStack() as stack:
        server = stack.enter_context(started(code, environment, folder / "code.log"))
        _wait_for_port(ports["code"], server, folder / "code.log")
        servers = {
            name: stack.enter_context(started([*web, str(ports[name]), *options], environment, folder / f"{name}.log"))
            for name, options in (("dagster", []), ("guests", ["--read-only"]))
        }
        for name, process in servers.items():
            wait_for(f"http://127.0.0.1:{ports[name]}/dagster/server_info", process, folder / f"{name}.log")
        tls = stack.enter_context(_nginx(folder, ports))
        yield Proxied(ports["tls"], ports["plain"], home, tls)


@contextmanager
def proxied_receiver(folder: Path, ingest_port: int) -> Iterator[Proxied]:
    """Start nginx alone, before a receiver of raw files that listens already."""
    _require_tools()
    ports = {name: free_port() for name in ("tls", "plain", "dagster", "guests", "portal")} | {"ingest": ingest_port}
    with _nginx(folder, ports) as tls:
        yield Proxied(ports["tls"], ports["plain"], folder, tls)


@contextmanager
def _nginx(folder: Path, ports: dict[str, int]) -> Iterator[ssl.SSLContext]:
    """Run nginx with the shipped configuration; gives what knows its certificate."""
    wrapper = shipped_configuration(folder, ports)
    command = [str(shutil.which("nginx")), "-p", str(folder), "-c", str(wrapper)]
    with started(command, _plain_environment(), folder / "nginx.log") as nginx:
        tls = ssl.create_default_context(cafile=folder / "tls.crt")
        wait_for(f"https://localhost:{ports['tls']}/health/live", nginx, folder / "nginx.log", tls)
        yield tls


def _plain_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


def _require_tools() -> None:
    for tool in ("nginx", "openssl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install {tool}")


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
