"""The search fed with bad light curves: no candidate out of nonsense, and none lost for it."""

import numpy as np
import polars as pl
import pytest

from contimg_assets.science.ese.candidates import find_candidates
from tests.science import light_curve_tables as tables


def found_in(table):
    """Candidates with a fixed seed."""
    return find_candidates(table, np.inf, np.random.default_rng(1))


@pytest.fixture
def lensed(rng):
    """Forty days with a lens, and how the points were observed."""
    time = tables.sidereal_days(40)
    gain = tables.lens(time, time[20])(np.float64(1.4e9))
    beam = 0.9 + 0.02 * rng.standard_normal(40)
    return tables.single_band("a", time, gain, 0.02, rng).with_columns(primary_beam=pl.Series(beam))


BAD_POINTS = {
    "nan flux": {"flux_jy": float("nan")},
    "infinite flux": {"flux_jy": float("inf")},
    "no flux": {"flux_jy": None},
    "zero error": {"flux_err_jy": 0.0},
    "negative error": {"flux_err_jy": -0.01},
    "nan error": {"flux_err_jy": float("nan")},
    "nan time": {"mjd": float("nan")},
}


@pytest.mark.parametrize("bad", BAD_POINTS)
def test_bad_points_change_no_candidate(bad, lensed, rng):
    """Ten bad points among forty good ones, in any order: the same candidate, to the last digit."""
    spoilt = lensed.sample(10, seed=2).with_columns(pl.lit(v, pl.Float64).alias(k) for k, v in BAD_POINTS[bad].items())
    mixed = pl.concat([lensed, spoilt])[rng.permutation(50).tolist()]
    expected = found_in(lensed)
    assert expected.height == 1
    assert found_in(mixed).equals(expected)


@pytest.mark.parametrize("known", [float("nan"), float("inf"), -1.0, 0.0])
def test_nonsense_in_the_conditions_explains_nothing(known, lensed):
    """NaN, infinite, negative or zero primary beams on five days do not take the lens away."""
    strange = pl.when(pl.int_range(pl.len()).is_between(3, 7)).then(known).otherwise(pl.col("primary_beam"))
    (row,) = found_in(lensed.with_columns(primary_beam=strange)).iter_rows(named=True)
    assert row["verdict"] is None
    assert row["significance"] == found_in(lensed)["significance"].item()


def test_points_of_one_time_are_no_light_curve(rng):
    """Thirty points at one time have a scatter and no event."""
    table = tables.single_band("a", tables.sidereal_days(30), np.ones(30), 0.02, rng)
    assert found_in(table.with_columns(mjd=pl.lit(tables.START_MJD))).height == 0


def test_epochs_twice_are_one_light_curve(rng):
    """Every epoch measured twice: one candidate of the time that either half gives."""
    time = tables.sidereal_days(40)
    gain = tables.lens(time, time[20])(np.float64(1.4e9))
    once, again = (tables.single_band("a", time, gain, 0.04, rng) for _ in range(2))
    (row,) = found_in(pl.concat([once, again])).iter_rows(named=True)
    for half in (once, again):
        (alone,) = found_in(half).iter_rows(named=True)
        assert row["peak_mjd"] == pytest.approx(alone["peak_mjd"], abs=1.5)


@pytest.mark.parametrize("level", [-0.2, 0.0])
def test_fluxes_about_or_below_zero_have_no_event(level, rng):
    """A dip is a part of a positive level: what is not detected cannot lose half of it."""
    table = tables.single_band("a", tables.sidereal_days(40), np.ones(40), 0.02, rng)
    assert found_in(table.with_columns(flux_jy=level + 0.01 * pl.Series(rng.standard_normal(40)))).height == 0
