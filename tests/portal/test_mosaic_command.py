"""``contimg mosaic`` on images of any origin: with the maps of `contimg image` beside them, and without any."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from contimg_portal.commands.mosaic import mosaic
from contimg_resources.fits_images import header_cards, read_image, read_plane, write_image
from tests.science.test_mosaic import BEAM, CENTRES_DEG, RMS_JY, grid_of_sources, simulate_tile

app = typer.Typer()
app.command()(mosaic)


def run(*arguments):
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def cards():
    """Header of a tile."""
    return header_cards(
        beam_major_arcsec=BEAM.major_arcsec,
        beam_minor_arcsec=BEAM.minor_arcsec,
        beam_pa_deg=BEAM.pa_deg,
        frequency_hz=1.4e9,
        bandwidth_hz=1e8,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three image folders as `contimg image` makes them, and beside each the corrected image alone."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(6)
    sources = grid_of_sources(rng, flux_jy=0.15, spacing_deg=0.3)
    made = []
    for ra, rms in zip(CENTRES_DEG, RMS_JY, strict=True):
        tile = simulate_tile(ra, sources, rms_jy=rms, rng=rng)
        folder = root / f"tile{ra:g}"
        for kind, plane in (("image", tile.image.data), ("rms", tile.rms), ("primary_beam", tile.primary_beam)):
            write_image(folder / f"full_{kind}.fits", plane, tile.image.wcs, cards())
        corrected = np.where(tile.primary_beam > 0.3, tile.image.data / tile.primary_beam, np.nan)
        write_image(root / f"corrected{ra:g}.fits", corrected, tile.image.wcs, cards())
        made.append((folder, root / f"corrected{ra:g}.fits"))
    return made


def test_folders_become_mosaic_and_weights(folders, tmp_path):
    """Image folders give the mosaic, its weights beside it and a summary; what was used of each is said."""
    result = run(*(folder for folder, _ in folders), "--out", tmp_path / "m.fits", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["n_tiles"] == 3
    assert summary["weights"] == str(tmp_path / "m_weight.fits")
    image, weights = read_image(tmp_path / "m.fits"), read_plane(tmp_path / "m_weight.fits")
    assert list(weights.shape[::-1]) == summary["n_pixels"]
    assert 1 / np.sqrt(weights.max()) == pytest.approx(summary["lowest_rms_jy_beam"])
    assert np.nanmax(image["data"]) == pytest.approx(0.15, rel=0.05)
    assert "with rms, primary_beam" in " ".join(result.stderr.split())


def test_corrected_images_without_maps(folders, tmp_path):
    """Images that are corrected already need no map: their local noise is estimated and weighs them."""
    result = run(
        *(file for _, file in folders), "--out", tmp_path / "m.fits", "--weights", tmp_path / "w.fits", "--json"
    )
    assert result.exit_code == 0, result.output
    assert "with no maps" in " ".join(result.stderr.split())
    image, weights = read_image(tmp_path / "m.fits"), read_plane(tmp_path / "w.fits")
    assert np.nanmax(image["data"]) == pytest.approx(0.15, rel=0.1)
    assert 0.7e-3 < 1 / np.sqrt(weights.max()) < 1.2e-3


def test_wrong_input_is_said_on_one_screen(tmp_path):
    """A file that is not there gives exit code 1 and its name, and nothing is written."""
    result = run(tmp_path / "nothing.fits", "--out", tmp_path / "m.fits")
    assert result.exit_code == 1
    assert "nothing.fits" in result.stderr
    assert not list(tmp_path.iterdir())
