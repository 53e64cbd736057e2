"""Answers that are given again: one is made for many, the last one is shown meanwhile, and never one from before an own writing."""

import asyncio
import base64
import gzip

import numpy as np
import polars as pl
import pytest

from contimg_assets.science.coordinates import separation_deg
from contimg_portal import plots
from contimg_portal.kept_pages import KeptAnswers
from contimg_portal.source_frame import sources_near


class Copies:
    """What `KeptAnswers` asks of a store: the number of its copy, and what this process has written."""

    def __init__(self):
        self.number, self.n_written = 1, 0

    def generation(self):
        """Number of the newest copy."""
        return self.number

    def is_small(self):
        """Whether the copy is compared at every question."""
        return False


class Pages:
    """An application whose every answer is the next number, given when it is let."""

    def __init__(self):
        self.n_made = 0
        self.let = asyncio.Event()
        self.let.set()

    async def __call__(self, scope, _receive, send):
        """Answer one request."""
        await self.let.wait()
        self.n_made += 1
        body = f"{scope['path']} {self.n_made}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def ask(app, path="/sources"):
    """Body of an answer."""
    said = []

    async def send(message):
        said.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    await app(scope, None, send)
    return b"".join(message.get("body", b"") for message in said).decode()


def test_one_answer_is_made_for_many_who_ask():
    """Twenty ask at once, one answer is made."""

    async def run():
        pages = Pages()
        app = KeptAnswers(pages, Copies(), kept_s=60.0)
        return await asyncio.gather(*(ask(app) for _ in range(20))), await ask(app, "/sources/J1")

    answers, other = asyncio.run(run())
    assert set(answers) == {"/sources 1"}
    assert other == "/sources/J1 2"


def test_the_last_answer_is_given_while_the_next_is_made():
    """Of two who ask after the time of an answer, the first has the next one made and the second does not wait for it."""

    async def run():
        pages, copies = Pages(), Copies()
        app = KeptAnswers(pages, copies, kept_s=0.2)
        first = await ask(app)
        copies.number += 1
        young = await ask(app)
        await asyncio.sleep(0.25)
        pages.let.clear()
        makes = asyncio.create_task(ask(app))
        await asyncio.sleep(0)
        meanwhile = await asyncio.wait_for(ask(app), 0.3)
        pages.let.set()
        return first, young, meanwhile, await makes, await ask(app)

    assert asyncio.run(run()) == ("/sources 1", "/sources 1", "/sources 1", "/sources 2", "/sources 2")


def test_what_was_written_here_is_never_hidden():
    """After an own transaction no older answer is given, not even while the next is made."""

    async def run():
        pages, copies = Pages(), Copies()
        app = KeptAnswers(pages, copies, kept_s=60.0)
        await ask(app)
        copies.n_written, copies.number = 1, 2
        return await asyncio.gather(ask(app), ask(app))

    assert asyncio.run(run()) == ["/sources 2", "/sources 2"]


def test_a_figure_drawn_once_shows_the_numbers_it_is_given():
    """Two light curves of the same bands have the same models; each has its own points and events."""
    documents = []
    for flux_jy in (0.1, 0.2):
        curve = pl.DataFrame({"band": "full", "mjd": [40_588.0, 40_589.0], "flux_jy": flux_jy, "flux_err_jy": 0.01})
        documents.append(plots.plot_light_curve(curve, events=[(40_588.0, 40_588.0 + flux_jy)]))
    assert documents[0]["root_id"] == documents[1]["root_id"]
    for document, flux_jy in zip(documents, (0.1, 0.2), strict=True):
        columns = _columns_of(document, "points-full")
        assert columns["time"] == pytest.approx([86_400_000.0, 172_800_000.0])
        assert columns["upper"] == pytest.approx([flux_jy + 0.01] * 2)
        event = _attributes_of(document, "event-0")
        assert event["right"] - event["left"] == pytest.approx(flux_jy * 86_400_000.0)


def _attributes_of(part, name):
    """Attributes of the model of that name, anywhere in a document."""
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    if isinstance(part, dict) and isinstance(part.get("attributes"), dict) and part["attributes"].get("name") == name:
        return part["attributes"]
    return next((found for item in inner if (found := _attributes_of(item, name)) is not None), None)


def _columns_of(document, name):
    """Columns of a source as BokehJS reads them."""
    entries = _attributes_of(document, name)["data"]["entries"]
    return {key: np.frombuffer(gzip.decompress(base64.b64decode(value["array"]["data"]))) for key, value in entries}


class NoCache:
    """Gives the frame itself."""

    def __init__(self, frame):
        self.frame = frame

    def get(self, _key, _make):
        """The frame, whatever is asked."""
        return self.frame


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "radius_deg"),
    [(0.05, 16.0, 0.5), (359.95, -16.0, 2.0), (120.0, 89.7, 0.5), (10.0, -89.9, 3.0), (200.0, 60.0, 20.0)],
    ids=["zero hours", "before zero hours", "around the pole", "over the pole", "large"],
)
def test_neighbours_are_those_within_the_radius(ra_deg, dec_deg, radius_deg):
    """The strips that are searched leave nobody out, whatever the position."""
    noise = np.random.default_rng(3)
    n = 20_000
    near = dec_deg + radius_deg * noise.uniform(-1.5, 1.5, n)
    frame = pl.DataFrame({"ra_deg": noise.uniform(0, 360, n), "dec_deg": np.clip(near, -90, 90)})
    distance = separation_deg(ra_deg, dec_deg, frame["ra_deg"].to_numpy(), frame["dec_deg"].to_numpy())
    found = sources_near(NoCache(frame), None, ra_deg, dec_deg, radius_deg)
    assert found.height == int((distance <= radius_deg).sum()) > 0
    assert found["separation_deg"].is_sorted()
