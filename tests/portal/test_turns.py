"""Answers are made in turn: few at once, in the order of asking, and nobody is kept out by what hangs."""

import asyncio
import time

import pytest

from contimg_portal import turns
from contimg_portal.turns import Turns


class Pages:
    """An application that notes who is let in, and answers when it is let."""

    def __init__(self):
        self.came = []
        self.n_inside = self.most_inside = 0
        self.let = asyncio.Event()

    async def __call__(self, scope, _receive, _send):
        """Answer one request; a path that ends with ``wrong`` is not answered."""
        self.came.append(scope["path"])
        self.n_inside += 1
        self.most_inside = max(self.most_inside, self.n_inside)
        try:
            await self.let.wait()
            if scope["path"].endswith("wrong"):
                raise ValueError("wrong")
        finally:
            self.n_inside -= 1


def request(path):
    """What a server passes on."""
    return {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}


async def _until(condition):
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it did not come to pass within 5 s")


def test_few_are_let_in_at_once_in_the_order_of_asking():
    """Twenty ask at once, two are inside at any time, and they come in as they asked."""

    async def run():
        pages = Pages()
        app = Turns(pages, 2)
        asked = [asyncio.create_task(app(request(f"/sources/J{k}"), None, None)) for k in range(20)]
        await _until(lambda: pages.n_inside == 2)
        pages.let.set()
        await asyncio.gather(*asked)
        return pages

    pages = asyncio.run(run())
    assert pages.most_inside == 2
    assert pages.came == [f"/sources/J{k}" for k in range(20)]


def test_an_answer_that_fails_gives_its_turn_back():
    """After as many errors as there are turns the next one is still let in at once."""

    async def run():
        pages = Pages()
        pages.let.set()
        app = Turns(pages, 2)
        for _ in range(3):
            with pytest.raises(ValueError, match="wrong"):
                await app(request("/sources/wrong"), None, None)
        started = time.monotonic()
        await app(request("/sources/J1"), None, None)
        return time.monotonic() - started

    assert asyncio.run(run()) < turns._LONGEST_WAIT_S / 2


def test_whoever_has_waited_long_is_let_in(monkeypatch):
    """While both turns hang, a third request is let in after the longest wait, and a client that leaves takes no turn along."""
    monkeypatch.setattr(turns, "_LONGEST_WAIT_S", 0.05)

    async def run():
        pages = Pages()
        app = Turns(pages, 2)
        hanging = [asyncio.create_task(app(request("/sources"), None, None)) for _ in range(2)]
        await _until(lambda: pages.n_inside == 2)
        left = asyncio.create_task(app(request("/candidates"), None, None))
        await asyncio.sleep(0)
        left.cancel()
        third = asyncio.create_task(app(request("/quality"), None, None))
        await _until(lambda: pages.n_inside == 3)
        pages.let.set()
        await asyncio.gather(*hanging, third)
        pages.let.clear()
        again = [asyncio.create_task(app(request("/sources"), None, None)) for _ in range(3)]
        await _until(lambda: pages.n_inside == 2)
        await asyncio.sleep(0.01)
        n_inside = pages.n_inside
        pages.let.set()
        await asyncio.gather(*again)
        return pages.came, n_inside

    came, n_inside = asyncio.run(run())
    assert came[:3] == ["/sources", "/sources", "/quality"]
    assert n_inside == 2


@pytest.mark.parametrize("path", ["/health", "/metrics", "/api/v1/events/stream", "/api/v1/sources/J1/variability"])
def test_what_watches_streams_or_computes_needs_no_turn(path):
    """These are let in beside others whose turn lasts."""

    async def run():
        pages = Pages()
        app = Turns(pages, 1)
        first = asyncio.create_task(app(request("/sources"), None, None))
        await _until(lambda: pages.n_inside == 1)
        second = asyncio.create_task(app(request(path), None, None))
        await asyncio.sleep(0.01)
        n_inside = pages.n_inside
        pages.let.set()
        await asyncio.gather(first, second)
        return n_inside

    assert asyncio.run(run()) == 2
