"""PostgreSQL, Redis, workers, code server, daemon, webserver and portal on one machine, each a process that is watched.

What belongs here: starting them in order, starting again what ended, putting one in another's place, stopping all of them, and a
file that says what runs. What the services are called with is ``one_machine``, which are exchanged for new code is ``update``. On
several hosts an init system does this (``deploy/``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from contimg_resources.cluster.code_servers import listens
from contimg_resources.errors import ResourceError
from contimg_resources.products import atomic_write

_LOG = structlog.get_logger(__name__)
_DEFAULT_SIGNALS = ("env", "--default-signal=INT,TERM")
"""What a shell does not wait for ignores SIGINT, then Dagster ignores SIGTERM too, and services would inherit both."""
_POLL_S = 0.25
_READY_WITHIN_S = 600.0
_RAISED = re.compile(r"[\w.]+(Error|Exception)\b")
_GENTLE = ((signal.SIGTERM, 20.0), (signal.SIGINT, 5.0), (signal.SIGKILL, 5.0))


@dataclass(frozen=True)
class Service:
    """One process: how it is started, and where it can be reached once it is ready."""

    name: str
    command: Sequence[str]
    port: int | None = None
    """TCP port of loopback that is open when it is ready; None for one that is not waited for."""
    prepare: Callable[[], None] | None = None
    """Done before the first start."""
    follow_up: Callable[[], None] | None = None
    """Done once it is ready for the first time."""
    stop_signal: signal.Signals = signal.SIGTERM
    socket: Path | None = None
    """As ``port``, for one that listens on a Unix socket."""

    def is_listening(self) -> bool:
        """Whether it can be reached; also when there is nothing to reach."""
        if self.socket is not None:
            return listens(self.socket)
        return self.port is None or is_open(self.port)


@dataclass
class _Running:
    service: Service
    process: subprocess.Popen[bytes]
    ended_at: float | None = None
    n_starts: int = 1
    successor: Service | None = None
    """What takes its place when it has ended."""
    end_by: float | None = None
    """When it is made to end, if it has been told to and has not."""
    is_leaving: bool = False
    """Whether nothing takes its place."""


@dataclass
class Supervisor:
    """Services of one machine, started in their order and watched until told to stop.

    Parameters
    ----------
    folder : Path
        For logs and the state file.
    restart_after_s : float
        Between the end of a service and its next start.
    is_over : callable
        Whether somebody asked to stop; starting and watching end then.
    """

    folder: Path
    restart_after_s: float
    is_over: Callable[[], bool] = lambda: False
    about: dict[str, str] = field(default_factory=dict)
    """What else the state file says."""
    _running: dict[str, _Running] = field(default_factory=dict)

    @property
    def state_path(self) -> Path:
        """JSON with process ids and logs of what runs."""
        return self.folder / "cluster.json"

    def start(self, services: Sequence[Service]) -> None:
        """Start services one after the other, each when those before it are ready, and write down what runs."""
        for service in services:
            if self.is_over():
                return
            if service.prepare is not None:
                service.prepare()
            self.begin(service)
            self._await_listener(service)
            if service.follow_up is not None and not self.is_over():
                service.follow_up()
            _LOG.info("service_started", service=service.name, port=service.port)

    def begin(self, service: Service) -> None:
        """Start one more service, and do not wait for it."""
        self._running[service.name] = _Running(service, self._spawn(service))
        self._write_state()

    def exchange(self, service: Service, within_s: float | None) -> None:
        """Tell the one of that name to end, and start this one in its place when it has.

        Parameters
        ----------
        service : Service
        within_s : float or None
            After which the other is made to end; None for as long as its work takes.
        """
        running = self._running[service.name]
        running.successor = service
        running.end_by = None if within_s is None else time.monotonic() + within_s
        with contextlib.suppress(ProcessLookupError):
            running.process.send_signal(running.service.stop_signal)

    def leave(self, name: str, within_s: float) -> None:
        """Tell one to end; nothing takes its place."""
        running = self._running[name]
        running.is_leaving, running.end_by = True, time.monotonic() + within_s
        with contextlib.suppress(ProcessLookupError):
            running.process.send_signal(running.service.stop_signal)

    def is_running(self, service: Service) -> bool:
        """Whether a process was started for exactly this service, and has not ended."""
        running = self._running.get(service.name)
        return running is not None and running.service is service and running.process.poll() is None

    def has_ended(self, service: Service) -> bool:
        """Whether a process was started for exactly this service, and has ended."""
        running = self._running.get(service.name)
        return running is not None and running.service is service and running.process.poll() is not None

    def watch(self, do_meanwhile: Callable[[], None] = lambda: None) -> None:
        """Start again what ended, until it is over."""
        while not self.is_over():
            for running in list(self._running.values()):
                self._look_after(running)
            do_meanwhile()
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Stop all services, the last started first, gently at first; nothing is left behind."""
        for running in reversed(self._running.values()):
            _end(running.process, running.service.stop_signal)
        self.state_path.unlink(missing_ok=True)

    def _look_after(self, running: _Running) -> None:
        name, now = running.service.name, time.monotonic()
        code = running.process.poll()
        if code is None:
            if running.end_by is not None and now > running.end_by:
                _end(running.process, signal.SIGKILL)
            return
        if running.is_leaving or running.successor is not None:
            _end(running.process, signal.SIGKILL)  # what it may have left of its group
        if running.is_leaving:
            del self._running[name]
            self._write_state()
            _LOG.info("service_left", service=name, code=code)
        elif running.successor is not None:
            self.begin(running.successor)
            _LOG.info("service_exchanged", service=name, code=code)
        elif running.ended_at is None:
            running.ended_at = now
            _LOG.warning("service_ended", service=name, code=code, again_in_s=self.restart_after_s)
        elif now - running.ended_at >= self.restart_after_s:
            running.process, running.ended_at = self._spawn(running.service), None
            running.n_starts += 1
            self._write_state()
            _LOG.info("service_started_again", service=name, n_starts=running.n_starts)

    def _spawn(self, service: Service) -> subprocess.Popen[bytes]:
        log = self._log(service.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            return subprocess.Popen(  # noqa: S603 (our own commands)
                [*_DEFAULT_SIGNALS, *service.command],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _await_listener(self, service: Service) -> None:
        end = time.monotonic() + _READY_WITHIN_S
        while not service.is_listening() and not self.is_over():
            self.require_running(service)
            if time.monotonic() > end:
                raise self.not_started(service)
            time.sleep(0.05)

    def require_running(self, service: Service) -> None:
        """Raise ResourceError, with the end of its log, when a service has ended."""
        if not self.is_running(service):
            raise self.not_started(service)

    def not_started(self, service: Service) -> ResourceError:
        """The error that tells why: the end of its log."""
        log = self._log(service.name)
        return ResourceError(
            f"{service.name} did not start",
            got=_last_lines(log),
            expected=f"a listener on {service.socket or f'port {service.port}'} within {_READY_WITHIN_S:g} s",
            remedy=f"Read {log}.",
        )

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _write_state(self) -> None:
        services = [
            {"name": name, "pid": one.process.pid, "port": one.service.port, "log": str(self._log(name))}
            for name, one in self._running.items()
        ]
        document = json.dumps({**self.about, "supervisor": os.getpid(), "services": services}, indent=1) + "\n"
        atomic_write(self.state_path, lambda stream: stream.write(document.encode()))


def is_open(port: int) -> bool:
    """Whether something listens on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _end(process: subprocess.Popen[bytes], first: signal.Signals) -> None:
    """End a process and its group."""
    for sign, patience_s in ((first, 10.0), *_GENTLE):
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            # The first word goes to the process alone, which ends its own in order.
            os.kill(process.pid, sign) if sign is first else os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_lines(log: Path) -> str:
    """What a service said last: the errors of a traceback, of which Dagster's begin with the cause, or its last lines."""
    lines = log.read_text(errors="replace").splitlines()[-300:] if log.exists() else []
    raised = [line for line in lines if _RAISED.match(line)]
    return "\n".join(raised[-2:] or lines[-8:]) or "no output"
