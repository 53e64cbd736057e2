from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.coordinates import direction_cosines, separation_deg
from contimg_assets.science.errors import DataError, NotEnoughDataError
from contimg_assets.science.flux_calibrators import CALIBRATORS, find_calibrator, with_listed
from contimg_assets.science.primary_beam import airy_power
from contimg_assets.science.sky_model import (
    SkyModel,
    apparent_flux,
    brightest,
    calibrator,
    component_list,
    merge,
    point_source,
    predict,
)
from tests.science.corruption import FIELD, observed


def direct_sum(model, vis, *, primary_beam):
    """The measurement equation, one visibility at a time: slow and obviously right."""
    expected = np.zeros((len(vis.time_mjd), len(vis.frequency_hz)), dtype=complex)
    flux = model.flux_jy_at(vis.frequency_hz)
    l, m, n = direction_cosines(model.ra_deg, model.dec_deg, vis.phase_centre_ra_deg, vis.phase_centre_dec_deg)
    for row in range(len(expected)):
        for k in range(model.n_sources):
            offset = separation_deg(
                model.ra_deg[k], model.dec_deg[k], vis.pointing_ra_deg[row], vis.pointing_dec_deg[row]
            )
            power = airy_power(offset, vis.frequency_hz, vis.dish_diameter_m) if primary_beam else 1.0
            path = vis.uvw_m[row] @ [l[k], m[k], n[k] - 1.0]
            expected[row] += flux[k] * power * np.exp(2j * np.pi * vis.frequency_hz * path / SPEED_OF_LIGHT_M_S)
    return expected


@pytest.mark.parametrize("source", CALIBRATORS, ids=lambda c: c.name)
def test_calibrator_follows_the_published_polynomial(source):
    """The model of a primary calibrator is the Perley-Butler polynomial at every frequency, not a power law."""
    frequency_hz = np.array([0.35e9, 1.3e9, 1.4e9, 1.5e9, 8e9])
    x = np.log10(frequency_hz / 1e9)
    expected = 10.0 ** sum(a * x**k for k, a in enumerate(source.log_coefficients))
    np.testing.assert_allclose(calibrator(source).flux_jy_at(frequency_hz)[0], expected, rtol=1e-12)


def test_calibrator_has_the_flux_density_casa_gives():
    """3C286 has what CASA's setjy writes for the first channel of the NGC5921 data, 15.0158644 Jy."""
    flux_jy = calibrator(find_calibrator("3C286")).flux_jy_at(np.array([1.41266507e9]))[0, 0]
    assert flux_jy == pytest.approx(15.01586437, rel=1e-6)


@pytest.mark.parametrize("name", ["3C286", "3c 286", "1331+305", "1328+307", "J1331+3030", "1331+30500002_0"])
def test_calibrators_are_found_by_any_of_their_names(name):
    """Names differ in case, equinox and appended scan codes."""
    assert find_calibrator(name).name == "3C286"


def test_calibrators_lie_where_their_names_say():
    """J2000 names hold the first digits of the positions."""
    for source in CALIBRATORS:
        hours, minutes = int(source.aliases[0][:2]), int(source.aliases[0][2:4])
        assert abs(source.ra_deg / 15.0 - hours - minutes / 60.0) < 1.0 / 60.0
        assert abs(source.dec_deg - float(source.aliases[0][5:]) / 10.0) < 0.1


def test_a_listed_calibrator_is_a_power_law_about_its_reference_frequency():
    """It is found by its name beside the primary ones, with what was listed."""
    row = {"name": "J1419+5423", "ra_deg": 214.9, "dec_deg": 54.4, "reference_frequency_hz": 5e9}
    known = with_listed([row | {"flux_jy": 2.0, "spectral_index": -0.6}])
    source = find_calibrator("j1419+5423", known)
    frequency_hz = np.array([1.3e9, 5e9, 1e10])
    expected = 2.0 * (frequency_hz / 5e9) ** -0.6
    np.testing.assert_allclose(calibrator(source).flux_jy_at(frequency_hz)[0], expected, rtol=1e-12)
    assert source.flux_model == "listed: 2 Jy at 5 GHz, spectral index -0.6"
    assert find_calibrator("3C286", known).flux_model == "Perley & Butler 2017"
    with pytest.raises(DataError, match=r"3C999.*J1419\+5423"):
        find_calibrator("3C999", known)


def test_unknown_calibrator_is_named_with_the_known_ones():
    """The message tells what could have been given."""
    with pytest.raises(DataError, match=r"3C999.*3C286"):
        find_calibrator("3C999")


@pytest.mark.parametrize("primary_beam", [True, False], ids=["beam", "no beam"])
def test_prediction_is_the_measurement_equation(primary_beam):
    """Prediction agrees with the direct sum to single precision, the drifting beam included."""
    vis, model = observed(FIELD, n_antennas=5, n_time=3, n_chan=70)
    expected = direct_sum(model, vis, primary_beam=primary_beam)
    predicted = predict(model, vis, primary_beam=primary_beam)
    np.testing.assert_allclose(predicted, expected, atol=1e-5 * np.abs(expected).max())


def test_prediction_takes_any_channel_grid():
    """Gaps and irregular spacing change nothing."""
    vis, model = observed(FIELD, n_antennas=5, n_time=1, n_chan=12)
    irregular = vis.frequency_hz + np.array([0, 0, 0, 5, 5, 5, 5, 6, 8, 9, 30, 31]) * 1e6
    vis = replace(vis, frequency_hz=irregular)
    expected = direct_sum(model, vis, primary_beam=True)
    np.testing.assert_allclose(predict(model, vis, primary_beam=True), expected, atol=1e-5 * np.abs(expected).max())


def test_source_at_the_phase_centre_is_constant():
    """A point source at the phase centre has its flux density on every baseline."""
    vis, _ = observed(n_antennas=5, n_time=2, n_chan=3)
    model = point_source(vis.phase_centre_ra_deg, vis.phase_centre_dec_deg, 2.5)
    np.testing.assert_allclose(predict(model, vis, primary_beam=False), 2.5, rtol=1e-6)


@given(scale=st.floats(0.01, 100.0), index=st.floats(-2.0, 2.0))
def test_spectra_are_power_laws_about_1400_mhz(scale, index):
    """S(nu) = S(1.4 GHz) (nu / 1.4 GHz)^alpha."""
    model = point_source(10.0, 20.0, scale, index)
    np.testing.assert_allclose(model.flux_jy_at(np.array([2.8e9]))[0, 0], scale * 2.0**index, rtol=1e-9)


def test_merged_models_keep_every_spectrum():
    """A calibrator with curvature and a power law predict the same merged as apart."""
    frequency_hz = np.array([1.3e9, 1.5e9])
    first, second = calibrator(find_calibrator("3C48")), point_source(1.0, 2.0, 3.0, -0.5)
    both = merge([first, second])
    np.testing.assert_allclose(
        both.flux_jy_at(frequency_hz), np.vstack([m.flux_jy_at(frequency_hz) for m in (first, second)])
    )


def test_apparent_flux_is_the_mean_through_the_drift():
    """The beam is averaged over the pointings of the observation."""
    vis, model = observed(FIELD, n_antennas=4, n_time=5, n_chan=3)
    seen = [
        separation_deg(model.ra_deg, model.dec_deg, ra, dec)
        for ra, dec in np.unique(np.column_stack([vis.pointing_ra_deg, vis.pointing_dec_deg]), axis=0)
    ]
    power = np.mean([airy_power(offset, vis.mean_frequency_hz, vis.dish_diameter_m) for offset in seen], axis=0)
    expected = model.flux_jy_at(np.array([vis.mean_frequency_hz]))[:, 0] * power
    np.testing.assert_allclose(apparent_flux(model, vis), expected)


def test_brightest_keeps_the_fewest_sources_that_hold_the_fraction():
    """10 of 16 Jy need one source to hold half; all the flux needs all."""
    vis, model = observed(FIELD, n_antennas=4, n_time=2, n_chan=3)
    assert brightest(model, vis, fraction=0.5).flux_jy.tolist() == [10.0]
    assert brightest(model, vis, fraction=1.0).n_sources == model.n_sources


def test_model_outside_the_beam_is_refused():
    """A sky without apparent flux cannot be calibrated against."""
    vis, _ = observed(n_antennas=4, n_time=2, n_chan=3)
    dark = point_source(vis.phase_centre_ra_deg, vis.phase_centre_dec_deg, 0.0)
    with pytest.raises(NotEnoughDataError, match="holds no flux"):
        brightest(dark, vis, fraction=0.9)


def test_component_list_needs_its_columns():
    """A table without flux densities is refused with the columns it has."""
    with pytest.raises(DataError, match="ra_deg, dec_deg, spectral_index"):
        component_list(pl.DataFrame({"ra_deg": [1.0], "dec_deg": [2.0], "spectral_index": [0.0]}))


def test_component_list_takes_a_missing_spectral_index_as_typical():
    """The index is optional, as a column and in a row."""
    table = pl.DataFrame({"ra_deg": [1, 2], "dec_deg": [2, 3], "flux_jy": [1, 2], "spectral_index": [None, -0.9]})
    assert component_list(table).spectral_index.tolist() == [-0.7, -0.9]
    assert component_list(table.drop("spectral_index")).spectral_index.tolist() == [-0.7, -0.7]


def test_bad_numbers_in_a_model_are_refused():
    """NaN in a catalogue does not reach the visibilities."""
    with pytest.raises(DataError, match="1 bad numbers"):
        SkyModel(np.array([1.0]), np.array([2.0]), np.array([np.nan]), np.array([0.0]))


def test_models_of_different_reference_cannot_be_merged():
    """Flux densities at different frequencies are different things."""
    with pytest.raises(DataError, match="reference frequency"):
        merge([point_source(1.0, 2.0, 3.0), replace(point_source(1.0, 2.0, 3.0), reference_frequency_hz=1e9)])
