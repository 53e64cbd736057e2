"""Answers are made in turn: first come, first served, few at a time.

What belongs here: how many requests are worked on at once. Answers cost processor time, so that many at once are not sooner
done: threads that take the interpreter's lock from each other keep the event loop from accepting and sending, and whoever
asks for much waits longest. In turn everyone waits about equally long, and of 50 clients that ask without a pause each waits
a third as long in the worst case (``benchmarks/bench_portal.py``). More than two at once gained nothing on two processors.

A turn is no promise. Whoever has waited for `_LONGEST_WAIT_S` is let in as well, so that requests that wait for the store's
file, or for a disk, do not keep others out.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from contimg_portal.kept_pages import key_of

_LONGEST_WAIT_S = 0.5


class Turns:
    """ASGI middleware that lets so many requests in at once whose answers `KeptAnswers` would keep.

    Parameters
    ----------
    app : ASGI application
    at_once : int
    """

    def __init__(self, app: ASGIApp, at_once: int) -> None:
        self._app = app
        self._turns = asyncio.Semaphore(at_once)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for a turn, then pass the request on."""
        if key_of(scope) is None:
            await self._app(scope, receive, send)
            return
        has_turn = await self._wait()
        try:
            await self._app(scope, receive, send)
        finally:
            if has_turn:
                self._turns.release()

    async def _wait(self) -> bool:
        try:
            async with asyncio.timeout(_LONGEST_WAIT_S):
                await self._turns.acquire()
        except TimeoutError:
            return False
        return True
