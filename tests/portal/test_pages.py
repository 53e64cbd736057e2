"""The pages of the portal: what each shows of a processed observation, and the rules behind the colours."""

import io
import re
import shutil
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import polars as pl
import pytest
from PIL import Image

from contimg_assets.science.calibration.antenna_states import judge_antennas
from contimg_portal.limits import age_level, asset_level, level
from contimg_portal.source_frame import SourceFilter, filtered_sources, read_position
from contimg_portal.stages import count_states, stage_states
from contimg_portal.store_cache import StoreCache
from contimg_resources.products import Products
from contimg_resources.settings import Settings, load_settings
from contimg_resources.settings_portal import PageSettings
from contimg_resources.store.connection import Store
from tests.portal.observed_night import CELL_DEG, OBSERVATION, RUN, add_observed_night

WEST_SOURCE, WEST_OBSERVATION = "J1200-4500", "2026-03-01T06:00:00"
TOKEN = "a-token-of-some-length"  # noqa: S105 (of this test only)


@pytest.fixture(scope="module")
def night_folder(tmp_path_factory, synthetic_folder):
    """Data folder with a processed observation; not to be written."""
    folder = tmp_path_factory.mktemp("night") / "data"
    shutil.copytree(synthetic_folder, folder)
    add_observed_night(folder)
    return folder


@pytest.fixture(scope="module")
def west_folder(tmp_path_factory):
    """Data folder of another site, which saw another source on another day."""
    folder = tmp_path_factory.mktemp("west") / "data"
    store = Store(Products(folder).store_path)
    source = {"source_id": WEST_SOURCE, "ra_deg": 180.0, "dec_deg": -45.0, "catalogue_flux_jy": 1.5}
    store.upsert("source", pl.DataFrame([source | {"is_reference": True, "is_extended": False, "catalogue": "RACS"}]))
    seen = {"observation_id": WEST_OBSERVATION, "partition_key": WEST_OBSERVATION[:16], "start_mjd": 61_100.25}
    seen |= {"duration_s": 309.24, "pointing_ra_deg": 180.1, "pointing_dec_deg": -45.0, "n_subbands": 16}
    store.upsert("observation", pl.DataFrame([seen | {"status": "processed", "reason_code": None}]))
    mjd = 61_090.0 + np.arange(12.0)
    points = pl.DataFrame({"epoch_mjd": mjd, "mjd": mjd, "flux_jy": 1.5 + 0.01 * np.sin(mjd)})
    points = points.with_columns(
        source_id=pl.lit(WEST_SOURCE),
        band=pl.lit("full"),
        frequency_hz=pl.lit(1.405e9),
        flux_err_jy=pl.lit(0.01),
        n_observations=pl.lit(3),
        flags=pl.lit(0),
    )
    store.replace("light_curve", points, partition_key="2026-03-01")
    statistics = {"source_id": WEST_SOURCE, "band": "full", "as_of_mjd": 61_102.0, "n_epochs": 12}
    statistics |= {"mean_flux_jy": 1.5, "weighted_mean_flux_jy": 1.5, "modulation_index": 0.007, "eta": 1.1}
    statistics |= {"debiased_modulation_index": 0.001, "chi2_p_value": 0.4, "von_neumann": 2.0}
    statistics |= {"max_deviation_sigma": 1.0, "first_mjd": 61_090.0, "last_mjd": 61_101.0}
    store.replace("variability_statistics", pl.DataFrame([statistics]), partition_key="2026-03-01")
    return folder


@pytest.fixture(scope="module")
def night(night_folder, west_folder, served):
    """Client of a portal of the first folder, which shows the other site too."""
    settings = Settings(data=night_folder, sites=f"west={west_folder}", portal_token=None)
    with served(settings) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", ["Dead: a3", "Weak: a5", "gains are old", "calibration_is_stale", "west"]),
        ("/observations", ["2026-02-13", "16/16", "9/16", "too_few_subbands"]),
        (f"/observations/{OBSERVATION}", ["nearest_valid", "image rms is near thermal", "sb15.hdf5", "1.010"]),
        ("/sources", ["B0003+1605", "transient", "<polyline", "30 epochs"]),
        ("/sources/B0003+1605", ["found outside the catalogue"]),
        ("/sources/J0002+1610", ["No catalogue source nearby", "Nobody has said anything"]),
        ("/sites/west/settings", ["Processes of west have settings of their own"]),
    ],
)
def test_pages_show_a_processed_observation(night, path, expected):
    """Antenna states, stages, calibration, checks, files, blind sources and neighbours are on their pages."""
    answer = night.get(path)
    assert answer.status_code == 200
    assert [text for text in expected if text not in answer.text] == []


def test_runs_are_linked_in_dagster(night):
    """The page of an observation links to the run that the store noted, at the configured Dagster."""
    page = night.get(f"/observations/{OBSERVATION}").text
    assert f'href="http://127.0.0.1:3000/runs/{RUN}"' in page


def test_another_site_is_shown_below_its_name_and_cannot_be_written(night):
    """All links of a further site stay below its address, and it has no links to a Dagster that is not its own."""
    answer = night.get("/sites/west/observations")
    assert answer.status_code == 200
    assert f'href="/sites/west/observations/{WEST_OBSERVATION[:13]}' in answer.text
    assert re.findall(r'href="/(?!sites/west/)[^"]*observations', answer.text) == []
    assert "127.0.0.1:3000" not in answer.text
    assert night.get("/sites/west/api/v1/candidates/absent").json()["reason_code"] == "http"
    review = {"kind": "confirm", "by": "vera", "reason": "good"}
    path = "/sites/west/api/v1/candidates/J0002+1610-61057/review"
    assert night.post(path, json=review, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 403


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("/", "contimg"),
        ("/observations", "observation"),
        ("/sources", "source"),
        ("/candidates", ""),
        ("/api/v1/sources", "source"),
        ("/api/v1/observations", "observation"),
    ],
)
def test_sites_are_not_mixed(night, page, shown):
    """Every page of a site shows its own sources and observations, none of the other's; asked in turns, as copies are kept."""
    of_west = {"source": WEST_SOURCE, "observation": WEST_OBSERVATION}
    of_home = {"source": "J0002+1610", "observation": OBSERVATION}
    for _ in range(2):
        west, home = night.get(f"/sites/west{page}"), night.get(page)
        assert (west.status_code, home.status_code) == (200, 200)
        assert of_west.get(shown, shown) in west.text
        assert of_home.get(shown, shown) in home.text
        assert [text for text in (*of_home.values(), "J0001+1600", "B0003+1605") if text in west.text] == []
        assert [text for text in of_west.values() if text in home.text] == []


def test_sources_of_one_site_are_absent_at_the_other(night):
    """A source and an observation have a page where they were seen, and their points come from there; nowhere else."""
    for base, other, source, observation, n_epochs in (
        ("/sites/west", "", WEST_SOURCE, WEST_OBSERVATION, 12),
        ("", "/sites/west", "J0002+1610", OBSERVATION, 30),
    ):
        assert f"{n_epochs}" in night.get(f"{base}/sources/{source}").text
        points = night.get(f"{base}/api/v1/sources/{source}/light-curve")
        assert points.status_code == 200
        assert night.get(f"{base}/observations/{observation}").status_code == 200
        for path in (f"/sources/{source}", f"/api/v1/sources/{source}/light-curve", f"/observations/{observation}"):
            assert night.get(f"{other}{path}").status_code == 404


def test_cutout_shows_the_source_in_its_middle(night):
    """The brightest pixel of a cut-out is at its centre, and it has the size asked for."""
    asked = {"ra_deg": 0.25, "dec_deg": 16.0, "size_arcmin": 12}
    answer = night.get(f"/observations/{OBSERVATION}/cutout.png", params=asked)
    with Image.open(io.BytesIO(answer.content)) as picture:
        pixels = np.asarray(picture.convert("L"), dtype=float)
    assert pixels.shape == (2 * round(0.1 / CELL_DEG) + 1,) * 2
    assert np.abs(np.array(np.unravel_index(pixels.argmax(), pixels.shape)) - pixels.shape[0] // 2).max() <= 1


@pytest.mark.parametrize(
    ("path", "status_code"),
    [
        (f"/observations/{OBSERVATION}/sky.png?x0=10&x1=40&y0=0&y1=20", 200),
        (f"/observations/{OBSERVATION}/sky.png?x0=90000&x1=-5", 200),
        (f"/observations/{OBSERVATION}/sky.png?band=band9", 404),
        (f"/observations/{OBSERVATION}/sky.png?band=../../x", 422),
        (f"/observations/{OBSERVATION}/cutout.png?ra_deg=180&dec_deg=16", 404),
        (f"/observations/{OBSERVATION}/cutout.png?ra_deg=nan&dec_deg=16", 422),
        ("/observations/absent", 404),
        ("/observations?day=2026-02-31", 422),
        ("/sources?eta_min=&sort=&q=", 200),
        ("/sources?eta_min=nan", 422),
        ("/sources?sort=password", 422),
    ],
)
def test_parameters_are_checked(night, path, status_code):
    """Parts of images are clipped to the image; what does not exist or is no number is refused."""
    assert night.get(path).status_code == status_code


def test_sources_are_found_by_name_and_by_position(night):
    """A part of the name, or a place, leaves the sources that fit."""
    by_name = night.get("/sources", params={"q": "0002"}).text
    assert ("1 of 2" in by_name, ">J0001+1600<" in by_name) == (True, False)
    by_place = night.get("/sources", params={"q": "00:01:00 +16:00:00", "radius_arcmin": 3}).text
    assert ("1 of 2" in by_place, ">J0001+1600<" in by_place) == (True, True)


def test_comment_needs_the_token_and_is_shown(filled, served, monkeypatch):
    """A comment is refused without the token, and with it appears on the page of its source."""
    monkeypatch.setenv("CONTIMG_PORTAL_TOKEN", TOKEN)
    said = {"by": "vera", "comment": "resolved in VLASS"}
    with served(load_settings()) as client:
        path = "/api/v1/sources/J0001+1600/comments"
        assert client.post(path, json=said).status_code == 401
        assert "resolved in VLASS" not in client.get("/sources/J0001+1600").text
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post(path, json=said, headers=headers).status_code == 201
        assert client.post("/api/v1/sources/absent/comments", json=said, headers=headers).status_code == 404
        assert "resolved in VLASS" in client.get("/sources/J0001+1600").text


FACTS = {
    "status": "processed", "n_subbands": 16, "made_assets": ["measurement_set", "gain_table", "continuum_image",
    "forced_photometry"], "fallbacks": ["none", "none"], "n_images": 5, "n_scaled": 5, "refused_assets": None,
    "failed_assets": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "states"),
    [
        ({}, "complete complete complete complete complete"),
        ({"n_subbands": 13}, "partial partial complete complete complete"),
        ({"fallbacks": ["none", "nearest_valid"]}, "complete complete partial complete complete"),
        ({"n_scaled": 0}, "complete complete complete complete partial"),
        (
            {"status": "collecting", "n_subbands": 3, "made_assets": None, "fallbacks": None, "n_images": 0},
            "waiting waiting waiting waiting waiting",
        ),
        (
            {"status": "quarantined", "made_assets": None, "fallbacks": None, "n_images": 0},
            "failed blocked blocked blocked blocked",
        ),
        (
            {"status": "ready", "made_assets": ["measurement_set"], "fallbacks": None, "n_images": 0,
             "refused_assets": ["measurement_set"]},
            "complete complete blocked blocked blocked",
        ),
        (
            {"status": "ready", "made_assets": ["measurement_set"], "fallbacks": None, "n_images": 0,
             "failed_assets": ["gain_table"]},
            "complete complete failed blocked blocked",
        ),
    ],
    ids=["whole", "late sub-bands", "old calibration", "no scale", "arriving", "quarantined", "refused", "given up"],
)  # fmt: skip
def test_stage_states(change, states):
    """Each way in which an observation can be incomplete has its words."""
    assert list(stage_states(FACTS | change, 16).values()) == states.split()


def test_states_are_counted_by_stage():
    """Two observations of which one is late."""
    counted = count_states([stage_states(FACTS, 16), stage_states(FACTS | {"n_subbands": 13}, 16)])
    assert counted["arrived"] == {"complete": 1, "partial": 1}
    assert counted["imaged"] == {"complete": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("83.1 +16.5", (83.1, 16.5)),
        ("83.1, -16.5", (83.1, -16.5)),
        ("05:32:24.0 -00:30:00", (83.1, -0.5)),
        ("05h32m24s +16d30m", (83.1, 16.5)),
        ("J0521+1638", None),
        ("400 10", None),
    ],
)
def test_typed_positions(text, expected):
    """Degrees and sexagesimal are positions, names and impossible places are not."""
    found = read_position(text)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_sources_are_filtered_and_sorted():
    """Limits leave out what is below or unknown; an order puts the unknown last."""
    frame = pl.DataFrame(
        {"source_id": ["a", "b", "c"], "eta": [9.0, 2.0, None], "modulation_index": [0.1, 0.3, None],
         "n_candidates": [0, 1, 0], "is_reference": [True, False, False], "is_extended": False, "ra_deg": [10.0, 359.999, 0.001],
         "dec_deg": [0.0, 0.0, 0.0], "n_epochs": [5, 9, 0]}
    )  # fmt: skip
    names = lambda **asked: filtered_sources(frame, SourceFilter(**asked))["source_id"].to_list()  # noqa: E731
    assert names() == ["a", "b", "c"]
    assert names(eta_min=3.0) == ["a"]
    assert names(kind="candidates") == ["b"]
    assert names(sort="v") == ["b", "a", "c"]
    assert names(text="0.0 0.0", radius_arcmin=1.0) == ["b", "c"]


def test_levels_follow_the_limits():
    """Ages and numbers turn amber and red beyond their limits; what is unknown is not good."""
    settings, now = PageSettings(), datetime(2026, 2, 1, tzinfo=UTC)
    assert [level(value, 1, 2) for value in (1, 1.5, 2.5, None, float("nan"))] == [
        "good", "amber", "red", "unknown", "unknown",
    ]  # fmt: skip
    ago = [age_level(now - timedelta(hours=h), "observation", settings, now) for h in (0.4, 0.6, 6.1)]
    assert ago == ["good", "amber", "red"]
    assert asset_level("light_curves", now - timedelta(hours=25), settings, now) == "good"
    assert asset_level("continuum_image", now - timedelta(hours=25), settings, now) == "red"
    assert asset_level("reference_catalogue", now - timedelta(days=90), settings, now) == "good"


def test_page_limits_must_be_in_order():
    """A red limit below the amber one is refused."""
    with pytest.raises(ValueError, match="observation_amber_h 7 exceeds observation_red_h"):
        PageSettings(observation_amber_h=7.0)


def test_answers_are_kept_while_the_store_stays(tmp_path):
    """An answer is made once per version of the file; after a change it is shown once more while the next is made."""
    path, now, made = tmp_path / "store", [0.0], []
    path.write_text("1")
    cache = StoreCache(path, 10.0, clock=lambda: now[0])
    make = lambda: made.append(1) or len(made)  # noqa: E731
    assert [cache.get("k", make), cache.get("k", make)] == [1, 1]
    now[0] = 500.0
    assert cache.get("k", make) == 1  # however old: nothing has changed
    path.write_text("22")
    now[0] = 530.0
    assert cache.get("k", make) == 2  # 530 s old and changed: not shown any more
    path.write_text("333")
    now[0] = 545.0
    assert cache.get("k", make) == 2  # a little too old: shown once more
    for _ in range(200):
        if len(made) == 3:
            break
        time.sleep(0.01)
    assert cache.get("k", make) == 3


def test_one_answer_is_made_for_all_who_wait(tmp_path):
    """Visitors who ask for the same at once wait for one answer."""
    cache, made = StoreCache(tmp_path / "absent", 10.0), []

    def make():
        time.sleep(0.05)
        made.append(1)
        return len(made)

    threads = [threading.Thread(target=cache.get, args=("k", make)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_antennas_that_stand_out_are_weak():
    """Factor two in gain, poor signal-to-noise and much flagging make an antenna weak; no solution makes it dead."""
    gains, flags = np.ones((10, 8, 1, 2), dtype=complex), np.zeros((10, 8, 1, 2), dtype=bool)
    snr = np.full(gains.shape, 50.0, dtype=np.float32)
    gains[:, 1], snr[:, 2], flags[:4, 3], flags[:, 4] = 2.5, 10.0, True, True
    judged = judge_antennas(gains, flags, snr)
    assert judged.state == ("good", "weak", "weak", "weak", "dead", "good", "good", "good")
    assert np.isnan(judged.snr[4])
    assert judge_antennas(gains, np.ones_like(flags), snr).state == ("dead",) * 8


@pytest.mark.parametrize("sites", ["west", "west=", "../up=/data"])
def test_wrong_sites_are_refused(monkeypatch, sites):
    """Sites need a plain name and a folder."""
    with pytest.raises(ValueError, match=r"name=data folder|letters, digits"):
        Settings(sites=sites)


def test_pages_are_quick_enough_to_be_asked_all_the_time(night):
    """Once its figures are kept, a page takes a fraction of a second even on a busy machine."""
    for path in ("/", "/observations", "/sources"):
        night.get(path)
        answers: list[httpx.Response] = [night.get(path) for _ in range(3)]
        assert min(answer.elapsed.total_seconds() for answer in answers) < 1.0
