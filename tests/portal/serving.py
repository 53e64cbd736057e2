"""A portal that really listens, for tests and pictures: started on a free port of loopback, stopped on leaving the block."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from contimg_portal.app import create_app
from contimg_resources.settings import Settings


@contextmanager
def serve(settings: Settings) -> Iterator[httpx.Client]:
    """Client of a portal that really listens, on a free port of loopback."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
