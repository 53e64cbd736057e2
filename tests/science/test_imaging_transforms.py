from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.coordinates import direction_cosines
from contimg_assets.science.errors import DataError, NotEnoughDataError
from contimg_assets.science.imaging import averaging, geometry, memory, thermal, weighting
from contimg_assets.science.imaging.gridding import Gridder
from contimg_assets.science.imaging.imager import plan_images
from contimg_assets.science.imaging.settings import ImageSettings
from tests.science.interferometer import observe

CELL_RAD = np.deg2rad(40.0 / 3600.0)


def image_grid(vis, slant=(0.0, 0.0), *, needs_w=True, n_x=96, n_y=64):
    """A small grid about the phase centre."""
    return geometry.ImageGeometry(
        n_x=n_x,
        n_y=n_y,
        cell_rad=CELL_RAD,
        slant_u=slant[0],
        slant_v=slant[1],
        needs_w=needs_w,
        phase_centre_ra_deg=vis.phase_centre_ra_deg,
        phase_centre_dec_deg=vis.phase_centre_dec_deg,
    )


def direct_image(vis, weights, grid):
    """The dirty image by its definition: sum of w V exp(-2 pi i (u l + v m + w (n - 1))) over sum of w."""
    y, x = np.mgrid[: grid.n_y, : grid.n_x]
    lmn = grid.directions(x.astype(float), y.astype(float)) - np.array([0.0, 0.0, 1.0])
    stokes_i = vis.vis.mean(axis=-1)
    image = np.zeros(x.shape)
    for chan, frequency in enumerate(vis.frequency_hz):
        phase = 2.0 * np.pi * frequency / SPEED_OF_LIGHT_M_S * (lmn @ vis.uvw_m.T)
        image += np.real(np.exp(-1j * phase) @ (weights[:, chan] * stokes_i[:, chan]))
    return image / weights.sum()


@pytest.fixture(scope="module")
def two_sources():
    """Few visibilities of two sources off the centre and noise."""
    rng = np.random.default_rng(1)
    return observe(
        [(0.20, 0.15, 1.0, 0.0), (-0.35, -0.1, 0.5, -0.7)], n_antennas=6, n_time=3, n_chan=3, rms_jy=0.05, rng=rng
    )[0]


@pytest.mark.parametrize("is_slanted", [False, True], ids=["plain", "slanted"])
def test_dirty_image_is_the_direct_fourier_sum(two_sources, is_slanted):
    """The gridder's image equals the Fourier sum at every pixel, in plain and in slanted SIN projection."""
    weights = np.random.default_rng(2).uniform(0.5, 1.5, (len(two_sources.uvw_m), 3)).astype(np.float32)
    survey = geometry.survey_uv(two_sources.uvw_m, two_sources.frequency_hz, weights)
    grid = image_grid(two_sources, (survey.slant_u, survey.slant_v) if is_slanted else (0.0, 0.0))
    gridder = Gridder(two_sources.uvw_m, grid, epsilon=2e-5, n_threads=1)
    image = gridder.image(two_sources.vis.mean(axis=-1), weights, two_sources.frequency_hz)
    np.testing.assert_allclose(image, direct_image(two_sources, weights, grid), atol=2e-4)


def test_degridding_is_the_direct_fourier_sum(two_sources):
    """Visibilities of a model image equal the sum over its pixels with the measurement-set sign."""
    grid = image_grid(two_sources)
    model = np.zeros((grid.n_y, grid.n_x), dtype=np.float32)
    model[40, 70], model[20, 11] = 1.0, 0.4
    got = Gridder(two_sources.uvw_m, grid, epsilon=2e-5, n_threads=1).visibilities(model, two_sources.frequency_hz)
    expected = np.zeros_like(got, dtype=complex)
    for y, x in ((40, 70), (20, 11)):
        lmn = grid.directions(float(x), float(y)) - np.array([0.0, 0.0, 1.0])
        delay_s = two_sources.uvw_m @ lmn / SPEED_OF_LIGHT_M_S
        expected += model[y, x] * np.exp(2j * np.pi * delay_s[:, None] * two_sources.frequency_hz)
    np.testing.assert_allclose(got, expected, atol=2e-4)


@pytest.mark.parametrize("seed", range(6))
def test_gridding_of_any_baselines_is_the_direct_fourier_sum_both_ways(two_sources, seed):
    """With w ten times as large as u and v, random data and random models agree with the sums; image and prediction are adjoint."""
    rng = np.random.default_rng(seed)
    n_row = len(two_sources.uvw_m)
    # Up to 400 m along u and v: a pixel of 40 arcsec samples the longest fringe at 1.5 GHz twice. Up to 4 km along w.
    vis = replace(
        two_sources,
        vis=(rng.standard_normal((n_row, 3, 2)) + 1j * rng.standard_normal((n_row, 3, 2))).astype(np.complex64),
        flags=np.zeros((n_row, 3, 2), dtype=bool),
        uvw_m=rng.uniform(-400.0, 400.0, (n_row, 3)) * [1.0, 1.0, 10.0],
    )
    weights = rng.uniform(0.0, 2.0, (n_row, 3)).astype(np.float32)
    weights[rng.random(weights.shape) < 0.2] = 0.0
    grid = image_grid(vis)
    y, x = np.mgrid[: grid.n_y, : grid.n_x]
    lmn = grid.directions(x.astype(float), y.astype(float)) - np.array([0.0, 0.0, 1.0])
    largest_turn = 2.0 * np.pi * np.abs(vis.uvw_m[:, 2]).max() * np.abs(lmn[..., 2]).max() * 1.4e9 / SPEED_OF_LIGHT_M_S
    assert largest_turn > 1.0
    gridder = Gridder(vis.uvw_m, grid, epsilon=2e-5, n_threads=1)
    image = gridder.image(vis.vis.mean(axis=-1), weights, vis.frequency_hz)
    expected = direct_image(vis, weights, grid)
    assert np.abs(image - expected).max() < 1e-3 * np.abs(expected).max()

    model = np.where(rng.random(image.shape) < 0.01, rng.standard_normal(image.shape), 0.0).astype(np.float32)
    predicted = gridder.visibilities(model, vis.frequency_hz)
    at = np.nonzero(model)
    delay_s = vis.uvw_m @ lmn[at].T / SPEED_OF_LIGHT_M_S
    direct = np.exp(2j * np.pi * delay_s[..., None] * vis.frequency_hz).transpose(0, 2, 1) @ model[at].astype(float)
    assert np.abs(predicted - direct).max() < 1e-3 * np.abs(direct).max()
    # sum over pixels of (image x model) = sum over visibilities of w Re(V conj(prediction)) / sum of w
    left = float(np.sum(image.astype(float) * model))
    right = float(np.sum(weights * np.real(vis.vis.mean(axis=-1) * np.conj(predicted)), dtype=float) / weights.sum())
    assert left == pytest.approx(right, abs=1e-3 * float(np.abs(image).max() * np.abs(model).sum()))


def test_flat_array_needs_no_w_terms_in_the_slanted_projection():
    """Without w terms the slanted projection still puts a source far from the centre at its place with its flux."""
    vis, sky = observe([(1.3, -0.9, 1.0, 0.0)], n_time=1, n_chan=4, primary_beam=False)
    weights = np.ones((len(vis.uvw_m), 4), dtype=np.float32)
    survey = geometry.survey_uv(vis.uvw_m, vis.frequency_hz, weights)
    assert abs(survey.slant_v) > 0.3
    grid = image_grid(vis, (survey.slant_u, survey.slant_v), needs_w=False, n_x=300, n_y=300)
    image = Gridder(vis.uvw_m, grid, epsilon=2e-5, n_threads=1).image(vis.vis[..., 0], weights, vis.frequency_hz)
    x, y = grid.pixels(sky[:, 0], sky[:, 1])
    peak_y, peak_x = np.unravel_index(image.argmax(), image.shape)
    assert abs(peak_x - x[0]) <= 0.6
    assert abs(peak_y - y[0]) <= 0.6
    assert image.max() == pytest.approx(1.0, abs=0.05)


@given(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5), st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(-60.0, 60.0))
def test_pixels_of_directions_agree_with_astropy_and_their_inverse(east, north, slant_u, slant_v, dec0):
    """Our slanted SIN projection is that of the FITS header, and pixels and directions are inverse to each other."""
    grid = geometry.ImageGeometry(
        n_x=512, n_y=400, cell_rad=CELL_RAD, slant_u=slant_u, slant_v=slant_v, needs_w=False,
        phase_centre_ra_deg=359.9, phase_centre_dec_deg=dec0,
    )  # fmt: skip
    ra, dec = np.array([359.9 + east / np.cos(np.deg2rad(dec0))]), np.array([dec0 + north])
    x, y = grid.pixels(ra, dec)
    np.testing.assert_allclose(grid.wcs().wcs_world2pix(ra, dec, 0), (x, y), atol=1e-6)
    lmn = np.stack(direction_cosines(ra, dec, 359.9, dec0), axis=-1)
    np.testing.assert_allclose(grid.directions(x, y), lmn, atol=1e-9)


@pytest.mark.parametrize("robust", [-2.0, 2.0], ids=["uniform", "natural"])
def test_briggs_weights_reach_their_limits(robust):
    """Robust +2 is natural weighting; -2 gives every occupied uv cell the same total weight."""
    vis, _ = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=24, n_time=8, n_chan=8)
    statistical = np.random.default_rng(4).uniform(0.5, 2.0, (len(vis.uvw_m), 8)).astype(np.float32)
    field = (0.03, 0.03)
    [weights] = weighting.imaging_weights(vis.uvw_m, [vis.frequency_hz], [statistical], robust=robust, field_rad=field)
    if robust > 0:
        ratio = weights / statistical
        assert ratio.min() / ratio.max() > 0.9
        return
    u, v = (np.outer(vis.uvw_m[:, k], vis.frequency_hz / SPEED_OF_LIGHT_M_S) * field[k] for k in (0, 1))
    u, v = np.where(v < 0, -u, u), np.abs(v)
    cell = np.floor(u + 0.5).astype(int) * 1000 + np.floor(v + 0.5).astype(int)
    per_cell = np.array([weights[cell == c].sum() for c in np.unique(cell)])
    statistical_per_cell = np.array([statistical[cell == c].sum() for c in np.unique(cell)])
    crowded = statistical_per_cell > 5.0
    assert crowded.sum() > 50
    assert np.ptp(per_cell[crowded]) / per_cell[crowded].mean() < 0.05


def test_averaging_uses_what_is_unflagged():
    """A flagged hand, a flagged channel and a NaN leave the average of the others, with their weight."""
    vis, _ = observe([(0.0, 0.0, 2.0, 0.0)], n_antennas=3, n_time=1, n_chan=4, primary_beam=False)
    vis.vis[0, 0] = [99.0, 2.0]
    vis.flags[0, 0, 0] = True
    vis.vis[0, 1, 0] = np.nan
    vis.flags[1] = True
    [band] = averaging.average_to_stokes_i(vis, n_bands=1, factor=2)
    np.testing.assert_allclose(band.vis[[0, 2]], 2.0, rtol=1e-6)
    np.testing.assert_array_equal(band.weights, [[2, 4], [0, 0], [4, 4]])
    np.testing.assert_allclose(band.frequency_hz, vis.frequency_hz.reshape(2, 2).mean(axis=1))


def test_channels_are_not_averaged_across_a_gap():
    """Groups of channels end at gaps in frequency and at band edges."""
    frequency = np.array([1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0, 14.0])
    groups = averaging.channel_groups(frequency, 1.0, 2, 3)
    assert [g.tolist() for g in groups] == [[0, 3, 4], [4, 7, 8]]


def test_band_without_data_is_left_out_and_names_stay():
    """If all of the lowest band is flagged, the other bands keep their names."""
    vis, _ = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=4, n_time=1, n_chan=8)
    vis.flags[:, :2] = True
    assert [band.name for band in averaging.average_to_stokes_i(vis, n_bands=4, factor=1)] == [
        "band1",
        "band2",
        "band3",
    ]


def test_everything_flagged_is_an_error():
    """An observation without data is refused by name."""
    vis, _ = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=4, n_time=1, n_chan=4)
    vis.flags[:] = True
    with pytest.raises(NotEnoughDataError, match="every visibility is flagged"):
        plan_images(vis, ImageSettings())


def test_images_larger_than_memory_are_refused_before_they_are_made():
    """With a limit below the need the plan itself is an error that says how much; one byte more is enough."""
    vis, _ = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=8, n_time=2, n_chan=4)
    settings = ImageSettings(n_pixels=128, cell_arcsec=40.0, n_bands=2)
    factor = plan_images(vis, settings).averaging_factor
    needed = memory.image_bytes(128, 128, 2, len(vis.uvw_m) * -(-4 // factor))
    assert plan_images(vis, replace(settings, memory_bytes=needed)).grid.n_x == 128
    with pytest.raises(DataError, match=r"larger than the memory: got 128 x 128 pixels in 2 bands.*GB.*fewer pixels"):
        plan_images(vis, replace(settings, memory_bytes=needed - 1))
    with pytest.raises(DataError, match="larger than the memory"):
        plan_images(vis, replace(settings, n_pixels=None, memory_bytes=1e5))


def test_wrong_setting_is_named():
    """A setting out of range is refused with its name and what is allowed."""
    with pytest.raises(DataError, match=r"'robust'.*got 3.*-2 to 2"):
        ImageSettings(robust=3.0)


def test_chosen_grid_samples_beam_and_covers_the_field():
    """The cell is a quarter to a fifth of the beam and the image holds the primary beam's 20 % level of the drift."""
    vis, _ = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=24, n_time=8, n_chan=8, time_step_s=40.0)
    plan = plan_images(vis, ImageSettings())
    half_deg = np.rad2deg(plan.grid.cell_rad * np.array([plan.grid.n_x, plan.grid.n_y]) / 2)
    assert (half_deg > 2.1).all()
    assert (half_deg < 2.7).all()
    assert half_deg[0] > half_deg[1] + 0.02
    assert plan.averaging_factor == 1
    wavelengths = np.hypot(*vis.uvw_m[:, :2].T).max() * vis.frequency_hz.max() / SPEED_OF_LIGHT_M_S
    assert plan.grid.cell_rad * wavelengths < 0.5


@pytest.mark.parametrize("angle_deg", range(0, 180, 30))
@pytest.mark.parametrize("limit", [3e-4, 1e-3, 1e-2])
def test_averaging_stays_within_the_stated_loss(angle_deg, limit):
    """A source at the edge, in any direction, averaged by the chosen factor loses no more amplitude than the limit."""
    edge_deg = 2.0
    east_deg, north_deg = edge_deg * np.sin(np.deg2rad(angle_deg)), edge_deg * np.cos(np.deg2rad(angle_deg))
    vis, _ = observe([(east_deg, north_deg, 1.0, 0.0)], n_time=4, n_chan=768, n_antennas=10, primary_beam=False)
    weights = np.ones((len(vis.uvw_m), 768), dtype=np.float32)
    survey = geometry.survey_uv(vis.uvw_m, vis.frequency_hz, weights)
    factor = geometry.averaging_factor(survey, vis.channel_width_hz, np.deg2rad(edge_deg), limit)
    assert factor >= 2
    averaged = vis.vis[:, : 768 - 768 % factor, 0].reshape(len(weights), -1, factor).mean(axis=-1)
    loss = 1.0 - np.abs(averaged).mean()
    assert 0.05 * limit < loss <= limit


def test_one_channel_more_would_lose_more_than_the_limit():
    """The chosen factor is the largest: in the array's widest direction the next one exceeds a limit it may just keep to."""
    vis, _ = observe([(2.0, 0.0, 1.0, 0.0)], n_time=4, n_chan=768, n_antennas=10, primary_beam=False)
    weights = np.ones((len(vis.uvw_m), 768), dtype=np.float32)
    survey = geometry.survey_uv(vis.uvw_m, vis.frequency_hz, weights)
    factor = geometry.averaging_factor(survey, vis.channel_width_hz, np.deg2rad(2.0), 1e-2) + 1
    averaged = vis.vis[:, : 768 - 768 % factor, 0].reshape(len(weights), -1, factor).mean(axis=-1)
    assert 1.0 - np.abs(averaged).mean() > 1e-2


def test_propagated_noise_is_the_scatter_of_images_of_noise():
    """Noise predicted from weights equals the rms of an image of pure noise, weights known only up to a factor."""
    vis, _ = observe([(0.0, 0.0, 0.0, 0.0)], n_antennas=12, n_chan=4, rms_jy=0.01, rng=np.random.default_rng(7))
    statistical = np.full((len(vis.uvw_m), 4), 2.0 * vis.weights[0, 0] * 17.0, dtype=np.float32)
    stokes_i = vis.vis.mean(axis=-1)
    imaging = statistical * np.random.default_rng(8).uniform(0.2, 1.0, statistical.shape).astype(np.float32)
    grid = image_grid(vis, needs_w=False, n_x=512, n_y=512)
    image = Gridder(vis.uvw_m, grid, epsilon=2e-5, n_threads=1).image(stokes_i, imaging, vis.frequency_hz)
    scale = thermal.noise_scale(stokes_i, statistical)
    assert scale == pytest.approx(17.0, rel=0.1)
    expected = thermal.propagated_rms_jy(imaging, statistical, scale)
    assert expected == pytest.approx(float(image.std()), rel=0.08)


def test_radiometer_equation_by_hand():
    """N (N - 1) n_pol B t by hand; half of the data flagged is as half of the bandwidth."""
    vis, _ = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=5, n_time=3, n_chan=8)
    time_s = 3 * vis.exposure_s[0]
    assert thermal.radiometer_rms_jy(vis, 5800.0) == pytest.approx(5800.0 / np.sqrt(5 * 4 * 2 * 187.5e6 * time_s))
    vis.flags[:, ::2] = True
    assert thermal.radiometer_rms_jy(vis, 5800.0) == pytest.approx(5800.0 / np.sqrt(5 * 4 * 2 * 93.75e6 * time_s))
    vis.flags[...] = True
    assert thermal.radiometer_rms_jy(vis, 5800.0) == np.inf


def test_sefd_is_measured_from_the_noise_under_the_sky():
    """The noisier polarisation's 9,000 Jy come out under a source of 3 Jy, whatever the weights and a few bursts say."""
    vis, _ = observe([(0.2, 0.1, 3.0, 0.0)], n_antennas=12, n_time=6, n_chan=64)
    rng = np.random.default_rng(5)
    sefd_jy = np.array([5000.0, 9000.0])
    sigma_jy = sefd_jy / np.sqrt(2.0 * vis.channel_width_hz * vis.exposure_s[0])
    vis.vis[...] += sigma_jy * (rng.standard_normal(vis.vis.shape) + 1j * rng.standard_normal(vis.vis.shape))
    vis.vis[:20] += 1e4
    vis.weights[...] = 1.0
    assert thermal.measured_sefd_jy(vis) == pytest.approx(9000.0, rel=0.03)
    vis.flags[..., 1] = True
    assert thermal.measured_sefd_jy(vis) == pytest.approx(5000.0, rel=0.03)
    vis.flags[...] = True
    assert np.isnan(thermal.measured_sefd_jy(vis))
