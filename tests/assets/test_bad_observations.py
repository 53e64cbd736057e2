"""Observations that cannot be used, or hardly: a dead arm, no good data at all; and flags along the whole chain."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from contimg_assets.arrivals import observe_arrivals
from contimg_portal.commands.calibrate import calibrate
from contimg_portal.commands.flag import flag
from contimg_portal.commands.image import image
from contimg_resources.measurement_sets import read_measurement_set
from tests.assets.test_calibration import check_of, metadata_of
from tests.assets.test_pipeline import failure_text

EAST_WEST_ARM = ("1", "2", "3")
"""Antennas of the small array's east-west arm, which names of slots count from 1."""


def change_raw_files(folder: Path, change) -> None:
    """Apply ``change`` to every raw file, each copied first: the fixture's are links to the campaign's."""
    for path in folder.glob("*.hdf5"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        with h5py.File(path, "r+") as file:
            change(path, file)


def run(command, *arguments) -> None:
    """Run a command as the console script does; it must succeed."""
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


@pytest.mark.timeout(600)
def test_a_dead_arm_is_named_and_the_rest_is_calibrated(telescope, monkeypatch):
    """With every antenna of an arm dead, those named for reference included, they are flagged and named; the rest is solved."""

    def silence(_path, file):
        dead = np.isin(file["Header/ant_1_array"][:], [0, 1, 2]) | np.isin(file["Header/ant_2_array"][:], [0, 1, 2])
        vis = file["Data/visdata"][:]
        vis[dead] = 0.0
        file["Data/visdata"][:] = vis

    change_raw_files(telescope.incoming, silence)
    description = telescope.root / "array.toml"
    description.write_text(f"refant = {list(EAST_WEST_ARM)}\n")
    monkeypatch.setenv("CONTIMG_ARRAY", str(description))
    observe_arrivals(telescope.observatory)
    transit, _ = telescope.partitions()
    assert telescope.run("catalogue_job").success
    result = telescope.run("observation_job", transit, ["measurement_set"])
    assert result.success
    alive = check_of(result, "measurement_set", "antennas_are_alive")
    assert alive.metadata["worst_offenders"].value == list(EAST_WEST_ARM)
    result = telescope.run("bandpass_job", transit[:10])
    assert result.success
    metadata = metadata_of(result, "bandpass_table")
    assert metadata["refant"] not in EAST_WEST_ARM
    assert metadata["unsolved_antennas"] == ", ".join(
        f"{name} {receptor}" for name in EAST_WEST_ARM for receptor in "XY"
    )
    coverage = check_of(result, "bandpass_table", "solutions_cover_most_antennas")
    assert coverage.passed
    assert coverage.metadata["measured"].value == pytest.approx(11 / 14)
    assert coverage.metadata["worst_offenders"].value == list(EAST_WEST_ARM)


def test_an_observation_without_good_data_leaves_nothing(telescope):
    """All-zero files: an error that names the cause, a quarantined observation, and no measurement set or row of one."""

    def erase(_path, file):
        file["Data/visdata"][:] = np.zeros_like(file["Data/visdata"][:])

    change_raw_files(telescope.incoming, erase)
    observe_arrivals(telescope.observatory)
    transit, _ = telescope.partitions()
    result = telescope.run("observation_job", transit, ["measurement_set"])
    assert not result.success
    assert any(
        "every visibility" in failure_text(e) and "zero_or_not_finite 100.0%" in failure_text(e)
        for e in result.all_events
    )
    row = telescope.observatory.store.query(
        "SELECT status, reason_code FROM observation WHERE partition_key = ?", [transit]
    )
    assert row.row(0) == ("quarantined", "all_flagged")
    products = telescope.observatory.products
    files = [path for path in (products.root / "products").rglob("*") if path.is_file()]
    assert {path.relative_to(products.root / "products").parts[0] for path in files} == {"store_rows"}


@pytest.mark.timeout(600)
def test_flags_are_never_removed(telescope, monkeypatch):
    """From the raw file over flagger, calibration and imaging, what was flagged stays flagged."""

    def spoil(path, file):
        if "_sb05" in path.name:
            times = np.unique(file["Header/time_array"][:])
            flags = file["Data/flags"][:]
            flags[file["Header/time_array"][:] == times[2], ..., 0, :] = True
            file["Data/flags"][:] = flags

    change_raw_files(telescope.incoming, spoil)
    monkeypatch.setenv("CONTIMG_FLAGGING__BAD_RANGES_MHZ", "1330-1340")
    observe_arrivals(telescope.observatory)
    transit, _ = telescope.partitions()
    assert telescope.run("observation_job", transit, ["measurement_set"]).success
    path = telescope.observatory.products.measurement_set(transit)
    first = read_measurement_set(path)
    in_raw = first["time_mjd"] == np.unique(first["time_mjd"])[2]
    channels = first["flags"][in_raw].all(axis=(0, 2))
    elsewhere = first["flags"][~in_raw].all(axis=(0, 2))
    assert (channels & ~elsewhere).sum() == 1
    bad = (first["frequency_hz"] > 1.33e9) & (first["frequency_hz"] < 1.34e9)
    assert bad.any()
    assert first["flags"][:, bad].all()

    run(flag, path)
    flagged = read_measurement_set(path)["flags"]
    assert (flagged >= first["flags"]).all()
    tables = ["--bandpass", telescope.root / "b.cal", "--gain", telescope.root / "g.cal"]
    run(calibrate, path, "--field", "0", "--model", "3C138", *tables, "--apply")
    for column in ("DATA", "CORRECTED_DATA"):
        calibrated = read_measurement_set(path, column=column)["flags"]
        assert (calibrated >= flagged).all()
    run(image, path, "--out", telescope.root / "images", *tables, "--iterations", "10")
    assert np.array_equal(read_measurement_set(path)["flags"], calibrated)
