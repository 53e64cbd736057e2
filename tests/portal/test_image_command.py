"""``contimg image`` on measurement sets of a small array, and what it says when an option is wrong."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import typer
from casacore import tables
from typer.testing import CliRunner

from contimg_assets.science.calibration.solutions import Solutions
from contimg_portal.commands.image import image
from contimg_resources.calibration_tables import write_calibration_table
from contimg_resources.fits_images import list_bands, read_image, read_plane
from contimg_resources.measurement_set_writer import write_measurement_set
from contimg_resources.wsclean import INSTALL_COMMAND
from tests.science.corruption import corrupt
from tests.science.interferometer import observe

app = typer.Typer()
app.command()(image)


def run(*arguments):
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments):
    """Run the command, which must not fail, and return its JSON."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Sums of several threads have another order each time, and images then other last bits."""
    monkeypatch.setenv("CONTIMG_THREADS", "1")


@pytest.fixture(scope="module")
def observation():
    """A source of 1 Jy a little off the centre, and its position."""
    return observe(
        [(0.3, -0.2, 1.0, 0.0)], n_antennas=14, n_chan=8, rms_jy=2e-3, rng=np.random.default_rng(1), drifts=False
    )


@pytest.fixture(scope="module")
def measurement_set(observation, tmp_path_factory):
    """The observation as a measurement set."""
    path = tmp_path_factory.mktemp("image") / "drift.ms"
    write_measurement_set(path, observation[0].columns())
    return path


def test_sources_of_a_catalogue_are_fitted(observation, measurement_set, tmp_path):
    """With a catalogue nothing is left to CLEAN, and a source whose flux density it does not know is left out."""
    [(ra, dec)] = observation[1]
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text(f"source_id,ra_deg,dec_deg,flux_jy\na,{ra},{dec},1.2\nb,{ra},{dec + 0.4},\n")
    summary = succeed(measurement_set, "--out", tmp_path / "images", "--catalogue", catalogue)
    assert summary["n_known_sources"] == 1
    assert summary["n_clean_components"] == 0
    residual, rms = (read_plane(tmp_path / "images" / f"full_{kind}.fits") for kind in ("residual", "rms"))
    assert np.abs(residual / rms).max() < 6.0


def test_images_of_a_measurement_set(observation, measurement_set, tmp_path):
    """The source is at its place with its flux density times the primary beam, in the full band and both sub-bands."""
    summary = succeed(measurement_set, "--out", tmp_path / "images", "--bands", 2)
    assert list_bands(tmp_path / "images") == ["full", "band0", "band1"]
    assert [plane["band"] for plane in summary["planes"]] == ["full", "band0", "band1"]
    assert summary["n_clean_components"] > 0
    [(ra, dec)] = observation[1]
    for band in list_bands(tmp_path / "images"):
        restored = read_image(tmp_path / "images" / f"{band}_image.fits")
        y, x = np.unravel_index(restored["data"].argmax(), restored["data"].shape)
        at_x, at_y = restored["wcs"].wcs_world2pix(ra, dec, 0)
        assert np.hypot(x - at_x, y - at_y) < 1.0
        expected = read_plane(tmp_path / "images" / f"{band}_primary_beam.fits")[y, x]
        # The nearest pixel is up to 0.7 pixels off, where a beam of 4.5 pixels has fallen by 6 per cent.
        assert 0.93 * expected < restored["data"].max() < 1.02 * expected


def test_surroundings_are_cleaned_unless_a_catalogue_is_given(measurement_set, tmp_path):
    """Without a catalogue CLEAN looks beyond the image, which keeps its size; said or with a catalogue it does not."""
    chosen = ["--cell", 20, "--pixels", 256, "--iterations", 0]
    made = {}
    for name, options in (("default", []), ("off", ["--no-surroundings"]), ("on", ["--surroundings"])):
        summary = succeed(measurement_set, "--out", tmp_path / name, *chosen, *options)
        made[name] = (summary["n_pixels"], read_plane(tmp_path / name / "full_rms.fits"))
    assert [n_pixels for n_pixels, _ in made.values()] == [[256, 256]] * 3
    np.testing.assert_array_equal(made["default"][1], made["on"][1])
    assert not np.array_equal(made["off"][1], made["on"][1])


def test_cell_size_and_channels_can_be_chosen(measurement_set, tmp_path):
    """Pixel side, number of pixels and channels are as asked for."""
    summary = succeed(
        measurement_set, "--out", tmp_path / "images", "--cell", 30, "--pixels", 200, "--channels", "0~1;4", "--robust", 2
    )  # fmt: skip
    assert summary["n_pixels"] == [200, 200]
    assert summary["cell_arcsec"] == pytest.approx(30.0)
    frequency = 1311.25 + 187.5 / 8 * (np.array([0, 1, 4]) + 0.5)
    assert summary["planes"][0]["frequency_mhz"] == pytest.approx(frequency.mean(), abs=0.5)


def test_gains_are_applied_while_reading(observation, measurement_set, tmp_path):
    """With a gain table that halves every gain the fluxes are four times larger."""
    vis = observation[0]
    shape = (1, vis.n_antennas, 1, 2)
    solutions = Solutions(
        kind="G",
        gains=np.full(shape, 0.5 + 0j),
        flags=np.zeros(shape, dtype=bool),
        snr=np.full(shape, 100.0, dtype=np.float32),
        time_mjd=np.array([vis.time_mjd.mean()]),
        interval_s=np.array([100.0]),
        frequency_hz=np.array([vis.mean_frequency_hz]),
        refant=0,
        antenna_names=vis.antenna_names,
        correlations=vis.correlations,
        field_name=vis.field_name,
        residual=0.0,
        n_iterations=1,
        converged=np.ones((1, 1, 2), dtype=bool),
    )
    write_calibration_table(tmp_path / "g.cal", solutions.columns(), measurement_set)
    plain = succeed(measurement_set, "--out", tmp_path / "plain")
    calibrated = succeed(measurement_set, "--out", tmp_path / "calibrated", "--gain", tmp_path / "g.cal")
    ratio = calibrated["planes"][0]["peak_jy_beam"] / plain["planes"][0]["peak_jy_beam"]
    assert ratio == pytest.approx(4.0, rel=0.01)


def test_table_is_printed_for_people(measurement_set, tmp_path):
    """Without --json beam, rms, peak and number of components are printed."""
    result = run(measurement_set, "--out", tmp_path / "images", "--iterations", 0)
    assert result.exit_code == 0
    for word in ("major_arcsec", "rms_jy_beam", "peak_jy_beam", "n_clean_components: 0"):
        assert word in result.stdout


def test_another_engine_writes_the_same_files(observation, measurement_set, tmp_path, monkeypatch):
    """With --engine wsclean, or the setting, the folder holds what ours holds, with the source at its place and flux."""
    if shutil.which("wsclean") is None:
        pytest.skip(f"WSClean is not installed; run {INSTALL_COMMAND}")
    options = ("--bands", 2, "--cell", 20, "--pixels", 300)
    ours = succeed(measurement_set, "--out", tmp_path / "ours", *options)
    theirs = succeed(measurement_set, "--out", tmp_path / "theirs", *options, "--engine", "wsclean")
    monkeypatch.setenv("CONTIMG_IMAGING__ENGINE", "wsclean")
    chosen = succeed(measurement_set, "--out", tmp_path / "chosen", *options)
    assert [summary["engine"] for summary in (ours, theirs, chosen)] == ["contimg", "wsclean", "wsclean"]
    names = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("ours", "theirs")]
    assert names[0] == names[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chosen", "ours", "theirs"]
    peaks = [summary["planes"][0]["peak_jy_beam"] for summary in (ours, theirs, chosen)]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.03)
    assert peaks[2] == pytest.approx(peaks[1], rel=1e-4)  # its threads add in any order


def test_missing_engine_is_one_clear_error(measurement_set, tmp_path, monkeypatch):
    """An engine that is not installed ends with its install command, and nothing is written."""
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run(measurement_set, "--out", tmp_path / "images", "--engine", "wsclean")
    assert result.exit_code == 1
    assert "apt-get install wsclean" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        (["--channels", "a~b"], 2, "ranges such as"),
        (["--channels", "6~9"], 1, "0~7"),
        (["--pixels", "33"], 1, "n_pixels"),
        (["--robust", "5"], 2, "robust"),
        (["--engine", "aips"], 2, "wsclean"),
        (["--field", "elsewhere"], 1, "elsewhere"),
        (["--weighting", "radial"], 2, "radial"),
        (["--uv-min", "900", "--uv-max", "800"], 1, "above uv_min_wavelengths"),
        (["--uv-min", "1e6"], 1, "Widen the uv range"),
        (["--pixels", "400000"], 1, "larger than the memory"),
        (["--cell", "0.01"], 1, "larger than the memory"),
    ],
    ids=[
        "not ranges", "beyond the band", "odd size", "robust", "engine", "field", "weighting", "uv range", "no baselines",
        "pixels beyond the memory", "cell beyond the memory",
    ],
)  # fmt: skip
def test_wrong_option_is_one_clear_error(measurement_set, tmp_path, options, exit_code, message):
    """A wrong option ends with the exit code of its kind and a message that names it; nothing is written."""
    result = run(measurement_set, "--out", tmp_path / "images", *options)
    assert result.exit_code == exit_code
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


def test_observation_without_data_is_refused(observation, tmp_path):
    """A fully flagged measurement set is an error, not an empty image."""
    vis = replace(observation[0], flags=np.ones_like(observation[0].flags))
    write_measurement_set(tmp_path / "flagged.ms", vis.columns())
    result = run(tmp_path / "flagged.ms", "--out", tmp_path / "images")
    assert result.exit_code == 1
    assert "every visibility is flagged: got 0 unflagged visibilities" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["flagged.ms"]


def test_failed_imaging_leaves_earlier_images_alone(measurement_set, tmp_path):
    """Images already in the folder survive a run that fails."""
    succeed(measurement_set, "--out", tmp_path / "images", "--iterations", 0, "--pixels", 64)
    before = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    assert run(measurement_set, "--out", tmp_path / "images", "--pixels", 400_000).exit_code == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("flux_jy", ["", "0.0"], ids=["unknown", "zero"])
def test_catalogue_without_any_flux_density_is_refused(observation, measurement_set, tmp_path, flux_jy):
    """A catalogue in which no flux density is known cannot be fitted: one clear error, nothing written."""
    [(ra, dec)] = observation[1]
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text(f"source_id,ra_deg,dec_deg,flux_jy\na,{ra},{dec},{flux_jy}\n")
    result = run(measurement_set, "--out", tmp_path / "images", "--catalogue", catalogue)
    assert result.exit_code == 1
    assert "no sky model for the field" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue.csv"]


def test_weights_come_from_weight_where_there_is_no_spectrum(observation, measurement_set, tmp_path):
    """A set with WEIGHT_SPECTRUM and one without, of equal weights, give equal images; which was used is reported."""
    spectrum = tmp_path / "spectrum.ms"
    shutil.copytree(measurement_set, spectrum)
    vis = observation[0]
    with tables.table(str(spectrum), readonly=False, ack=False) as main:
        main.addcols(tables.makearrcoldesc("WEIGHT_SPECTRUM", 0.0, ndim=2, valuetype="float"))
        weights = np.repeat(main.getcol("WEIGHT")[:, None, :], vis.frequency_hz.size, axis=1)
        main.putcol("WEIGHT_SPECTRUM", weights)
        main.putcol("WEIGHT", np.full_like(main.getcol("WEIGHT"), 1e-9))
    # Dirty images are linear in the data; CLEAN makes more of rounding.
    plain = succeed(measurement_set, "--out", tmp_path / "plain", "--iterations", 0)
    other = succeed(spectrum, "--out", tmp_path / "other", "--iterations", 0)
    assert (plain["weights_from"], other["weights_from"]) == ("WEIGHT", "WEIGHT_SPECTRUM")
    ours, theirs = (read_plane(tmp_path / name / "full_image.fits") for name in ("plain", "other"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(ours).max())


def test_weights_and_cuts_can_be_chosen(measurement_set, tmp_path):
    """Natural weights have less noise than uniform ones; without long baselines the beam is wider."""
    natural, uniform, short = (
        succeed(measurement_set, "--out", tmp_path / name, *options)["planes"][0]
        for name, options in {
            "natural": ["--weighting", "natural"],
            "uniform": ["--weighting", "uniform"],
            "short": ["--weighting", "natural", "--uv-max", "1000"],
        }.items()
    )
    assert natural["thermal_jy_beam"] < uniform["thermal_jy_beam"]
    assert natural["thermal_jy_beam"] < short["thermal_jy_beam"]
    assert uniform["major_arcsec"] < natural["major_arcsec"] < short["major_arcsec"]


def test_self_calibration_is_reported(observation, tmp_path):
    """Phase errors are taken out, and the summary says by which steps; without the option nothing is reported."""
    rng = np.random.default_rng(5)
    phases = np.exp(1j * np.deg2rad(25.0) * rng.standard_normal((14, 1, 2)))
    write_measurement_set(tmp_path / "phases.ms", corrupt(observation[0], phases).columns())
    plain = succeed(tmp_path / "phases.ms", "--out", tmp_path / "plain")
    assert "self_calibration" not in plain
    better = succeed(tmp_path / "phases.ms", "--out", tmp_path / "better", "--self-calibration", "phase")
    assert better["self_calibration"] == "phase"
    assert better["self_calibration_steps"][0]["is_kept"]
    assert better["planes"][0]["rms_jy_beam"] < 0.7 * plain["planes"][0]["rms_jy_beam"]
    assert better["planes"][0]["peak_jy_beam"] > 1.05 * plain["planes"][0]["peak_jy_beam"]
