import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from contimg_assets.science.coordinates import separation_deg
from contimg_assets.science.imaging.drift_beam import drift_beam, field_extent_rad, find_pointings
from contimg_assets.science.imaging.geometry import ImageGeometry
from contimg_assets.science.imaging.noise import estimate_noise, robust_rms
from contimg_assets.science.primary_beam import airy_power
from tests.science.interferometer import observe


def correlated_noise(shape, seed):
    """Noise of unit rms whose neighbours share a beam of 4.5 pixels FWHM."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 4.5 / 2.355, mode="wrap")
    return (noise / noise.std()).astype(np.float32)


def test_even_noise_is_measured_without_bias():
    """Rms and background of even noise with an offset are found to a few per cent everywhere."""
    maps = estimate_noise(correlated_noise((900, 900), 1) + 3.0, box_pixels=112)
    assert maps.rms.mean() == pytest.approx(1.0, abs=0.02)
    assert np.abs(maps.rms - 1.0).max() < 0.15
    assert np.abs(maps.background - 3.0).max() < 0.2


def test_gradients_of_noise_and_background_are_followed():
    """A linear gradient of rms and of background is recovered away from the outermost half boxes."""
    ramp = np.linspace(1.0, 3.0, 1200, dtype=np.float32)[None, :] * np.ones((600, 1), dtype=np.float32)
    maps = estimate_noise(correlated_noise((600, 1200), 2) * ramp + 10.0 * ramp, box_pixels=100)
    inner = (slice(None), slice(60, -60))
    assert np.median(maps.rms[inner] / ramp[inner]) == pytest.approx(1.0, abs=0.03)
    assert np.abs(maps.rms[inner] / ramp[inner] - 1.0).mean() < 0.07
    assert np.abs(maps.background[inner] / ramp[inner] - 10.0).mean() < 0.15


def test_sources_do_not_raise_the_noise():
    """Bright compact sources are clipped from the statistics."""
    image = correlated_noise((600, 600), 3)
    rng = np.random.default_rng(4)
    blobs = np.zeros_like(image)
    blobs[rng.integers(20, 580, 60), rng.integers(20, 580, 60)] = 400.0
    maps = estimate_noise(image + gaussian_filter(blobs, 1.9), box_pixels=120)
    assert maps.rms.mean() == pytest.approx(1.0, abs=0.05)
    assert robust_rms(image + gaussian_filter(blobs, 1.9)) == pytest.approx(1.0, abs=0.05)


def test_blank_pixels_stay_blank_and_blank_boxes_do_not_spread():
    """NaN pixels are NaN in the maps; a blank corner leaves its neighbours' values intact."""
    image = correlated_noise((400, 400), 5)
    image[:150, :150] = np.nan
    maps = estimate_noise(image, box_pixels=100)
    assert np.isnan(maps.rms[:150, :150]).all()
    assert np.isfinite(maps.rms[150:, 150:]).all()
    assert maps.rms[150:, 150:].mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("shape", [(10, 10), (3, 200)], ids=["tiny", "strip"])
def test_image_smaller_than_a_box_has_one_value(shape):
    """A small image gets maps of its own shape from all of its pixels."""
    maps = estimate_noise(np.random.default_rng(6).standard_normal(shape).astype(np.float32), box_pixels=250)
    assert maps.rms.shape == shape
    assert np.ptp(maps.rms) < 1e-6
    assert 0.6 < maps.rms[0, 0] < 1.4


def test_image_without_a_valid_pixel_has_no_noise():
    """All NaN in, all NaN out."""
    maps = estimate_noise(np.full((50, 50), np.nan, dtype=np.float32), box_pixels=20)
    assert np.isnan(maps.rms).all()
    assert np.isnan(robust_rms(np.full((50, 50), np.nan, dtype=np.float32)))


@given(st.floats(1e-6, 1e6), st.floats(-100.0, 100.0))
def test_maps_scale_with_the_image(factor, offset):
    """Scaling and shifting an image scales the rms and shifts the background."""
    image = correlated_noise((128, 128), 7)
    plain, changed = (
        estimate_noise(i, box_pixels=32) for i in (image, (image + np.float32(offset)) * np.float32(factor))
    )
    np.testing.assert_allclose(changed.rms, plain.rms * factor, rtol=5e-3)
    np.testing.assert_allclose(changed.background, (plain.background + offset) * factor, atol=0.02 * factor)


def test_drift_beam_is_the_mean_over_the_integrations():
    """At every pixel looked at, the map equals the weighted mean of the Airy pattern over all pointings."""
    vis, _ = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=4, n_time=9, n_chan=4, time_step_s=35.0)
    row_weights = np.random.default_rng(8).uniform(0.5, 1.5, len(vis.uvw_m))
    pointings = find_pointings(vis, row_weights)
    grid = ImageGeometry(
        n_x=500, n_y=400, cell_rad=np.deg2rad(40.0 / 3600), slant_u=0.01, slant_v=-0.38, needs_w=False,
        phase_centre_ra_deg=vis.phase_centre_ra_deg, phase_centre_dec_deg=vis.phase_centre_dec_deg,
    )  # fmt: skip
    power = drift_beam(grid, pointings, 1.4e9)
    x, y = np.array([0, 499, 250, 123, 380, 17]), np.array([0, 399, 200, 301, 55, 222])
    ra, dec = grid.wcs().wcs_pix2world(x, y, 0)
    apart = separation_deg(ra[:, None], dec[:, None], vis.pointing_ra_deg, vis.pointing_dec_deg)
    slow = np.average(airy_power(apart, 1.4e9, vis.dish_diameter_m), axis=1, weights=row_weights)
    assert np.ptp(slow) > 0.5
    np.testing.assert_allclose(power[y, x], slow, atol=2e-5)


def test_field_reaches_to_the_level():
    """A single pointing's field ends where the Airy pattern falls to the level; a drift widens it along RA only."""
    still = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=3, n_time=1, n_chan=2)[0]
    drifting = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=3, n_time=9, n_chan=2, time_step_s=40.0)[0]
    reaches = [
        np.rad2deg(field_extent_rad(find_pointings(vis, np.ones(len(vis.uvw_m))), 1.4e9, 0.2))
        for vis in (still, drifting)
    ]
    assert airy_power(reaches[0][2], 1.4e9, still.dish_diameter_m) == pytest.approx(0.2, abs=0.03)
    assert reaches[1][0] > reaches[0][0] + 0.02
    assert reaches[1][1] == pytest.approx(reaches[0][1], abs=0.1)
