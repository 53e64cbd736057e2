"""Blind detection: what is found, where, how bright, how many are false, and what a catalogue says about it."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from contimg_assets.science.crossmatch import match_nearest
from contimg_assets.science.errors import DataError
from contimg_assets.science.photometry.blind import (
    COLUMNS,
    BlindSettings,
    detect_sources,
    expected_false_detections,
)
from contimg_assets.science.photometry.blind_association import associate
from contimg_assets.science.photometry.pixel_grid import pixel_beam, sky_positions
from tests.science.noisy_sky import add_sources, beam_noise, sky_image


def ones(n):
    """Noise of one everywhere."""
    return np.ones((n, n), np.float32)


def catalogue_of(image, x, y, flux, **columns):
    """Sources at pixel positions as a catalogue."""
    ra, dec = sky_positions(image, np.asarray(x, float), np.asarray(y, float))
    names = [f"S{k}" for k in range(len(ra))]
    return pl.DataFrame({"source_id": names, "ra_deg": ra, "dec_deg": dec, "flux_jy": flux, **columns})


def test_isolated_sources_are_found_with_true_positions_fluxes_and_errors():
    """900 sources of 8 to 200 sigma: all found, pulls of position and flux scatter by 0.9 to 1.1 (4 errors), without bias."""
    rng = np.random.default_rng(11)
    x, y = (grid.ravel() + rng.uniform(-3, 3, 900) for grid in np.meshgrid(*2 * [20.0 + 29.0 * np.arange(30)]))
    flux = rng.uniform(8.0, 200.0, 900)
    data = beam_noise(900, rng)
    image = sky_image(data)
    add_sources(data, image, x, y, flux)
    image = sky_image(data)
    found = detect_sources(image, ones(900)).table
    truth_ra, truth_dec = sky_positions(image, x, y)
    index, separation = match_nearest(truth_ra, truth_dec, found["ra_deg"].to_numpy(), found["dec_deg"].to_numpy(), 6.0)
    assert np.all(index >= 0)
    assert separation.max() < 3.0
    own = found[index]
    cos_dec = np.cos(np.deg2rad(truth_dec))
    pulls = [
        (own["ra_deg"].to_numpy() - truth_ra) * cos_dec * 3600.0 / own["ra_err_arcsec"].to_numpy(),
        (own["dec_deg"].to_numpy() - truth_dec) * 3600.0 / own["dec_err_arcsec"].to_numpy(),
        (own["peak_flux_jy_beam"].to_numpy() - flux) / own["peak_flux_err_jy_beam"].to_numpy(),
    ]
    for pull in pulls:
        assert 0.9 < pull.std() < 1.1
        assert abs(np.median(pull)) < 0.2
        assert np.abs(pull).max() < 5.5


@pytest.mark.parametrize("beam", [{}, {"major": 24.0, "minor": 20.0, "pa": 0.0}], ids=["4x3 pixels", "8x7 pixels"])
def test_false_detections_of_noise_are_as_many_as_expected(beam):
    """In beam-shaped Gaussian noise the peaks above 4 sigma agree with Adler's formula, up and down, within 4 Poisson errors."""
    data = beam_noise(1200, np.random.default_rng(3), **beam)
    image = sky_image(data, **beam)
    found = detect_sources(image, ones(1200), settings=BlindSettings(threshold_snr=4.0))
    expected = found.expected_false
    assert expected > 8.0
    for n_found in (found.table.height, found.negatives.height):
        assert abs(n_found - expected) < 4.0 * np.sqrt(expected)


def test_expected_false_detections_are_adlers():
    """The formula, worked by hand: beam of unit precision, 1e6 pixels, 5 sigma: 1e6 x 5 e^-12.5 / (2 pi)^1.5 = 1.183."""
    unit = replace(pixel_beam(sky_image(np.zeros((9, 9)))), precision=np.eye(2))
    assert expected_false_detections(unit, 1_000_000, 5.0) == pytest.approx(1.1831, rel=1e-3)


def test_blended_sources_are_told_apart():
    """Two sources 1.2 beams apart, 60 and 30 sigma: two detections of one island, fluxes and positions within 5 errors."""
    rng = np.random.default_rng(4)
    data = beam_noise(200, rng)
    image = sky_image(data)
    x, y, flux = np.array([100.0, 104.4]), np.array([100.2, 100.0]), np.array([60.0, 30.0])
    add_sources(data, image, x, y, flux)
    image = sky_image(data)
    found = detect_sources(image, ones(200)).table
    assert found.height == 2
    assert found["island_id"].n_unique() == 1
    ra, dec = sky_positions(image, x, y)
    index, separation = match_nearest(ra, dec, found["ra_deg"].to_numpy(), found["dec_deg"].to_numpy(), 6.0)
    assert index.tolist() == [0, 1]
    own = found[index]
    assert np.all(separation < 5.0 * np.hypot(own["ra_err_arcsec"].to_numpy(), own["dec_err_arcsec"].to_numpy()))
    assert np.all(np.abs(own["peak_flux_jy_beam"].to_numpy() - flux) < 5.0 * own["peak_flux_err_jy_beam"].to_numpy())


def test_blank_pixels_edges_and_zero_weight_are_respected():
    """Sources on the edge, beside blank pixels and where there is no weight are no detections; the first two are counted."""
    data = np.zeros((200, 200))
    image = sky_image(data)
    add_sources(data, image, [100.0, 0.0, 50.0, 150.0], [100.0, 60.0, 50.0, 150.0], [50.0] * 4)
    data[45:51, 51:56] = np.nan
    rms = ones(200)
    rms[140:160, 140:160] = 0.0
    found = detect_sources(sky_image(data), rms)
    assert found.table.height == 1
    assert found.table["peak_flux_jy_beam"][0] == pytest.approx(50.0, rel=1e-4)
    assert found.n_at_edge == 2
    assert found.n_searched == 200 * 200 - 30 - 400


def test_negatives_are_the_detections_of_the_turned_image():
    """Searching the image with its sign turned swaps detections and negatives, background included."""
    rng = np.random.default_rng(5)
    data = beam_noise(300, rng) + 0.5
    image = sky_image(data)
    add_sources(data, image, [80.0, 220.0], [90.0, 210.0], [30.0, -25.0])
    background = np.full((300, 300), 0.5, np.float32)
    up = detect_sources(sky_image(data), ones(300), background)
    down = detect_sources(sky_image(-data), ones(300), -background)
    assert up.table["snr"][0] > 25.0
    assert up.negatives["snr"][0] > 20.0
    assert up.negatives["snr"].to_list() == down.table["snr"].to_list()
    assert down.negatives["snr"].to_list() == up.table["snr"].to_list()


def test_a_peak_beside_an_equal_hole_is_an_artefact():
    """A peak with a negative peak of the same height within ten beams is marked, one far from it is not."""
    data = np.zeros((400, 400))
    image = sky_image(data)
    add_sources(data, image, [100.0, 112.0, 350.0], [100.0, 100.0, 350.0], [9.0, -9.0, 9.0])
    found = detect_sources(sky_image(data), ones(400)).table
    x = np.array([100.0, 350.0])
    ra, dec = sky_positions(image, x, x)
    index, _ = match_nearest(ra, dec, found["ra_deg"].to_numpy(), found["dec_deg"].to_numpy(), 3.0)
    assert found["is_artefact"].gather(index).to_list() == [True, False]


@pytest.mark.parametrize("data", [np.full((60, 60), np.nan), np.zeros((60, 60))], ids=["blank", "nothing"])
def test_an_image_without_sources_has_no_detections(data):
    """No rows, the same columns."""
    found = detect_sources(sky_image(data), ones(60))
    assert found.table.height == 0
    assert found.table.schema == pl.Schema(COLUMNS)
    assert found.negatives.schema == pl.Schema(COLUMNS)


def test_a_map_of_another_shape_is_refused():
    """The message names both shapes."""
    with pytest.raises(DataError, match=r"\(50, 50\)"):
        detect_sources(sky_image(np.zeros((60, 60))), ones(50))


def test_catalogue_decides_what_is_new():
    """Known, near a known one, far from all: each kind by position errors, beam and size."""
    data = np.zeros((300, 300))
    image = sky_image(data)
    x, y = np.array([50.0, 150.0, 250.0, 60.0]), np.array([50.0, 150.0, 250.0, 250.0])
    add_sources(data, image, x, y, [40.0, 41.0, 42.0, 43.0])
    image = sky_image(data)
    found = detect_sources(image, ones(300)).table
    # The second is 7.5 arcsec off, beyond 5 sigma of 1 arcsec, within the beam; the fourth as far, but resolved.
    catalogue = catalogue_of(
        image,
        [50.1, 152.5, 62.5],
        [50.0, 150.0, 250.0],
        [1.0, 1.0, 1.0],
        flux_err_jy=[0.001] * 3,
        major_arcsec=[0.0, 0.0, 20.0],
    )
    told = associate(found, image, catalogue).sort("peak_flux_jy_beam")
    assert told["kind"].to_list() == ["catalogued", "near_catalogued", "new", "catalogued"]
    assert told["catalogue_source_id"].to_list() == ["S0", "S1", None, "S2"]
    assert told["separation_arcsec"][0] == pytest.approx(0.3, abs=0.05)
    assert told["separation_arcsec"][2] is None


def test_faint_catalogue_positions_reach_farther():
    """A catalogue source of 5 sigma is uncertain by half a beam over 5: the same offset is then no discovery."""
    data = np.zeros((200, 200))
    image = sky_image(data)
    add_sources(data, image, [100.0], [100.0], [40.0])
    image = sky_image(data)
    found = detect_sources(image, ones(200)).table
    kinds = [
        associate(found, image, catalogue_of(image, [102.5], [100.0], [0.01], flux_err_jy=[error]))["kind"][0]
        for error in (0.002, 0.00001)
    ]
    assert kinds == ["catalogued", "near_catalogued"]


def test_without_a_catalogue_everything_is_new():
    """An empty catalogue knows nothing, and says so in every row."""
    data = np.zeros((200, 200))
    image = sky_image(data)
    add_sources(data, image, [100.0, 50.0], [100.0, 50.0], [40.0, 30.0])
    image = sky_image(data)
    found = detect_sources(image, ones(200)).table
    told = associate(found, image, catalogue_of(image, [], [], []))
    assert told["kind"].to_list() == ["new", "new"]
    assert told["catalogue_source_id"].null_count() == 2
