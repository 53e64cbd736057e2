"""Combining the measurements of a transit into one light-curve point."""

import numpy as np
import polars as pl
import pytest

from contimg_assets.science.light_curves import INCONSISTENT, LIGHT_CURVE_SCHEMA, NO_MEASUREMENT, combine_transits


def measurements(rows):
    """Table of forced photometry from (source, mjd, flux, error, factor, factor error) in one band."""
    return pl.DataFrame(
        {
            "source_id": [r[0] for r in rows],
            "observation_id": [f"o{r[1]:.4f}" for r in rows],
            "band": ["full"] * len(rows),
            "mjd": [float(r[1]) for r in rows],
            "frequency_hz": [1.4e9] * len(rows),
            "peak_flux_jy_beam": [r[2] for r in rows],
            "peak_flux_err_jy_beam": [r[3] for r in rows],
            "factor": [r[4] for r in rows],
            "factor_err": [r[5] for r in rows],
            "flags": [r[6] if len(r) > 6 else 0 for r in rows],
        },
        schema_overrides={"peak_flux_jy_beam": pl.Float64, "peak_flux_err_jy_beam": pl.Float64},
    )


def test_two_tiles_of_a_transit_become_their_weighted_mean():
    """Weights are 1/error^2: (1.0/0.01 + 1.3/0.04) / (1/0.01 + 1/0.04) = 1.06 with error 1/sqrt(125)."""
    points = combine_transits(measurements([("a", 61000.5, 1.0, 0.1, 1.0, 0.0), ("a", 61000.504, 1.3, 0.2, 1.0, 0.0)]))
    assert points.height == 1
    point = points.row(0, named=True)
    assert point["flux_jy"] == pytest.approx(1.06)
    assert point["flux_err_jy"] == pytest.approx(125**-0.5)
    assert point["flux_sys_err_jy"] == 0.0
    assert point["n_observations"] == 2
    assert point["mjd"] == pytest.approx(61000.5008)
    assert points.schema == pl.Schema(LIGHT_CURVE_SCHEMA)


def test_flux_is_divided_by_the_flux_scale_and_its_error_stays_systematic():
    """Flux 0.9 at scale 0.9 +- 0.018 is 1.0 with a systematic error of 2 per cent; the statistical error scales too."""
    point = combine_transits(measurements([("a", 61000.5, 0.9, 0.009, 0.9, 0.018)])).row(0, named=True)
    assert point["flux_jy"] == pytest.approx(1.0)
    assert point["flux_err_jy"] == pytest.approx(0.01)
    assert point["flux_sys_err_jy"] == pytest.approx(0.02)


def test_order_of_rows_does_not_matter(rng):
    """Shuffled measurements give the same points, so days can be remade in any order."""
    rows = [(s, 61000.4 + 0.0036 * k, 1.0 + 0.01 * k, 0.02, 1.0, 0.01) for s in "abc" for k in range(4)]
    table = measurements(rows)
    again = combine_transits(table[rng.permutation(table.height).tolist()])
    assert again.equals(combine_transits(table))


def test_a_spoilt_tile_hardly_moves_the_point():
    """One tile of three at ten times the flux moves the robust mean by less than its error times two."""
    rows = [
        ("a", 61000.50, 1.0, 0.01, 1.0, 0.0),
        ("a", 61000.504, 1.0, 0.01, 1.0, 0.0),
        ("a", 61000.507, 10.0, 0.01, 1.0, 0.0),
    ]
    point = combine_transits(measurements(rows)).row(0, named=True)
    assert point["flux_jy"] == pytest.approx(1.0, abs=0.02)
    assert point["flags"] & INCONSISTENT
    assert point["flux_sys_err_jy"] > 1.0


def test_a_missing_measurement_is_null_and_a_negative_one_is_kept():
    """NaN photometry gives a row without a flux; a non-detection gives its value."""
    rows = [("a", 61000.5, float("nan"), float("nan"), 1.0, 0.01, 32), ("b", 61000.5, -0.001, 0.002, 1.0, 0.01)]
    a, b = combine_transits(measurements(rows)).iter_rows(named=True)
    assert a["flux_jy"] is None
    assert a["flags"] == 32 | NO_MEASUREMENT
    assert b["flux_jy"] == pytest.approx(-0.001)


def test_epoch_is_the_utc_day_whatever_arrives_first():
    """A late tile joins the point of its day and does not rename it."""
    early, late = ("a", 61000.93, 1.0, 0.1, 1.0, 0.0), ("a", 61000.92, 1.0, 0.1, 1.0, 0.0)
    assert combine_transits(measurements([early]))["epoch_mjd"].to_list() == [61000.5]
    assert combine_transits(measurements([early, late]))["epoch_mjd"].to_list() == [61000.5]


def test_two_transits_on_one_day_are_two_points():
    """Once a year a source transits just after midnight and again just before the next."""
    points = combine_transits(
        measurements([("a", 61000.001, 1.0, 0.1, 1.0, 0.0), ("a", 61000.998, 2.0, 0.1, 1.0, 0.0)])
    )
    assert points["epoch_mjd"].to_list() == [61000.125, 61000.875]
    assert points["flux_jy"].to_list() == [1.0, 2.0]


def test_bands_of_a_transit_share_the_epoch():
    """A sub-band that misses a tile keeps the epoch of the others."""
    full = measurements([("a", 61000.001, 1.0, 0.1, 1.0, 0.0), ("a", 61000.998, 2.0, 0.1, 1.0, 0.0)])
    sub = full[1:].with_columns(band=pl.lit("band0"))
    points = combine_transits(pl.concat([full, sub]))
    assert set(points.filter(band="band0")["epoch_mjd"]) <= set(points.filter(band="full")["epoch_mjd"])


def test_pulls_of_combined_points_have_unit_scatter(rng):
    """Errors of combined points are the scatter of combined points."""
    n, error, scale_error = 2000, 0.01, 0.02
    rows = []
    for k in range(n):
        for tile in range(3):
            scale = 1.0 + scale_error * rng.standard_normal()
            flux = scale + error * rng.standard_normal()
            rows.append((f"s{k:05d}", 61000.5 + 0.004 * tile, flux, error, 1.0, scale_error))
    points = combine_transits(measurements(rows))
    pull = (points["flux_jy"] - 1.0) / (points["flux_err_jy"] ** 2 + points["flux_sys_err_jy"] ** 2).sqrt()
    assert float(np.std(pull.to_numpy())) == pytest.approx(1.0, abs=0.06)
    assert float(np.mean(pull.to_numpy())) == pytest.approx(0.0, abs=0.08)


def test_conditions_are_weighted_means_of_what_is_known():
    """Weights 100 and 25 of two tiles: beam (100 x 0.9 + 25 x 0.4) / 125 = 0.8; the antennas of the one tile that says."""
    table = measurements([("a", 61000.5, 1.0, 0.1, 1.0, 0.0), ("a", 61000.504, 1.3, 0.2, 1.0, 0.0)]).with_columns(
        primary_beam=pl.Series([0.9, 0.4]),
        n_antennas=pl.Series([None, 94], dtype=pl.Int32),
        calibration_fallback=pl.Series([0, 1], dtype=pl.Int32),
    )
    point = combine_transits(table).row(0, named=True)
    assert point["primary_beam"] == pytest.approx(0.8)
    assert point["n_antennas"] == pytest.approx(94.0)
    assert point["calibration_fallback"] == pytest.approx(0.2)
    assert point["separation_from_centre_deg"] is None


def test_a_constant_condition_stays_exactly_constant(rng):
    """Means of 14 antennas with weights of all sizes are 14, not 14.000000000000002: nothing has changed."""
    rows = [("a", 61000.5 + k // 3 + 0.004 * (k % 3), 1.0, rng.uniform(0.01, 0.1), 1.0, 0.0) for k in range(60)]
    points = combine_transits(measurements(rows).with_columns(n_antennas=pl.lit(14)))
    assert points["n_antennas"].to_list() == [14.0] * 20


def test_an_empty_table_gives_an_empty_table():
    """A day without observations is not an error."""
    assert combine_transits(measurements([("a", 61000.5, 1.0, 0.1, 1.0, 0.0)]).clear()).height == 0
