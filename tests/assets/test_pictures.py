"""Pictures of one observation are small PNGs, show what they should, and survive products with nothing in them."""

import io

import numpy as np
import pytest
from astropy.wcs import WCS
from PIL import Image

from contimg_assets import pictures
from contimg_assets.science.calibration.solutions import Solutions
from contimg_assets.science.imaging.products import ImagePlane
from contimg_assets.science.imaging.restore import RestoringBeam
from contimg_assets.science.visibilities import Visibilities

CELL_ARCSEC = 12.0


def assert_small_png(png):
    """900 pixels wide, at most 150 kB, and not one colour all over."""
    assert len(png) <= 150_000
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert picture.width == 900
        assert len(picture.getcolors()) > 5


def make_wcs(n_pixels):
    """A SIN projection about 3C286."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [202.78, 30.51]
    wcs.wcs.crpix = [n_pixels // 2 + 1, n_pixels // 2 + 1]
    wcs.wcs.cdelt = [-CELL_ARCSEC / 3600.0, CELL_ARCSEC / 3600.0]
    return wcs


def make_plane(rng, n_pixels=900, n_sources=25, sigma=2e-3):
    """Noise and Gaussian sources with the beam's shape (its major axis north-east), a dirty image with ripples."""
    y, x = np.mgrid[:n_pixels, :n_pixels].astype(np.float32)
    at = rng.uniform(0.1, 0.9, (n_sources, 2)) * n_pixels
    flux = 0.02 * rng.pareto(1.2, n_sources) + 0.01
    restored = np.zeros((n_pixels, n_pixels), dtype=np.float32)
    for (x0, y0), peak in zip(at, flux, strict=True):
        east, north = -(x - x0), y - y0
        along, across = (east + north) / np.sqrt(2), (east - north) / np.sqrt(2)
        restored += (peak * np.exp(-0.5 * ((along / 3.0) ** 2 + (across / 1.5) ** 2))).astype(np.float32)
    noise = rng.normal(0.0, sigma, restored.shape).astype(np.float32)
    ripple = 0.01 * np.sin(x / 9.0 + y / 23.0)
    plane = ImagePlane(
        name="full",
        frequency_hz=1.405e9,
        bandwidth_hz=1.9e8,
        beam=RestoringBeam(major_arcsec=84.0, minor_arcsec=42.0, pa_deg=45.0),
        restored=restored + noise,
        residual=noise,
        dirty=restored + noise + ripple.astype(np.float32),
        model=restored,
        psf=restored,
        rms=np.full_like(noise, sigma),
        background=np.zeros_like(noise),
        primary_beam=np.ones_like(noise),
        rms_jy_beam=sigma,
        thermal_rms_jy_beam=0.9 * sigma,
    )
    return plane, at


def make_solutions(rng, *, kind="B", n_time=1, n_ant=12, n_chan=96):
    """Smooth bandpasses with a delay per antenna; one antenna weak, one flagged."""
    nu = np.linspace(-0.5, 0.5, n_chan)
    amplitude = 1.0 + 0.1 * rng.normal(size=(n_time, n_ant, 1, 2)) + 0.2 * np.sin(6 * nu)[:, None]
    phase = rng.uniform(-2, 2, (n_ant, 1, 2)) + 2.0 * rng.normal(size=(n_ant, 1, 2)) * nu[:, None]
    gains = amplitude * np.exp(1j * phase) * (1 + 0.02 * rng.normal(size=(n_time, n_ant, n_chan, 2)))
    gains[:, 3] *= 0.3
    flags = np.zeros(gains.shape, dtype=bool)
    flags[:, 5] = True
    return Solutions(
        kind=kind,
        gains=gains,
        flags=flags,
        snr=np.full(gains.shape, 30.0, dtype=np.float32),
        time_mjd=61065.9 + np.arange(n_time) / 1440.0,
        interval_s=np.full(n_time, 60.0),
        frequency_hz=1.405e9 + 1.9e8 * nu,
        refant=0,
        antenna_names=tuple(f"{1 + k}" for k in range(n_ant)),
        correlations=("XX", "YY"),
        field_name="3C286",
        residual=0.05,
        n_iterations=12,
        converged=np.ones((n_time, n_chan, 2), dtype=bool),
    )


def make_visibilities(rng, *, n_time=12, n_ant=8, n_chan=64):
    """Visibilities whose flags are a stripe in frequency, a burst in time and one dead antenna."""
    antenna1, antenna2 = (index.astype(np.int32) for index in np.triu_indices(n_ant, 1))
    n_row = n_time * antenna1.size
    flags = rng.uniform(size=(n_row, n_chan, 2)) < 0.02
    flags[:, 20:24] = True
    flags[5 * antenna1.size : 6 * antenna1.size, :30] = True
    rows1, rows2 = np.tile(antenna1, n_time), np.tile(antenna2, n_time)
    flags[(rows1 == 2) | (rows2 == 2)] = True
    return Visibilities(
        vis=np.ones((n_row, n_chan, 2), dtype=np.complex64),
        flags=flags,
        weights=np.ones((n_row, 2), dtype=np.float32),
        uvw_m=np.zeros((n_row, 3)),
        time_mjd=np.repeat(61065.9 + np.arange(n_time) * 12.885 / 86400, antenna1.size),
        exposure_s=np.full(n_row, 12.885),
        antenna1=rows1,
        antenna2=rows2,
        frequency_hz=1.31e9 + 0.25e6 * np.arange(n_chan),
        channel_width_hz=0.25e6,
        correlations=("XX", "YY"),
        phase_centre_ra_deg=202.78,
        phase_centre_dec_deg=30.51,
        pointing_ra_deg=np.full(n_row, 202.78),
        pointing_dec_deg=np.full(n_row, 30.51),
        antenna_names=tuple(f"{1 + k}" for k in range(n_ant + 1)),
        antenna_positions_m=np.zeros((n_ant + 1, 3)),
        dish_diameter_m=4.65,
        telescope_name="DSA-110",
        field_name="drift",
    )


def test_image_pair_of_a_noisy_field_is_small(rng):
    """A large image full of noise still makes a small picture."""
    plane, at = make_plane(rng)
    wcs = make_wcs(900)
    ra_deg, dec_deg = wcs.pixel_to_world_values(at[:, 0], at[:, 1])
    assert_small_png(pictures.image_pair(plane, wcs, ra_deg, dec_deg, title="2026-01-25T22:26:05"))


def test_image_pair_without_sources_or_with_blank_pixels(rng):
    """An empty catalogue and blanked edges are drawn without a warning."""
    plane, _ = make_plane(rng, n_pixels=64, n_sources=1)
    plane.restored[:5] = np.nan
    assert_small_png(pictures.image_pair(plane, make_wcs(64), np.empty(0), np.empty(0)))


def test_reduced_image_keeps_every_peak(rng):
    """No point source is lost when a large image is reduced."""
    data = rng.normal(size=(1000, 1000)).astype(np.float32)
    data[123, 456] = 100.0
    reduced = pictures._block_maximum(data)
    assert max(reduced.shape) <= 320
    assert reduced.max() == 100.0
    assert np.unravel_index(reduced.argmax(), reduced.shape) == (123 // 4, 456 // 4)


@pytest.mark.parametrize("n_ant", [12, 96])
def test_bandpass_plot_is_small(rng, n_ant):
    """A few antennas or the whole array."""
    assert_small_png(pictures.bandpass_plot(make_solutions(rng, n_ant=n_ant, n_chan=192)))


def test_weak_antenna_is_named(rng):
    """The antenna whose amplitude is a third of the others' is the first to be named."""
    solutions = make_solutions(rng)
    gains, antennas = pictures._unflagged_gains(solutions)
    assert antennas[pictures._odd_antennas(gains[0, antennas])[0]] == 3
    assert 5 not in antennas


@pytest.mark.parametrize("n_time", [1, 5])
def test_gain_plot_is_small(rng, n_time):
    """One solution interval or several."""
    assert_small_png(pictures.gain_plot(make_solutions(rng, kind="G", n_time=n_time, n_ant=40, n_chan=1)))


@pytest.mark.parametrize("draw", [pictures.bandpass_plot, pictures.gain_plot])
def test_flagged_table_is_drawn(rng, draw):
    """A table without a single solution gives a picture that says so."""
    solutions = make_solutions(rng)
    solutions.flags[:] = True
    assert draw(solutions).startswith(b"\x89PNG")


def test_flagging_waterfall_is_small(rng):
    """Time against frequency and one bar per antenna."""
    assert_small_png(pictures.flagging_waterfall(make_visibilities(rng)))


def test_flagged_fractions_are_those_of_the_flags(rng):
    """Fractions agree with direct means over the flags; a slot without data has none."""
    visibilities = make_visibilities(rng)
    waterfall, of_antenna = pictures._flagged_fractions(visibilities)
    at_fifth_time = visibilities.time_mjd == np.unique(visibilities.time_mjd)[5]
    np.testing.assert_allclose(waterfall[5], visibilities.flags[at_fifth_time].mean(axis=(0, 2)))
    of_fourth = (visibilities.antenna1 == 4) | (visibilities.antenna2 == 4)
    assert of_antenna[4] == pytest.approx(visibilities.flags[of_fourth].mean())
    assert of_antenna[2] == 1.0
    assert np.isnan(of_antenna[8])


def test_single_integration_and_channel_are_drawn(rng):
    """The smallest observation has a waterfall too."""
    assert pictures.flagging_waterfall(make_visibilities(rng, n_time=6, n_chan=1)).startswith(b"\x89PNG")


def test_markdown_holds_the_whole_picture(rng):
    """The Markdown needs neither a file nor a server."""
    text = pictures.markdown_image(b"\x89PNG", "a picture")
    assert text == "![a picture](data:image/png;base64,iVBORw==)"
