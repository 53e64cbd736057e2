"""Candidates of whole tables: what the demonstration must show, and that remaking changes nothing."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from contimg_assets.science.ese.candidates import CANDIDATE_SCHEMA, find_candidates, tier
from contimg_assets.science.ese.events import EVENT_SCHEMA, candidate_events
from contimg_assets.science.ese.settings import SearchSettings
from tests.science import light_curve_tables as tables

N_CONSTANT = 20
NEWEST = datetime(2026, 1, 28, 6, 48, tzinfo=UTC)
"""The newest observation behind a table of candidates."""


def campaign(rng, *, error=0.01, n_epochs=30):
    """Thirty days of constant sources, a lens, an achromatic dip, a flare and a scintillator."""
    time = tables.sidereal_days(n_epochs)
    peak = time[0] + rng.uniform(0.4, 0.6) * 29.0
    scintillation = 1.0 + 0.1 * tables.ornstein_uhlenbeck(time, 4.0, rng)
    kinds = {
        "lens": tables.lens(time, peak),
        "achromatic": tables.gaussian_dip(time, peak - 1.3),
        "flare": tables.flare(time, peak - 4.0),
        "scintillator": lambda _: scintillation,
    }
    parts = [tables.all_bands(name, time, gain, error, rng) for name, gain in kinds.items()]
    errors = np.geomspace(0.003, 0.1, N_CONSTANT)
    parts += [tables.all_bands(f"constant{k}", time, tables.constant(time), e, rng) for k, e in enumerate(errors)]
    return pl.concat(parts)


@pytest.fixture(scope="module")
def one_campaign():
    """A campaign that several tests look at."""
    return campaign(np.random.default_rng(7))


def find(table, as_of_mjd=np.inf, **options):
    """Candidates with a fixed seed."""
    return find_candidates(table, as_of_mjd, np.random.default_rng(1), **options)


@pytest.mark.parametrize("error", [0.003, 0.02, 0.04])
def test_the_lens_is_an_ese_and_nothing_else_is(error, rng):
    """Three campaigns per error: the lens always, the dip never as ``ese``, flare and constants not at all."""
    for _ in range(3):
        found = dict(find(campaign(rng, error=error)).select("source_id", "verdict").iter_rows())
        assert found.pop("lens") == "ese"
        assert found.pop("achromatic", None) in (None, "achromatic")
        assert found.pop("scintillator", None) in (None, "scintillation")
        assert not found


def test_a_row_says_what_was_found(one_campaign):
    """The lens's row holds its time, depth, strength, tier and evidence, in the columns of the contract."""
    found = find(one_campaign)
    assert found.schema == pl.Schema(CANDIDATE_SCHEMA)
    row = found.filter(source_id="lens").row(0, named=True)
    assert row["status"] == "detected"
    assert row["tier"] == "high"
    assert row["depth"] == pytest.approx(0.5, abs=0.1)
    assert row["duration_d"] == pytest.approx(row["end_mjd"] - row["start_mjd"])
    assert row["start_mjd"] < row["peak_mjd"] < row["end_mjd"]
    assert row["lens_alpha"] == pytest.approx(4.0, rel=0.5)
    assert row["false_alarm_probability"] < 1e-3
    assert row["latency_s"] is None
    evidence = json.loads(row["evidence"])
    assert evidence["searched_band"] == "full"
    assert {points["band"] for points in evidence["points"]} == {"full", "band0", "band1", "band2", "band3"}
    newest = max(points["mjd"][-1] for points in evidence["points"])
    assert row["detected_at"].timestamp() == pytest.approx((newest - 40_587.0) * 86_400.0, abs=1.0)


def test_order_of_rows_changes_nothing(one_campaign, rng):
    """A shuffled table gives the same candidates."""
    shuffled = one_campaign[rng.permutation(one_campaign.height).tolist()]
    assert find(shuffled).equals(find(one_campaign))


def test_later_days_update_the_same_candidate(one_campaign):
    """Day by day from the first detection on, the event keeps its name and time of detection."""
    history = [find(one_campaign, tables.START_MJD + 21.5)]
    for day in (23.5, 26.5, 30.0):
        history.append(find(one_campaign, tables.START_MJD + day, previous=history[-1]))
    rows = [table.filter(source_id="lens") for table in history]
    rows = [row for row in rows if row.height]
    assert len(rows) >= 2
    assert {row.height for row in rows} == {1}
    assert len({row["candidate_id"].item() for row in rows}) == 1
    assert len({row["detected_at"].item() for row in rows}) == 1


def test_a_dip_of_everything_is_systematic(rng):
    """When all sources lose the same part at the same time, it is us."""
    time = tables.sidereal_days(30)
    gain = tables.gaussian_dip(time, time[15], depth=0.4)
    table = pl.concat([tables.all_bands(f"s{k}", time, gain, 0.02, rng) for k in range(8)])
    found = find(table)
    assert found.height >= 6
    assert set(found["verdict"]) == {"systematic"}


def test_a_table_of_one_band_gives_a_candidate_without_verdict(rng):
    """A U shape alone proves nothing."""
    time = tables.sidereal_days(30)
    table = tables.single_band("a", time, tables.lens(time, time[15])(np.float64(1.4e9)), 0.02, rng)
    (row,) = find(table.drop("band", "frequency_hz", "flux_sys_err_jy")).iter_rows(named=True)
    assert row["verdict"] is None
    assert row["chromaticity"] is None
    assert row["significance"] > 5.0


def test_eight_epochs_are_enough_for_a_strong_event(rng):
    """Eight points four days apart, three of them in a dip of 70 per cent, most often give a candidate."""
    hits = 0
    for _ in range(10):
        time = tables.START_MJD + 4.0 * np.arange(8)
        gain = tables.lens(time, time[4], depth=0.7, width_d=3.2)(np.float64(1.4e9))
        hits += find(tables.single_band("a", time, gain, 0.02, rng)).height
    assert hits >= 7


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_few_points_give_no_candidate(n, rng):
    """Too short a light curve is not an error."""
    time = tables.sidereal_days(n)
    assert find(tables.single_band("a", time, np.ones(n), 0.02, rng)).height == 0


def test_two_events_of_one_source_have_two_names(rng):
    """Lensed twice in 100 days, the source has two candidates."""
    time = tables.sidereal_days(100)
    gain = tables.lens(time, time[30])(np.float64(1.4e9)) * tables.lens(time, time[70])(np.float64(1.4e9))
    found = find(tables.single_band("a", time, gain, 0.02, rng))
    assert found["candidate_id"].n_unique() == found.height == 2


def test_flares_and_scintillators_are_no_ese(rng):
    """Forty flares and forty scintillators of all sizes: no flare is a candidate."""
    parts = []
    time = tables.sidereal_days(40)
    for k in range(40):
        peak, amplitude = time[0] + rng.uniform(0.0, 40.0), rng.uniform(0.2, 2.0)
        gain = tables.flare(time, peak, amplitude=amplitude, rise_d=rng.uniform(0.5, 5), decay_d=rng.uniform(2, 15))
        parts.append(tables.single_band(f"flare{k}", time, gain(None), 0.01, rng))
        red = rng.choice([0.05, 0.1, 0.2]) * tables.ornstein_uhlenbeck(time, rng.uniform(2, 10), rng)
        parts.append(tables.single_band(f"scintillator{k}", time, 1.0 + red, 0.01, rng))
    found = find(pl.concat(parts))
    assert not [name for name in found["source_id"] if name.startswith("flare")]
    assert found.height <= 3


def test_events_tell_what_changed_once(one_campaign):
    """Created, then updated with a changed significance and verdict; the same comparison gives the same identifiers."""
    found = find(one_campaign)
    created = candidate_events(found.clear(), found, NEWEST)
    assert created.schema == pl.Schema(EVENT_SCHEMA)
    assert created["kind"].to_list() == ["created"] * found.height
    assert candidate_events(found, found, NEWEST).height == 0
    assert set(created["at"]) == {NEWEST}
    changed = found.with_columns(pl.col("significance") + 1.0, verdict=pl.lit("scintillation"))
    later = NEWEST + timedelta(days=1)
    events = candidate_events(found, changed, later)
    assert set(events["kind"]) == {"updated", "verdict_changed"}
    assert set(events["at"]) == {later}
    assert events.equals(candidate_events(found, changed, later))


@pytest.mark.parametrize("name", ["1328+254", "1237+049", "0851+202"])
def test_real_sources_without_an_event_are_no_ese(name, shared_data):
    """Four years of the Green Bank Interferometer: a constant source, an ordinary one and a wildly variable one."""
    table = tables.gbi_light_curve(shared_data / "gbi_light_curves", name)
    assert "ese" not in find(table)["verdict"].to_list()


def test_the_real_dip_of_0336_is_found_at_four_sigma(shared_data):
    """A dip of a fifth at 2.25 GHz near MJD 51208 in a restless source: not at the usual threshold, but at 4 sigma."""
    table = tables.gbi_light_curve(shared_data / "gbi_light_curves", "0336-019")
    found = find(table, settings=SearchSettings(significance_min=4.0))
    near = found.filter(pl.col("start_mjd") - 2.0 < 51_208.0, pl.col("end_mjd") + 2.0 > 51_208.0)
    assert near.height == 1
    assert near["significance"].item() >= 4.0


def test_tiers():
    """High above 7, medium from 5, low below."""
    assert [tier(z) for z in (7.1, 7.0, 5.0, 4.9)] == ["high", "medium", "medium", "low"]
