"""Sources of the catalogue: fitted between pixels, unbiased, and no slaves of what the catalogue says."""

import numpy as np
import pytest

from contimg_assets.science.imaging import known_sources
from contimg_assets.science.imaging.imager import make_images
from contimg_assets.science.imaging.settings import ImageSettings
from tests.science.interferometer import fitted_flux_jy, observe, sky_model, value_at

SETTINGS = ImageSettings(n_bands=2, n_threads=1)


def sparse_field(rng, *, rms_jy=0.0):
    """A source of 8 Jy and 24 of 5 to 80 mJy, seen by 14 antennas, whose sidelobes reach 20 per cent."""
    grid = np.stack(np.meshgrid(np.linspace(-1.2, 1.2, 5), np.linspace(-1.2, 1.2, 5)), axis=-1).reshape(-1, 2)
    places = np.delete(grid, 12, axis=0) + rng.uniform(-0.2, 0.2, (24, 2))
    fluxes = np.concatenate([[8.0], 10.0 ** rng.uniform(-2.3, -1.1, 24)])
    sources = [(0.05, 0.02, 8.0, -0.5), *((*place, flux, -0.5) for place, flux in zip(places, fluxes[1:], strict=True))]
    vis, sky = observe(sources, n_antennas=14, n_chan=16, rms_jy=rms_jy, rng=rng)
    return vis, sky, fluxes


def errors_jy(images, sky, fluxes):
    """Measured minus true apparent flux density in the full band."""
    full = images.full
    apparent = fluxes * (full.frequency_hz / 1.4e9) ** -0.5
    apparent *= [value_at(full.primary_beam, images.wcs, *place) for place in sky]
    return np.array([fitted_flux_jy(full, images.wcs, *place) for place in sky]) - apparent, apparent


def test_a_crowded_field_is_subtracted_exactly():
    """Without noise every flux density is right to 0.5 per cent and the residual is a millionth of the brightest source."""
    vis, sky, fluxes = sparse_field(np.random.default_rng(4))
    images = make_images(vis, SETTINGS, sky_model(sky, fluxes, -0.5))
    error, apparent = errors_jy(images, sky, fluxes)
    assert images.n_known_sources == 25
    assert images.n_clean_components == 0
    assert np.abs(error / apparent).max() < 5e-3
    assert images.full.rms_jy_beam < 8e-6


def test_without_the_catalogue_clean_is_biased():
    """The reason for the fit: in the same field without noise CLEAN takes flux from the sources, more than the fit's error."""
    vis, sky, fluxes = sparse_field(np.random.default_rng(4))
    blind, _ = errors_jy(make_images(vis, SETTINGS), sky, fluxes)
    known, _ = errors_jy(make_images(vis, SETTINGS, sky_model(sky, fluxes, -0.5)), sky, fluxes)
    assert np.mean(blind[1:]) < -5.0 * np.abs(np.mean(known[1:]))


def test_a_wrong_catalogue_does_not_pull_fluxes():
    """With flux densities wrong by 30 per cent and spectra by 0.5, pulls are standard normal and the noise is thermal."""
    rng = np.random.default_rng(8)
    pulls, ratios = [], []
    for _ in range(4):
        vis, sky, fluxes = sparse_field(rng, rms_jy=1e-3)
        catalogue = sky_model(sky, fluxes * np.exp(0.3 * rng.standard_normal(fluxes.size)), 0.0)
        images = make_images(vis, SETTINGS, catalogue)
        error, _ = errors_jy(images, sky, fluxes)
        pulls.extend(error[1:] / images.full.rms_jy_beam)
        ratios.append(images.full.rms_jy_beam / images.full.thermal_rms_jy_beam)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.03)
    assert abs(np.mean(pulls)) < 0.3
    assert 0.8 < np.std(pulls) < 1.25


def test_a_source_that_is_gone_is_measured_as_gone():
    """A catalogue source of 50 sigma that the sky no longer has is measured as zero, and so is its neighbourhood."""
    rng = np.random.default_rng(12)
    vis, sky = observe([(0.4, 0.3, 0.2, 0.0)], n_antennas=20, n_chan=8, rms_jy=1e-3, rng=rng)
    ghost = sky[0] + np.array([0.3, -0.5])
    images = make_images(vis, SETTINGS, sky_model([*sky, ghost], [0.2, 0.05]))
    assert abs(fitted_flux_jy(images.full, images.wcs, *ghost)) < 4.0 * images.full.thermal_rms_jy_beam
    assert images.full.rms_jy_beam == pytest.approx(images.full.thermal_rms_jy_beam, rel=0.15)


def test_a_flare_beside_a_faint_catalogue_source_is_cleaned():
    """Sources that are not in the catalogue are found by CLEAN beside those that are."""
    rng = np.random.default_rng(13)
    vis, sky = observe([(0.4, 0.3, 0.2, 0.0), (-0.5, 0.2, 0.1, 0.0)], n_antennas=20, n_chan=8, rms_jy=1e-3, rng=rng)
    images = make_images(vis, SETTINGS, sky_model(sky[:1], [0.2]))
    expected = 0.1 * value_at(images.full.primary_beam, images.wcs, *sky[1])
    assert images.n_clean_components > 0
    assert fitted_flux_jy(images.full, images.wcs, *sky[1]) == pytest.approx(expected, abs=4e-3)


def test_faint_sources_are_subtracted_where_they_are_known_to_be():
    """A source below the automatic mask's threshold enters the model if the catalogue has it; others are left out."""
    vis, sky = observe([(0.4, 0.3, 0.004, 0.0)], n_antennas=20, n_chan=4, rms_jy=1e-3, rng=np.random.default_rng(5))
    assert make_images(vis, SETTINGS).full.model.max() == 0.0
    guided = make_images(vis, SETTINGS, sky_model([*sky, (10.0, -80.0)], [0.004, 1.0]))
    assert guided.n_known_sources == 1
    assert guided.full.model.sum() == pytest.approx(0.004, rel=0.4)


def test_interpolation_and_spreading_are_adjoint():
    """Sum of image times spread sources equals sum of flux times interpolated image, at edges too."""
    rng = np.random.default_rng(1)
    image = rng.standard_normal((40, 50)).astype(np.float32)
    x, y, flux = rng.uniform(-1.0, 50.0, 30), rng.uniform(-1.0, 40.0, 30), rng.standard_normal(30)
    spread = np.zeros_like(image)
    known_sources.spread(spread, x, y, flux)
    assert np.sum(spread * image) == pytest.approx(np.sum(flux * known_sources.interpolate(image, x, y)), rel=1e-4)


def test_interpolation_of_a_sampled_wave():
    """A wave of 4 pixels per period is interpolated to a thousandth."""
    y, x = np.mgrid[:64, :64]
    wave = np.cos(2.0 * np.pi * (0.25 * x + 0.1 * y)).astype(np.float32)
    px, py = np.random.default_rng(2).uniform(10.0, 50.0, (2, 100))
    expected = np.cos(2.0 * np.pi * (0.25 * px + 0.1 * py))
    np.testing.assert_allclose(known_sources.interpolate(wave, px, py), expected, atol=1e-3)


@pytest.mark.parametrize("flux_jy", [[0.0], []], ids=["zero flux", "no source"])
def test_a_sky_without_flux_changes_nothing(flux_jy):
    """A model of zero flux or without sources is no model: the images are those of CLEAN alone, bit for bit."""
    vis, sky = observe([(0.4, 0.3, 0.2, 0.0)], n_antennas=12, n_chan=4, rms_jy=1e-3, rng=np.random.default_rng(5))
    images = make_images(vis, SETTINGS, sky_model(sky[: len(flux_jy)], flux_jy))
    assert images.n_known_sources == 0
    assert images.n_clean_components > 0
    np.testing.assert_array_equal(images.full.restored, make_images(vis, SETTINGS).full.restored)
