from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from casacore.tables import makearrcoldesc, maketabdesc, table
from typer.testing import CliRunner

from contimg_portal.commands.calibrate import calibrate
from contimg_resources.calibration_tables import read_calibration_table
from contimg_resources.casa import demo_uvfits, import_uvfits
from contimg_resources.measurement_set_writer import write_measurement_set
from contimg_resources.measurement_sets import read_measurement_set
from tests.science.corruption import FIELD, corrupt, observed, random_bandpass

PRIMARY, SECONDARY = "1331+30500002_0", "1445+09900002_0"


def run(*arguments):
    """Run the command as the console script does."""
    app = typer.Typer()
    app.command()(calibrate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def ngc5921(casa, tmp_path_factory) -> Path:
    """Real VLA data as CASA imports them. Read only: copy to change."""
    path = tmp_path_factory.mktemp("ngc5921") / "ngc5921.ms"
    import_uvfits(demo_uvfits(), path)
    return path


def mean_visibility_jy(path, field):
    """Vector average of calibrated data: the flux density at the phase centre."""
    data = read_measurement_set(path, field=field, column="CORRECTED_DATA")
    # Like the usual analysis of these data without the band edges, where the filter leaves little signal.
    good = ~data["flags"]
    good[:, :6] = good[:, -6:] = False
    return np.mean(data["vis"][good])


@pytest.mark.casa
@pytest.mark.parametrize("engine", ["contimg", "casa"])
def test_real_data_come_out_on_the_flux_scale(casa, ngc5921, tmp_path, engine):
    """3C286 within 1 per cent of 15.016 Jy, 1445+099 within 2 per cent of 2.526 Jy, phases gone."""
    path = shutil.copytree(ngc5921, tmp_path / "n.ms")
    tables = ["--bandpass", tmp_path / "b.cal", "--gain", tmp_path / "g.cal"]
    options = ["--transfer-to", SECONDARY, *tables, "--engine", engine]
    result = run(path, "--field", PRIMARY, *options, "--apply", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    fluxes = {row["field"]: row["flux_jy"] for row in report["fields"]}
    assert fluxes[PRIMARY] == pytest.approx(15.016, rel=0.001)
    assert fluxes[SECONDARY] == pytest.approx(2.526, rel=0.005)
    for field, expected_jy in ((PRIMARY, 15.016), (SECONDARY, 2.526)):
        mean = mean_visibility_jy(path, field)
        assert mean.real == pytest.approx(expected_jy, rel=0.005)
        assert abs(mean.imag) < 0.002 * expected_jy
    assert read_calibration_table(tmp_path / "g.cal")["field_name"] == f"{PRIMARY},{SECONDARY}"
    # Only the slot without an antenna has no solutions.
    assert [row["antennas_solved"] for row in report["fields"]] == [27, 27]


def test_component_list_calibrates_a_drift_scan(tmp_path, rng):
    """Our own kind of data: model from a CSV, seen through the beam; corrected data are the model's."""
    vis, model = observed(FIELD, n_antennas=8, n_time=3, n_chan=8)
    data = corrupt(vis, random_bandpass(rng, vis.frequency_hz, 8), rng=rng, sigma_jy=0.01)
    write_measurement_set(tmp_path / "x.ms", data.columns())
    pl.DataFrame(
        {
            "ra_deg": model.ra_deg,
            "dec_deg": model.dec_deg,
            "flux_jy": model.flux_jy,
            "spectral_index": model.spectral_index,
        }
    ).write_csv(tmp_path / "sky.csv")
    tables = ["--bandpass", tmp_path / "b.cal", "--gain", tmp_path / "g.cal"]
    result = run(tmp_path / "x.ms", "--field", "0", "--model", tmp_path / "sky.csv", *tables, "--apply")
    assert result.exit_code == 0, result.output
    corrected = read_measurement_set(tmp_path / "x.ms", column="CORRECTED_DATA")
    np.testing.assert_allclose(corrected["vis"], vis.vis, atol=0.3)
    assert np.abs(np.mean(corrected["vis"] - vis.vis)) < 0.01
    again = run(tmp_path / "x.ms", "--field", "0", "--model", tmp_path / "sky.csv", *tables, "--reuse-bandpass")
    assert again.exit_code == 0, again.output


def test_a_listed_calibrator_is_a_model(tmp_path, rng, monkeypatch):
    """--model takes a name from the list of the settings as it takes that of a primary calibrator."""
    vis, model = observed(n_antennas=8, n_time=3, n_chan=8)
    data = corrupt(vis, random_bandpass(rng, vis.frequency_hz, 8), rng=rng, sigma_jy=0.01)
    write_measurement_set(tmp_path / "x.ms", data.columns())
    columns = ("ra_deg", "dec_deg", "flux_jy", "spectral_index")
    row = {name: getattr(model, name) for name in columns} | {"name": ["J1"], "reference_frequency_hz": [1.4e9]}
    pl.DataFrame(row).write_csv(tmp_path / "calibrators.csv")
    monkeypatch.setenv("CONTIMG_CALIBRATOR_LIST", str(tmp_path / "calibrators.csv"))
    tables = ["--bandpass", tmp_path / "b.cal", "--gain", tmp_path / "g.cal"]
    result = run(tmp_path / "x.ms", "--field", "0", "--model", "J1", *tables, "--apply")
    assert result.exit_code == 0, result.output
    corrected = read_measurement_set(tmp_path / "x.ms", column="CORRECTED_DATA")
    assert np.abs(np.mean(corrected["vis"] - vis.vis)) < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--field", "0", "--model", "3C999"], "unknown flux calibrator"),
        (["--field", "0", "--model", "none.csv"], "component list none.csv cannot be read"),
        (["--field", "nowhere", "--model", "3C286"], "no field 'nowhere'"),
        (["--field", "0", "--model", "3C286"], "lies outside the primary beam"),
    ],
    ids=["calibrator", "file", "field", "beam"],
)
def test_mistakes_end_with_one_message(tmp_path, arguments, message):
    """Exit code 1 and a message that names what was wrong; nothing is written."""
    vis, _ = observed(n_antennas=6, n_time=1, n_chan=2)
    write_measurement_set(tmp_path / "x.ms", vis.columns())
    result = run(tmp_path / "x.ms", *arguments, "--bandpass", tmp_path / "b.cal", "--gain", tmp_path / "g.cal")
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert [p.name for p in tmp_path.iterdir()] == ["x.ms"]


def sky_table(path, vis, flux_jy, offset_deg=0.0):
    """One source beside the phase centre as a component list."""
    pl.DataFrame(
        {"ra_deg": [vis.phase_centre_ra_deg], "dec_deg": [vis.phase_centre_dec_deg + offset_deg], "flux_jy": [flux_jy]}
    ).write_csv(path)
    return path


@pytest.mark.parametrize(
    ("flux_jy", "offset_deg", "flagged", "options", "message"),
    [
        (0.0, 0.0, False, [], "holds no flux: got 1 sources of 0 Jy together"),
        (10.0, 12.0, False, [], "the nearest 12"),
        (10.0, 0.0, True, [], "100.0% of"),
        (10.0, 0.0, False, ["--refant", "pad9"], "unknown reference antenna"),
    ],
    ids=["zero flux", "below the horizon of the beam", "all flagged", "refant"],
)
def test_what_cannot_be_solved_ends_with_one_message(tmp_path, flux_jy, offset_deg, flagged, options, message):
    """A model without flux or outside the beam, or no unflagged data: exit code 1, a reason, no table, no column."""
    vis, _ = observed([(0.0, 0.0, 10.0, 0.0)], n_antennas=6, n_time=2, n_chan=4)
    vis.flags[:] = flagged
    folder = tmp_path / "data"
    write_measurement_set(folder / "x.ms", vis.columns())
    model = sky_table(tmp_path / "sky.csv", vis, flux_jy, offset_deg)
    tables = ["--bandpass", folder / "b.cal", "--gain", folder / "g.cal", "--apply"]
    result = run(folder / "x.ms", "--field", "0", "--model", model, *tables, *options)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert [p.name for p in folder.iterdir()] == ["x.ms"]
    with table(str(folder / "x.ms"), ack=False) as main:
        assert "CORRECTED_DATA" not in main.colnames()


def test_weights_without_spectrum_are_enough(tmp_path, rng):
    """A measurement set without WEIGHT_SPECTRUM is calibrated by WEIGHT, and gives what one with it gives."""
    vis, _ = observed([(0.0, 0.0, 10.0, 0.0)], n_antennas=8, n_time=3, n_chan=4)
    weights = rng.uniform(0.5, 2.0, vis.weights.shape).astype(np.float32)
    data = corrupt(vis, random_bandpass(rng, vis.frequency_hz, 8), rng=rng, sigma_jy=0.5)
    data = replace(data, weights=weights)
    model = sky_table(tmp_path / "sky.csv", vis, 10.0)
    found = []
    for name in ("with", "without"):
        path = tmp_path / f"{name}.ms"
        write_measurement_set(path, data.columns())
        with table(str(path), readonly=False, ack=False) as main:
            if name == "with" and "WEIGHT_SPECTRUM" not in main.colnames():
                main.addcols(maketabdesc(makearrcoldesc("WEIGHT_SPECTRUM", 0.0, ndim=2, valuetype="float")))
            if name == "with":
                cells = np.repeat(main.getcol("WEIGHT")[:, None], len(vis.frequency_hz), axis=1)
                main.putcol("WEIGHT_SPECTRUM", cells)
                main.putcol("WEIGHT", np.ones_like(main.getcol("WEIGHT")))
            elif "WEIGHT_SPECTRUM" in main.colnames():
                main.removecols("WEIGHT_SPECTRUM")
        tables = ["--bandpass", tmp_path / f"{name}.bcal", "--gain", tmp_path / f"{name}.gcal"]
        result = run(path, "--field", "0", "--model", model, *tables)
        assert result.exit_code == 0, result.output
        found.append(read_calibration_table(tmp_path / f"{name}.gcal")["gains"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
