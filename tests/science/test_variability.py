"""Statistics of variability against worked numbers, slow references and invariances."""

from itertools import combinations, pairwise

import hypothesis.extra.numpy as hnp
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from contimg_assets.science.variability import VARIABILITY_SCHEMA, variability_statistics


def table(flux, error, *, source_id="a", band="full"):
    """A light curve with one point a day."""
    flux = np.asarray(flux, dtype=np.float64)
    return pl.DataFrame(
        {
            "source_id": source_id,
            "band": band,
            "mjd": 61000.0 + np.arange(flux.size),
            "flux_jy": flux,
            "flux_err_jy": np.broadcast_to(np.asarray(error, dtype=np.float64), flux.shape),
        }
    )


def statistics(flux, error):
    """The one row of statistics of a light curve."""
    return variability_statistics(table(flux, error), 70000.0).row(0, named=True)


def vast_reference(flux, error):
    """The formulas of VAST, written to be obviously right."""
    n, w = len(flux), error**-2.0
    eta = n / (n - 1) * (np.mean(w * flux**2) - np.mean(w * flux) ** 2 / np.mean(w))
    best = (0.0, 0.0)
    for a, b in combinations(range(n), 2):
        t = abs(flux[a] - flux[b]) / np.hypot(error[a], error[b])
        m = abs(2.0 * (flux[a] - flux[b]) / (flux[a] + flux[b]))
        if t >= 4.3 and m > best[1]:
            best = (t, m)
    return eta, np.std(flux, ddof=1) / np.mean(flux), best


def test_three_epochs_by_hand():
    """Fluxes 1, 2, 3 with error 0.5: mean 2, s 1, chi-square (1 + 0 + 1) / 0.25 = 8."""
    found = statistics([1.0, 2.0, 3.0], 0.5)
    assert found["n_epochs"] == 3
    assert found["mean_flux_jy"] == found["weighted_mean_flux_jy"] == 2.0
    assert found["modulation_index"] == pytest.approx(0.5)
    assert found["debiased_modulation_index"] == pytest.approx(((2.0 - 0.75) / 3.0) ** 0.5 / 2.0)
    assert found["eta"] == pytest.approx(4.0)
    assert found["chi2_p_value"] == pytest.approx(np.exp(-4.0))  # chi-square of 8 with two degrees of freedom
    assert found["von_neumann"] == pytest.approx(1.0)
    assert found["max_pair_t_statistic"] == 0.0  # the best pair has 2 / 0.707 = 2.8 < 4.3
    # 3 against the mean 1.5 of the others: 1.5 / sqrt(0.25 + 0.125)
    assert found["max_deviation_sigma"] == pytest.approx(1.5 / 0.375**0.5)
    assert (found["first_mjd"], found["last_mjd"]) == (61000.0, 61002.0)


def slow_reference(flux, error):
    """Every other statistic from its definition, one line each."""
    n, w = len(flux), error**-2.0
    mean, weighted = sum(flux) / n, sum(w * flux) / sum(w)
    excess = (sum((flux - mean) ** 2) - sum(error**2)) / n
    d = (n / (n - 1)) ** 0.5 * (flux - weighted) / error
    others = [np.arange(n) != i for i in range(n)]
    away = [
        abs(flux[i] - np.average(flux[o], weights=w[o])) / (error[i] ** 2 + 1 / sum(w[o])) ** 0.5
        for i, o in enumerate(others)
    ]
    return {
        "mean_flux_jy": mean,
        "weighted_mean_flux_jy": weighted,
        "debiased_modulation_index": np.sign(excess) * abs(excess) ** 0.5 / mean,
        "von_neumann": sum(np.diff(flux) ** 2) / sum((flux - mean) ** 2),
        "max_deviation_sigma": max(away),
        "stetson_j": sum(np.sign(a * b) * abs(a * b) ** 0.5 for a, b in pairwise(d)) / (n - 1),
        "stetson_k": (sum(abs(d)) / n) / (sum(d**2) / n) ** 0.5,
        "chi2_p_value": chi2.sf(sum(w * (flux - weighted) ** 2), n - 1),
    }


def test_statistics_equal_their_definitions(rng):
    """Fifty random light curves agree with the slow reference to 1e-10."""
    for n in [*range(2, 12), *rng.integers(12, 60, 40)]:
        flux, error = rng.uniform(0.5, 1.5, n), rng.uniform(0.1, 0.5, n)
        found = statistics(flux, error)
        for name, expected in slow_reference(flux, error).items():
            assert found[name] == pytest.approx(expected, rel=1e-10), name


def test_stetson_by_hand():
    """Fluxes 0, 1, 3, 4 with error 1: d = sqrt(4/3) (-2, -1, 1, 2); J and K follow."""
    found = statistics([0.0, 1.0, 3.0, 4.0], 1.0)
    # products of neighbours are 4/3 (2, -1, 2): roots sqrt(8/3), -sqrt(4/3), sqrt(8/3)
    assert found["stetson_j"] == pytest.approx((2.0 * (8.0 / 3.0) ** 0.5 - (4.0 / 3.0) ** 0.5) / 3.0)
    # mean abs d over rms d: (6/4) / sqrt(10/4)
    assert found["stetson_k"] == pytest.approx(1.5 / 2.5**0.5)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([61000.0, 61001.0, 61001.0, 61002.5, 61007.0, float("nan")]),
            st.sampled_from([1.0, -0.2, 0.0, 1.1, 0.9, 1e3, float("nan"), float("inf"), None]),
            st.sampled_from([0.1, 0.0, -0.1, 0.2, float("nan"), float("inf"), None]),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_bad_points_never_make_a_number(points, shuffle):
    """Whatever the mixture of bad points and their order: statistics are those of the good ones, or NULL, never NaN."""
    columns = {name: [row[k] for row in points] for k, name in enumerate(("mjd", "flux_jy", "flux_err_jy"))}
    light_curve = pl.DataFrame(
        {"source_id": "a", "band": "full", **columns}, schema_overrides=dict.fromkeys(columns, pl.Float64)
    )
    good = light_curve.filter(
        pl.all_horizontal(pl.col("mjd", "flux_jy", "flux_err_jy").is_finite()) & (pl.col("flux_err_jy") > 0.0)
    )
    order = list(range(light_curve.height))
    shuffle.shuffle(order)
    found = variability_statistics(light_curve[order], 7e4)
    assert found.equals(variability_statistics(good, 7e4))
    assert found.height == (1 if good.height else 0)
    if found.height:
        assert found["n_epochs"].item() == good.height
        values = [v for v in found.row(0, named=True).values() if isinstance(v, float)]
        assert np.isfinite(values).all()
        assert good.height > 1 or found["eta"].item() is None


def test_statistics_equal_the_formulas_of_vast(rng):
    """Random light curves give the reference's eta, V and pair of largest modulation index."""
    for n in (2, 5, 40):
        flux, error = rng.uniform(0.5, 1.5, n), rng.uniform(0.01, 0.1, n)
        eta, modulation, (t, m) = vast_reference(flux, error)
        found = statistics(flux, error)
        assert found["eta"] == pytest.approx(eta, rel=1e-9)
        assert found["modulation_index"] == pytest.approx(modulation)
        assert found["max_pair_t_statistic"] == pytest.approx(t)
        assert found["max_pair_modulation_index"] == pytest.approx(m)


def test_systematic_errors_are_added_in_quadrature():
    """Errors 3 and 4 make 5."""
    light_curve = table([1.0, 2.0, 3.0], 0.3).with_columns(flux_sys_err_jy=pl.lit(0.4))
    assert variability_statistics(light_curve, 7e4)["eta"].item() == pytest.approx(
        statistics([1.0, 2.0, 3.0], 0.5)["eta"]
    )


def test_one_point_has_means_and_no_variability():
    """What is undefined is NULL, not zero."""
    found = statistics([1.5], 0.1)
    assert found["mean_flux_jy"] == 1.5
    undefined = ["modulation_index", "debiased_modulation_index", "eta", "chi2_p_value", "von_neumann"]
    undefined += ["max_pair_t_statistic", "max_pair_modulation_index", "max_deviation_sigma", "stetson_j", "stetson_k"]
    assert all(found[name] is None for name in undefined)


def test_unusable_points_are_left_out():
    """NULL and NaN fluxes, errors of zero and points after ``as_of`` do not count."""
    good = table([1.0, 2.0, 3.0], 0.5)
    bad = pl.DataFrame(
        {
            "source_id": "a",
            "band": "full",
            "mjd": [61003.0, 61004.0, 61005.0, 61090.0],
            "flux_jy": [None, float("nan"), 9.0, 9.0],
            "flux_err_jy": [None, 0.5, 0.0, 0.5],
        }
    )
    found = variability_statistics(pl.concat([good, bad]), 61010.0)
    assert found.equals(variability_statistics(good, 61010.0))
    assert found.schema == pl.Schema(VARIABILITY_SCHEMA)


def test_sources_and_bands_are_kept_apart(rng):
    """Each group of a shuffled table has the statistics it has alone."""
    parts = [table(rng.normal(1, 0.1, 9), 0.1, source_id=s, band=b) for s in "ba" for b in ("full", "band0")]
    whole = pl.concat(parts)
    found = variability_statistics(whole[rng.permutation(whole.height).tolist()], 7e4)
    assert found.equals(pl.concat([variability_statistics(part, 7e4) for part in parts]).sort("source_id", "band"))


def test_a_pair_with_a_vanished_source_is_bounded():
    """A forced flux just below zero cannot make the pair modulation index diverge."""
    assert statistics([1.0, -0.999], 0.01)["max_pair_modulation_index"] == 2.0


def test_digits_survive_a_signal_to_noise_of_ten_million():
    """Eta of white noise on a huge mean is exact, where sums of squares would be noise."""
    noise = np.array([-1.0, 0.5, 0.25, 0.75, -0.5]) * 1e-7
    expected = np.sum((noise - noise.mean()) ** 2) / 1e-14 / 4
    assert statistics(1.0 + noise, 1e-7)["eta"] == pytest.approx(expected, rel=1e-6)


@given(
    hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(0.1, 10.0)),
    st.floats(1e-3, 1e3),
)
def test_a_change_of_flux_scale_changes_nothing(flux, scale):
    """Every dimensionless statistic is the same in other units."""
    names = ["modulation_index", "debiased_modulation_index", "eta", "von_neumann", "max_deviation_sigma"]
    names += ["chi2_p_value", "max_pair_modulation_index", "max_pair_t_statistic"]
    # A pair exactly at the limit of 4.3 may fall on either side after rounding.
    error = 0.0731 * flux + 0.01
    before, after = statistics(flux, error), statistics(scale * flux, scale * error)
    for name in names:
        if before[name] is None:
            assert after[name] is None or np.ptp(flux) < 1e-9
        elif np.ptp(flux) > 1e-9:
            assert after[name] == pytest.approx(before[name], rel=1e-5, abs=1e-5)


def test_deviation_of_one_outlier_is_not_bounded_by_the_number_of_points():
    """Ten points and a dip of 30 sigma: the outlier is compared with the others, not with itself."""
    flux = np.ones(10)
    flux[4] = 0.7
    assert statistics(flux, 0.01)["max_deviation_sigma"] == pytest.approx(30.0 / (1.0 + 1.0 / 9.0) ** 0.5)


def test_white_noise_has_the_expected_statistics(rng):
    """2000 constant sources: mean eta 1, von Neumann 2, uniform p-values."""
    parts = [table(1.0 + 0.05 * rng.standard_normal(20), 0.05, source_id=f"s{k:04d}") for k in range(2000)]
    found = variability_statistics(pl.concat(parts), 7e4)
    assert found["eta"].mean() == pytest.approx(1.0, abs=0.03)
    assert found["von_neumann"].mean() == pytest.approx(2.0, abs=0.05)
    assert found["chi2_p_value"].mean() == pytest.approx(0.5, abs=0.02)
