"""Outside services that fail are not asked again and again."""

import socket
import time

import httpx
import pytest

from contimg_resources.errors import CircuitOpenError
from contimg_resources.outside import call_outside


def test_a_service_that_fails_is_left_alone_for_a_while():
    """Three refused connections, then no attempt until the cool-down is over; an answer closes the breaker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    attempts = []

    def ask():
        attempts.append(port)
        return httpx.get(f"http://127.0.0.1:{port}/", timeout=2.0)

    def call(what):
        return call_outside(f"test-{port}", what, cool_down_s=0.3)

    for _ in range(3):
        with pytest.raises(httpx.ConnectError):
            call(ask)
    with pytest.raises(CircuitOpenError, match="3 failures in a row"):
        call(ask)
    assert len(attempts) == 3
    time.sleep(0.4)
    with pytest.raises(httpx.ConnectError):
        call(ask)
    with pytest.raises(CircuitOpenError):
        call(ask)
    time.sleep(0.4)
    assert call(lambda: "answer") == "answer"
    with pytest.raises(httpx.ConnectError):
        call(ask)
    assert len(attempts) == 5
