"""Bins reach the signal-to-noise asked for, keep every point once, and do not bias the flux."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_assets.science.adaptive_binning import bin_bands, bin_light_curves, bins_reaching


def curve(flux, error, **columns):
    """Light curve of one source, a point per day."""
    n = len(flux)
    return pl.DataFrame(
        {"source_id": ["a"] * n, "mjd": 60000.0 + np.arange(n), "flux_jy": flux, "flux_err_jy": error} | columns
    )


def test_equal_points_are_joined_in_groups_of_the_number_needed():
    """At a signal-to-noise of 2 per point, 6 needs 9 points; 20 points make one bin of 9 and one of 11."""
    assert bins_reaching(np.full(20, 0.5), 1.0, 6.0).tolist() == [0] * 9 + [1] * 11


def test_bright_points_stay_alone_and_none_changes():
    """Where every point reaches the limit, binning is the identity."""
    points = curve([1.0, 2.0, 3.0], [0.01, 0.02, 0.03])
    binned = bin_light_curves(points, 10.0)
    assert binned.drop("n_epochs").equals(points)
    assert binned["n_epochs"].to_list() == [1, 1, 1]


def test_weighted_mean_of_a_bin_by_hand():
    """Points 1 +- 1 and 4 +- 2: weights 1 and 1/4, mean 1.6, error 1 / sqrt(1.25), time 0.2 of the way."""
    binned = bin_light_curves(curve([1.0, 4.0], [1.0, 2.0], flux_sys_err_jy=[0.1, 0.2]), 100.0)
    assert binned["flux_jy"].to_list() == pytest.approx([1.6])
    assert binned["flux_err_jy"].to_list() == pytest.approx([1.25**-0.5])
    assert binned["mjd"].to_list() == pytest.approx([60000.2])
    assert binned["flux_sys_err_jy"].to_list() == pytest.approx([0.12])
    assert binned["n_epochs"].to_list() == [2]


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60), st.floats(0.1, 20), st.floats(1, 30))
def test_every_bin_reaches_the_limit_with_no_point_to_spare(error, signal, min_snr):
    """All bins but a single one reach it; without its last point no bin but the last would; order is kept."""
    error = np.array(error)
    bins = bins_reaching(error, signal, min_snr)
    assert np.all(np.diff(bins) >= 0)
    assert np.all(np.diff(bins) <= 1)
    assert bins[0] == 0
    snr = signal * np.sqrt(np.bincount(bins, weights=error**-2))
    if bins[-1] > 0:
        assert np.all(snr >= min_snr * (1 - 1e-9))
    for number in range(bins[-1]):
        members = error[bins == number][:-1]
        assert signal * np.sqrt(np.sum(members**-2)) < min_snr


def test_total_information_is_kept(rng):
    """The weighted mean of the bins is that of the points."""
    error = rng.uniform(0.2, 2.0, 200)
    points = curve(1.0 + error * rng.standard_normal(200), error)
    binned = bin_light_curves(points, 5.0)
    means = [np.average(t["flux_jy"], weights=t["flux_err_jy"].to_numpy() ** -2.0) for t in (points, binned)]
    assert means[0] == pytest.approx(means[1], rel=1e-12)
    assert binned["n_epochs"].sum() == 200
    assert 10 < binned.height < 200


def test_bins_of_a_faint_source_are_unbiased(rng):
    """Closing bins by the mean flux: over 300 sources the pull of single bins has mean 0 and width 1."""
    pulls = []
    for _ in range(300):
        binned = bin_light_curves(curve(1.0 + rng.standard_normal(100), np.ones(100)), 3.0)
        pulls.append(((binned["flux_jy"] - 1.0) / binned["flux_err_jy"]).to_numpy())
    pull = np.concatenate(pulls)
    assert abs(pull.mean()) < 4 / np.sqrt(pull.size)
    assert pull.std() == pytest.approx(1.0, abs=0.05)


def test_undetected_source_is_one_bin(rng):
    """A negative mean flux never reaches a signal-to-noise: all points join."""
    binned = bin_light_curves(curve([-1.0, 0.5, -0.3], [1.0, 1.0, 1.0]), 5.0)
    assert binned["n_epochs"].to_list() == [3]


def test_sources_and_bands_are_not_mixed_and_unusable_points_are_left_out():
    """Rows in any order; NaN, zero and negative errors do not count."""
    points = pl.DataFrame(
        {
            "source_id": ["b", "a", "a", "a", "a", "a"],
            "band": ["x", "y", "x", "x", "x", "x"],
            "mjd": [1.0, 1.0, 3.0, 2.0, 1.0, 4.0],
            "flux_jy": [1.0, 2.0, 3.0, 5.0, float("nan"), 9.0],
            "flux_err_jy": [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        }
    )
    binned = bin_light_curves(points, 100.0)
    assert binned.select("source_id", "band", "flux_jy", "n_epochs").rows() == [
        ("a", "x", 4.0, 2),
        ("a", "y", 2.0, 1),
        ("b", "x", 1.0, 1),
    ]
    assert bin_light_curves(points.clear(), 5.0).height == 0


def test_bands_of_one_epoch_are_joined_by_frequency():
    """Four bands of signal-to-noise 1 make two of sqrt(2); the epochs stay apart."""
    points = pl.DataFrame(
        {
            "source_id": ["a"] * 8,
            "mjd": [1.0] * 4 + [2.0] * 4,
            "frequency_hz": [1.4e9, 1.3e9, 1.5e9, 1.2e9] * 2,
            "flux_jy": [1.0] * 8,
            "flux_err_jy": [1.0] * 8,
        }
    )
    binned = bin_bands(points, np.sqrt(2.0))
    assert binned["frequency_hz"].to_list() == pytest.approx([1.25e9, 1.45e9] * 2)
    assert binned["n_bands"].to_list() == [2] * 4
    assert binned["mjd"].to_list() == [1.0, 1.0, 2.0, 2.0]
