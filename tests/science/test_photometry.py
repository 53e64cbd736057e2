"""Fluxes and errors of sources injected into noise: unbiased, with pulls of unit width, blended or not."""

import numpy as np
import pytest

from contimg_assets.science.errors import DataError
from contimg_assets.science.photometry import blends
from contimg_assets.science.photometry import flags as bits
from contimg_assets.science.photometry.forced import COLUMNS, PhotometrySettings, measure_forced
from contimg_assets.science.photometry.noise_correlation import (
    beam_autocorrelation,
    measure_noise_autocorrelation,
)
from contimg_assets.science.photometry.pixel_grid import pixel_beam, sky_positions
from tests.science.noisy_sky import add_sources, beam_noise, sky_image

RMS = 1e-3


def measured(image, x, y, *, background=None, rms=RMS, **kwargs):
    """Forced photometry at pixel positions with a flat noise map."""
    ra, dec = sky_positions(image, np.atleast_1d(x).astype(float), np.atleast_1d(y).astype(float))
    rms_map = np.full(image.data.shape, rms, np.float32)
    return measure_forced(image, rms_map, background, ra, dec, **kwargs)


def image_with(x, y, flux, *, n_pixels=64, noise=0.0):
    """Noiseless image of sources on a flat pedestal."""
    data = np.zeros((n_pixels, n_pixels)) + noise
    add_sources(data, sky_image(data), np.atleast_1d(x), np.atleast_1d(y), np.atleast_1d(flux))
    return sky_image(data)


@pytest.fixture(scope="module")
def crowded():
    """2,000 sources in noise correlated like the beam, a quarter of them with a companion at 0.4 to 1.5 beams."""
    rng = np.random.default_rng(3)
    n_pixels, n = 1400, 2000
    step = 28
    cell = rng.permutation((n_pixels // step) ** 2)[: n * 3 // 4]
    x = (cell % (n_pixels // step)) * step + rng.uniform(11, 17, cell.size)
    y = (cell // (n_pixels // step)) * step + rng.uniform(11, 17, cell.size)
    angle, distance = rng.uniform(0, 2 * np.pi, n // 4), rng.uniform(0.4, 1.5, n // 4) * 4.0
    x = np.concatenate([x, x[: n // 4] + distance * np.cos(angle)])
    y = np.concatenate([y, y[: n // 4] + distance * np.sin(angle)])
    flux = 5 * RMS * rng.uniform(size=x.size) ** -0.7
    data = RMS * beam_noise(n_pixels, rng)
    add_sources(data, sky_image(data), x, y, flux)
    return sky_image(data), x, y, flux


def test_isolated_sources_have_unbiased_fluxes_and_pulls_of_unit_width(crowded):
    """The error is the scatter where nothing is blended."""
    image, x, y, flux = crowded
    table = measured(image, x, y)
    pull = ((table["peak_flux_jy_beam"] - flux) / table["peak_flux_err_jy_beam"]).to_numpy()
    alone = table["blend_id"].is_null().to_numpy()
    assert alone.sum() > 900
    assert abs(np.median(pull[alone])) < 0.1
    assert 0.95 < pull[alone].std() < 1.05
    assert np.abs(pull[alone]).max() < 5
    assert np.all(table["flags"].to_numpy()[alone] == 0)


def test_blended_sources_have_unbiased_fluxes_and_pulls_of_unit_width(crowded):
    """Deblending moves the flux to its owner and the error grows as it must."""
    image, x, y, flux = crowded
    table = measured(image, x, y)
    pull = ((table["peak_flux_jy_beam"] - flux) / table["peak_flux_err_jy_beam"]).to_numpy()
    solved = (table["blend_id"].is_not_null() & ((table["flags"] & bits.UNRESOLVED_NEIGHBOUR) == 0)).to_numpy()
    assert solved.sum() > 800
    assert abs(np.median(pull[solved])) < 0.12
    assert 0.95 < pull[solved].std() < 1.05
    assert np.abs(pull[solved]).max() < 5
    assert np.all(table["flags"].to_numpy()[solved] & bits.BLENDED)
    error = table["peak_flux_err_jy_beam"].to_numpy()[solved]
    assert error.max() > 1.25 * RMS


def test_residuals_of_a_true_model_have_a_reduced_chi_square_near_one(crowded):
    """chi2_reduced is about one for point sources in noise, and large where the source is not a point."""
    image, x, y, _ = crowded
    assert 0.8 < measured(image, x, y)["chi2_reduced"].mean() < 1.05
    extended = np.zeros((64, 64))
    add_sources(extended, sky_image(extended, major=20.0, minor=20.0), [32.0], [32.0], [0.1])
    assert measured(sky_image(extended), 32.0, 32.0)["chi2_reduced"][0] > 10


def test_generalised_least_squares_is_less_noisy_than_the_matched_filter(crowded):
    """On noise correlated like the beam the matched filter scatters 15 per cent more, and says so."""
    image, x, y, flux = crowded
    gls = measured(image, x, y)
    matched = measured(image, x, y, settings=PhotometrySettings(method="matched_filter"))
    alone = gls["blend_id"].is_null()
    gain = (matched["peak_flux_err_jy_beam"] / gls["peak_flux_err_jy_beam"]).filter(alone).to_numpy()
    assert np.allclose(gain, 1.155 / 1.003, rtol=0.02)
    pull = ((matched["peak_flux_jy_beam"] - flux) / matched["peak_flux_err_jy_beam"]).filter(alone).to_numpy()
    assert 0.95 < pull.std() < 1.05


@pytest.mark.parametrize("method", ["gls", "matched_filter"])
def test_measured_autocorrelation_gives_right_errors_for_any_noise(method, rng):
    """White noise breaks the assumption of the beam's correlation; the measured one mends it."""
    n = 600
    image = sky_image(RMS * rng.standard_normal((n, n)))
    y, x = np.mgrid[12 : n - 12 : 14, 12 : n - 12 : 14] + rng.uniform(-0.5, 0.5, (1, 1))
    beam = pixel_beam(image)
    rms_map = np.full((n, n), RMS, np.float32)
    acf = measure_noise_autocorrelation(image, rms_map, None, beam)
    assert acf is not None
    middle = acf.shape[0] // 2
    assert acf[middle, middle] == 1.0
    assert np.abs(np.delete(acf.ravel(), acf.size // 2)).max() < 0.02
    settings = PhotometrySettings(method=method, deblend_radius_beams=1.0)
    table = measured(image, x.ravel(), y.ravel(), noise_acf=acf, settings=settings)
    pull = (table["peak_flux_jy_beam"] / table["peak_flux_err_jy_beam"]).to_numpy()
    assert 0.95 < pull.std() < 1.05


def test_measured_autocorrelation_of_beam_noise_is_the_beam(rng):
    """Sources in the image are masked before the correlation is taken."""
    n = 800
    data = RMS * beam_noise(n, rng)
    add_sources(data, sky_image(data), rng.uniform(20, 780, 150), rng.uniform(20, 780, 150), np.full(150, 0.1))
    image = sky_image(data)
    beam = pixel_beam(image)
    acf = measure_noise_autocorrelation(image, np.full((n, n), RMS, np.float32), None, beam)
    assert np.abs(acf - beam_autocorrelation(beam, acf.shape[0] // 2)).max() < 0.06


def test_too_little_blank_sky_gives_no_autocorrelation():
    """A stamp-sized image does not tell how its noise is correlated."""
    image = sky_image(np.zeros((20, 20)))
    assert measure_noise_autocorrelation(image, np.full((20, 20), RMS, np.float32), None, pixel_beam(image)) is None


@pytest.mark.parametrize("phase", [0.0, 0.13, 0.37, 0.49999, 0.5, 0.83])
@pytest.mark.parametrize("method", ["gls", "matched_filter"])
def test_noiseless_source_gives_its_flux_at_any_sub_pixel_position(phase, method):
    """The kernel is exact between the phases of the filter bank."""
    image = image_with(31 + phase, 30 - phase, 0.25)
    table = measured(image, 31 + phase, 30 - phase, settings=PhotometrySettings(method=method))
    assert table["peak_flux_jy_beam"][0] == pytest.approx(0.25, rel=2e-7)
    assert table["chi2_reduced"][0] < 1e-8


def test_matched_filter_equals_a_slow_reference(rng):
    """Sum of d K over sum of K squared, over the stamp's pixels, from its definition."""
    image = sky_image(rng.standard_normal((48, 48)))
    x, y = 20.3, 24.8
    beam = pixel_beam(image)
    top = bottom = 0.0
    for row in range(48):
        for col in range(48):
            corner = np.array([col - round(x), row - round(y)])
            offset = np.array([col - x, row - y])
            if corner @ beam.precision @ corner <= (1.5 * 2.354820045) ** 2:
                kernel = np.exp(-0.5 * offset @ beam.precision @ offset)
                top += kernel * float(image.data[row, col])
                bottom += kernel**2
    table = measured(image, x, y, settings=PhotometrySettings(method="matched_filter"))
    assert table["peak_flux_jy_beam"][0] == pytest.approx(top / bottom, rel=1e-9)


def test_background_is_subtracted_under_the_source():
    """A pedestal in the background map does not reach the flux; a hidden one does, less in GLS."""
    image = image_with(30.2, 31.4, 0.1, noise=0.05)
    background = np.full((64, 64), 0.05, np.float32)
    table = measured(image, 30.2, 31.4, background=background)
    assert table["peak_flux_jy_beam"][0] == pytest.approx(0.1, rel=1e-6)
    assert table["background_jy_beam"][0] == pytest.approx(0.05)
    hidden = measured(image, 30.2, 31.4)["peak_flux_jy_beam"][0] - 0.1
    matched = PhotometrySettings(method="matched_filter")
    assert hidden == pytest.approx(0.05 * 1.05, rel=0.05)
    assert measured(image, 30.2, 31.4, settings=matched)["peak_flux_jy_beam"][0] - 0.1 == pytest.approx(0.1, rel=0.05)


def test_position_off_the_image_gives_no_row_and_an_empty_list_an_empty_table():
    """Rows are for positions on the image; source_index says which."""
    image = image_with(30, 30, 0.1)
    ra, dec = sky_positions(image, np.array([-40.0, 30.0, 200.0]), np.array([30.0, 30.0, 30.0]))
    rms = np.full((64, 64), RMS, np.float32)
    ra, dec = np.append(ra, [230.0, np.nan]), np.append(dec, [-16.0, np.nan])
    assert measure_forced(image, rms, None, ra, dec)["source_index"].to_list() == [1]
    empty = measure_forced(image, rms, None, np.zeros(0), np.zeros(0))
    assert empty.height == 0
    assert dict(empty.schema) == COLUMNS


@pytest.mark.parametrize(
    ("x", "blank", "flag"),
    [(0.4, (), bits.AT_EDGE), (63.4, (), bits.AT_EDGE), (30.3, (28, 33), bits.MASKED_PIXELS)],
    ids=["left edge", "right edge", "blank pixel beside"],
)
def test_incomplete_stamps_give_the_flux_of_what_is_left(x, blank, flag):
    """Edges and blank pixels are left out, flagged, and the error grows."""
    image = image_with(x, 31.7, 0.1)
    if blank:
        image.data[blank[1], blank[0] : blank[0] + 3] = np.nan
    table = measured(image, x, 31.7)
    assert table["flags"][0] == flag
    assert table["peak_flux_jy_beam"][0] == pytest.approx(0.1, rel=1e-6)
    assert table["used_fraction"][0] < 1
    assert table["peak_flux_err_jy_beam"][0] > 1.05 * RMS


def test_error_of_a_masked_stamp_is_the_scatter(rng):
    """Blank columns through every stamp: the pull still has unit width."""
    n = 900
    data = RMS * beam_noise(n, rng)
    y, x = np.mgrid[15 : n - 15 : 20, 15 : n - 15 : 20]
    data[:, 16::20] = np.nan
    table = measured(sky_image(data), x.ravel(), y.ravel())
    assert np.all(table["flags"].to_numpy() & bits.MASKED_PIXELS)
    pull = (table["peak_flux_jy_beam"] / table["peak_flux_err_jy_beam"]).to_numpy()
    assert 0.94 < pull.std() < 1.06


def test_blank_sky_under_a_source_is_not_zero_flux():
    """A source on blank pixels has NaN and the flag, and takes no part in its neighbour's blend."""
    image = image_with([20.0, 34.0], [30.0, 30.0], [0.1, 0.2])
    image.data[:, :27] = np.nan
    table = measured(image, [20.0, 34.0], [30.0, 30.0])
    assert np.isnan(table["peak_flux_jy_beam"][0])
    assert np.isnan(table["peak_flux_err_jy_beam"][0])
    assert np.isnan(table["chi2_reduced"][0])
    assert table["flags"][0] & bits.UNMEASURABLE
    assert table["peak_flux_jy_beam"][1] == pytest.approx(0.2, rel=1e-6)


def test_blank_noise_map_gives_no_error_but_the_flux():
    """Without a local rms the error is NaN, not zero."""
    table = measured(image_with(30.0, 30.0, 0.1), 30.0, 30.0, rms=np.nan)
    assert table["peak_flux_jy_beam"][0] == pytest.approx(0.1, rel=1e-6)
    assert np.isnan(table["peak_flux_err_jy_beam"][0])
    assert table["flags"][0] == bits.NO_LOCAL_RMS


def test_member_of_a_blend_without_local_rms_leaves_the_others_their_errors():
    """Where the noise map is blank under one of two sources, the other is measured as if it were not."""
    x, y, flux = [30.0, 34.0], [30.0, 31.0], [0.1, 0.2]
    image = image_with(x, y, flux)
    ra, dec = sky_positions(image, np.array(x), np.array(y))
    rms = np.full((64, 64), RMS, np.float32)
    whole = measure_forced(image, rms, None, ra, dec)
    rms[31, 34] = np.nan
    table = measure_forced(image, rms, None, ra, dec)
    assert table["peak_flux_err_jy_beam"][0] == pytest.approx(whole["peak_flux_err_jy_beam"][0])
    assert np.isnan(table["peak_flux_err_jy_beam"][1])
    assert table["flags"][1] & bits.NO_LOCAL_RMS
    assert table["peak_flux_jy_beam"].to_numpy() == pytest.approx(flux, rel=1e-5)


def test_blend_of_three_is_solved_exactly():
    """Without noise every member gets its own flux back; the blend carries the lowest index."""
    x, y, flux = [30.0, 33.1, 36.5], [30.0, 31.0, 28.9], [1.0, 0.03, 0.4]
    table = measured(image_with(x, y, flux), x, y)
    assert table["peak_flux_jy_beam"].to_numpy() == pytest.approx(np.array(flux), rel=1e-5)
    assert table["blend_id"].to_list() == [0, 0, 0]


def test_neighbours_of_the_master_catalogue_are_deblended_without_a_row():
    """A bright neighbour that is not asked for does not contaminate; the target's own entry is recognised."""
    x, y, flux = [30.0, 33.5], [30.0, 31.0], [0.05, 2.0]
    image = image_with(x, y, flux)
    ra, dec = sky_positions(image, np.array(x), np.array(y))
    rms = np.full((64, 64), RMS, np.float32)
    alone = measure_forced(image, rms, None, ra[:1], dec[:1])
    table = measure_forced(image, rms, None, ra[:1], dec[:1], neighbours_ra_deg=ra, neighbours_dec_deg=dec)
    assert alone["peak_flux_jy_beam"][0] > 0.07
    assert table.height == 1
    assert table["peak_flux_jy_beam"][0] == pytest.approx(0.05, rel=1e-4)
    assert table["blend_id"][0] == 0


def test_inseparable_sources_share_their_sum():
    """Two sources within 0.3 beams are measured once, flagged, and both rows say so."""
    x, y = [30.0, 30.5], [30.0, 30.0]
    table = measured(image_with(x, y, [0.2, 0.1]), x, y)
    assert table["flags"].to_list() == [bits.UNRESOLVED_NEIGHBOUR] * 2
    assert table["peak_flux_jy_beam"][0] == table["peak_flux_jy_beam"][1] == pytest.approx(0.3, rel=0.03)


def test_fluxes_do_not_depend_on_the_order_of_the_sources(crowded, rng):
    """Blends are disjoint components, solved exactly."""
    image, x, y, _ = crowded
    order = rng.permutation(x.size)
    straight, shuffled = measured(image, x, y), measured(image, x[order], y[order])
    apart = (straight["flags"] & bits.UNRESOLVED_NEIGHBOUR).to_numpy()[order] == 0
    for column in ("peak_flux_jy_beam", "peak_flux_err_jy_beam", "chi2_reduced"):
        assert np.allclose(shuffled[column].to_numpy()[apart], straight[column].to_numpy()[order][apart], rtol=1e-9)


@pytest.mark.parametrize("beam", [(40.0, 36.0), (75.0, 30.0), (6.0, 5.4)], ids=["12 pixels", "elongated", "1.8 pixels"])
def test_beams_of_any_size_in_pixels(beam, rng):
    """Thinned stamps of wide beams and tiny stamps of narrow ones keep fluxes right and pulls of unit width."""
    shape = {"major": beam[0], "minor": beam[1]}
    n = 1000
    spacing = int(3.4 * beam[0] / 3.0) + 2
    y, x = np.mgrid[spacing : n - spacing : spacing, spacing : n - spacing : spacing] + 0.3
    data = RMS * beam_noise(n, rng, **shape)
    image = sky_image(data, **shape)
    add_sources(data, image, x.ravel(), y.ravel(), np.full(x.size, 0.02))
    table = measured(sky_image(data, **shape), x.ravel(), y.ravel())
    pull = ((table["peak_flux_jy_beam"] - 0.02) / table["peak_flux_err_jy_beam"]).to_numpy()
    tolerance = 3.5 / np.sqrt(2 * pull.size)
    assert abs(pull.mean()) < 4 / np.sqrt(pull.size)
    assert 1 - tolerance < pull.std() < 1 + tolerance


def test_maps_of_another_shape_are_refused():
    """A noise map of another image is named as the culprit."""
    image = image_with(30.0, 30.0, 0.1)
    with pytest.raises(DataError, match="rms map does not belong"):
        measure_forced(image, np.ones((3, 3), np.float32), None, np.array([50.0]), np.array([16.0]))


def test_big_endian_and_read_only_maps_are_accepted():
    """What FITS readers hand out works as it is."""
    image = image_with(30.0, 30.0, 0.1)
    foreign = image.data.astype(">f4")
    foreign.setflags(write=False)
    table = measured(sky_image(foreign, image.wcs), 30.0, 30.0)
    assert table["peak_flux_jy_beam"][0] == pytest.approx(0.1, rel=1e-6)


def test_crowded_field_is_solved_as_one_component(rng):
    """Hundreds of sources chained to one blend: each gets its own flux, with the error of its scatter."""
    y, x = (v.ravel() + rng.uniform(-0.7, 0.7, 400) for v in np.mgrid[20:180:8, 20:180:8])
    data = RMS * beam_noise(200, rng)
    flux = rng.uniform(0.01, 1.0, x.size)
    add_sources(data, sky_image(data), x, y, flux)
    table = measured(sky_image(data), x, y)
    assert np.all(table["blend_id"].to_numpy() == 0)
    pull = ((table["peak_flux_jy_beam"] - flux) / table["peak_flux_err_jy_beam"]).to_numpy()
    assert 0.87 < pull.std() < 1.13
    assert np.abs(pull).max() < 5


def test_sparse_and_dense_solutions_of_a_blend_agree(rng):
    """Which of the two ways a component takes does not show in the numbers."""
    n_components, m = 3, 12
    row, column = np.nonzero(~np.eye(m, dtype=bool))
    index = (np.repeat(np.arange(n_components), row.size), np.tile(row, n_components), np.tile(column, n_components))
    symmetric = rng.uniform(-0.05, 0.05, (n_components, m, m))
    symmetric += symmetric.transpose(0, 2, 1)
    values = (rng.uniform(0, 0.08, index[0].size), symmetric[index])
    flux, variance = rng.normal(size=(n_components, m)), rng.uniform(1, 2, (n_components, m))
    dense, sparse = (solve(flux, variance, index, values) for solve in (blends._solve_small, blends._solve_large))
    assert np.allclose(dense[0], sparse[0], rtol=1e-10)
    assert np.allclose(dense[1], sparse[1], rtol=1e-10)
