"""Every page of the portal in a real browser: it renders, stays on the machine, is accessible, and takes reviews."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page
from pydantic import SecretStr

from contimg_resources.products import Products
from contimg_resources.settings import Settings
from contimg_resources.settings_portal import PageSettings
from contimg_resources.store import queries
from contimg_resources.store.connection import Store
from tests.portal.conftest import CANDIDATE, fill_store
from tests.portal.observed_night import OBSERVATION, RUN, add_observed_night
from tests.portal.serving import serve

pytestmark = pytest.mark.e2e

TOKEN = "a-token-of-some-length"  # noqa: S105 (of this test only)
PAGES = {
    "/": 2,
    "/observations": 0,
    f"/observations/{OBSERVATION}": 3,
    "/sources": 1,
    "/sources/J0002+1610": 1,
    "/candidates": 0,
    f"/candidates/{CANDIDATE}": 7,
    "/quality": 2,
    "/operations": 0,
    "/settings": 0,
    "/docs": 0,
    "/absent": 0,
}
"""Address and number of figures."""
_AT = datetime(2026, 1, 25, 22, 40)  # noqa: DTZ001 (UTC without zone, as in the store)
TROUBLE = {
    "dead_letter": {
        "letter_id": "continuum_image:2026-01-25T22:25", "asset": "continuum_image", "partition_key": "2026-01-25T22:25",
        "first_at": _AT, "last_at": _AT, "message": "WSClean failed", "remedy": "Look at its last lines.",
        "n_attempts": 3, "status": "failed",
    },
    "breaker": {
        "stage": "continuum_image", "state": "open", "n_failures": 5, "changed_at": _AT, "reason": "engine_failed",
    },
    "setting_change": {
        "setting": "CONTIMG_FEATURE_FLUX_SCALE", "changed_at": _AT, "old_value": "ensemble", "new_value": "catalogue:10",
        "origin": "environment", "seen_by": "sensor:incoming_observations on host", "code_version": "0.1.0",
    },
    "heartbeat": {"name": "sensor:incoming_observations", "kind": "sensor", "last_at": _AT, "interval_s": 30.0},
    "injection_recovery": {
        "as_of": "2026-01-25", "depth_bin": "0.4-0.6", "duration_bin": "10-20 d", "partition_key": "2026-01-25",
        "n_injected": 40, "n_recovered": 37, "completeness": 0.925, "false_alarms_per_1000_sources": 0.5,
    },
}  # fmt: skip
"""Rows that give the pages of operators something to show."""
_SERIOUS = {"serious", "critical"}
_PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder with a processed observation and a candidate."""
    made = tmp_path_factory.mktemp("portal") / "data"
    made.mkdir()
    store = Store(Products(made).store_path)
    fill_store(store)
    add_observed_night(made)
    for table, row in TROUBLE.items():
        store.upsert(table, pl.DataFrame([row]))
    return made


@pytest.fixture(scope="module")
def portal(folder: Path) -> Iterator[str]:
    """Address of a portal that allows reviews and renews its pages every second."""
    settings = Settings(data=folder, portal_token=SecretStr(TOKEN), pages=PageSettings(refresh_s=1.0, cache_s=0.0))
    with serve(settings) as client:
        yield str(client.base_url).rstrip("/")


def _drawn(page: Page, n_figures: int) -> None:
    """Wait until as many figures as the page promises have a canvas."""
    drawn = "n => [...document.querySelectorAll('.figure')].filter(f => f.firstElementChild).length === n"
    page.wait_for_function(drawn, arg=n_figures)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_render_stay_local_and_are_accessible(page, portal, scheme):
    """Figures are drawn, nothing is said on the console, no request leaves the machine, axe finds nothing serious."""
    page.emulate_media(color_scheme=scheme)
    said: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda message: said.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "://" in request.url else None)
    wrong = []
    for address, n_figures in PAGES.items():
        said.clear()
        page.goto(portal + address)
        _drawn(page, n_figures)
        wrong += [(address, problem) for problem in axe_problems(page)]
        expected = 1 if address == "/absent" else 0  # the browser reports a page that is not found
        wrong += [(address, text) for text in said[expected:]]
    assert wrong == []
    assert hosts == {portal.removeprefix("http://")}


def test_pages_fit_a_phone(page, portal):
    """On 390 pixels no page is wider than the screen: wide tables scroll in their own place."""
    page.set_viewport_size(_PHONE)
    wide = {}
    for address, n_figures in PAGES.items():
        page.goto(portal + address)
        _drawn(page, n_figures)
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > _PHONE["width"]:
            wide[address] = width
    assert wide == {}


def test_all_settings_are_reached_from_every_page(page, portal):
    """The foot of a page leads to the settings; those that have their default are shown when they are asked for."""
    page.goto(f"{portal}/sources")
    page.get_by_role("contentinfo").get_by_role("link", name="Settings").click()
    page.get_by_role("heading", name="Settings", exact=True).wait_for()
    row = page.get_by_role("row").filter(has_text="CONTIMG_MIN_SUBBANDS")
    assert row.count() == 0
    page.locator("summary").click()
    row.wait_for()
    assert axe_problems(page) == []


def axe_problems(page: Page) -> list[str]:
    """What axe finds serious on a page."""
    found = Axe().run(page).response["violations"]
    return [f"{f['id']}: {f['nodes'][0]['html']}" for f in found if f["impact"] in _SERIOUS]


def test_run_opens_in_dagster(page, portal):
    """The link of an observation's run leads to that run."""
    page.goto(f"{portal}/observations/{OBSERVATION}")
    link = page.get_by_role("link", name=RUN[:8]).first
    assert link.get_attribute("href") == f"http://127.0.0.1:3000/runs/{RUN}"


def test_page_renews_itself_without_reloading(page, portal, folder):
    """A new state of an alert appears while the page stays; with renewing switched off it does not."""
    page.goto(portal)
    page.evaluate("window.mark = 'the same page'")
    store = Store(Products(folder).store_path)
    with store.transaction() as connection:
        connection.execute("UPDATE alert SET message = 'gains are very old'")
    page.get_by_text("gains are very old").wait_for()
    assert page.evaluate("window.mark") == "the same page"
    page.get_by_role("button", name="Renew automatically").click()
    with store.transaction() as connection:
        connection.execute("UPDATE alert SET message = 'gains are fine'")
    page.wait_for_timeout(2500)
    assert page.get_by_text("gains are fine").count() == 0


def test_keyboard_reaches_the_content_first(page, portal):
    """The first stop of the keyboard skips to the content."""
    page.goto(f"{portal}/sources")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_enlarged_part_of_an_image_is_fetched(page, portal):
    """Turning the wheel over an image asks for the part in view."""
    page.goto(f"{portal}/observations/{OBSERVATION}")
    _drawn(page, PAGES[f"/observations/{OBSERVATION}"])
    with page.expect_request(lambda request: "sky.png" in request.url and "x0=" in request.url) as asked:
        page.evaluate(
            """() => { const models = Bokeh.documents.flatMap(d => [...d._all_models.values()]);
            const plot = models.find(m => m.name === 'sky-image'); plot.x_range.setv({start: -5, end: 5}); }"""
        )
    assert asked.value.response().status == 200


def test_candidate_is_confirmed_with_the_token_only(page, folder, tmp_path):
    """A wrong token is refused and says so; with the right one the candidate is confirmed and the history shows it."""
    own = tmp_path / "data"
    shutil.copytree(folder, own)
    store = Store(Products(own).store_path)
    with serve(Settings(data=own, portal_token=SecretStr(TOKEN))) as client:
        page.goto(f"{client.base_url}/candidates/{CANDIDATE}")
        page.get_by_label("Reviewer").fill("vera")
        page.get_by_label("Reason").fill("chromatic in all bands")
        page.get_by_label("Token").fill("a wrong token")
        page.get_by_role("button", name="Confirm").click()
        page.get_by_text("The token is wrong").wait_for()
        assert queries.candidate(store, CANDIDATE)["status"] == "detected"
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Confirm").click()
        page.get_by_text("chromatic in all bands").wait_for()
        page.get_by_role("button", name="Reopen").wait_for()
        assert queries.candidate(store, CANDIDATE)["status"] == "confirmed"


def test_a_dead_letter_is_closed_on_the_page(page, portal, folder):
    """Operators resolve a letter with name, reason and token; with a wrong token nothing changes."""
    store = Store(Products(folder).store_path)
    page.goto(f"{portal}/operations")
    section = page.get_by_role("region", name="Dead letters", exact=True).last
    section.get_by_text("Decide").click()
    section.get_by_label("Who").fill("Ada")
    section.get_by_label("Why").fill("WSClean is installed now")
    for token, status in (("a-wrong-token-of-some-length", "failed"), (TOKEN, "resolved")):
        section.get_by_label("Token").fill(token)
        with page.expect_response(lambda answer: "/dead-letters/" in answer.url):
            section.get_by_role("button", name="Resolve").click()
        assert store.query("SELECT status FROM dead_letter")["status"].to_list() == [status]
