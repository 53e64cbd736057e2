"""``contimg convert`` and ``contimg flag`` on simulated sub-band files and on the real files of the ATA."""

import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.simulation.array import small_array
from contimg_assets.science.simulation.instrument import InstrumentSettings
from contimg_assets.science.simulation.observe import (
    INTEGRATION_S,
    ObservingSetup,
    prepare_observation,
    simulate_subband,
    subband_frequencies_hz,
)
from contimg_assets.science.visibilities import Visibilities
from contimg_portal.commands.convert import convert
from contimg_portal.commands.flag import flag
from contimg_resources.casa import run_task
from contimg_resources.measurement_set_writer import write_measurement_set
from contimg_resources.measurement_sets import read_measurement_set
from contimg_resources.uvh5 import write_subband
from tests.science.exact_uvw import exact_uvw_m

ASK_CASA = """
import json, sys
from pathlib import Path
from contimg_resources.casa import _tasks
_tasks(Path(sys.argv[2]))
from casatools import msmetadata
asked = msmetadata()
asked.open(sys.argv[1])
centre, position = asked.phasecenter(0), [asked.antennaposition(k) for k in range(asked.nantennas())]
print("ANSWER " + json.dumps({
    "antenna_names": list(asked.antennanames()),
    "diameters_m": [value["value"] for value in asked.antennadiameter().values()],
    "positions": [[p[axis]["value"] for axis in ("m0", "m1", "m2")] for p in position],
    "fields": list(asked.fieldnames()),
    "centre_deg": [centre[axis]["value"] * 180.0 / 3.141592653589793 for axis in ("m0", "m1")],
    "frame": centre["refer"],
    "frequency_hz": asked.chanfreqs(0).tolist(),
    "width_hz": asked.chanwidths(0).tolist(),
    "correlations": asked.corrtypesforpol(0).tolist(),
    "n_windows": asked.nspw(),
    "scans": asked.scannumbers().tolist(),
    "intents": list(asked.intents()),
    "times_s": asked.timesforscan(1).tolist(),
    "exposure_s": asked.exposuretime(scan=1)["value"],
    "observatories": list(asked.observatorynames()),
    "n_rows": int(asked.nrows()),
    "n_baselines": int(asked.nbaselines()),
}))
"""
"""CASA's own reading of a measurement set, in a process of its own: its C++ may crash, and it wants its settings first."""

convert_app, flag_app = typer.Typer(), typer.Typer()
convert_app.command()(convert)
flag_app.command()(flag)


def run(app, *arguments):
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(app, *arguments):
    """Run a command that must not fail and return its JSON."""
    result = run(app, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def prepared():
    """One small observation with one dead antenna, as the simulator prepares it."""
    instrument = InstrumentSettings(dead_antennas=("2",), dead_mode="zero", rfi_bursts=0.0)
    setup = ObservingSetup(small_array(8), 16.13, 2, 4, instrument, seed=3)
    return prepare_observation(setup, 61065.93, 0, 0, ())


@pytest.fixture(scope="module")
def subband_files(prepared, tmp_path_factory):
    """Its sixteen files."""
    folder = tmp_path_factory.mktemp("incoming")
    paths = []
    for number in range(16):
        raw = simulate_subband(prepared, number)
        paths.append(folder / f"2026-01-25T22:19:12_sb{number:02d}.hdf5")
        write_subband(paths[-1], raw.columns())
    return paths


def test_convert_then_flag(subband_files, tmp_path):
    """Sub-band files become a measurement set, and flagging names the dead antenna."""
    path = tmp_path / "x.ms"
    made = succeed(convert_app, *subband_files, "--out", path)
    assert made["n_antennas"] == 8
    assert made["n_channels"] == 32
    assert made["n_rows"] == 4 * 28
    assert made["missing_subbands"] == []
    flagged = succeed(flag_app, path)
    (report,) = flagged["fields"]
    assert report["dead_antennas"] == ["2"]
    assert report["by_antenna"]["2"] == 1.0
    assert len(report["by_subband"]) == 16
    assert flagged["flagged_fraction"] == pytest.approx(read_measurement_set(path)["flags"].mean())


def test_missing_subband_is_flagged(subband_files, tmp_path):
    """An observation of 15 files keeps its channels, those of the missing one flagged."""
    path = tmp_path / "x.ms"
    made = succeed(convert_app, *subband_files[:7], *subband_files[8:], "--out", path)
    assert made["missing_subbands"] == [7]
    flags = read_measurement_set(path)["flags"]
    assert np.flatnonzero(flags.all(axis=(0, 2))).tolist() == [16, 17]


def test_flagging_engine_that_is_missing_leaves_the_flags(subband_files, tmp_path, monkeypatch):
    """Without the package the command ends with its install command, and FLAG is as it was."""
    monkeypatch.setattr("contimg_resources.aoflagger.importlib.util.find_spec", lambda name: None)
    path = tmp_path / "x.ms"
    succeed(convert_app, *subband_files, "--out", path)
    before = read_measurement_set(path)["flags"]
    result = run(flag_app, path, "--engine", "aoflagger")
    assert result.exit_code == 1
    assert "pip install" in result.output
    np.testing.assert_array_equal(read_measurement_set(path)["flags"], before)


def test_flag_prints_a_table_for_people(subband_files, tmp_path):
    """Without --json, causes, antennas and sub-bands are lines of a table."""
    path = tmp_path / "x.ms"
    succeed(convert_app, *subband_files, "--out", path)
    result = run(flag_app, path)
    assert result.exit_code == 0
    for word in ("zero_or_not_finite", "antenna", "sub-band", "flagged_fraction"):
        assert word in result.stdout


def test_everything_flagged_ends_with_one_screen(subband_files, tmp_path):
    """A measurement set without any good data ends with an error that names it, exit code 1."""
    path = tmp_path / "x.ms"
    succeed(convert_app, *subband_files, "--out", path)
    columns = read_measurement_set(path)
    columns["flags"][...] = True
    write_measurement_set(path, columns)
    result = run(flag_app, path)
    assert result.exit_code == 1
    assert "every visibility" in result.output


@pytest.mark.parametrize("app", [convert_app, flag_app], ids=["convert", "flag"])
def test_missing_input_ends_with_one_screen(app, tmp_path):
    """A path that does not exist is an error of one screen with the path."""
    arguments = [tmp_path / "none.hdf5"] if app is flag_app else [tmp_path / "none.hdf5", "--out", tmp_path / "x.ms"]
    result = run(app, *arguments)
    assert result.exit_code == 1
    assert "none.hdf5" in result.output.replace("\n", "")


def test_real_phased_file_keeps_its_source_at_the_centre(shared_data, tmp_path):
    """A real ATA file of 3C286 is written about 3C286."""
    (file,) = (shared_data / "ata_3c286_uvh5").glob("*C0544*.uvh5")
    made = succeed(convert_app, file, "--out", tmp_path / "x.ms")
    assert made["phase_centre_ra_deg"] == pytest.approx(202.7845, abs=1e-3)
    assert made["phase_centre_dec_deg"] == pytest.approx(30.5092, abs=1e-3)
    columns = read_measurement_set(tmp_path / "x.ms")
    distance = np.linalg.norm(
        columns["antenna_positions_m"][columns["antenna1"]] - columns["antenna_positions_m"][columns["antenna2"]],
        axis=1,
    )
    np.testing.assert_allclose(np.linalg.norm(columns["uvw_m"], axis=1), distance, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("subband", [0, 7, 15])
def test_data_are_pyuvdatas_turned_to_our_centre(prepared, subband_files, tmp_path, subband):
    """UVW are astropy's exact ones to 1 mm, and DATA what pyuvdata reads, turned to that centre, to float32 rounding.

    The files are fringe-stopped on the meridian, which pyuvdata cannot know: its visibilities are turned here, in double
    precision, by the change of the exact w from the meridian at the pointing declination.
    """
    pyuvdata = pytest.importorskip("pyuvdata")
    path, site_m = tmp_path / "x.ms", prepared.setup.layout.site_itrf_m
    succeed(convert_app, *subband_files, "--out", path)
    vis = Visibilities(**read_measurement_set(path))
    exact_m = exact_uvw_m(vis, site_m)
    assert np.linalg.norm(exact_m, axis=1).max() > 800.0
    np.testing.assert_allclose(vis.uvw_m, exact_m, rtol=0, atol=1e-3)
    theirs = pyuvdata.UVData()
    theirs.read(
        str(subband_files[subband]), file_type="uvh5", check_extra=False, run_check=False, run_check_acceptability=False,
        strict_uvw_antpos_check=False,
    )  # fmt: skip
    theirs.select(ant_str="cross", run_check=False)
    theirs.conjugate_bls("ant1<ant2")
    order = np.lexsort((theirs.ant_2_array, theirs.ant_1_array, theirs.time_array))
    channels = np.argsort(theirs.freq_array.ravel())
    read, frequency_hz = theirs.data_array[order][:, channels], theirs.freq_array.ravel()[channels]
    np.testing.assert_array_equal(vis.antenna1, theirs.ant_1_array[order])
    np.testing.assert_array_equal(vis.antenna2, theirs.ant_2_array[order])
    longitude_rad, dec_rad = np.arctan2(site_m[1], site_m[0]), np.deg2rad(prepared.setup.pointing_dec_deg)
    meridian = [
        np.cos(dec_rad) * np.cos(longitude_rad), np.cos(dec_rad) * np.sin(longitude_rad), np.sin(dec_rad)
    ]  # fmt: skip
    baselines_m = vis.antenna_positions_m[vis.antenna1] - vis.antenna_positions_m[vis.antenna2]
    delay_s = (exact_m[:, 2] - baselines_m @ meridian) / SPEED_OF_LIGHT_M_S
    turns = delay_s[:, None, None] * frequency_hz[:, None]
    assert np.abs(turns).max() > 1.0
    first = int(np.argmin(np.abs(vis.frequency_hz - frequency_hz[0])))
    np.testing.assert_allclose(vis.frequency_hz[first : first + frequency_hz.size], frequency_hz, rtol=1e-12)
    ours = vis.vis[:, first : first + frequency_hz.size]
    # Two parts of a rounded product and the rounding of the phase itself: four units in the last place.
    allowed = 4.0 * np.finfo(np.float32).eps * np.abs(read)
    assert np.all(np.abs(ours - read * np.exp(-2j * np.pi * turns)) <= allowed)


@pytest.mark.casa
def test_casa_describes_what_the_raw_files_hold(casa, prepared, subband_files, tmp_path):
    """CASA's msmetadata: antennas, places, field, channels, scan and times are those that the files were made from."""
    path, layout = tmp_path / "x.ms", prepared.setup.layout
    made = succeed(convert_app, *subband_files, "--out", path)
    asked = subprocess.run(
        [sys.executable, "-c", ASK_CASA, path, tmp_path], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    answer = json.loads(next(line for line in asked.splitlines() if line.startswith("ANSWER "))[7:])
    assert answer["antenna_names"] == list(layout.antenna_names)
    assert answer["diameters_m"] == pytest.approx([4.65] * len(layout.antenna_names))
    assert answer["fields"] == [made["field_name"]]
    assert answer["frame"] == "ICRS"
    centre_deg = [made["phase_centre_ra_deg"], made["phase_centre_dec_deg"]]
    assert np.array(answer["centre_deg"]) % 360.0 == pytest.approx(centre_deg, abs=1e-9)
    assert answer["n_windows"] == 1
    expected_hz = np.sort(np.concatenate([subband_frequencies_hz(k, 2) for k in range(16)]))
    np.testing.assert_allclose(answer["frequency_hz"], expected_hz, rtol=0, atol=1e-3)
    np.testing.assert_allclose(answer["width_hz"], np.diff(expected_hz).mean(), rtol=1e-9)
    assert answer["correlations"] == [9, 12]  # XX and YY
    assert answer["scans"] == [1]
    assert answer["intents"] == ["OBSERVE_TARGET.ON_SOURCE"]
    np.testing.assert_allclose(np.array(answer["times_s"]) / 86_400.0, prepared.time_mjd, rtol=0, atol=1e-9)
    assert answer["exposure_s"] == pytest.approx(INTEGRATION_S)
    assert answer["observatories"] == ["OVRO_MMA"]
    assert (answer["n_rows"], answer["n_baselines"]) == (4 * 28, 28)
    longitude_rad, latitude_rad, radius_m = np.array(answer["positions"]).T
    east_of_greenwich = np.cos(latitude_rad) * np.exp(1j * longitude_rad)
    xyz_m = radius_m[:, None] * np.stack([east_of_greenwich.real, east_of_greenwich.imag, np.sin(latitude_rad)], axis=1)
    np.testing.assert_allclose(xyz_m, layout.positions_m, rtol=0, atol=1e-3)


@pytest.mark.casa
def test_casa_lists_what_was_converted(casa, prepared, subband_files, tmp_path):
    """CASA's listobs of a measurement set made from raw files names field, scan, antennas and spectral window as written."""
    path = tmp_path / "x.ms"
    made = succeed(convert_app, *subband_files, "--out", path)
    listed = run_task("listobs", vis=path, listfile=str(tmp_path / "listobs.txt"))
    assert listed["nfields"] == 1
    assert listed["numrecords"] == made["n_rows"]
    assert listed["field_0"]["name"] == made["field_name"]
    assert listed["field_0"]["direction"]["refer"] == "ICRS"
    assert np.rad2deg(listed["field_0"]["direction"]["m1"]["value"]) == pytest.approx(made["phase_centre_dec_deg"])
    half_mjd = 0.5 * INTEGRATION_S / 86_400.0
    assert listed["BeginTime"] == pytest.approx(prepared.time_mjd[0] - half_mjd, abs=1e-8)
    assert listed["EndTime"] == pytest.approx(prepared.time_mjd[-1] + half_mjd, abs=1e-8)
    scan = listed["scan_1"]["0"]
    assert (scan["nRow"], scan["FieldName"]) == (made["n_rows"], made["field_name"])
    assert scan["IntegrationTime"] == pytest.approx(INTEGRATION_S)
    text = (tmp_path / "listobs.txt").read_text()
    for expected in ("OVRO_MMA", "Antennas: 8", "OBSERVE_TARGET.ON_SOURCE", "XX  YY", f"{made['n_channels']}"):
        assert expected in text
