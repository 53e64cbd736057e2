"""The flux scale: unbiased, robust to variable references, and never fed by the source it corrects."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contimg_assets.science.flux_scale import (
    Attempt,
    FluxScaleSettings,
    Ratios,
    Targets,
    band_flux_jy,
    estimate_flux_scale,
    offsets_deg,
    reference_ratios,
    select_references,
    source_factors,
)


def scale_of(ratios, settings=None):
    """Flux scale of a field without extent."""
    origin = np.zeros(1)
    return estimate_flux_scale(ratios, Targets(source=np.array([-1]), x_deg=origin, y_deg=origin), settings)


def factors_without_themselves(ratios, n):
    """Factor and error of n sources at the centre, numbered in order, from all references but each itself."""
    nowhere = np.zeros(n)
    found = source_factors([Attempt(ratios)], Targets(source=np.arange(n), x_deg=nowhere, y_deg=nowhere))
    return found.factor, found.factor_err


def observation(rng, n, *, factor=1.1, noise=0.01, catalogue_scatter=0.05):
    """Measured and catalogue fluxes of n references, the catalogue wrong by a scatter of its own."""
    true = rng.uniform(0.1, 2.0, n)
    catalogue = true * (1 + catalogue_scatter * rng.standard_normal(n))
    error = noise * true
    measured = factor * true + error * rng.standard_normal(n)
    return measured, error, catalogue


def ratios_of(measured, error, catalogue, is_reference=None):
    """Ratios with the errors of the catalogue unknown."""
    everyone = np.ones(measured.size, dtype=bool)
    return reference_ratios(
        measured, error, catalogue, np.full(measured.size, np.nan), everyone if is_reference is None else is_reference
    )


def test_factor_of_perfect_measurements_is_exact():
    """Measured 10 per cent too bright everywhere: the factor is 1.1."""
    catalogue = np.array([0.1, 0.5, 1.0, 2.0])
    scale = scale_of(ratios_of(1.1 * catalogue, 0.001 * catalogue, catalogue))
    assert scale.factor == pytest.approx(1.1, rel=1e-12)
    assert (scale.n_references, scale.method, scale.reason) == (4, "biweight_mean", "")
    assert scale.scatter == pytest.approx(0.0, abs=1e-12)


def test_factor_is_unbiased_and_its_error_is_the_scatter(rng):
    """Over 250 observations the pull of the factor has unit width, catalogue errors of 5 per cent included."""
    scales = [scale_of(ratios_of(*observation(rng, 25))) for _ in range(250)]
    pull = np.array([(s.factor - 1.1) / s.factor_err for s in scales])
    assert abs(pull.mean()) < 0.2
    assert 0.85 < pull.std() < 1.2
    assert np.median([s.scatter for s in scales]) == pytest.approx(0.051, rel=0.1)


def test_very_bright_source_does_not_decide_alone(rng):
    """With catalogue scatter, weights follow the scatter and not the signal-to-noise."""
    measured, error, catalogue = observation(rng, 30, catalogue_scatter=0.05)
    error[0] = 1e-6
    measured[0] = 1.25 * catalogue[0]
    assert scale_of(ratios_of(measured, error, catalogue)).factor == pytest.approx(1.1, abs=0.04)


@pytest.mark.parametrize("change", [0.3, 3.0, -1.0], ids=["dip", "flare", "negative"])
def test_variable_reference_has_no_say(change, rng):
    """One reference in ten that varies moves the factor by less than its error."""
    measured, error, catalogue = observation(rng, 10, catalogue_scatter=0.02)
    before = scale_of(ratios_of(measured[1:], error[1:], catalogue[1:]))
    measured[0] *= change
    after = scale_of(ratios_of(measured, error, catalogue))
    assert abs(after.factor - before.factor) < 0.5 * before.factor_err


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(3, 12), st.floats(-5.0, 20.0))
def test_source_never_takes_part_in_its_own_factor(seed, n, change):
    """Whatever a source does, its own factor stays the same, bit by bit."""
    rng = np.random.default_rng(seed)
    measured, error, catalogue = observation(rng, n)
    factor, factor_err = factors_without_themselves(ratios_of(measured, error, catalogue), n)
    measured[1] *= change
    changed, changed_err = factors_without_themselves(ratios_of(measured, error, catalogue), n)
    assert changed[1] == factor[1]
    assert changed_err[1] == factor_err[1]


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(4, 12))
def test_leave_one_out_equals_leaving_one_out(seed, n):
    """The vectorised form gives what estimating n times without one source gives."""
    rng = np.random.default_rng(seed)
    measured, error, catalogue = observation(rng, n)
    factor, factor_err = factors_without_themselves(ratios_of(measured, error, catalogue), n)
    for i in range(n):
        others = np.arange(n) != i
        scale = scale_of(ratios_of(measured, error, catalogue, others))
        assert factor[i] == pytest.approx(scale.factor, rel=1e-12)
        assert factor_err[i] == pytest.approx(scale.factor_err, rel=1e-12)


@given(st.integers(0, 2**31), st.floats(0.6, 1.7))
def test_factor_scales_with_the_measured_fluxes(seed, gain):
    """Measured fluxes times g give the factor times g."""
    measured, error, catalogue = observation(np.random.default_rng(seed), 8, factor=1.0)
    one = scale_of(ratios_of(measured, error, catalogue))
    other = scale_of(ratios_of(gain * measured, gain * error, catalogue))
    assert other.factor == pytest.approx(gain * one.factor, rel=1e-9)
    assert other.factor_err == pytest.approx(gain * one.factor_err, rel=1e-9)


def test_source_that_is_no_reference_has_the_common_factor(rng):
    """Only references need the exclusion."""
    measured, error, catalogue = observation(rng, 9)
    is_reference = np.arange(9) < 6
    ratios = ratios_of(measured, error, catalogue, is_reference)
    factor, _ = factors_without_themselves(ratios, 9)
    assert np.all(factor[6:] == scale_of(ratios).factor)
    assert np.all(factor[:6] != factor[6])


@pytest.mark.parametrize(
    ("n", "factor", "reason"),
    [
        (0, 1.1, "too_few_references"),
        (2, 1.1, "too_few_references"),
        (8, 2.6, "outside_limits"),
        (8, 0.3, "outside_limits"),
    ],
)
def test_factor_that_cannot_be_believed_is_one_and_says_why(n, factor, reason, rng):
    """Too few references, or a factor that means something else is wrong."""
    ratios = ratios_of(*observation(rng, n, factor=factor))
    scale = scale_of(ratios)
    assert (scale.factor, scale.factor_err, scale.method, scale.reason) == (1.0, 0.1, "unit", reason)
    assert scale.n_references == n
    factors, errors = factors_without_themselves(ratios, n + 1)
    assert np.all(factors == 1.0)
    assert np.all(errors == 0.1)


def test_three_references_give_their_targets_two_which_are_too_few(rng):
    """With the least number of references others are corrected, and the references themselves are not."""
    ratios = ratios_of(*observation(rng, 3, catalogue_scatter=0.0))
    factor, error = factors_without_themselves(ratios, 4)
    assert factor[3] == pytest.approx(1.1, abs=0.05)
    assert np.all(factor[:3] == 1.0)
    assert np.all(error[:3] == FluxScaleSettings().unit_factor_err)


def test_measurements_that_are_missing_are_no_references(rng):
    """NaN fluxes, errors and catalogue fluxes are left out."""
    measured, error, catalogue = observation(rng, 8)
    measured[0], error[1], catalogue[2], catalogue[3] = np.nan, np.nan, np.nan, 0.0
    ratios = ratios_of(measured, error, catalogue)
    assert ratios.source.tolist() == [4, 5, 6, 7]


def test_history_as_reference_removes_the_catalogue_scatter(rng):
    """Against their own long-term means the same references scatter by their noise only."""
    measured, error, catalogue = observation(rng, 30)
    history = measured / 1.1
    assert scale_of(ratios_of(measured, error, catalogue)).scatter > 0.03
    assert scale_of(ratios_of(measured, error, history)).scatter < 1e-9


def sky(rng, n, *, gradient=0.0, noise=0.005, side=1.5):
    """Sources spread over a square of twice ``side`` degrees, measured with a factor of 1.1 and a gradient along x."""
    x, y = rng.uniform(-side, side, n), rng.uniform(-1.5, 1.5, n)
    ratio = 1.1 * (1.0 + gradient * x) + noise * rng.standard_normal(n)
    return Ratios(np.arange(n), ratio, np.full(n, noise), x, y), Targets(np.arange(n), x, y)


def test_plane_is_found_where_there_is_a_gradient(rng):
    """5 per cent across 3 degrees comes out to 0.5 per cent, and the numbers say that it predicts better."""
    ratios, targets = sky(rng, 30, gradient=0.05 / 3.0)
    scale = estimate_flux_scale(ratios, targets)
    assert scale.method == "biweight_plane"
    assert scale.cross_validated_plane < 0.7 * scale.cross_validated_mean
    assert scale.gradient_x_per_deg == pytest.approx(0.05 / 3.0, abs=0.005)
    factors = source_factors([Attempt(ratios)], targets)
    error = factors.factor / (1.1 * (1.0 + 0.05 / 3.0 * targets.x_deg)) - 1.0
    assert np.median(np.abs(error)) < 0.005
    assert set(factors.method) == {"biweight_plane"}


def test_plane_is_seldom_kept_where_there_is_no_gradient(rng):
    """Of 100 fields of pure noise at most 15 get a plane: noise alone hardly lowers the cross-validated error."""
    planes = [estimate_flux_scale(*sky(rng, 20)).method == "biweight_plane" for _ in range(100)]
    assert np.mean(planes) <= 0.15


def test_cross_validated_error_is_that_of_leaving_out(rng):
    """The number from leverages equals fitting again without each reference, for sources of equal errors."""
    ratios, targets = sky(rng, 12)
    missed = []
    for i in range(12):
        others = np.arange(12) != i
        left = Ratios(*(getattr(ratios, name)[others] for name in ("source", "ratio", "error", "x_deg", "y_deg")))
        missed.append(ratios.ratio[i] - scale_of(left).factor)
    expected = np.sqrt(np.mean(np.square(missed))) / np.median(ratios.ratio)
    assert estimate_flux_scale(ratios, targets).cross_validated_mean == pytest.approx(expected, rel=0.02)


def test_errors_of_a_plane_match_its_scatter(rng):
    """Over 200 fields the pull of the factor at a corner, where a plane is least certain, has unit width."""
    pulls = []
    for _ in range(200):
        ratios, targets = sky(rng, 25, gradient=0.1, noise=0.06)
        corner = Targets(np.r_[targets.source, -1], np.r_[targets.x_deg, 1.4], np.r_[targets.y_deg, 1.4])
        found = source_factors([Attempt(ratios)], corner)
        pulls.append((found.factor[-1] - 1.1 * (1.0 + 0.1 * 1.4)) / found.factor_err[-1])
    assert abs(np.mean(pulls)) < 0.25
    assert 0.75 < np.std(pulls) < 1.25


def test_references_of_one_corner_give_no_plane_and_say_so(rng):
    """A gradient seen in a corner only is not carried across the field; the error grows and the method tells."""
    x, y = rng.uniform(0.7, 1.5, 20), rng.uniform(0.7, 1.5, 20)
    ratios = Ratios(np.arange(20), 1.1 * (1 + 0.1 * x), np.full(20, 0.002), x, y)
    grid = np.linspace(-1.5, 1.5, 7)
    targets = Targets(np.full(49, -1), np.repeat(grid, 7), np.tile(grid, 7))
    scale = estimate_flux_scale(ratios, targets)
    assert scale.method == "one_sided_mean"
    assert scale.factor_err > 0.03
    assert set(source_factors([Attempt(ratios)], targets).method) == {"one_sided_mean"}


def test_references_that_all_vary_give_no_factor(rng):
    """A scatter of 40 per cent beyond the errors is not a flux scale."""
    ratios = ratios_of(*observation(rng, 20, catalogue_scatter=0.0))
    varying = Ratios(ratios.source, ratios.ratio * rng.uniform(0.4, 1.8, 20), ratios.error, ratios.x_deg, ratios.y_deg)
    scale = scale_of(varying)
    assert (scale.method, scale.reason, scale.factor) == ("unit", "references_scatter", 1.0)


def test_other_sources_are_asked_when_references_give_nothing(rng):
    """The catalogue's other sources give the factor, under a name that says so, with the reason."""
    nothing, others = ratios_of(*observation(rng, 2)), ratios_of(*observation(rng, 30))
    origin = np.zeros(1)
    scale = estimate_flux_scale(nothing, Targets(np.array([-1]), origin, origin), others=others)
    assert (scale.method, scale.reason, scale.n_references) == ("catalogue_flux", "too_few_references", 2)
    assert scale.factor == pytest.approx(1.1, abs=0.05)


def test_attempts_are_asked_in_order_and_only_as_far_as_needed(rng):
    """Only the sources the first attempt leaves without a factor get the second; the rest have unit factors."""
    three = ratios_of(*observation(rng, 3, catalogue_scatter=0.0))
    many = ratios_of(*observation(rng, 10, factor=1.2, catalogue_scatter=0.0))
    nowhere = np.zeros(4)
    targets = Targets(np.arange(4), nowhere, nowhere)
    found = source_factors([Attempt(three), Attempt(many, name="wider_field")], targets)
    assert found.method.tolist() == ["wider_field"] * 3 + ["biweight_mean"]
    assert found.factor[:3] == pytest.approx(1.2, abs=0.03)
    assert found.factor[3] == pytest.approx(1.1, abs=0.03)
    assert source_factors([], targets).method.tolist() == ["unit"] * 4


def test_offsets_are_small_across_the_meridian():
    """Sources on both sides of right ascension zero lie one degree apart, east positive; an unknown place is NaN."""
    east, north = offsets_deg(np.array([359.5, 0.5, np.nan]), np.array([0.0, 0.0, np.nan]))
    assert east[:2] == pytest.approx([-0.5, 0.5])
    assert north[:2] == pytest.approx([0.0, 0.0])
    assert np.isnan(east[2])


def test_catalogue_fluxes_move_to_the_band_with_their_index():
    """S ~ nu^alpha, with -0.7 where the index is unknown."""
    flux = band_flux_jy(np.array([1.0, 1.0]), np.array([-1.0, np.nan]), 0.7e9)
    assert flux == pytest.approx([2.0, 2.0**0.7])


def test_references_are_bright_compact_isolated_and_constant():
    """Each source of the table fails for one reason; the first is good, and a faint neighbour does not matter."""
    arcsec = 1 / 3600
    rows = [
        ("good", 10.0, 0.5, 0.0),
        ("its faint neighbour", 10.0 + 30 * arcsec, 0.02, 0.0),
        ("faint", 20.0, 0.03, 0.0),
        ("extended", 30.0, 0.5, 60.0),
        ("paired", 40.0, 0.5, None),
        ("its pair", 40.0 + 50 * arcsec, 0.3, None),
        ("varying", 50.0, 0.5, None),
        ("without flux", 60.0, None, None),
        ("of unknown size", 70.0, 0.5, None),
    ]
    catalogue = pl.DataFrame(rows, schema=["source_id", "ra_deg", "flux_jy", "major_arcsec"], orient="row")
    chosen = select_references(catalogue.with_columns(dec_deg=0.0), varying={"varying"})
    assert chosen.filter("is_reference")["source_id"].to_list() == ["good", "of unknown size"]
    assert chosen.filter("is_extended")["source_id"].to_list() == ["extended"]


def test_catalogue_without_sizes_has_no_extended_sources():
    """Only what the catalogue says disqualifies."""
    catalogue = pl.DataFrame({"source_id": ["a"], "ra_deg": [1.0], "dec_deg": [2.0], "flux_jy": [1.0]})
    chosen = select_references(catalogue)
    assert chosen["is_reference"].to_list() == [True]
    assert chosen["is_extended"].to_list() == [False]
