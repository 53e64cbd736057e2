"""Agent and receiver as processes of their own, the files between them, and a witness of what was visible when."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

import httpx
import numpy as np

TOKEN = "a-token-of-agents"  # noqa: S105 (of these tests only)
_FIRST = datetime(2026, 2, 20, 6, 1)  # noqa: DTZ001 (names carry no zone)
_PATIENCE_S = 150.0
"""Processes start in 2 s, and in more than a minute on a machine that is busy with much else."""


def write_files(folder: Path, n_files: int, n_bytes: int, *, seed: int = 1) -> dict[str, str]:
    """Write files with names of raw files and random content; return their hashes by name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    hashes = {}
    for index in range(n_files):
        name = f"{_FIRST + timedelta(seconds=309 * (seed * 100 + index)):%Y-%m-%dT%H:%M:%S}_sb{index % 16:02d}.hdf5"
        content = rng.bytes(n_bytes)
        (folder / name).write_bytes(content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    return hashes


def free_port() -> int:
    """Port of loopback that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment(data: Path, **more: str) -> dict[str, str]:
    """Environment of a process with its own data folder."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("CONTIMG_")}
    return {
        **bare,
        "CONTIMG_DATA": str(data),
        "CONTIMG_AGENT__TOKEN": TOKEN,
        "CONTIMG_MINIMUM_FREE_GB": "0",
        "CONTIMG_ARRIVAL_SETTLE_S": "0.2",
        "CONTIMG_AGENT__CHUNK_MB": "1",
        "CONTIMG_AGENT__POLL_S": "0.1",
        "CONTIMG_AGENT__RETRY_MAX_S": "0.5",
        "CONTIMG_AGENT__BEAT_INTERVAL_S": "1",
        "CONTIMG_AGENT__TIMEOUT_S": "5",
        **more,
    }


def start(
    arguments: list[str], env: dict[str, str], log: Path, *, inside: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start ``contimg`` with these arguments, its output going to a file."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            [*inside, sys.executable, "-m", "contimg_portal.cli", *arguments], env=env, stdout=stream, stderr=stream
        )


@contextmanager
def running(
    arguments: list[str], env: dict[str, str], log: Path, *, inside: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with the block, however that ends."""
    process = start(arguments, env, log, inside=inside)
    try:
        yield process
    finally:
        end(process, signal.SIGKILL)


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a process a signal and wait until it is gone."""
    if process.poll() is None:
        process.send_signal(number)
    process.wait(30)


def await_receiver(port: int, host: str = "127.0.0.1") -> None:
    """Wait until a receiver answers."""

    def answers() -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://{host}:{port}/health/live", timeout=2).is_success
        return False

    wait_until(answers)


def wait_until(is_true: Callable[[], bool], patience_s: float = _PATIENCE_S) -> None:
    """Wait until something is true; fail when it does not become so."""
    until = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.05)


def visible(folder: Path) -> set[str]:
    """Names of raw files in a folder."""
    return {path.name for path in folder.glob("*.hdf5")}


def parts_bytes(folder: Path) -> int:
    """Bytes of what has arrived of files under way."""
    with suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in (folder / ".receiving").glob("*.part"))
    return 0


def hashes_of(folder: Path) -> dict[str, str]:
    """Hashes of the files that are visible in a folder."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in visible(folder)}


class Witness:
    """Looks at a folder again and again: each file when it becomes visible, whether it is whole, and whether it comes again."""

    def __init__(self, folder: Path, n_bytes: int) -> None:
        self.folder = folder
        self.n_bytes = n_bytes
        self.arrivals: dict[str, int] = {}
        self.half: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look_on(self) -> None:
        inodes: dict[str, int] = {}
        while not self._ended.is_set():
            for path in self.folder.glob("*.hdf5"):
                with suppress(FileNotFoundError):
                    found = path.stat()
                    if inodes.get(path.name) != found.st_ino:
                        inodes[path.name] = found.st_ino
                        self.arrivals[path.name] = self.arrivals.get(path.name, 0) + 1
                    if found.st_size != self.n_bytes:
                        self.half.append(path.name)
            time.sleep(0.002)
