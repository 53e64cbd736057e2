"""The limits of an image and of a measurement set: each check passes on good numbers and fails alone on bad ones."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from contimg_assets.checks import imaging, observations
from contimg_assets.science.errors import DataError
from contimg_assets.science.flagging import flag_visibilities
from contimg_resources.store.connection import Store
from tests.science.test_conversion import phased, raw_observation

GOOD_IMAGE = {
    "rms_jy_beam": 1.1e-3, "thermal_rms_jy_beam": 1.0e-3, "beam_major_arcsec": 60.0, "beam_minor_arcsec": 30.0,
    "beam_over_resolution": 1.0, "offset_beams": 0.02, "flux_ratio": 1.03, "n_matched": 40, "dynamic_range": 400.0,
    "sefd_jy": 5800.0, "nominal_sefd_jy": 5800.0, "radiometer_rms_jy_beam": 0.9e-3,
}  # fmt: skip
"""What ``continuum_image`` measures on a good image."""


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    return Store(tmp_path / "contimg.duckdb")


@pytest.fixture
def context():
    """The part of Dagster's context that checks use."""
    return SimpleNamespace(partition_key="2026-01-25", has_partition_key=True, run=SimpleNamespace(run_id="r"))


def failed_names(results):
    """Names of the checks that did not pass."""
    return {result.check_name for result in results if not result.passed}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rms_jy_beam": 2.0e-3},
        {"sefd_jy": 10_000.0},
        {"sefd_jy": 2900.0},
        {"beam_major_arcsec": 180.0},
        {"beam_over_resolution": 0.3},
        {"beam_over_resolution": 3.0},
        {"offset_beams": 0.1},
        {"offset_beams": None, "flux_ratio": None, "n_matched": 0},
        {"flux_ratio": 0.81},
        {"flux_ratio": 1.19},
        {"dynamic_range": 30.0},
    ],
)
def test_an_image_within_its_limits_passes_every_check(store, context, changes):
    """Good numbers, numbers at a limit, and an image without a catalogue source pass all five checks."""
    results = imaging.judge_image(store, context, GOOD_IMAGE | changes)
    assert {result.check_name for result in results} == {spec.name for spec in imaging.CONTINUUM_IMAGE}
    assert failed_names(results) == set()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rms_jy_beam": 2.01e-3}, "image_rms_is_near_thermal"),
        ({"sefd_jy": 10_600.0}, "image_rms_is_near_thermal"),
        ({"sefd_jy": np.nan}, "image_rms_is_near_thermal"),
        ({"rms_jy_beam": np.nan}, "image_rms_is_near_thermal"),
        ({"beam_major_arcsec": 181.0}, "restoring_beam_is_expected"),
        ({"beam_over_resolution": 0.29}, "restoring_beam_is_expected"),
        ({"beam_over_resolution": 3.1}, "restoring_beam_is_expected"),
        ({"offset_beams": 0.11}, "astrometry_matches_catalogue"),
        ({"offset_beams": np.nan}, "astrometry_matches_catalogue"),
        ({"flux_ratio": 0.79}, "flux_scale_matches_catalogue"),
        ({"flux_ratio": 1.21}, "flux_scale_matches_catalogue"),
        ({"flux_ratio": np.nan}, "flux_scale_matches_catalogue"),
        ({"dynamic_range": 29.9}, "dynamic_range_is_sufficient"),
        ({"dynamic_range": np.nan}, "dynamic_range_is_sufficient"),
    ],
)
def test_a_bad_image_fails_the_check_that_says_so(store, context, changes, name):
    """One number beyond its limit, or not a number, fails its own check and no other, in the store too."""
    results = imaging.judge_image(store, context, GOOD_IMAGE | changes)
    assert failed_names(results) == {name}
    stored = store.query("SELECT check_name, severity FROM check_result WHERE NOT passed").rows()
    assert stored == [(name, "ERROR" if name == "astrometry_matches_catalogue" else "WARN")]


@pytest.fixture(scope="module")
def converted():
    """A small raw observation with noise, its visibilities and what flagging said of them."""
    raw = raw_observation([])
    rng = np.random.default_rng(5)
    raw.vis[...] = rng.standard_normal(raw.vis.shape) + 1j * rng.standard_normal(raw.vis.shape)
    vis = phased(raw)
    return raw, vis, flag_visibilities(vis)


def failed_of_measurement_set(store, context, raw, vis, report):
    """Names of the checks that a measurement set fails, from its arrays to the judgement, and the uvw error in m."""
    summary = observations.summarise(raw, vis, report)
    return failed_names(observations.judge_measurement_set(store, context, summary)), summary["uvw_error_m"]


def test_a_converted_observation_passes_every_check(store, context, converted):
    """What our conversion makes passes; its uvw are as long as the baselines to a micrometre."""
    failed, error_m = failed_of_measurement_set(store, context, *converted)
    assert failed == set()
    assert error_m < 1e-6


@pytest.mark.parametrize(("change_m", "fails"), [(0.009, False), (0.011, True), (np.nan, True)])
def test_uvw_of_the_wrong_length_fail(store, context, converted, change_m, fails):
    """One uvw vector of the whole set longer by more than 1 cm, or not a number, fails the check."""
    raw, vis, report = converted
    uvw_m = vis.uvw_m.copy()
    uvw_m[7] *= 1.0 + change_m / np.linalg.norm(uvw_m[7])
    failed, error_m = failed_of_measurement_set(store, context, raw, replace(vis, uvw_m=uvw_m), report)
    assert failed == ({"uvw_match_antenna_positions"} if fails else set())
    assert error_m == pytest.approx(change_m, abs=1e-6, nan_ok=True)


def test_uvw_of_exchanged_antennas_fail(store, context, converted):
    """Positions that belong to other antennas, a mistake in the order of a table, fail the check."""
    raw, vis, report = converted
    positions_m = vis.antenna_positions_m.copy()
    positions_m[[0, 1]] = positions_m[[1, 0]]
    changed = replace(vis, antenna_positions_m=positions_m)
    assert failed_of_measurement_set(store, context, raw, changed, report)[0] == {"uvw_match_antenna_positions"}


@pytest.mark.parametrize("change", [np.flip, lambda f: f[[0, 1, 3, 2, 4, 5, 6]], lambda f: f[[0, 1, 2, 2, 4, 5, 6]]],
                         ids=["descending", "two exchanged", "one twice"])  # fmt: skip
def test_channels_that_do_not_ascend_fail(store, context, converted, change):
    """Channels that descend, are exchanged or repeated after conversion fail the check; visibilities made so are refused."""
    raw, vis, report = converted
    wrong_hz = change(vis.frequency_hz).copy()
    with pytest.raises(DataError, match="ascending"):
        replace(vis, frequency_hz=wrong_hz)
    changed = replace(vis, frequency_hz=vis.frequency_hz.copy())
    changed.frequency_hz[...] = wrong_hz
    assert failed_of_measurement_set(store, context, raw, changed, report)[0] == {"frequencies_ascend"}
