"""A line between agent and receiver that can be slow, cut and damaging: a TCP proxy on loopback, driven by the test."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from contextlib import suppress

_BLOCK_BYTES = 64 * 1024


class BadLine:
    """Passes bytes on between clients and one server, as the test says.

    Parameters
    ----------
    server : (str, int)
        Address behind the line.
    bytes_per_s : float
        Most that is passed to the server.
    damage_every : int
        One bit is flipped in so many bytes to the server; 0 for none.
    """

    def __init__(self, server: tuple[str, int], *, bytes_per_s: float = 1e9, damage_every: int = 0) -> None:
        self.server = server
        self.bytes_per_s = bytes_per_s
        self.damage_every = damage_every
        self.n_passed = 0
        self.n_damaged = 0
        self._is_cut = threading.Event()
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Break all connections and let none through."""
        self._is_cut.set()

    def mend(self) -> None:
        """Let connections through again."""
        self._is_cut.clear()

    def close(self) -> None:
        """End it."""
        self._ended.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                if self._is_cut.is_set():
                    client.close()
                    continue
                thread = threading.Thread(target=self._pass, args=(client,))
                thread.start()
                self._threads.append(thread)

    def _pass(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self.server, timeout=5) as server:
            selector = selectors.DefaultSelector()
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not self._ended.is_set() and not self._is_cut.is_set():
                for key, _ in selector.select(0.05):
                    block = key.fileobj.recv(_BLOCK_BYTES)
                    if not block:
                        return
                    key.data.sendall(self._through(block) if key.data is server else block)

    def _through(self, block: bytes) -> bytes:
        time.sleep(len(block) / self.bytes_per_s)
        before, self.n_passed = self.n_passed, self.n_passed + len(block)
        if self.damage_every and before // self.damage_every != self.n_passed // self.damage_every:
            damaged = bytearray(block)
            damaged[len(block) // 2] ^= 0x10
            self.n_damaged += 1
            return bytes(damaged)
        return block
