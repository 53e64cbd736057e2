from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import least_squares

from contimg_assets.science.errors import DataError
from contimg_assets.science.imaging import clean, restore
from contimg_assets.science.imaging.imager import make_images
from contimg_assets.science.imaging.mask import grow_mask
from contimg_assets.science.imaging.settings import ImageSettings
from tests.science.interferometer import fitted_flux_jy, observe, sky_model, value_at


def gaussian(n, major, minor, pa_deg, x0, y0):
    """Gaussian of FWHM major x minor pixels, position angle north through east, x towards west."""
    y, x = np.mgrid[:n, :n]
    east, north, pa = x0 - x, y - y0, np.deg2rad(pa_deg)
    along, across = east * np.sin(pa) + north * np.cos(pa), east * np.cos(pa) - north * np.sin(pa)
    return np.exp(-4.0 * np.log(2.0) * ((along / major) ** 2 + (across / minor) ** 2)).astype(np.float32)


@pytest.mark.parametrize("pa_deg", [-60.0, 0.0, 25.0, 80.0])
def test_beam_of_a_gaussian_is_that_gaussian(pa_deg):
    """The fit of an analytic Gaussian returns its axes and position angle."""
    beam = restore.fit_restoring_beam(gaussian(128, 7.3, 4.4, pa_deg, 64, 64), cell_arcsec=10.0)
    assert beam.major_arcsec == pytest.approx(73.0, rel=1e-4)
    assert beam.minor_arcsec == pytest.approx(44.0, rel=1e-4)
    assert beam.pa_deg == pytest.approx(pa_deg, abs=0.01)


def test_restored_components_are_gaussians_of_unit_peak():
    """A component of 2 Jy becomes a Gaussian of 2 Jy/beam with the beam's orientation, on top of the residual."""
    model, residual = np.zeros((128, 128), dtype=np.float32), np.full((128, 128), 0.5, dtype=np.float32)
    model[50, 70], model[0, 127] = 2.0, -1.0
    beam = restore.RestoringBeam(73.0, 44.0, 25.0)
    restored = restore.restore(model, residual, beam, 10.0)
    expected = 0.5 + 2.0 * gaussian(128, 7.3, 4.4, 25.0, 70, 50) - gaussian(128, 7.3, 4.4, 25.0, 127, 0)
    np.testing.assert_allclose(restored, expected, atol=2e-6)


def test_unresolved_beam_is_an_error():
    """A point-spread function of one pixel cannot be fitted, and the message says what to do."""
    psf = np.zeros((64, 64), dtype=np.float32)
    psf[32, 32] = 1.0
    with pytest.raises(DataError, match="smaller cell"):
        restore.fit_restoring_beam(psf, 10.0)


def test_mask_grows_around_what_is_significant():
    """Only pixels above both the local noise and the floor seed discs."""
    residual, rms = np.zeros((40, 40), dtype=np.float32), np.ones((40, 40), dtype=np.float32)
    residual[10, 10], residual[30, 30], residual[10, 30] = 6.0, 6.0, -9.0
    rms[30, 30] = 2.0
    mask = np.zeros((40, 40), dtype=bool)
    assert grow_mask(mask, residual, rms, 5.0, 1.0, 1.5) == 1
    assert mask.sum() == 9
    assert grow_mask(mask, residual, rms, 5.0, 1.0, 1.5) == 0


def test_sidelobe_level_ignores_the_main_lobe():
    """The largest value beyond the given radius counts, whatever its sign."""
    psf = gaussian(64, 5.0, 5.0, 0.0, 32, 32)
    psf[10, 50] = -0.3
    assert clean.sidelobe_level(psf, 8.0) == pytest.approx(0.3)


@pytest.mark.parametrize("offset_cells", [(0.0, 0.0), (0.5, 0.5), (0.25, -0.4)], ids=["centre", "corner", "between"])
def test_flux_does_not_depend_on_the_place_within_a_pixel(offset_cells):
    """A bright source between pixels has its flux density times the primary beam to 0.3 %, far from the centre too."""
    cell_deg = 60.0 / 3600.0
    east, north = 60 * cell_deg + offset_cells[0] * cell_deg, -42 * cell_deg + offset_cells[1] * cell_deg
    vis, sky = observe(
        [(east, north, 5.0, 0.0)], n_antennas=20, n_chan=8, rms_jy=1e-3, rng=np.random.default_rng(3), drifts=False
    )
    images = make_images(vis, ImageSettings(n_bands=2, n_threads=1))
    expected = 5.0 * value_at(images.full.primary_beam, images.wcs, *sky[0])
    assert fitted_flux_jy(images.full, images.wcs, *sky[0]) == pytest.approx(expected, rel=3e-3)
    assert images.dynamic_range > 1000


def test_fluxes_and_spectra_of_many_sources_are_recovered():
    """Pulls of 48 sources in each band are standard normal: no CLEAN bias, and the bands carry the spectrum."""
    rng = np.random.default_rng(11)
    grid = np.stack(np.meshgrid([-1.1, -0.4, 0.3, 1.0], [-0.9, -0.2, 0.5, 1.2]), axis=-1).reshape(-1, 2)
    pulls = {name: [] for name in ("full", "band0", "band1", "band2", "band3")}
    for _ in range(3):
        places = grid + rng.uniform(-0.2, 0.2, grid.shape)
        sources = [(*place, flux, -0.8) for place, flux in zip(places, rng.uniform(0.02, 0.4, 16), strict=True)]
        vis, sky = observe(sources, n_antennas=22, n_chan=16, n_time=10, rms_jy=1e-3, rng=rng)
        images = make_images(vis, ImageSettings(n_bands=4, n_threads=1), sky_model(sky, [s[2] for s in sources], -0.8))
        assert not images.has_diverged
        for plane in images.planes:
            assert plane.rms_jy_beam == pytest.approx(plane.thermal_rms_jy_beam, rel=0.15)
            flux = np.array([s[2] for s in sources]) * (plane.frequency_hz / 1.4e9) ** -0.8
            apparent = flux * [value_at(plane.primary_beam, images.wcs, *place) for place in sky]
            measured = [fitted_flux_jy(plane, images.wcs, *place) for place in sky]
            pulls[plane.name].extend((measured - apparent) / plane.rms_jy_beam)
    for name, values in pulls.items():
        assert abs(np.mean(values)) < 0.35, name
        assert 0.8 < np.std(values) < 1.25, name


def test_bright_source_in_a_moving_beam_leaves_noise_only():
    """A source of 10 Jy whose apparent flux changes during the drift is subtracted down to the noise."""
    vis, sky = observe(
        [(0.6, 0.3, 10.0, 0.0)],
        n_antennas=18,
        n_chan=8,
        n_time=9,
        rms_jy=2e-3,
        rng=np.random.default_rng(9),
        time_step_s=35.0,
    )
    images = make_images(vis, ImageSettings(n_bands=2, n_threads=1))
    assert images.full.rms_jy_beam < 1.15 * images.full.thermal_rms_jy_beam
    expected = 10.0 * value_at(images.full.primary_beam, images.wcs, *sky[0])
    assert fitted_flux_jy(images.full, images.wcs, *sky[0]) == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("seed", [21, 22, 23])
@pytest.mark.parametrize("separation_beams", [1.2, 1.6])
def test_overlapping_sources_are_told_apart(separation_beams, seed):
    """Two sources little more than a beam apart, 1 and 0.6 Jy: CLEAN finds both flux densities and both positions."""
    rng = np.random.default_rng(seed)
    settings = ImageSettings(n_bands=1, n_threads=1)
    empty, _ = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=22, n_chan=16, rms_jy=1e-3, rng=rng, drifts=False)
    beam_deg = make_images(empty, replace(settings, max_iterations=0)).full.beam.mean_arcsec / 3600.0
    angle = rng.uniform(0.0, 2.0 * np.pi)
    east, north = rng.uniform(-0.3, 0.3, 2)
    apart = separation_beams * beam_deg * np.array([np.sin(angle), np.cos(angle)])
    vis, sky = observe(
        [(east, north, 1.0, 0.0), (east + apart[0], north + apart[1], 0.6, 0.0)],
        n_antennas=22, n_chan=16, rms_jy=1e-3, rng=rng, drifts=False,
    )  # fmt: skip
    images = make_images(vis, settings)
    full = images.full
    x, y = images.wcs.wcs_world2pix(sky[:, 0], sky[:, 1], 0)
    cell_arcsec = 3600.0 * images.wcs.wcs.cdelt[1]
    row, column = np.mgrid[int(y.min()) - 8 : int(y.max()) + 9, int(x.min()) - 8 : int(x.max()) + 9]

    def two_gaussians(parameters):
        total = np.zeros(row.shape)
        for flux, x0, y0 in parameters.reshape(2, 3):
            east, north = (x0 - column) * cell_arcsec, (row - y0) * cell_arcsec
            pa = np.deg2rad(full.beam.pa_deg)
            along = (east * np.sin(pa) + north * np.cos(pa)) / full.beam.major_arcsec
            across = (east * np.cos(pa) - north * np.sin(pa)) / full.beam.minor_arcsec
            total += flux * np.exp(-4.0 * np.log(2.0) * (along**2 + across**2))
        return (total - full.restored[row, column]).ravel()

    start = np.array([0.8, x[0] + 0.4, y[0] - 0.4, 0.8, x[1] - 0.4, y[1] + 0.4])
    fitted = least_squares(two_gaussians, start).x.reshape(2, 3)
    expected = np.array([1.0, 0.6]) * [value_at(full.primary_beam, images.wcs, *place) for place in sky]
    np.testing.assert_allclose(fitted[:, 0], expected, rtol=0.02)
    offset_beams = np.hypot(fitted[:, 1] - x, fitted[:, 2] - y) * cell_arcsec / full.beam.minor_arcsec
    assert offset_beams.max() < 0.05
    assert full.rms_jy_beam < 1.15 * full.thermal_rms_jy_beam


def test_sources_beyond_the_image_are_cleaned_with_its_surroundings():
    """A source in the first sidelobe of the dishes throws sidelobes into the image, which go with it; grid and weights stay."""
    beyond_deg = 4.7  # 1.64 lambda / D, where the sidelobe has 1.7 % of the peak: 130 times the noise
    vis, sky = observe(
        [(0.4, 0.2, 0.5, 0.0), (0.0, beyond_deg, 16.0, 0.0)],
        n_antennas=14,
        n_chan=8,
        rms_jy=2e-3,
        rng=np.random.default_rng(5),
        drifts=False,
    )
    settings = ImageSettings(n_bands=1, n_pixels=864, cell_arcsec=25.0, n_threads=1)
    alone, whole = make_images(vis, settings), make_images(vis, replace(settings, surroundings=True))
    assert whole.full.restored.shape == (864, 864)
    np.testing.assert_array_equal(
        whole.wcs.wcs_pix2world([[10.0, 300.0]], 0), alone.wcs.wcs_pix2world([[10.0, 300.0]], 0)
    )
    np.testing.assert_allclose(whole.full.psf, alone.full.psf, atol=2e-3)
    np.testing.assert_allclose(whole.full.primary_beam, alone.full.primary_beam, atol=1e-5)
    assert alone.full.rms_jy_beam > 2.0 * whole.full.rms_jy_beam
    assert whole.full.rms_jy_beam < 1.1 * whole.full.thermal_rms_jy_beam
    expected_jy = 0.5 * value_at(whole.full.primary_beam, whole.wcs, *sky[0])
    assert fitted_flux_jy(whole.full, whole.wcs, *sky[0]) == pytest.approx(
        expected_jy, abs=3.0 * whole.full.rms_jy_beam
    )


def test_no_iterations_gives_dirty_images():
    """Without CLEAN the restored image is the dirty image."""
    vis, _ = observe([(0.3, 0.3, 1.0, 0.0)], n_antennas=10, n_chan=4)
    images = make_images(vis, ImageSettings(n_bands=2, max_iterations=0, n_threads=1))
    np.testing.assert_array_equal(images.full.restored, images.full.dirty)
    assert images.n_clean_components == 0


def test_diverging_cycle_is_taken_back():
    """With point-spread functions that do not belong to the data, CLEAN stops and returns the model before."""
    vis, _ = observe([(0.2, 0.1, 1.0, 0.0)], n_antennas=10, n_chan=4, rms_jy=1e-3, rng=np.random.default_rng(6))
    settings = ImageSettings(n_bands=1, n_threads=1)

    class WrongPredictor:
        """Model visibilities three times too strong, with the wrong sign."""

        def visibilities(self, index, model, sources):
            return -3.0 * gridder.visibilities(model, bands[index].frequency_hz)

    from contimg_assets.science.imaging import averaging, imager, weighting
    from contimg_assets.science.imaging.gridding import Gridder

    plan = imager.plan_images(vis, settings)
    bands = averaging.average_to_stokes_i(vis, n_bands=1, factor=1)
    weights = weighting.imaging_weights(
        vis.uvw_m, [bands[0].frequency_hz], [bands[0].weights], robust=0.5, field_rad=plan.field_rad
    )
    gridder = Gridder(vis.uvw_m, plan.grid, epsilon=2e-5, n_threads=1)
    state = clean.start(bands, weights, gridder, (plan.grid.n_y, plan.grid.n_x))
    dirty = state.residual.copy()
    clean.deconvolve(bands, weights, gridder, WrongPredictor(), state, settings, 4.5)
    assert state.has_diverged
    assert not state.model.any()
    np.testing.assert_array_equal(state.residual, dirty)
