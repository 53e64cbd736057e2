"""Positions, beams and primary beams on the pixel grid: axes, angles and frames."""

import astropy.units as u
import numpy as np
import polars as pl
import pytest
from astropy.coordinates import SkyCoord

from contimg_assets.science.photometry.comparison import compare_methods
from contimg_assets.science.photometry.pixel_grid import pixel_beam, pixel_positions, sky_positions
from contimg_assets.science.photometry.positions import fit_positions
from contimg_assets.science.photometry.primary_beam_correction import correct_for_primary_beam, primary_beam_at
from tests.science.noisy_sky import DEC0_DEG, RA0_DEG, add_sources, beam_noise, grid, sky_image


def along_major_axis(image, pa_deg, distance_arcsec=60.0):
    """Pixel offset of a point at a position angle from the image's centre."""
    centre = SkyCoord(RA0_DEG * u.deg, DEC0_DEG * u.deg)
    point = centre.directional_offset_by(pa_deg * u.deg, distance_arcsec * u.arcsec)
    x, y = image.wcs.all_world2pix([RA0_DEG, point.ra.deg], [DEC0_DEG, point.dec.deg], 0)
    return np.array([x[1] - x[0], y[1] - y[0]])


@pytest.mark.parametrize("parity", [-1, 1], ids=["right ascension to the left", "to the right"])
@pytest.mark.parametrize("rotation", [0.0, 30.0, 170.0])
@pytest.mark.parametrize("pa", [0.0, 40.0, -75.0])
def test_major_axis_lies_along_its_position_angle(parity, rotation, pa):
    """The beam is widest towards north through east by the position angle, whatever the pixel axes do."""
    wcs = grid(101, parity=parity, rotation_deg=rotation)
    image = sky_image(np.zeros((101, 101)), wcs, major=20.0, minor=10.0, pa=pa)
    beam = pixel_beam(image)
    values, vectors = np.linalg.eigh(beam.covariance)
    towards = along_major_axis(image, pa)
    assert abs(vectors[:, 1] @ towards) / np.linalg.norm(towards) == pytest.approx(1.0, abs=1e-6)
    assert beam.fwhm_pixels == pytest.approx((20 / 3, 10 / 3), rel=1e-6)
    assert np.all(values > 0)


def test_beam_on_oblong_pixels_keeps_its_size_on_the_sky():
    """Pixels of 3 by 6 arcsec: a round beam is twice as long along the finer axis."""
    wcs = grid(101)
    wcs.wcs.cd = np.diag([-3.0 / 3600, 6.0 / 3600])
    beam = pixel_beam(sky_image(np.zeros((101, 101)), wcs, major=12.0, minor=12.0))
    assert np.sqrt(np.diag(beam.covariance)) * 2.3548 == pytest.approx([4.0, 2.0], rel=1e-4)


def test_positions_in_beams_have_unit_length_at_one_width():
    """One FWHM along either axis of the beam is one unit."""
    image = sky_image(np.zeros((101, 101)), major=20.0, minor=10.0, pa=25.0)
    beam = pixel_beam(image)
    for pa, width in ((25.0, 20.0), (115.0, 10.0)):
        x, y = along_major_axis(image, pa, width)
        assert np.linalg.norm(beam.in_beams(np.array([x]), np.array([y]))) == pytest.approx(1.0, rel=1e-4)


def test_fk5_images_are_rotated_to():
    """ICRS positions land where an FK5 grid has them, about 20 mas away."""
    icrs, fk5 = (sky_image(np.zeros((101, 101)), grid(101, 0.01, radesys=frame)) for frame in ("ICRS", "FK5"))
    ra, dec = sky_positions(fk5, np.array([50.0]), np.array([50.0]))
    _, x, y = pixel_positions(fk5, ra, dec)
    assert (x[0], y[0]) == pytest.approx((50.0, 50.0), abs=1e-4)
    _, x, y = pixel_positions(icrs, ra, dec)
    assert 1.0 < np.hypot(x[0] - 50, y[0] - 50) < 4.0


def test_sky_and_pixel_positions_are_inverse(rng):
    """Pixel to sky to pixel is the identity everywhere on the image."""
    image = sky_image(np.zeros((201, 201)), grid(201, 60.0, rotation_deg=20.0))
    x, y = rng.uniform(0, 200, 100), rng.uniform(0, 200, 100)
    index, x_again, y_again = pixel_positions(image, *sky_positions(image, x, y))
    assert index.tolist() == list(range(100))
    assert np.allclose(x, x_again, atol=1e-6)
    assert np.allclose(y, y_again, atol=1e-6)


@pytest.mark.parametrize("method_offset", [0.0, 0.004], ids=["right background", "background off"])
def test_methods_agree_unless_the_background_is_wrong(method_offset, rng):
    """The matched filter doubles a background error, so the two part."""
    n = 500
    data = 1e-3 * beam_noise(n, rng) + method_offset
    y, x = (v.ravel() for v in np.mgrid[20 : n - 20 : 30, 20 : n - 20 : 30])
    add_sources(data, sky_image(data), x, y, np.full(x.size, 0.05))
    image = sky_image(data)
    ra, dec = sky_positions(image, x.astype(float), y.astype(float))
    rms = np.full((n, n), 1e-3, np.float32)
    comparison = compare_methods(image, rms, None, ra, dec)
    assert comparison.n_bright == comparison.table.height == x.size
    if method_offset:
        assert comparison.median_difference_sigma < -2
        assert comparison.median_ratio < 0.95
    else:
        assert abs(comparison.median_difference_sigma) < 0.15
        assert 0.4 < comparison.scatter_difference_sigma < 0.6
        assert comparison.median_ratio == pytest.approx(1.0, abs=0.005)


def test_comparison_without_sources_is_not_a_number():
    """Nothing to compare is no agreement."""
    comparison = compare_methods(
        sky_image(np.zeros((64, 64))), np.ones((64, 64), np.float32), None, np.zeros(0), np.zeros(0)
    )
    assert comparison.n_bright == 0
    assert np.isnan(comparison.median_ratio)


def test_fitted_positions_are_right_within_their_errors(rng):
    """Sources a fifth of a beam from where the catalogue has them are found where they are."""
    n = 700
    data = 1e-3 * beam_noise(n, rng)
    y, x = (v.ravel() + 0.3 for v in np.mgrid[20 : n - 20 : 30, 20 : n - 20 : 30])
    add_sources(data, sky_image(data), x, y, np.full(x.size, 0.04))
    image = sky_image(data)
    angle = rng.uniform(0, 2 * np.pi, x.size)
    start = sky_positions(image, x + 0.8 * np.cos(angle), y + 0.8 * np.sin(angle))
    fitted = fit_positions(image, np.full((n, n), 1e-3, np.float32), None, *start)
    ra, dec = sky_positions(image, x, y)
    which = fitted["source_index"].to_numpy()
    assert which.size == x.size
    pull_dec = (fitted["dec_deg"].to_numpy() - dec[which]) * 3600 / fitted["dec_err_arcsec"].to_numpy()
    to_arcsec = 3600 * np.cos(np.deg2rad(dec[which]))
    pull_ra = (fitted["ra_deg"].to_numpy() - ra[which]) * to_arcsec / fitted["ra_err_arcsec"].to_numpy()
    assert 0.85 < pull_ra.std() < 1.15
    assert 0.85 < pull_dec.std() < 1.15
    assert abs(pull_ra.mean()) < 0.2
    assert abs(pull_dec.mean()) < 0.2


def test_positions_are_not_fitted_to_noise_edges_or_strays(rng):
    """Faint sources, sources at the edge and fits that run away give no position."""
    data = 1e-3 * beam_noise(128, rng)
    add_sources(data, sky_image(data), [1.0, 60.0, 90.0], [64.0, 60.0, 90.0], [0.1, 0.1, 0.003])
    image = sky_image(data)
    ra, dec = sky_positions(image, np.array([1.0, 57.0, 90.0]), np.array([64.0, 60.0, 90.0]))
    assert fit_positions(image, np.full((128, 128), 1e-3, np.float32), None, ra, dec).height == 0


def test_primary_beam_divides_flux_and_error_only():
    """Local rms and background stay apparent; no response gives no flux."""
    frame = pl.DataFrame(
        {
            "peak_flux_jy_beam": [1.0, 2.0],
            "peak_flux_err_jy_beam": [0.1, 0.1],
            "local_rms_jy_beam": [0.1, 0.1],
            "background_jy_beam": [0.01, 0.01],
        }
    )
    corrected = correct_for_primary_beam(frame, np.array([0.5, 0.0]))
    assert corrected["peak_flux_jy_beam"][0] == 2.0
    assert corrected["peak_flux_err_jy_beam"][0] == 0.2
    assert corrected["local_rms_jy_beam"].to_list() == [0.1, 0.1]
    assert corrected["background_jy_beam"].to_list() == [0.01, 0.01]
    assert corrected["primary_beam"][0] == 0.5
    assert np.isnan(corrected["peak_flux_jy_beam"][1])


def test_primary_beam_map_is_read_between_pixels():
    """Bilinear interpolation is exact on a plane and holds the border."""
    y, x = np.mgrid[0:10, 0:12]
    plane = (0.05 * x + 0.03 * y).astype(np.float32)
    at = primary_beam_at(plane, np.array([3.25, 11.4, -0.4]), np.array([7.5, 2.0, 0.0]))
    assert at == pytest.approx([0.05 * 3.25 + 0.03 * 7.5, 0.05 * 11 + 0.06, 0.0], abs=1e-6)
