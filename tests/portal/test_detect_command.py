"""``contimg detect`` on images of any origin: real ones, mosaics with weights, and what it refuses."""

import json

import numpy as np
import polars as pl
import pytest
import typer
from astropy.io import fits
from scipy import ndimage
from typer.testing import CliRunner

from contimg_assets.science.crossmatch import match_nearest
from contimg_assets.science.images import SkyImage
from contimg_assets.science.photometry.pixel_grid import image_pixels
from contimg_portal.commands.detect import detect
from contimg_resources.fits_images import header_cards, read_image, write_image
from tests.science.noisy_sky import add_sources, beam_noise, sky_image

app = typer.Typer()
app.command()(detect)


def run(*arguments):
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory):
    """A mosaic of noise that grows to the right, with its weights, a catalogue of one source and two more in the sky."""
    folder = tmp_path_factory.mktemp("mosaic")
    rms = np.broadcast_to(np.linspace(1e-3, 4e-3, 400, dtype=np.float32), (400, 400))
    data = rms * beam_noise(400, np.random.default_rng(31))
    image = sky_image(data)
    x, y = np.array([100.0, 200.0, 300.0]), np.array([100.0, 200.0, 300.0])
    add_sources(data, image, x, y, [0.05, 0.05, 0.05])
    cards = header_cards(
        beam_major_arcsec=12.0, beam_minor_arcsec=9.0, beam_pa_deg=30.0, frequency_hz=1.4e9, bandwidth_hz=1e8
    )
    weights = 1.0 / rms**2
    data, weights = data.copy(), weights.copy()
    data[:, 390:], weights[:, 390:] = np.nan, 0.0
    write_image(folder / "m.fits", data, image.wcs, cards)
    write_image(folder / "m_weight.fits", weights, image.wcs, cards)
    ra, dec = (values.tolist() for values in image.wcs.all_pix2world(x, y, 0))
    pl.DataFrame(
        {"source_id": ["known"], "ra_deg": ra[:1], "dec_deg": dec[:1], "flux_jy": [0.05], "flux_err_jy": [0.001]}
    ).write_csv(folder / "c.csv")
    return folder, ra, dec


def test_a_mosaic_with_its_weights(mosaic, tmp_path):
    """Three sources: one known, two new; the table has them all, the summary what is outside."""
    folder, ra, dec = mosaic
    result = run(
        folder / "m.fits", "--weights", folder / "m_weight.fits", "--catalogue", folder / "c.csv",
        "--out", tmp_path / "t.parquet", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["kinds"] == {"catalogued": 1, "new": 2}
    assert summary["n_false_in_turned_image"] == 0
    table = pl.read_parquet(tmp_path / "t.parquet")
    assert table["catalogue_source_id"].drop_nulls().to_list() == ["known"]
    index, separation = match_nearest(
        np.array(ra), np.array(dec), table["ra_deg"].to_numpy(), table["dec_deg"].to_numpy(), 3.0
    )
    assert sorted(index.tolist()) == [0, 1, 2]
    assert separation.max() < 2.0


def test_without_maps_and_catalogue_everything_is_new(mosaic, tmp_path):
    """Noise and background are estimated; the three sources are found."""
    result = run(mosaic[0] / "m.fits", "--out", tmp_path / "t.parquet", "--threshold", 8, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kinds"] == {"new": 3}


def test_real_image_against_the_components_of_aegean(shared_data, tmp_path):
    """1904-66: all compact components of Aegean above 6 sigma off the edge are found within a pixel; fluxes agree to 2 %."""
    folder = shared_data / "aegean_1904-66"
    result = run(
        folder / "1904-66_SIN.fits", "--rms", folder / "1904-66_SIN_rms.fits",
        "--background", folder / "1904-66_SIN_bkg.fits", "--out", tmp_path / "t.parquet", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_false_in_turned_image"] == 0
    found = pl.read_parquet(tmp_path / "t.parquet")
    with fits.open(folder / "1904_comp.fits") as units:
        names = ("ra", "dec", "local_rms", "peak_flux", "int_flux")
        columns = {name: np.array(units[1].data[name], dtype=float) for name in names}
    image = SkyImage(**read_image(folder / "1904-66_SIN.fits"))
    x, y = image_pixels(image, columns["ra"], columns["dec"])
    is_inside = ndimage.uniform_filter(np.isfinite(image.data).astype(float), 9, mode="constant") > 0.999
    compact = columns["int_flux"] < 1.5 * columns["peak_flux"]
    chosen = compact & (columns["peak_flux"] > 6.0 * columns["local_rms"])
    chosen &= is_inside[np.round(y).astype(int), np.round(x).astype(int)]
    assert chosen.sum() >= 25
    index, _ = match_nearest(
        columns["ra"][chosen], columns["dec"][chosen], found["ra_deg"].to_numpy(), found["dec_deg"].to_numpy(), 240.0
    )
    assert np.all(index >= 0)
    ratio = found["peak_flux_jy_beam"].to_numpy()[index] / columns["peak_flux"][chosen]
    assert 0.98 < np.median(ratio) < 1.02


def test_two_noise_maps_are_bad_usage(mosaic, tmp_path):
    """The noise is given once."""
    folder, *_ = mosaic
    weights = folder / "m_weight.fits"
    result = run(folder / "m.fits", "--weights", weights, "--rms", weights, "--out", tmp_path / "t.parquet")
    assert result.exit_code == 2
    assert "give the noise once" in " ".join(result.stderr.split())


def test_a_map_of_another_shape_is_an_error_on_one_screen(mosaic, tmp_path):
    """Exit code 1, both shapes, no traceback, no file."""
    folder, *_ = mosaic
    small = tmp_path / "small.fits"
    write_image(small, np.ones((50, 50), np.float32), sky_image(np.zeros((50, 50))).wcs, {})
    result = run(folder / "m.fits", "--weights", small, "--out", tmp_path / "t.parquet")
    assert result.exit_code == 1
    assert "(50, 50)" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "t.parquet").exists()
