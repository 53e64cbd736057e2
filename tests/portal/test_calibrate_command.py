from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from contimg_portal.commands.calibrate import calibrate
from contimg_resources.calibration_tables import read_calibration_table
from contimg_resources.casa import demo_uvfits, import_uvfits
from contimg_resources.measurement_sets import read_measurement_set, write_measurement_set
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--field", "0", "--model", "3C999"], "unknown primary flux calibrator"),
        (["--field", "0", "--model", "none.csv"], "component list none.csv cannot be read"),
        (["--field", "nowhere", "--model", "3C286"], "no field 'nowhere'"),
        (["--field", "0", "--model", "3C286", "--refant", "pad9"], "unknown reference antenna"),
    ],
    ids=["calibrator", "file", "field", "refant"],
)
def test_mistakes_end_with_one_message(tmp_path, arguments, message):
    """Exit code 1 and a message that names what was wrong; nothing is written."""
    vis, _ = observed(n_antennas=6, n_time=1, n_chan=2)
    write_measurement_set(tmp_path / "x.ms", vis.columns())
    result = run(tmp_path / "x.ms", *arguments, "--bandpass", tmp_path / "b.cal", "--gain", tmp_path / "g.cal")
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert [p.name for p in tmp_path.iterdir()] == ["x.ms"]
