"""Weights against their definitions, written out slowly; beam and expected noise follow weights and uv cuts."""

import numpy as np
import pytest

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.errors import DataError, NotEnoughDataError
from contimg_assets.science.imaging import weighting
from contimg_assets.science.imaging.imager import make_images
from contimg_assets.science.imaging.settings import ImageSettings
from tests.science.interferometer import observe

FIELD_RAD = (0.03, 0.025)


def two_bands(seed):
    """Baselines of a snapshot, the frequencies of two bands and random statistical weights, a few of them 0."""
    rng = np.random.default_rng(seed)
    vis, _ = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=9, n_time=3, n_chan=6)
    frequencies = [vis.frequency_hz[:2], vis.frequency_hz[2:]]
    weights = [rng.uniform(0.1, 3.0, (len(vis.uvw_m), f.size)).astype(np.float32) for f in frequencies]
    for band in weights:
        band[rng.random(band.shape) < 0.1] = 0.0
    uvw_m = vis.uvw_m.copy()
    uvw_m[::2, 1] *= rng.uniform(-0.02, 0.02, len(uvw_m[::2]))  # as east-west arrays have: v about 0, of either sign
    return uvw_m, frequencies, weights


def weights_by_definition(uvw_m, frequencies, weights, scheme, robust):
    """A dictionary of the cells of the whole plane, each visibility and its conjugate: Briggs (1995), chapter 3."""

    def cell_of(row, frequency):
        u, v = (uvw_m[row, k] * frequency / SPEED_OF_LIGHT_M_S * FIELD_RAD[k] for k in (0, 1))
        if v < 0.0:  # written as its conjugate
            u, v = -u, -v
        return int(np.floor(u + 0.5)), int(np.floor(v + 0.5))

    sums = {}
    for frequency_hz, band in zip(frequencies, weights, strict=True):
        for (row, chan), weight in np.ndenumerate(band):
            u, v = cell_of(row, frequency_hz[chan])
            for cell in ((u, v), (-u, -v)):
                sums[cell] = sums.get(cell, 0.0) + float(weight)
    total = 2.0 * sum(float(band.sum(dtype=float)) for band in weights)
    f_squared = (5.0 * 10.0**-robust) ** 2 / (sum(w**2 for w in sums.values()) / total)
    expected = []
    for frequency_hz, band in zip(frequencies, weights, strict=True):
        out = np.zeros(band.shape)
        for (row, chan), weight in np.ndenumerate(band):
            in_cell = sums[cell_of(row, frequency_hz[chan])]
            divisor = {"natural": 1.0, "uniform": in_cell, "briggs": 1.0 + in_cell * f_squared}[scheme]
            out[row, chan] = weight / divisor if weight > 0 else 0.0
        expected.append(out)
    return expected


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("scheme", "robust"),
    [("natural", 0.5), ("uniform", 0.5), ("briggs", -2.0), ("briggs", 0.0), ("briggs", 0.5), ("briggs", 2.0)],
)
def test_weights_are_those_of_their_definition(scheme, robust, seed):
    """Natural, uniform and Briggs weights of two bands equal a slow sum over a dictionary of uv cells."""
    uvw_m, frequencies, weights = two_bands(seed)
    got = weighting.imaging_weights(
        uvw_m, frequencies, weights, weighting=scheme, robust=robust, field_rad=FIELD_RAD, n_threads=2
    )
    for ours, slow in zip(got, weights_by_definition(uvw_m, frequencies, weights, scheme, robust), strict=True):
        np.testing.assert_allclose(ours, slow, rtol=2e-5)


def test_uv_range_keeps_baselines_of_its_length_in_wavelengths():
    """A visibility keeps its weight if its projected baseline at its own frequency is inside the range, else it has none."""
    uvw_m, frequencies, weights = two_bands(4)
    cut = weighting.cut_uv_range(uvw_m, frequencies, weights, (400.0, 900.0))
    n_kept = 0
    for frequency_hz, band, ours in zip(frequencies, weights, cut, strict=True):
        for (row, chan), weight in np.ndenumerate(band):
            length = np.sqrt(uvw_m[row, 0] ** 2 + uvw_m[row, 1] ** 2) * frequency_hz[chan] / SPEED_OF_LIGHT_M_S
            assert ours[row, chan] == (weight if 400.0 <= length <= 900.0 else 0.0)
            n_kept += int(ours[row, chan] > 0.0)
    assert 0 < n_kept < sum(int(np.count_nonzero(band)) for band in weights)


def test_empty_uv_range_is_an_error_that_says_what_there_is():
    """A range without baselines is refused with the lengths the data have."""
    vis, _ = observe([(0.0, 0.0, 1.0, 0.0)], n_antennas=8, n_chan=4, rms_jy=1e-3, rng=np.random.default_rng(1))
    with pytest.raises(
        NotEnoughDataError, match=r"uv range: got a range of 50000 to inf wavelengths, expected .*Widen"
    ):
        make_images(vis, ImageSettings(uv_min_wavelengths=50_000.0))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("weighting", "radial", "'weighting'.*radial.*briggs or natural or uniform"),
        ("uv_min_wavelengths", -1.0, "'uv_min_wavelengths'.*0 or more"),
        ("uv_max_wavelengths", 0.0, "'uv_max_wavelengths'.*above uv_min_wavelengths"),
        ("self_calibration", "both", "'self_calibration'.*none or phase or amplitude"),
    ],
)
def test_wrong_choice_is_named(setting, value, message):
    """A choice that does not exist is refused with its name and what is allowed."""
    with pytest.raises(DataError, match=message):
        ImageSettings(**{setting: value})


@pytest.fixture(scope="module")
def noise_and_a_source():
    """Visibilities whose noise in a naturally weighted image is 1 mJy/beam, and a source of 0.3 Jy."""
    return observe(
        [(0.3, 0.2, 0.3, 0.0)], n_antennas=20, n_chan=16, n_time=8, rms_jy=1e-3, rng=np.random.default_rng(17)
    )[0]


@pytest.mark.parametrize(
    "choice",
    [
        {"weighting": "natural"},
        {"weighting": "uniform"},
        {"robust": 0.0},
        {"weighting": "natural", "uv_min_wavelengths": 500.0},
        {"uv_max_wavelengths": 900.0},
    ],
    ids=["natural", "uniform", "briggs 0", "natural without short", "briggs without long"],
)
def test_noise_of_the_image_is_the_thermal_rms_of_its_weights(noise_and_a_source, choice):
    """Whatever weights and cuts, the noise of the image is what is expected of them."""
    full = make_images(noise_and_a_source, ImageSettings(n_bands=1, n_threads=1, **choice)).full
    assert full.rms_jy_beam == pytest.approx(full.thermal_rms_jy_beam, rel=0.08)


def test_natural_weights_have_the_radiometers_noise(noise_and_a_source):
    """The expected noise of natural weights is that of the mean of all data, and no other weights have less."""
    natural, briggs, uniform = (
        make_images(noise_and_a_source, ImageSettings(n_bands=1, n_threads=1, weighting=w)).full
        for w in ("natural", "briggs", "uniform")
    )
    assert natural.thermal_rms_jy_beam == pytest.approx(1e-3, rel=0.02)
    assert natural.thermal_rms_jy_beam < briggs.thermal_rms_jy_beam < uniform.thermal_rms_jy_beam
    assert natural.beam.mean_arcsec > briggs.beam.mean_arcsec > uniform.beam.mean_arcsec


def test_beam_and_noise_follow_the_cut(noise_and_a_source):
    """Without long baselines the beam is as wide as half the array's, and the noise that of the data kept."""
    whole, short = (
        make_images(
            noise_and_a_source,
            ImageSettings(n_bands=1, n_threads=1, max_iterations=0, weighting="natural", uv_max_wavelengths=longest),
        ).full
        for longest in (None, 1000.0)
    )
    lengths = np.outer(
        np.hypot(*noise_and_a_source.uvw_m[:, :2].T), noise_and_a_source.frequency_hz / SPEED_OF_LIGHT_M_S
    )
    kept = lengths <= 1000.0
    assert short.thermal_rms_jy_beam == pytest.approx(1e-3 / np.sqrt(kept.mean()), rel=0.03)
    # FWHM of a Gaussian-like beam goes as one over the rms length of the baselines.
    expected = np.sqrt(np.mean(lengths**2) / np.mean(lengths[kept] ** 2))
    assert short.beam.mean_arcsec / whole.beam.mean_arcsec == pytest.approx(expected, rel=0.1)
