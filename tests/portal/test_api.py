"""The API: lists and exports, parameters, limits, the token, computations on demand, decisions about failures."""

import hashlib
import io
import json
import time
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from astropy.io.votable import parse_single_table

from contimg_portal.access import is_token
from contimg_portal.computations import normalise_photometry, search_light_curves
from contimg_portal.jobs import Jobs, QueueFullError
from contimg_resources.products import Products
from contimg_resources.settings import Settings, load_settings
from contimg_resources.settings_api import ApiSettings
from contimg_resources.settings_table import settings_table
from contimg_resources.store import listings
from contimg_resources.store.connection import Store
from tests.portal.operations_rows import fill_operations

TOKEN = "a-token-of-some-length"  # noqa: S105 (of this test only)
HASHED = "sha256:" + hashlib.sha256(TOKEN.encode()).hexdigest()
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def api(tmp_path_factory, synthetic_folder, served):
    """Client of a portal with a token kept as a hash, on a store with failures, alerts and a report."""
    import shutil

    folder = tmp_path_factory.mktemp("api")
    shutil.copytree(synthetic_folder, folder, dirs_exist_ok=True)
    fill_operations(Products(folder))
    with served(Settings(data=folder, portal_token=HASHED)) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "n_items"),
    [
        ("observations?status=quarantined", 1),
        ("sources?name=j0002", 1),
        ("sources?ra_deg=0.5&dec_deg=16.1667&radius_deg=0.01", 1),
        ("sources?min_eta=10", 1),
        ("sources?is_reference=true", 1),
        ("sources/J0002+1610/light-curve?band=band0", 30),
        ("sources/J0002+1610/statistics", 2),
        ("candidates?verdict=ese", 1),
        ("candidates?verdict=systematic", 0),
        ("checks?passed=false", 1),
        ("timings?asset=measurement_set", 3),
        ("injection-recovery?as_of=2026-02-13", 4),
        ("calibration-tables", 1),
        ("dead-letters?status=failed", 1),
        ("breakers", 1),
        ("alerts?severity=warning", 1),
        ("heartbeats", 2),
        ("setting-changes", 3),
        ("setting-changes?setting=CONTIMG_MIN_SUBBANDS", 1),
        ("mosaics", 0),
    ],
)
def test_lists_give_the_rows_that_were_asked_for(api, path, n_items):
    """Each list of the API honours its filters."""
    answer = api.get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["items"]) == n_items


def test_nearest_source_comes_first(api):
    """A cone gives separations, ascending, also across zero hours."""
    items = api.get("/api/v1/sources?ra_deg=359.9&dec_deg=16.1&radius_deg=2").json()["items"]
    assert [item["source_id"] for item in items] == ["J0001+1600", "J0002+1610"]
    # 0.35 deg in right ascension at declination 16, 0.1 in declination.
    assert items[0]["separation_deg"] == pytest.approx(np.hypot(0.35 * np.cos(np.radians(16.05)), 0.1), rel=1e-3)


def test_one_observation_has_its_parts(api):
    """Files, images, checks and timings of an observation come with it."""
    found = api.get("/api/v1/observations/2026-02-13T21:30:00").json()
    assert found["observation"]["status"] == "processed"
    assert [len(found[part]) for part in ("checks", "timings")] == [2, 1]
    assert found["checks"][0]["at"].endswith("Z")


@pytest.mark.parametrize(
    "path", ["observations", "sources", "sources/J0002+1610/light-curve", "candidates", "checks", "dead-letters"]
)
def test_exports_hold_what_the_json_holds(api, path):
    """CSV, Parquet and VOTable have the rows and numbers of the JSON."""
    items = api.get(f"/api/v1/{path}").json()["items"]
    answers = {form: api.get(f"/api/v1/{path}?format={form}") for form in ("csv", "parquet", "votable")}
    assert {answer.status_code for answer in answers.values()} == {200}
    csv = pl.read_csv(answers["csv"].content)
    parquet = pl.read_parquet(io.BytesIO(answers["parquet"].content))
    votable = parse_single_table(io.BytesIO(answers["votable"].content)).to_table()
    assert csv.height == parquet.height == len(votable) == len(items)
    assert csv.columns == parquet.columns == votable.colnames == list(items[0])
    for name, kind in parquet.schema.items():
        if kind.is_float() and parquet[name].null_count() == 0:
            wanted = [item[name] for item in items]
            assert csv[name].to_list() == parquet[name].to_list() == wanted
            assert np.array(votable[name]).tolist() == wanted


def test_exported_columns_have_units(api):
    """A VOTable says that fluxes are Jy and positions degrees."""
    content = api.get("/api/v1/sources/J0002+1610/light-curve?format=votable").content
    assert str(parse_single_table(io.BytesIO(content)).to_table()["flux_jy"].unit) == "Jy"


@pytest.mark.parametrize(
    "path",
    [
        "sources?ra_deg=nan&dec_deg=1",
        "sources?ra_deg=360&dec_deg=1",
        "sources?ra_deg=1&dec_deg=90.1",
        "sources?min_eta=inf",
        "sources?limit=10001",
        "sources?offset=-1",
        "sources?band=full';drop table source",
        "sources?format=xlsx",
        "sources/a'b",
        "observations?status=Processed!",
        "reports/..%2F..",
        "reports/2026-02-1",
        "timings/summary?days=0",
    ],
)
def test_parameters_outside_their_range_are_refused(api, path):
    """Numbers that are not finite, outside the sky or too large, and odd words are 422 (or no route at all)."""
    assert api.get(f"/api/v1/{path}").status_code in ({404} if "%2F" in path else {422})


def test_half_a_position_is_refused(api):
    """A cone needs both coordinates."""
    assert api.get("/api/v1/sources?ra_deg=1").status_code == 400


def test_number_that_json_cannot_write_is_refused(api):
    """NaN in a body is 422, not an error of the portal."""
    body = '{"points": [{"source_id": "a", "mjd": NaN, "flux_jy": 1, "flux_err_jy": 1}]}'
    answer = api.post("/api/v1/variability", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"][0]["loc"][-1]) == (422, "mjd")


def test_report_is_shown_and_runs_nothing(api):
    """A report is listed by day and served whole, in a sandbox without scripts."""
    assert api.get("/api/v1/reports").json()["days"] == ["2026-02-13"]
    answer = api.get("/api/v1/reports/2026-02-13")
    assert "All is well" in answer.text
    assert answer.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert api.get("/api/v1/reports/2026-02-14").status_code == 404


def test_letters_and_alerts_are_decided_with_the_token(api):
    """Retry, resolve and acknowledge change the state once and write history; without the token nothing happens."""
    decision = {"by": "vera", "reason": "disk was full"}
    path = "/api/v1/dead-letters/measurement_set@2026-02-13T21:35"
    assert api.post(f"{path}/retry", json=decision).status_code == 401
    assert api.get(path).json()["status"] == "failed"
    retried = api.post(f"{path}/retry", json=decision, headers=HEADERS)
    assert (retried.status_code, retried.json().get("status")) == (200, "retrying"), retried.text
    assert api.post(f"{path}/retry", json=decision, headers=HEADERS).status_code == 409
    assert api.post(f"{path}/resolve", json=decision, headers=HEADERS).json()["status"] == "resolved"
    found = api.get(path).json()
    assert [event["kind"] for event in found["events"]] == ["retry_requested", "resolved"]
    assert found["resolved_by"] == "vera"
    assert api.post("/api/v1/dead-letters/absent/retry", json=decision, headers=HEADERS).status_code == 404
    alert = "/api/v1/alerts/a1/acknowledge"
    assert api.post(alert, json=decision, headers=HEADERS).json() == {"name": "a1", "status": "acknowledged"}
    assert api.get("/api/v1/alerts?status=acknowledged").json()["items"][0]["acknowledged_by"] == "vera"


@pytest.mark.parametrize("expected", [TOKEN, HASHED, HASHED.upper().replace("SHA256", "sha256")])
def test_token_is_recognised_plain_and_hashed(expected):
    """The setting holds the token or its hash; the hash itself is no token."""
    assert is_token(TOKEN, expected)
    assert not is_token(TOKEN + "x", expected)
    assert not is_token(HASHED, HASHED)


def test_client_that_asks_too_much_is_refused(synthetic_folder, served):
    """After its share of a minute a client gets 429 with Retry-After; health stays open."""
    limited = ApiSettings(reads_per_minute=3, computes_per_minute=1, writes_per_minute=1)
    with served(Settings(data=synthetic_folder, api=limited)) as client:
        codes = [client.get("/api/v1/candidates").status_code for _ in range(5)]
        assert codes in ([200, 200, 200, 429, 429], [200, 200, 200, 429, 200])  # a minute may begin in between
        assert client.get("/health/live").status_code == 200
        posts = [client.post("/api/v1/candidates/x/review", json={}) for _ in range(3)]
        assert posts[-1].status_code == 429
        assert posts[-1].headers["Retry-After"] == "60"


def test_too_large_a_request_is_not_read(synthetic_folder, served):
    """A body above the limit is refused with 413."""
    with served(Settings(data=synthetic_folder, api=ApiSettings(largest_body_mb=0.001))) as client:
        assert client.post("/api/v1/variability", content=b" " * 2000).status_code == 413


def test_other_sites_may_read_only_where_allowed(synthetic_folder, served):
    """CORS is closed by default and open for the origins of the setting."""
    origin = {"Origin": "https://survey.example.org"}
    with served(Settings(data=synthetic_folder)) as client:
        assert "access-control-allow-origin" not in client.get("/api/v1/candidates", headers=origin).headers
    allowed = ApiSettings(cors_origins=["https://survey.example.org"])
    with served(Settings(data=synthetic_folder, api=allowed)) as client:
        answer = client.get("/api/v1/candidates", headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://survey.example.org"


def test_variability_on_demand_is_that_of_the_functions(api, synthetic_folder):
    """A source asked by name gives what the science functions give for its points, and one without points is listed."""
    answer = api.post("/api/v1/variability", json={"source_ids": ["J0002+1610", "absent"]}).json()
    assert [failure["name"] for failure in answer["failed"]] == ["absent"]
    store = Store(Products(synthetic_folder).store_path)
    rows = listings.light_curves_of(store, ["J0002+1610"], limit=1000)
    wanted = search_light_curves(rows.to_dicts(), 0)
    assert [row["eta"] for row in answer["statistics"]] == [row["eta"] for row in wanted["statistics"]]
    assert answer["candidates"][0]["significance"] == wanted["candidates"][0]["significance"]
    single = api.get("/api/v1/sources/J0002+1610/variability").json()
    assert single["statistics"] == answer["statistics"]


def _points(source_id, fluxes):
    return [
        {"source_id": source_id, "mjd": 61_000.0 + k, "flux_jy": flux, "flux_err_jy": 0.01}
        for k, flux in enumerate(fluxes)
    ]


def test_one_bad_source_does_not_spoil_the_others(api):
    """A source in two units is listed as failed with its reason; the other is answered."""
    points = _points("good", [1.0, 1.01, 0.99, 1.0]) + _points("bad", [1.0, 1.0, 1000.0, 1001.0])
    answer = api.post("/api/v1/variability", json={"points": points}).json()
    assert [row["source_id"] for row in answer["statistics"]] == ["good"]
    assert [(f["name"], f["reason_code"]) for f in answer["failed"]] == [("bad", "mixed_units")]


def test_normalisation_removes_a_common_factor():
    """Measurements 10 % too bright come out at their catalogue fluxes, with a factor of 1.1."""
    noise = np.random.default_rng(3)
    rows = []
    for k in range(20):
        flux = 0.1 + 0.05 * k
        rows.append(
            {
                "observation_id": "o",
                "source_id": f"s{k}",
                "band": "full",
                "frequency_hz": 1.4e9,
                "ra_deg": 10.0 + 2 * noise.random(),
                "dec_deg": 16.0 + 2 * noise.random(),
                "peak_flux_jy_beam": 1.1 * flux + 0.001 * noise.standard_normal(),
                "peak_flux_err_jy_beam": 0.001,
                "catalogue_flux_jy": flux,
                "spectral_index": -0.7,
                "is_reference": k % 2 == 0,
            }
        )
    answer = normalise_photometry(rows)
    assert answer["scales"][0]["factor"] == pytest.approx(1.1, rel=0.01)
    assert answer["scales"][0]["n_references"] == 10
    fluxes = {row["source_id"]: row["flux_jy"] for row in answer["measurements"]}
    assert fluxes == pytest.approx({row["source_id"]: row["catalogue_flux_jy"] for row in rows}, rel=0.03)


def test_large_table_is_a_job(api):
    """More points than are answered at once are refused with the way to go, and done as a job."""
    points = [point for k in range(60) for point in _points(f"s{k}", np.linspace(0.9, 1.1, 100))]
    refused = api.post("/api/v1/variability", json={"points": points})
    assert (refused.status_code, "/api/v1/jobs" in refused.json()["detail"]) == (400, True)
    queued = api.post("/api/v1/jobs", json={"kind": "variability", "light_curves": {"points": points}})
    assert queued.status_code == 202
    path = f"/api/v1/jobs/{queued.json()['job_id']}"
    deadline = time.monotonic() + 120
    while api.get(path).json()["status"] != "done":
        assert time.monotonic() < deadline, api.get(path).text
        time.sleep(0.05)
    assert len(api.get(f"{path}/result").json()["statistics"]) == 60
    assert api.get("/api/v1/jobs/absent").status_code == 404


def test_full_queue_refuses():
    """More computations than may wait are refused, and taken again when one has ended."""
    import threading

    gate = threading.Event()
    jobs = Jobs(1)
    first, second = jobs.submit("variability", gate.wait), jobs.submit("variability", gate.wait)
    with pytest.raises(QueueFullError, match="computes already"):
        jobs.submit("variability", gate.wait)
    gate.set()
    deadline = time.monotonic() + 10
    while {first.status, second.status} != {"done"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert jobs.run(lambda: 3) == 3
    jobs.close()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/quality", ["2026-02-13", "Completeness", "image_rms_is_near_thermal", "3C286"]),
        ("/operations", ["measurement_set", "calibration_stale", "half-open", "dagster-daemon", "late", "GB free"]),
        (
            "/settings",
            ["CONTIMG_DATA", "CONTIMG_MIN_SUBBANDS", "fewer sub-bands", "CONTIMG_CONFIG", "(secret)", "not set"],
        ),
    ],
)
def test_pages_of_the_platform_show_the_rows(api, path, expected):
    """Quality, operations and settings show reports, completeness, failures, alerts, services, settings and changes."""
    answer = api.get(path)
    assert answer.status_code == 200
    assert [text for text in expected if text not in answer.text] == []


def test_settings_are_those_of_the_command_and_masked(api):
    """The API, the page and `contimg doctor --settings` have the same rows; the token is in none of them, nor its hash."""
    answer = api.get("/api/v1/settings").json()
    found = {row["name"]: row for row in answer["settings"]}
    assert set(found) == {row.name for row in settings_table(load_settings())}
    assert (found["CONTIMG_PORTAL_TOKEN"]["value"], found["CONTIMG_PORTAL_TOKEN"]["is_secret"]) == ("set", True)
    page = api.get("/settings").text
    assert [name for name in found if name not in page] == []
    for text in (json.dumps(answer), page):
        assert TOKEN not in text
        assert HASHED.removeprefix("sha256:") not in text


def test_settings_are_shown_while_there_is_no_store(served, tmp_path):
    """Before the first observation the page says so and has the settings; the list of changes is refused as other lists are."""
    with served(Settings(data=tmp_path)) as client:
        page = client.get("/settings")
        assert page.status_code == 200
        assert "There is no store" in page.text
        assert "CONTIMG_MIN_SUBBANDS" in page.text
        assert client.get("/api/v1/settings").status_code == 200
        assert client.get("/api/v1/setting-changes").status_code == 503


def test_times_have_their_quantiles(api):
    """Stage timings are summarised by median and 95 %."""
    (stage,) = api.get("/api/v1/timings/summary?days=3650").json()["stages"]
    assert (stage["n_runs"], stage["p50_s"], stage["p95_s"]) == (3, 2.0, pytest.approx(2.9))
    assert datetime.fromisoformat(stage["newest_at"]).tzinfo is not None
