"""``contimg measure`` and ``contimg catalogue`` on real files, and what they say when a file is wrong."""

import json

import numpy as np
import polars as pl
import pytest
import typer
from astropy.io import fits
from typer.testing import CliRunner

from contimg_portal.commands.catalogue import app as catalogue_app
from contimg_portal.commands.measure import measure
from contimg_resources.fits_images import header_cards, write_image
from contimg_resources.reference_catalogues import read_catalogue
from tests.science.noisy_sky import add_sources, beam_noise, grid, sky_image

measure_app = typer.Typer()
measure_app.command()(measure)


def run(app, *arguments):
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(app, *arguments):
    """Run a command that must not fail and return its JSON."""
    result = run(app, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def parkes(shared_data):
    """Folder of the real image of Parkes, and of a synthetic one."""
    return shared_data / "aegean_1904-66"


def test_real_image_gives_the_peak_fluxes_of_its_catalogue(parkes, tmp_path):
    """On Parkes' 1904-66 the median ratio to Aegean's peak fluxes is within 3 per cent of one."""
    summary = succeed(
        measure_app, parkes / "1904-66_SIN.fits", "--rms", parkes / "1904-66_SIN_rms.fits",
        "--background", parkes / "1904-66_SIN_bkg.fits", "--catalogue", parkes / "1904_comp.fits",
        "--out", tmp_path / "out.parquet",
    )  # fmt: skip
    table = pl.read_parquet(tmp_path / "out.parquet")
    truth = read_catalogue(parkes / "1904_comp.fits")
    assert table["source_id"].to_list() == truth["source_id"].to_list()
    reliable = (table["flags"] & ~1) == 0
    ratio = (table["peak_flux_jy_beam"] / truth["peak_flux_jy_beam"]).filter(reliable)
    assert ratio.len() >= 35
    assert 0.97 < ratio.median() < 1.03
    assert 0.97 < summary["median_flux_over_catalogue"] < 1.03
    assert summary["n_measured"] == 51
    assert table["chi2_reduced"].drop_nans().median() < 3


def test_real_image_without_maps_estimates_its_noise(parkes, tmp_path):
    """Noise and background estimated from the image give the same fluxes within a few per cent."""
    summary = succeed(
        measure_app, parkes / "1904-66_SIN.fits", "--catalogue", parkes / "1904_comp.fits",
        "--out", tmp_path / "out.parquet",
    )  # fmt: skip
    assert 0.9 < summary["median_flux_over_catalogue"] < 1.1
    assert 0.03 < summary["median_rms_jy_beam"] < 0.12


@pytest.mark.parametrize("method", ["gls", "matched_filter"])
def test_synthetic_image_of_rising_right_ascension(parkes, tmp_path, method):
    """Right ascension grows with x here, the fluxes are 0.5 to 50 Jy on a hidden pedestal of 0.2535 Jy."""
    ra, dec = (
        v.ravel() for v in np.meshgrid(np.linspace(29.8, 30.8, 10), np.linspace(-15.5, -15.1, 10), indexing="ij")
    )
    catalogue = tmp_path / "truth.csv"
    pl.DataFrame({"source_id": [f"s{k}" for k in range(100)], "ra_deg": ra, "dec_deg": dec}).write_csv(catalogue)
    pedestal = tmp_path / "pedestal.fits"
    with fits.open(parkes / "synthetic_test_bkg.fits") as hdus:
        fits.writeto(pedestal, hdus[0].data + np.float32(0.2535), hdus[0].header)
    succeed(
        measure_app, parkes / "synthetic_test.fits", "--rms", parkes / "synthetic_test_rms.fits",
        "--background", pedestal, "--catalogue", catalogue, "--out", tmp_path / "out.parquet", "--method", method,
    )  # fmt: skip
    table = pl.read_parquet(tmp_path / "out.parquet")
    truth = 0.5 * (1 + table["source_index"].to_numpy())
    difference = table["peak_flux_jy_beam"].to_numpy() - truth
    assert table.height == 100
    assert abs(np.median(difference)) < 0.01
    assert np.median(np.abs(difference[truth > 5] / truth[truth > 5])) < 0.003


@pytest.fixture
def small_image(tmp_path, rng):
    """An image with 20 sources and its primary beam, in files."""
    n = 256
    data = 1e-3 * beam_noise(n, rng)
    x, y = rng.uniform(20, n - 20, 20), rng.uniform(20, n - 20, 20)
    add_sources(data, sky_image(data), x, y, np.full(20, 0.1))
    wcs = grid(n)
    cards = header_cards(
        beam_major_arcsec=12.0, beam_minor_arcsec=9.0, beam_pa_deg=30.0, frequency_hz=1.4e9, bandwidth_hz=1e8
    )
    write_image(tmp_path / "image.fits", data.astype(np.float32), wcs, cards)
    write_image(tmp_path / "beam.fits", np.full((n, n), 0.5, np.float32), wcs, cards, unit="")
    ra, dec = wcs.all_pix2world(np.append(x, -50.0), np.append(y, 10.0), 0)
    pl.DataFrame({"source_id": [f"s{k}" for k in range(21)], "ra_deg": ra, "dec_deg": dec, "flux_jy": 0.2}).write_csv(
        tmp_path / "sources.csv"
    )
    return tmp_path


def test_primary_beam_corrects_fluxes_and_sources_outside_have_no_row(small_image):
    """With the beam at one half, apparent 0.1 Jy become 0.2; the source off the image is counted, not invented."""
    summary = succeed(
        measure_app, small_image / "image.fits", "--primary-beam", small_image / "beam.fits",
        "--catalogue", small_image / "sources.csv", "--out", small_image / "out.parquet",
    )  # fmt: skip
    table = pl.read_parquet(small_image / "out.parquet")
    assert (summary["n_catalogue"], summary["n_measured"], summary["n_outside_image"]) == (21, 20, 1)
    assert "s20" not in table["source_id"].to_list()
    assert table["peak_flux_jy_beam"].median() == pytest.approx(0.2, rel=0.02)
    assert summary["median_flux_over_catalogue"] == pytest.approx(1.0, abs=0.02)
    assert table["peak_flux_err_jy_beam"].median() == pytest.approx(2e-3, rel=0.15)
    assert table["local_rms_jy_beam"].median() == pytest.approx(1e-3, rel=0.15)


def test_text_output_is_one_screen(small_image):
    """Without --json the summary is lines on stdout."""
    result = run(
        measure_app, small_image / "image.fits", "--catalogue", small_image / "sources.csv",
        "--out", small_image / "out.parquet",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "n_measured: 20" in result.stdout


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"catalogue": "nowhere.csv"}, "does not exist"),
        ({"image": "nowhere.fits"}, "nowhere.fits"),
        ({"catalogue": "image.fits"}, "cannot be read as a table"),
        ({"rms": "tiny.fits"}, "rms map does not belong"),
    ],
    ids=["no catalogue", "no image", "an image as catalogue", "map of another image"],
)
def test_wrong_files_give_one_message_and_no_output(small_image, broken, message):
    """The error names the file, the exit code is 1 and nothing is written."""
    fits.writeto(small_image / "tiny.fits", np.ones((4, 4), np.float32), grid(4).to_header())
    names = {"image": "image.fits", "catalogue": "sources.csv"} | broken
    options = [word for name, file in names.items() if name != "image" for word in (f"--{name}", small_image / file)]
    result = run(measure_app, small_image / names["image"], *options, "--out", small_image / "out.parquet")
    assert result.exit_code == 1
    assert message in result.output
    assert not (small_image / "out.parquet").exists()


def test_catalogue_import_then_query(shared_data, tmp_path):
    """NVSS in a zip becomes ours; a cone query lists the nearest first."""
    summary = succeed(
        catalogue_app, "import", shared_data / "radio_catalogues" / "NVSS.fits.zip", "--out", tmp_path / "n.parquet"
    )
    assert summary["n_sources"] == summary["n_with_flux"] == 639
    first = read_catalogue(tmp_path / "n.parquet").row(0, named=True)
    found = succeed(
        catalogue_app, "query", tmp_path / "n.parquet", "--ra", first["ra_deg"], "--dec", first["dec_deg"],
        "--radius-deg", 0.5,
    )  # fmt: skip
    assert found["sources"][0]["source_id"] == first["source_id"]
    assert found["n_sources"] == len(found["sources"]) > 1


def test_catalogue_import_with_columns_of_ones_own(tmp_path):
    """Columns are named on the command line, fluxes moved from their frequency."""
    pl.DataFrame({"who": ["a"], "alpha": [10.0], "delta": [20.0], "s": [2.0]}).write_csv(tmp_path / "mine.csv")
    options = ["source_id=who", "ra_deg=alpha", "dec_deg=delta", "flux_jy=s"]
    succeed(
        catalogue_app, "import", tmp_path / "mine.csv", "--out", tmp_path / "o.parquet", "--frequency-mhz", 700,
        *[word for pair in options for word in ("--column", pair)],
    )  # fmt: skip
    assert read_catalogue(tmp_path / "o.parquet")["flux_jy"][0] == pytest.approx(2 * 2**-0.7)


def test_catalogue_import_refuses_unknown_columns(tmp_path):
    """A misspelt column of ours is bad usage."""
    (tmp_path / "mine.csv").write_text("ra_deg,dec_deg\n1,2\n")
    result = run(catalogue_app, "import", tmp_path / "mine.csv", "--out", tmp_path / "o", "--column", "ra=alpha")
    assert result.exit_code == 2
    assert "OURS=THEIRS" in result.output


def test_catalogue_match_gives_spectral_indices(tmp_path):
    """A source of index -1 between 700 and 1400 MHz gets it, beside the flags; one without a partner keeps none."""
    for name, flux in (("high", 0.1), ("low", 0.2)):
        pl.DataFrame(
            {
                "source_id": ["a", "b"],
                "ra_deg": [10.0, 20.0 if name == "high" else 30.0],
                "dec_deg": 5.0,
                "flux_jy": flux,
            }
        ).write_csv(tmp_path / f"{name}.csv")
    summary = succeed(
        catalogue_app, "match", tmp_path / "high.csv", tmp_path / "low.csv", "--out", tmp_path / "m.parquet",
        "--frequency-first-mhz", 1400, "--frequency-second-mhz", 700,
    )  # fmt: skip
    assert (summary["n_sources"], summary["n_matched"]) == (2, 1)
    table = pl.read_parquet(tmp_path / "m.parquet")
    assert table["spectral_index"].to_list() == [pytest.approx(-1.0), None]
    assert table["is_confused"].to_list() == [False, False]
    assert read_catalogue(tmp_path / "m.parquet").height == 2
