"""CASA in a process of its own: a crash of its C++ is an error of ours, not the end of the run.

What belongs here: the process, and how a task is handed to it. What does not: what CASA needs to start, and its errors
(``casa``, which the process itself imports).

Each thread that runs tasks has one such process, for CASA is not safe in threads; it stays for further tasks (importing CASA
takes seconds), ends with its thread, and is killed when the thread is interrupted in the middle of a task (a time limit).
Task and answer are pickled over a socket; whatever CASA prints goes to a file, whose last lines a crash is reported with.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from contimg_resources.engine_processes import bound_to_this_thread, crashed
from contimg_resources.errors import ResourceError

_LAST_LINES = 12
_OF_THREAD = threading.local()


def run_in_casa_process(name: str, parameters: Mapping[str, Any]) -> Any:
    """Run a task in this thread's CASA process, which is started when there is none.

    Raises
    ------
    EngineCrashError
        If the process is killed or crashes; the next task has a new one.
    ResourceError
        What ``casa.perform_task`` raised there.
    """
    process: CasaProcess | None = getattr(_OF_THREAD, "process", None)
    if process is None or not process.is_usable:
        process = _OF_THREAD.process = CasaProcess()
    return process.ask(name, parameters)


def end_of_thread() -> None:
    """End this thread's CASA process, if there is one: a long-lived thread gives its memory back."""
    process: CasaProcess | None = _OF_THREAD.__dict__.pop("process", None)
    if process is not None:
        process.end()


class CasaProcess:
    """One process that has imported CASA, or is about to."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._folder = tempfile.TemporaryDirectory(prefix="contimg-casa-", ignore_cleanup_errors=True)
        self._printed = Path(self._folder.name) / "printed"
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "contimg_resources.casa_process", str(theirs.fileno()), self._folder.name]
        with theirs, self._printed.open("wb") as sink:
            self._process = subprocess.Popen(  # noqa: S603 - a fixed argument list, no shell
                bound_to_this_thread(command),
                cwd=self._folder.name,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        self._connection = Connection(ours.detach())

    @property
    def is_usable(self) -> bool:
        """Whether it lives and belongs to this process, not to the one that this was forked from."""
        return self._owner == os.getpid() and not self._connection.closed and self._process.poll() is None

    def ask(self, name: str, parameters: Mapping[str, Any]) -> Any:
        """Run one task; see ``run_in_casa_process``."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.end)  # also when this thread is interrupted: the answer would belong to another question
            try:
                self._connection.send((name, dict(parameters)))
                is_done, answer = self._connection.recv()
            except (EOFError, OSError) as error:
                status = self._process.wait()
                raise crashed(f"CASA ({name})", status, self._last_lines()) from error
            undo.pop_all()
        if is_done:
            return answer
        raise answer

    def end(self) -> None:
        """Kill it, and remove what it left."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._folder.cleanup()

    def _last_lines(self) -> str:
        lines = self._printed.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([line for line in lines if line.strip()][-_LAST_LINES:])


def serve(connection: Connection, folder: Path) -> None:
    """Run the tasks that come over a connection until its other end is closed: what the process does."""
    from contimg_resources.casa import perform_task

    while True:
        try:
            name, parameters = connection.recv()
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            answer = True, perform_task(name, parameters, folder)
        except ResourceError as error:
            answer = False, error
        connection.send(answer)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), Path(sys.argv[2]))
