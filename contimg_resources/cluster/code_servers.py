"""Two code servers side by side, and the name that leads to one of them: how new code is taken without a moment without code.

What belongs here: asking a code server whether it is fit, leading everybody to it, and telling when nobody needs the other any
more. Starting and ending them is the supervisor's (``update``) or systemd's (``contimg-code@``).

Each server listens on a Unix socket of its own name (``blue.sock``, ``green.sock``); web servers and daemon know ``current.sock``,
a symbolic link to one of them (``deploy/workspace-socket.yaml``). Dagster's client opens a connection for each call, so the next
call after the link was replaced, which is one step of the file system, goes to the other server; the thread by which every
web server and the daemon watches its location finds another server there within a second or two, and loads the definitions anew. A
call that is under way ends where it began; until then gRPC sends what else that process asks over the same connection, so that the
process follows when its calls have ended. The name of the location stays, and with it cursors and ticks.

Rejected: another port in ``workspace.yaml``, which a daemon reads every 60 s only (``RELOAD_WORKSPACE_INTERVAL``), and a read-only
web server, which refuses ``reloadWorkspace``, never; and both servers on one port (``SO_REUSEPORT``), where calls go to
either before anybody knows whether the new one is fit.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster_shared.serdes.errors import DeserializationError

from contimg_resources.errors import ResourceError

LOCATION = "contimg"
"""Name of the code location; cursors and ticks belong to it."""
COLOURS = ("blue", "green")
SOCKET_SETTING = "CONTIMG_CODE_SOCKET"
"""Environment of web servers and daemon: path of the link, which ``deploy/workspace-socket.yaml`` reads."""
_LONGEST_PATH = 107
"""Bytes of a Unix socket's path (``sun_path`` of unix(7), without the NUL)."""
_CONNECTED = "03"
"""State of a connected socket in /proc/net/unix."""
_QUIET_S = 3.0
"""Without a connection for so long, a server is needed by nobody: those who watch it call every second."""


@dataclass(frozen=True)
class CodeServers:
    """The sockets of the code servers of a host.

    Parameters
    ----------
    link : Path
        The name that leads to the one in use, in a folder with the sockets of all; only its owner may enter that: who reaches a
        code server has it run code.
    """

    link: Path

    @property
    def folder(self) -> Path:
        """Where all are."""
        return self.link.parent

    def socket(self, name: str) -> Path:
        """Where one of them listens."""
        path = self.folder / f"{name}.sock"
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ResourceError(
                f"{path} is too long for a socket",
                got=f"{len(os.fsencode(path))} bytes",
                expected=f"at most {_LONGEST_PATH}",
                remedy="Give the data folder a shorter path.",
            )
        return path

    def current(self) -> str | None:
        """Which one is in use; None before the first."""
        return self.link.readlink().stem if self.link.is_symlink() else None

    def prepare(self) -> None:
        """Make the folder, without a link: nothing runs yet."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.link.unlink(missing_ok=True)

    def switch(self, name: str) -> None:
        """Lead everybody to one of them, in one step."""
        fresh = self.folder / f"{name}.next"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.socket(name).name)
        fresh.replace(self.link)

    def require_fit(self, name: str) -> None:
        """Raise ResourceError unless a server answers and all its definitions load, asked as a web server asks."""
        path = self.socket(name)
        origin = GrpcServerCodeLocationOrigin(host="localhost", socket=str(path), location_name=LOCATION)
        try:
            with dg.DagsterInstance.ephemeral() as instance, warnings.catch_warnings():
                warnings.simplefilter("ignore", dg.BetaWarning)
                origin.create_location(instance).cleanup()
        except (dg.DagsterError, DeserializationError) as error:  # the latter: it speaks for another Dagster than ours
            raise ResourceError(
                f"The code server {name} is not fit: nothing was switched",
                got=str(error)[-1500:],
                expected=f"definitions without an error at {path}",
                remedy="Mend the code, or start the server; then try again.",
            ) from error

    def n_connections(self, name: str) -> int:
        """Connections to one of them at this moment."""
        path = str(self.socket(name))
        lines = Path("/proc/net/unix").read_text().splitlines()[1:]
        return sum(1 for line in lines if (words := line.split(maxsplit=7))[5] == _CONNECTED and words[7:] == [path])

    def until_quiet(self, name: str, clock: Callable[[], float] = time.monotonic) -> Iterator[int]:
        """Connections to one of them each time it is asked; ends when there were none for a while."""
        last_seen = clock()
        while clock() - last_seen < _QUIET_S:
            n_open = self.n_connections(name)
            if n_open:
                last_seen = clock()
            yield n_open


def listens(path: Path) -> bool:
    """Whether a server listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
