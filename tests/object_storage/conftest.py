"""A real S3 server for the tests: OpenStack Swift with its S3 API, on a free port of loopback, with the data in a folder."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.transfers.stations import free_port

_PATIENCE_S = 150.0


class SwiftServer:
    """The server; it can be killed and started again with the same data and address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Endpoint of S3."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        script = Path(__file__).with_name("swift_node.py")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/usr/bin/python3", str(script), str(self.folder), str(self.port)], stdout=log, stderr=log
            )
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            with suppress(httpx.HTTPError):
                httpx.get(self.url, timeout=5)
                return
            time.sleep(0.1)
        pytest.fail("the S3 server does not answer")

    def kill(self) -> None:
        """Kill it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    """A running S3 server."""
    if shutil.which("swift-proxy-server") is None:
        pytest.skip("no S3 server: apt-get install swift-proxy swift-account swift-container swift-object")
    server = SwiftServer(tmp_path_factory.mktemp("swift"))
    try:
        server.start()
        yield server
    finally:
        server.kill()
