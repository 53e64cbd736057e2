"""Dips made by how the points were observed: tile edges, dropouts of antennas, fallback calibration; and events that are not."""

import json

import numpy as np
import polars as pl
import pytest

from contimg_assets.science.ese.candidates import find_candidates
from contimg_assets.science.ese.conditions import best_condition
from contimg_assets.science.ese.detect import find_dip
from contimg_assets.science.ese.noise import noise_grid
from contimg_assets.science.ese.series import CONDITIONS, Series, source_series, split_bands, usable_rows
from contimg_assets.science.ese.settings import SearchSettings
from tests.science import light_curve_tables as tables

N_DAYS = 60
N_DRAWN = 25
"""Light curves of each kind; one wrong verdict in them is 4 per cent."""


def usual_conditions(rng):
    """The tiles' phase of about four days, an antenna or two coming and going, single days at an edge or on a fallback."""
    day = np.arange(N_DAYS)
    beam = 0.88 + 0.05 * np.sin(2.0 * np.pi * day / 4.2 + rng.uniform(0.0, 6.0)) + 0.01 * rng.standard_normal(N_DAYS)
    beam[rng.random(N_DAYS) < 0.05] = rng.uniform(0.25, 0.5)
    antennas = 94.0 + rng.integers(0, 3, N_DAYS)
    antennas[rng.random(N_DAYS) < 0.05] -= rng.integers(5, 20)
    fallback = (rng.random(N_DAYS) < 0.05).astype(float)
    return {"primary_beam": beam, "n_antennas": antennas, "calibration_fallback": fallback}


def some_days(rng):
    """Seven to ten days in the middle of the light curve."""
    first = int(rng.integers(20, 32))
    return slice(first, first + int(rng.integers(7, 11)))


def at_the_edge(conditions, rng):
    """Some days see the source at tile edges only, where the beam model is wrong by a tenth to a half of its change."""
    days = some_days(rng)
    conditions["primary_beam"][days] = rng.uniform(0.25, 0.5, days.stop - days.start)
    return (conditions["primary_beam"] / 0.9) ** rng.uniform(0.3, 0.6)


def pointing_drifts(conditions, rng):
    """The source wanders out of the beam and back within some weeks."""
    day, middle = np.arange(N_DAYS), rng.uniform(25.0, 35.0)
    conditions["primary_beam"] *= 1.0 - 0.6 * np.exp(-0.5 * ((day - middle) / rng.uniform(3.0, 5.0)) ** 2)
    return (conditions["primary_beam"] / 0.9) ** rng.uniform(0.4, 0.8)


def antennas_drop_out(conditions, rng):
    """A tenth to a quarter of the antennas is off for some days, and flux goes with the number of antennas squared."""
    days = some_days(rng)
    off = rng.integers(10, 25)
    conditions["n_antennas"][days] -= off + rng.integers(0, 4, days.stop - days.start)
    return (conditions["n_antennas"] / 96.0) ** 2


def calibration_is_a_fallback(conditions, rng):
    """The table of another day serves for some days, and not the days before and after, and gives a fifth to a half less."""
    days = some_days(rng)
    conditions["calibration_fallback"][days.start - 1 : days.stop + 1] = 0.0
    conditions["calibration_fallback"][days] = 1.0
    gain = np.ones(N_DAYS)
    gain[days] -= rng.uniform(0.2, 0.5)
    return gain


ARTEFACTS = {
    "edge": (at_the_edge, "primary_beam"),
    "drift": (pointing_drifts, "primary_beam"),
    "antennas": (antennas_drop_out, "n_antennas"),
    "calibration": (calibration_is_a_fallback, "calibration_fallback"),
}


def series_of(gain, conditions, error, rng):
    """A series of relative flux densities with its conditions."""
    value = gain + error * rng.standard_normal(N_DAYS)
    level = float(np.median(value))
    return Series(
        "a",
        "full",
        1.4e9,
        tables.sidereal_days(N_DAYS),
        value / level,
        np.full(N_DAYS, error / level),
        level,
        conditions,
    )


def judged(series):
    """The dip of a series and the condition that explains it best."""
    settings = SearchSettings()
    dip = find_dip(series, settings, noise_grid(1.0))
    if dip is None or not dip.is_credible or dip.significance < 5.0:
        return None, None
    return dip, best_condition(series, dip, settings.fractional_error_floor)


@pytest.mark.parametrize("error", [0.01, 0.04])
@pytest.mark.parametrize("kind", ARTEFACTS)
def test_dips_of_our_own_making_have_their_cause(kind, error):
    """Whatever of them looks like an event is laid to the condition that made it, 19 times in 20 or more."""
    rng = np.random.default_rng([len(kind), int(100 * error)])
    make, name = ARTEFACTS[kind]
    found = []
    for _ in range(N_DRAWN):
        conditions = usual_conditions(rng)
        dip, fit = judged(series_of(make(conditions, rng), conditions, error, rng))
        if dip is not None:
            found.append(fit is not None and fit.is_cause and fit.condition == name)
    assert len(found) >= N_DRAWN // 2
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("error", [0.01, 0.04])
def test_events_under_usual_conditions_are_not_vetoed(error):
    """Fifty lenses of all depths while tiles, antennas and calibration do what they usually do: none has a cause of ours."""
    rng = np.random.default_rng([17, int(100 * error)])
    n_found = 0
    for _ in range(2 * N_DRAWN):
        peak, depth = rng.uniform(20.0, 40.0), rng.uniform(0.25, 0.75)
        gain = tables.lens(np.arange(float(N_DAYS)), peak, depth=depth, width_d=rng.uniform(1.8, 5.0))(1.4e9)
        dip, fit = judged(series_of(gain, usual_conditions(rng), error, rng))
        if dip is not None:
            n_found += 1
            assert fit is not None
            assert not fit.is_cause
    assert n_found >= 1.5 * N_DRAWN


def test_a_lens_in_the_days_of_a_dropout_is_told_by_its_shape():
    """At 1 per cent a lens is smooth and begins before the dropout that it coincides with: 25 of 25 are no effect of it."""
    rng = np.random.default_rng(23)
    for _ in range(N_DRAWN):
        conditions = usual_conditions(rng)
        days = some_days(rng)
        conditions["n_antennas"][days] -= 20
        peak = 0.5 * (days.start + days.stop - 1)
        width_d = (days.stop - days.start) / 3.4
        gain = tables.lens(np.arange(float(N_DAYS)), peak, depth=0.5, width_d=width_d)(1.4e9)
        dip, fit = judged(series_of(gain, conditions, 0.01, rng))
        assert dip is not None
        assert not fit.is_cause


def test_a_bright_source_that_follows_the_beam_may_still_be_lensed(rng):
    """A beam wrong by a tenth of its change, seen at 0.3 per cent in every epoch, does not take a real dip away."""
    conditions = usual_conditions(rng)
    gain = tables.lens(np.arange(float(N_DAYS)), 30.0, depth=0.4)(1.4e9) * (conditions["primary_beam"] / 0.9) ** 0.1
    dip, fit = judged(series_of(gain, conditions, 0.003, rng))
    assert dip is not None
    assert not fit.is_cause


@pytest.mark.parametrize("change", ["unknown", "constant", "constant but for rounding", "known only outside"])
def test_without_a_condition_that_changes_there_is_nothing_to_say(change, rng):
    """NaN, one value throughout, means of one value, or none within the dip: no fit at all."""
    values = np.full(N_DAYS, np.nan if change == "unknown" else 0.9)
    if change == "constant but for rounding":
        values *= 1.0 + 1e-15 * rng.standard_normal(N_DAYS)
    if change == "known only outside":
        values = 0.9 + 0.01 * rng.standard_normal(N_DAYS)
        values[20:40] = np.nan
    gain = tables.lens(np.arange(float(N_DAYS)), 30.0)(1.4e9)
    dip, fit = judged(series_of(gain, {"primary_beam": values}, 0.02, rng))
    assert dip is not None
    assert fit is None


def table_of(gain_at, conditions, error, rng):
    """A light-curve table of one source in all bands, its conditions in the columns of the store."""
    table = tables.all_bands("a", tables.sidereal_days(N_DAYS), gain_at, error, rng)
    known = pl.DataFrame({"mjd": tables.sidereal_days(N_DAYS), **conditions})
    return table.join(known, on="mjd", how="left")


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_the_verdict_is_systematic_and_the_evidence_says_why(kind, rng):
    """From the table to the candidate: the same light curve without its conditions would not be ``systematic``."""
    make, name = ARTEFACTS[kind]
    conditions = usual_conditions(rng)
    gain = make(conditions, rng)
    table = table_of(lambda _: gain, conditions, 0.02, rng)
    (row,) = find_candidates(table, np.inf, np.random.default_rng(1)).iter_rows(named=True)
    evidence = json.loads(row["evidence"])
    assert row["verdict"] == "systematic"
    assert evidence["systematic_cause"] == name
    assert evidence["surroundings"]["condition"]["log_evidence"] > 0.0
    (blind,) = find_candidates(table.drop(conditions), np.inf, np.random.default_rng(1)).iter_rows(named=True)
    assert blind["verdict"] != "systematic"
    assert blind["significance"] == row["significance"]


def test_a_lens_under_usual_conditions_stays_an_ese(rng):
    """The columns change neither what is found nor what it is called."""
    time = tables.sidereal_days(N_DAYS)
    table = table_of(tables.lens(time, time[30]), usual_conditions(rng), 0.02, rng)
    (row,) = find_candidates(table, np.inf, np.random.default_rng(1)).iter_rows(named=True)
    (blind,) = find_candidates(table.drop(set(CONDITIONS) & set(table.columns)), np.inf, np.random.default_rng(1)).rows(
        named=True
    )
    assert row["verdict"] == blind["verdict"] == "ese"
    assert row["significance"] == blind["significance"]
    assert json.loads(row["evidence"])["systematic_cause"] is None


def test_conditions_follow_their_points(rng):
    """Sorting, leaving out and averaging over bands keep each condition with its epoch; NULL becomes NaN."""
    time = tables.sidereal_days(10)
    table = tables.all_bands("a", time, tables.constant(time), 0.02, rng).filter(pl.col("band") != "full")
    known = pl.DataFrame({"mjd": time, "n_antennas": [None, *range(1, 10)]})
    shuffled = table.join(known, on="mjd").sample(fraction=1.0, shuffle=True, seed=3)
    (bands,) = source_series(usable_rows(shuffled, np.inf))
    (combined,), _ = split_bands(bands)
    last = combined.select(combined.time_mjd > time[7] + 0.5)
    np.testing.assert_allclose(last.conditions["n_antennas"], [8.0, 9.0])
    assert np.isnan(combined.conditions["n_antennas"][0])
