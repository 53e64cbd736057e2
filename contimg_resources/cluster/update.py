"""New code for a cluster of one machine, while it works: a second code server first, then everything else, and no run is stopped.

What belongs here: the order of an update, and how the command that asks for one and the supervisor that carries it out speak to
each other (two files in the cluster's folder). Processes are the supervisor's (``services``), the switch is ``code_servers``'.

1. A second code server is started with the new code. When it ends, or its definitions do not load, it is stopped and nothing
   has changed.
2. The workers are told to end: at once they take no further run, each ends what it has begun, and starts again with the new code.
   They are told before the switch, so that no run of the new definitions is carried out by old code. Not one after the other:
   one that may still take runs would run them with the old code.
3. Web servers and daemon are led to the new code server; the old one ends when nobody has called it for a while.
4. Daemon, web server and portal are started anew, as they are contimg's code too; runs do not notice.

A run is a fork of its worker: it keeps the code that it began with. Going back is the same with the old code.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from contimg_resources.cluster.addresses import broker_url
from contimg_resources.cluster.celery_settings import celery_settings
from contimg_resources.cluster.installations import Installation
from contimg_resources.cluster.one_machine import OneMachine
from contimg_resources.cluster.services import Service, Supervisor, is_alive
from contimg_resources.errors import ResourceError
from contimg_resources.products import atomic_write
from contimg_resources.settings_cluster import ClusterSettings

_LOG = structlog.get_logger(__name__)
_READY_WITHIN_S = 300.0
_END_WITHIN_S = 30.0
_CALLS_END_WITHIN_S = 300.0
"""How long the old code server may be called after the switch: a tick takes at most as long as Dagster waits for one, a minute."""
_PING_S = 1.0
_POLL_S = 0.25
_IN_PROGRESS, _DONE, _FAILED = "in progress", "done", "failed"


@dataclass(frozen=True)
class UpdateFiles:
    """What is asked and what became of it, in the cluster's folder."""

    folder: Path

    @property
    def _request(self) -> Path:
        return self.folder / "update-request.json"

    @property
    def _answer(self) -> Path:
        return self.folder / "update.json"

    def ask(self, code: Path) -> str:
        """Ask for an update; returns its number."""
        if self.answer().get("state") == _IN_PROGRESS or self._request.exists():
            raise ResourceError(
                "An update is under way",
                got=str(self.answer().get("code", "one that has not begun")),
                expected="one at a time",
                remedy="Wait until it has ended: contimg cluster status, and the logs.",
            )
        number = uuid.uuid4().hex
        _write(self._request, {"id": number, "code": str(code)})
        return number

    def taken_request(self) -> dict[str, Any] | None:
        """What is asked, once."""
        if not self._request.exists():
            return None
        request: dict[str, Any] = json.loads(self._request.read_text())
        _write(self._answer, {**request, "state": _IN_PROGRESS, "step": "begun"})
        self._request.unlink()
        return request

    def answer(self) -> dict[str, Any]:
        """What became of the newest update; empty before the first."""
        return json.loads(self._answer.read_text()) if self._answer.exists() else {}

    def tell(self, request: dict[str, Any], state: str) -> None:
        """Write how far it is."""
        _write(self._answer, {**request, "state": state})

    def forget(self) -> None:
        """Nothing is asked, and nothing under way, when a cluster starts."""
        self._request.unlink(missing_ok=True)
        self._answer.unlink(missing_ok=True)

    def follow(self, number: str, supervisor: int) -> Iterator[str]:
        """Steps of an update as they come; ends with it, or raises ResourceError when it failed or its supervisor is gone."""
        told = ""
        while True:
            answer = self.answer()
            if answer.get("id") == number:
                if answer["state"] == _FAILED:
                    raise ResourceError(answer["step"], remedy=answer["remedy"])
                if answer["state"] == _DONE:
                    return
                if answer["step"] != told:
                    told = answer["step"]
                    yield told
            if not is_alive(supervisor):
                raise ResourceError(
                    "The cluster was stopped during the update", remedy="Start it again with either code."
                )
            time.sleep(_POLL_S)


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda stream: stream.write((json.dumps(document, indent=1) + "\n").encode()))


@dataclass
class Updater:
    """Carries out what is asked, a little each time the supervisor has looked after its services.

    Parameters
    ----------
    machine : OneMachine
        What runs now; another one after an update.
    supervisor : Supervisor
    files : UpdateFiles
    """

    machine: OneMachine
    supervisor: Supervisor
    files: UpdateFiles
    _request: dict[str, Any] = field(default_factory=dict)
    _steps: Iterator[str] | None = None

    def advance(self) -> None:
        """Begin an update, go on with one, or do nothing; waits for as long as a question to a service takes."""
        if self._steps is None:
            request = self.files.taken_request()
            if request is None:
                return
            self._request, self._steps = request, self._update(Path(request["code"]))
        try:
            step = next(self._steps, None)
        except ResourceError as error:
            _LOG.error("update_failed", code=self._request["code"], error=str(error))
            self._end(_FAILED, str(error).removesuffix(f". {error.remedy}"), remedy=error.remedy)
            return
        if step is None:
            _LOG.info("updated", code=self._request["code"])
            self._end(_DONE, "done")
        elif step != self._request.get("step"):
            self._request["step"] = step
            self.files.tell(self._request, _IN_PROGRESS)

    def _end(self, state: str, step: str, **more: str) -> None:
        self.files.tell({**self._request, "step": step, **more}, state)
        self._request, self._steps = {}, None

    def _update(self, folder: Path) -> Iterator[str]:
        old, new = self.machine, self.machine.with_code(Installation.at(folder))
        yield from self._begin_code_server(new)
        workers, others = new.workers(), new.interfaces()
        for service in workers:
            self.supervisor.exchange(service, None)
        new.lead()
        self.machine, self.supervisor.about = new, new.about
        for service in others:
            self.supervisor.exchange(service, _END_WITHIN_S)
        yield from self._end_code_server(old)
        try:
            for service in others:
                yield from self._until_ready(service, service.is_listening)
            for service in workers:
                yield from self._until_ready(service, partial(self._answers, service.name))
        except ResourceError as error:
            raise ResourceError(
                f"The new code is in use, but not by all: {error}",
                remedy=f"Back: contimg cluster update --code {old.code.folder}",
            ) from error

    def _begin_code_server(self, new: OneMachine) -> Iterator[str]:
        server = new.code_server()
        self.supervisor.begin(server)
        end = time.monotonic() + _READY_WITHIN_S
        try:
            while not server.is_listening():
                self.supervisor.require_running(server)
                if time.monotonic() > end:
                    raise self.supervisor.not_started(server)
                yield "the new code is being loaded"
            new.code_servers.require_fit(new.colour)
        except ResourceError as error:
            self.supervisor.leave(server.name, _END_WITHIN_S)
            raise ResourceError(
                f"The new code was not taken, and nothing has changed: {error}",
                remedy="Mend the code, then try again.",
            ) from error

    def _end_code_server(self, old: OneMachine) -> Iterator[str]:
        """Let calls end that are under way; the old one ends when there are none."""
        end = time.monotonic() + _CALLS_END_WITHIN_S
        for _ in old.code_servers.until_quiet(old.colour):
            if time.monotonic() > end:
                break
            yield "the old code server ends its calls"
        self.supervisor.leave(f"code-{old.colour}", _END_WITHIN_S)

    def _until_ready(self, service: Service, is_ready: Callable[[], bool]) -> Iterator[str]:
        """Wait until a service has taken its place; as long as the one before it works, that is no failure."""
        end = None
        while not (self.supervisor.is_running(service) and is_ready()):
            if self.supervisor.is_running(service):
                end = end or time.monotonic() + _READY_WITHIN_S
                yield f"{service.name} starts with the new code"
            elif self.supervisor.has_ended(service):
                raise self.supervisor.not_started(service)
            else:
                yield f"{service.name} ends what it has begun"
            if end is not None and time.monotonic() > end:
                raise self.supervisor.not_started(service)

    def _answers(self, worker: str) -> bool:
        """Whether a worker takes runs: its own answer, through the broker."""
        cluster = ClusterSettings(broker_url_file=self.machine.broker_url_file)
        with Celery("contimg", set_as_current=False) as application:
            application.conf.update(celery_settings(broker_url(cluster), cluster.redelivery_s))
            inspect = application.control.inspect([f"{worker}@{socket.gethostname()}"], timeout=_PING_S)
            try:
                return bool(inspect.ping())
            except (OperationalError, RedisError, OSError):
                return False
