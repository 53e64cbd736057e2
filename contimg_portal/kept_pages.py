"""Whole answers kept while the copy of the store they were made from is the newest, and for a while when it is not.

What belongs here: which answers may be given twice. Many people look at the same pages; each is made once for each copy
of the store, or once in `ApiSettings.answers_kept_s` where copies follow quickly. Whoever asks while one is being made is
given the last one, or waits where there is none or it is too old.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contimg_resources.store.snapshot import SnapshotStore

_KEPT = ("/observations", "/sources", "/candidates", "/quality")
_MOST_BYTES = 64_000_000
_LARGEST_BYTES = 2_000_000
_GRACE = 3.0
"""An answer up to so many times ``kept_s`` old is given while the next is made."""

Key = tuple[str, bytes, str]


@dataclass(frozen=True, slots=True)
class _Answer:
    start: Message
    body: bytes
    generation: int
    n_written: int
    made_at: float


class KeptAnswers:
    """ASGI middleware that gives answers again.

    Parameters
    ----------
    app : ASGI application
    store : SnapshotStore
        Says which copy of the store is the newest.
    kept_s : float
        How long an answer is good although there is a newer copy; 0: not at all.
    """

    def __init__(self, app: ASGIApp, store: SnapshotStore, kept_s: float) -> None:
        self._app, self._store, self._kept_s = app, store, kept_s
        self._answers: OrderedDict[Key, _Answer] = OrderedDict()
        self._made: dict[Key, asyncio.Event] = {}
        self._n_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give a kept answer, or have one made."""
        key = key_of(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        while True:
            if (answer := self._find(key)) is not None:
                await _give(answer, send)
                return
            if key not in self._made:
                break
            if (last := self._answers.get(key)) is not None and self._is_younger(last, _GRACE * self._kept_s):
                await _give(last, send)
                return
            await self._made[key].wait()
            if key not in self._answers:  # it was not one to keep
                await self._app(scope, receive, send)
                return
        self._made[key] = asyncio.Event()
        try:
            await self._make(key, scope, receive, send)
        finally:
            self._made.pop(key).set()

    def _find(self, key: Key) -> _Answer | None:
        answer = self._answers.get(key)
        if answer is None or answer.n_written != self._store.n_written:
            return None
        generation = self._store.generation()
        is_good = generation == answer.generation or self._is_younger(answer, self._kept_s)
        return answer if generation is not None and is_good else None

    def _is_younger(self, answer: _Answer, age_s: float) -> bool:
        """Whether an answer from an older copy may be given: not of a small store, nor after this process wrote something."""
        is_young = time.monotonic() - answer.made_at < age_s
        return is_young and answer.n_written == self._store.n_written and not self._store.is_small()

    async def _make(self, key: Key, scope: Scope, receive: Receive, send: Send) -> None:
        started: Message = {}
        parts: list[bytes] = []
        before, n_written = self._store.generation(), self._store.n_written

        async def send_and_keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.update(message)
            else:
                parts.append(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, send_and_keep)
        body, generation = b"".join(parts), self._store.generation()
        if generation is None or before not in {None, generation}:
            return
        if started.get("status") == 200 and len(body) <= _LARGEST_BYTES:
            self._keep(key, _Answer(started, body, generation, n_written, time.monotonic()))

    def _keep(self, key: Key, answer: _Answer) -> None:
        known = self._answers.pop(key, None)
        self._n_bytes += len(answer.body) - (len(known.body) if known else 0)
        self._answers[key] = answer
        while self._n_bytes > _MOST_BYTES:
            _, oldest = self._answers.popitem(last=False)
            self._n_bytes -= len(oldest.body)


async def _give(answer: _Answer, send: Send) -> None:
    await send(answer.start)
    await send({"type": "http.response.body", "body": answer.body})


def key_of(scope: Scope) -> Key | None:
    """What an answer is kept under: path, query and accepted form; None if it is not one to keep."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    path = str(scope["path"])
    if (path != "/" and not path.removeprefix("/api/v1").startswith(_KEPT)) or path.endswith("/variability"):
        return None
    headers = Headers(scope=scope)
    if "authorization" in headers or "range" in headers:
        return None
    return path, scope["query_string"], headers.get("accept", "")
