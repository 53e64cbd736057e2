"""The portal: pages, JSON, reviews, health, and what it says when something is missing."""

import json
import re
import socket
import subprocess
import sys

import httpx
import numpy as np
import polars as pl
import pytest

from contimg_assets.science.plasma_lens import light_curve_gain
from contimg_portal import formats, plots
from contimg_portal.lens_models import lens_models
from contimg_resources.products import Products
from contimg_resources.settings import Settings, load_settings
from contimg_resources.store import queries
from contimg_resources.store.connection import Store

CANDIDATE = "J0002+1610-61057"
TOKEN = "a-token-of-some-length"  # noqa: S105 (of this test only)


@pytest.fixture(scope="module")
def portal(synthetic_folder, served):
    """Client of a portal without a token, on a store that nobody writes."""
    with served(Settings(data=synthetic_folder, portal_token=None)) as client:
        yield client


@pytest.fixture
def guarded(filled, served, monkeypatch):
    """Client of a portal that allows reviews."""
    monkeypatch.setenv("CONTIMG_PORTAL_TOKEN", TOKEN)
    with served(load_settings()) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", ["Newest observation", "2026-02-13T21:35:09", "quarantined", CANDIDATE, "300", "Sidereal time"]),
        ("/candidates", [CANDIDATE, "12.4", "high", "ese", "detected", "2026-01-16 21:36"]),
        ("/candidates?status=rejected", ["No candidates in this state"]),
        (
            f"/candidates/{CANDIDATE}",
            ["Sub-bands", "band3", "lens fit", "12.4", "12.4 sigma, verdict ese", "lens fit chi2 lens"],
        ),
        ("/sources", ["J0001+1600", "00:02:00.00", "+16:10:00.1", "42.0"]),
        ("/sources/J0002+1610", ["150 points", "2.1e-53", CANDIDATE]),
        ("/docs", ["/api/v1/candidates/{candidate_id}/review"]),
    ],
)
def test_pages_show_what_the_store_holds(portal, path, expected):
    """Every page answers with the rows' identities and numbers, and with the age of its data."""
    answer = portal.get(path)
    assert answer.status_code == 200
    assert [text for text in expected if text not in answer.text] == []
    if path in {"/", "/candidates", "/sources", "/sources/J0002+1610", f"/candidates/{CANDIDATE}"}:
        assert re.search(r"\d+ d ago", answer.text)


def test_sources_are_ranked_by_eta(portal):
    """The most variable source comes first."""
    page = portal.get("/sources").text
    assert page.index(">J0002+1610</a>") < page.index(">J0001+1600</a>")


def test_figures_are_documents_bokeh_can_read_in_order(portal):
    """Each figure's JSON defines a model before it refers to it, and holds the source's points."""
    page = portal.get("/sources/J0002+1610").text
    found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    defined: set[str] = set()

    def walk(node):
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            if set(node) == {"id"}:
                assert node["id"] in defined
            elif "id" in node:
                defined.add(node["id"])
            for item in node.values():
                walk(item)

    document = json.loads(found[0])
    walk(document)
    assert '"band0"' in found[0]
    assert document["doc"]["roots"]


def test_nothing_comes_from_the_network(portal):
    """Pages load nothing from another host, scripts are files of the portal, and the policy forbids the rest."""
    answer = portal.get(f"/candidates/{CANDIDATE}")
    assert re.findall(r'<(?!a )[^>]*(?:src|href)="(?:https?:)?//', answer.text) == []
    assert re.findall(r"<script(?![^>]*(?:src=|application/json))", answer.text) == []
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    for path in re.findall(r'(?:src|href)="(/(?:static|bokeh)/[^"]+)"', answer.text):
        assert portal.get(path).status_code == 200, path


@pytest.mark.parametrize(
    ("path", "status_code"),
    [
        ("/api/v1/sources/absent/light-curve", 404),
        ("/api/v1/candidates/absent", 404),
        ("/api/v1/candidates?limit=0", 422),
        ("/api/v1/candidates?limit=100000", 422),
        ("/api/v1/absent", 404),
        ("/sources/absent", 404),
        ("/candidates/absent", 404),
        ("/absent", 404),
    ],
)
def test_what_is_not_there_is_said(portal, path, status_code):
    """Unknown ids and wrong parameters are JSON errors for machines and a page for people."""
    answer = portal.get(path)
    assert answer.status_code == status_code
    kind = "application/json" if path.startswith("/api") else "text/html"
    assert answer.headers["content-type"].startswith(kind)


def test_markup_in_data_is_text(filled, served):
    """A source name with markup is shown, not run."""
    name = "<script>alert(1)</script>"
    store = Store(Products(filled.data).store_path)
    store.upsert("source", pl.DataFrame({"source_id": [name], "ra_deg": [1.0], "dec_deg": [2.0]}))
    with served(filled) as client:
        page = client.get("/sources").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


@pytest.mark.parametrize(
    ("path", "n_items"),
    [("observations", 2), ("sources", 2), ("sources/J0002+1610/light-curve", 150), ("candidates", 1)],
)
def test_lists_are_paginated(portal, path, n_items):
    """Following next_offset to the end gives every row once, in the order of one long page."""
    whole = portal.get(f"/api/v1/{path}", params={"limit": 1000}).json()
    assert (len(whole["items"]), whole["next_offset"]) == (n_items, None)
    items, offset = [], 0
    while offset is not None:
        page = portal.get(f"/api/v1/{path}", params={"limit": 60 if n_items > 60 else 1, "offset": offset}).json()
        items += page["items"]
        offset = page["next_offset"]
    assert items == whole["items"]


def test_candidate_has_evidence_and_history(portal):
    """One candidate as JSON carries its evidence as an object and its events."""
    found = portal.get(f"/api/v1/candidates/{CANDIDATE}").json()
    assert [points["band"] for points in found["evidence"]["points"]] == ["full", "band0", "band1", "band2", "band3"]
    assert [event["kind"] for event in found["events"]] == ["created"]


REVIEW = {"kind": "confirm", "by": "vera", "reason": "chromatic in all bands"}


@pytest.mark.parametrize(
    ("headers", "status_code"),
    [({}, 401), ({"Authorization": "Bearer wrong"}, 403), ({"Authorization": f"Basic {TOKEN}"}, 401)],
)
def test_reviews_need_the_token(guarded, filled, headers, status_code):
    """Without the token, or with another, nothing is written."""
    answer = guarded.post(f"/api/v1/candidates/{CANDIDATE}/review", json=REVIEW, headers=headers)
    assert answer.status_code == status_code
    assert TOKEN not in answer.text
    assert queries.candidate(Store(Products(filled.data).store_path), CANDIDATE)["status"] == "detected"


def test_reviews_are_refused_where_no_token_is_set(portal):
    """A portal without a token allows no writing at all and offers no form."""
    answer = portal.post(
        f"/api/v1/candidates/{CANDIDATE}/review", json=REVIEW, headers={"Authorization": "Bearer guess"}
    )
    assert answer.status_code == 403
    assert "CONTIMG_PORTAL_TOKEN" in answer.json()["detail"]
    assert "<form" not in portal.get(f"/candidates/{CANDIDATE}").text


def test_review_is_recorded_and_shown(guarded):
    """Confirm, then reopen: status and history follow, with reviewer and reason."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    path = f"/api/v1/candidates/{CANDIDATE}/review"
    assert guarded.post(path, json=REVIEW, headers=headers).json()["status"] == "confirmed"
    page = guarded.get(f"/candidates/{CANDIDATE}").text
    assert "chromatic in all bands" in page
    assert "Reopen" in page
    reopened = {"kind": "reopen", "by": "joe", "reason": "new epoch"}
    assert guarded.post(path, json=reopened, headers=headers).json()["status"] == "detected"
    events = guarded.get(f"/api/v1/candidates/{CANDIDATE}").json()["events"]
    assert [event["by"] for event in events][1:] == ["vera", "joe"]


@pytest.mark.parametrize("change", [{"kind": "adore"}, {"by": "  "}, {"reason": ""}])
def test_incomplete_reviews_are_refused(guarded, change):
    """A review without a known kind, a reviewer or a reason is not accepted."""
    answer = guarded.post(
        f"/api/v1/candidates/{CANDIDATE}/review", json=REVIEW | change, headers={"Authorization": f"Bearer {TOKEN}"}
    )
    assert answer.status_code == 422


def test_review_of_an_unknown_candidate_is_not_found(guarded):
    """A review needs a candidate."""
    answer = guarded.post("/api/v1/candidates/absent/review", json=REVIEW, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 404


def test_ready_portal_says_so(portal):
    """With a store and a writable folder the portal is alive, ready, and every component is listed."""
    assert portal.get("/health/live").json() == {"status": "alive"}
    assert portal.get("/health/ready").json() == {"status": "ready", "reasons": []}
    names = {component["name"] for component in portal.get("/health").json()["components"]}
    assert {"store", "disk", "instance", "daemon", "sensors", "queue", "catalogue", "calibration", "memory"} <= names


def test_missing_store_is_explained(data_folder, served):
    """Before the first observation pages say so with status 503, the portal is alive but not ready."""
    with served(load_settings()) as client:
        for path in ("/", "/candidates", "/sources", f"/candidates/{CANDIDATE}"):
            answer = client.get(path)
            assert (answer.status_code, "No data yet" in answer.text) == (503, True)
        assert client.get("/api/v1/sources").json()["reason_code"] == "store_missing"
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert "does not exist yet" in ready.json()["reasons"][0]


def test_damaged_store_is_explained(data_folder, served):
    """A store file that is no database gives 503 with the remedy, on pages and in health."""
    settings = load_settings()
    Products(settings.data).store_path.write_bytes(b"no database" * 1000)
    with served(settings) as client:
        answer = client.get("/")
        assert (answer.status_code, "contimg store rebuild" in answer.text) == (503, True)
        assert client.get("/health").json()["status"] == "unhealthy"
        assert client.get("/health/ready").status_code == 503


def test_empty_store_has_pages(data_folder, served):
    """A store without rows shows pages that say what will appear."""
    settings = load_settings()
    Store(Products(settings.data).store_path).initialise()
    with served(settings) as client:
        for path in ("/", "/candidates", "/sources"):
            answer = client.get(path)
            assert (answer.status_code, 'class="empty"' in answer.text) == (200, True)


def test_command_serves_and_refuses_a_taken_port(filled, project_root):
    """`contimg portal` answers on its port; a second one on that port fails with exit code 1 and the remedy."""
    script = "import typer; from contimg_portal.commands.portal import portal; typer.run(portal)"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-c", script, "--port", str(taken.getsockname()[1])]
        refused = subprocess.run(command, capture_output=True, text=True, cwd=project_root, timeout=60, check=False)
    assert refused.returncode == 1
    assert "Choose another with --port" in refused.stderr
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=project_root)
    try:
        assert "Portal on http://127.0.0.1:" in running.stderr.readline()
        url = f"http://127.0.0.1:{command[-1]}/health/ready"
        with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:
            assert client.get(url, timeout=30).json()["status"] == "ready"
    finally:
        running.terminate()
        running.wait(timeout=30)
        running.stderr.close()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formats.right_ascension(359.999999), "00:00:00.00"),
        (formats.right_ascension(202.784583), "13:31:08.30"),
        (formats.declination(-0.001), "-00:00:03.6"),
        (formats.declination(30.50915), "+30:30:32.9"),
        (formats.number(0.0), "0.00"),
        (formats.number(12.349), "12.3"),
        (formats.number(8), "8"),
        (formats.number(3.21e-9), "3.21e-09"),
        (formats.number(None), "–"),
        (formats.number(float("nan")), "–"),
        (formats.utc(60_000.5), "2023-02-25 12:00"),
        (formats.utc(None), "–"),
        (formats.age(60_000.0, formats.from_mjd(60_000.02)), "29 min ago"),
        (formats.age(60_000.0, formats.from_mjd(60_003.0)), "3 d ago"),
        (formats.age(60_000.5, formats.from_mjd(60_000.0)), "in 12 h"),
        (formats.age(None, formats.from_mjd(60_000.0)), "no data yet"),
    ],
)
def test_numbers_times_and_positions_are_written_one_way(written, expected):
    """Rounding carries over, the missing is a dash, ages take the unit that suits."""
    assert written == expected


def test_lens_models_follow_the_bands():
    """Without noise the curve passes through the points of each band and is deepest at the lowest frequency."""
    fit = {"alpha": 1.0, "lens_width_d": 3.0, "source_fwhm": 0.5, "compact_fraction": 0.8, "peak_mjd": 60_010.3}
    mjd = np.arange(60_000.0, 60_021.0)
    points = [
        {
            "band": band,
            "frequency_hz": frequency_hz,
            "mjd": mjd.tolist(),
            "flux_jy": (level * light_curve_gain(mjd, 60_010.3, 3.0, 1.0, 0.5, frequency_hz, 1.4e9, 0.8)).tolist(),
            "flux_err_jy": [0.01] * 21,
        }
        for band, frequency_hz, level in (("band0", 1.33e9, 0.3), ("band3", 1.47e9, 0.2))
    ]
    models = lens_models({"lens_fit": fit, "searched_frequency_hz": 1.4e9, "points": points})
    for given in points:
        model = models[given["band"]]
        assert np.interp(mjd, model["mjd"], model["flux_jy"]) == pytest.approx(given["flux_jy"], rel=2e-3)
    depth = {band: model["flux_jy"].min() / model["flux_jy"].max() for band, model in models.items()}
    assert depth["band0"] < depth["band3"] < 1
    assert lens_models({"lens_fit": None, "points": points}) == {}


def test_unmeasured_points_are_left_out_of_figures():
    """A point without flux, or without an error, does not break the figure."""
    curve = pl.DataFrame(
        {"band": "full", "mjd": [1.0, 2.0, 3.0], "flux_jy": [0.1, None, 0.2], "flux_err_jy": [0.01, 0.01, None]}
    )
    document = plots.plot_light_curve(curve, events=[])
    assert json.dumps(document).count('"shape": [2]') == 5  # time, flux, error and both ends of the bar
    assert plots.plot_bands(curve, events=[], models={}) == {}
