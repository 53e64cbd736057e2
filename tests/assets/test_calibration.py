"""Calibration tables through the assets: reused, superseded, rejected, and what takes the place of gains that cannot be had."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
from astropy.io import fits
from casacore import tables

from contimg_assets.arrivals import observe_arrivals
from contimg_resources.calibration_tables import read_calibration_table
from contimg_resources.errors import SettingsError
from contimg_resources.measurement_sets import read_measurement_set, write_flags
from contimg_resources.store.lineage import reject_table, users_of_withdrawn_tables
from tests.assets.conftest import SETTINGS, SmallTelescope, configure, telescope_with_bandpass
from tests.assets.test_pipeline import failure_text
from tests.simulated import simulate_campaign

_WITHOUT_RUN = ("run_id", "code_version")


@pytest.fixture(scope="module")
def calibrated_folder(small_campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with both measurement sets, the bandpass and both gain tables, and a copy of it to start from."""
    root = tmp_path_factory.mktemp("calibrated")
    with telescope_with_bandpass(root, small_campaign, small_campaign / "incoming") as made:
        transit, field = made.partitions()
        assert made.run("observation_job", transit, ["gain_table"]).success
        assert made.run("observation_job", field, ["measurement_set", "gain_table"]).success
    shutil.copytree(root / "data", root / "saved")
    return root


@pytest.fixture
def calibrated(
    calibrated_folder: Path, small_campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SmallTelescope]:
    """That telescope as it was made, whatever another test did to it."""
    shutil.rmtree(calibrated_folder / "data")
    shutil.copytree(calibrated_folder / "saved", calibrated_folder / "data")
    for name in SETTINGS:
        monkeypatch.setenv(name, "")
    configure(calibrated_folder, small_campaign, small_campaign / "incoming")
    with dg.DagsterInstance.ephemeral() as instance:
        yield SmallTelescope(calibrated_folder, instance)


def table_rows(telescope: SmallTelescope, kind: str, partition_key: str) -> pl.DataFrame:
    """Rows of the registry for one partition, the active one first."""
    return telescope.observatory.store.query(
        "SELECT * FROM calibration_table WHERE kind = ? AND partition_key = ? ORDER BY status, path",
        [kind, partition_key],
    ).drop(_WITHOUT_RUN)


def use_of(telescope: SmallTelescope, partition_key: str) -> dict[str, tuple[str | None, str]]:
    """Path and fallback of each kind used by an observation."""
    rows = telescope.observatory.store.query(
        "SELECT kind, path, fallback FROM calibration_use WHERE partition_key = ?", [partition_key]
    )
    return {kind: (path, fallback) for kind, path, fallback in rows.iter_rows()}


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    """Metadata of the one materialization of an asset."""
    (made,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in made.metadata.items()}


def check_of(result: dg.ExecuteInProcessResult, asset: str, name: str) -> dg.AssetCheckEvaluation:
    """One evaluated check."""
    return next(
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == name and check.asset_key == dg.AssetKey(asset)
    )


def flag_antennas(telescope: SmallTelescope, partition_key: str, n_antennas: int) -> list[str]:
    """Flag the first antennas of a measurement set; returns their names."""
    path = telescope.observatory.products.measurement_set(partition_key)
    data = read_measurement_set(path)
    chosen = np.unique(data["antenna1"])[:n_antennas]
    data["flags"][np.isin(data["antenna1"], chosen) | np.isin(data["antenna2"], chosen)] = True
    write_flags(path, data["flags"])
    return [data["antenna_names"][antenna] for antenna in chosen]


def test_equal_inputs_are_not_solved_again(calibrated):
    """A table that somebody insists on is taken up again from the same inputs, says so, and leaves the very same rows."""
    transit, field = calibrated.partitions()
    for job, key, asset in (("bandpass_job", transit[:10], "bandpass_table"), ("observation_job", field, "gain_table")):
        before = {table: calibrated.rows(table) for table in ("calibration_table", "calibration_use", "check_result")}
        kind = "B" if asset == "bandpass_table" else "G"
        path = Path(table_rows(calibrated, kind, key)["path"].item())
        written_at = path.stat().st_mtime_ns
        result = calibrated.run(job, key, [asset], insists=True)
        assert result.success
        assert metadata_of(result, asset)["solved_again"] is False
        assert path.stat().st_mtime_ns == written_at
        for table, rows in before.items():
            assert calibrated.rows(table).drop("at", strict=False).equals(rows.drop("at", strict=False)), table


def test_a_table_rejected_by_hand_stays_rejected(calibrated):
    """What a person rejected is not made active by solving it once more, also where its folder was lost; nothing uses it."""
    transit, field = calibrated.partitions()
    store = calibrated.observatory.store
    path = table_rows(calibrated, "B", transit[:10])["path"].item()
    reject_table(store, path, by="ann", reason="the calibrator was resolved")
    for damage in (lambda: None, lambda: shutil.rmtree(path)):
        damage()
        assert calibrated.run("bandpass_job", transit[:10]).success
        row = table_rows(calibrated, "B", transit[:10]).row(0, named=True)
        assert (row["path"], row["status"], row["rejected_by"]) == (path, "rejected", "ann")
    result = calibrated.run("observation_job", field, ["gain_table"])
    assert any("but one rejected" in failure_text(event) for event in result.all_events)


def test_a_damaged_or_missing_table_is_solved_again(calibrated):
    """A table that is gone, or no longer what its hash says, is not trusted; solving gives the same content."""
    _, field = calibrated.partitions()
    before = table_rows(calibrated, "G", field)
    path = before["path"].item()
    with tables.table(path, readonly=False, ack=False) as table:
        table.putcol("CPARAM", 2.0 * table.getcol("CPARAM"))
    for damage in (lambda: None, lambda: shutil.rmtree(path)):
        damage()
        result = calibrated.run("observation_job", field, ["gain_table"])
        assert metadata_of(result, "gain_table")["solved_again"] is True
        assert table_rows(calibrated, "G", field).equals(before)


def test_a_table_made_anew_supersedes_the_old_one(calibrated):
    """After new flags the day has a new active bandpass; the old one stays, superseded, and is not chosen any more."""
    transit, _ = calibrated.partitions()
    old = table_rows(calibrated, "B", transit[:10])["path"].item()
    dead = flag_antennas(calibrated, transit, 1)
    result = calibrated.run("bandpass_job", transit[:10])
    assert result.success
    rows = table_rows(calibrated, "B", transit[:10])
    assert rows["status"].to_list() == ["active", "superseded"]
    assert rows["path"][1] == old
    assert Path(old).exists()
    metadata = metadata_of(result, "bandpass_table")
    assert metadata["solved_again"] is True
    assert metadata["unsolved_antennas"] == f"{dead[0]} X, {dead[0]} Y"
    assert f"| {dead[0]} | X | no solution |" in metadata["antennas"]
    coverage = check_of(result, "bandpass_table", "solutions_cover_most_antennas")
    assert coverage.metadata["worst_offenders"].value == dead
    assert calibrated.run("observation_job", transit, ["gain_table"]).success
    assert use_of(calibrated, transit)["B"] == (rows["path"][0], "none")


def test_an_observation_ends_with_the_table_it_chose(calibrated):
    """Superseded, then rejected by hand, between gains and image: the same image, which says so, until it is rebuilt."""
    transit, field = calibrated.partitions()
    store, products = calibrated.observatory.store, calibrated.observatory.products
    chosen = use_of(calibrated, field)["B"][0]

    def image() -> tuple[list[str], bytes]:
        """Statuses of the tables as the image's metadata tells them, bandpass first, and its pixels."""
        result = calibrated.run("observation_job", field, ["continuum_image"])
        assert result.success
        used = metadata_of(result, "continuum_image")["calibration_tables"]
        assert [row["path"] for row in used] == [use_of(calibrated, field)[kind][0] for kind in ("B", "G")]
        assert all(row["content_hash"][:8] in Path(row["path"]).name for row in used)
        with fits.open(products.image_folder(field) / "full_image.fits") as opened:
            return [row["status"] for row in used], opened[0].data.tobytes()

    statuses, pixels = image()
    assert statuses == ["active", "active"]
    assert not users_of_withdrawn_tables(store, "0", "9")
    flag_antennas(calibrated, transit, 1)
    assert calibrated.run("bandpass_job", transit[:10]).success
    assert image() == (["superseded", "active"], pixels)
    reject_table(store, chosen, by="ann", reason="the calibrator was resolved")
    assert image() == (["rejected", "active"], pixels)
    assert users_of_withdrawn_tables(store, "0", "9") == {"gain_table": {transit, field}}
    assert calibrated.run("observation_job", field, ["gain_table"]).success
    assert users_of_withdrawn_tables(store, "0", "9") == {"gain_table": {transit}}
    statuses, made_again = image()
    assert statuses == ["active", "active"]
    assert made_again != pixels


def test_a_rejected_bandpass_is_never_chosen(calibrated):
    """A bandpass of 8 of 14 antennas fails its blocking check, is rejected, and observations wait and say why."""
    transit, field = calibrated.partitions()
    flag_antennas(calibrated, transit, 6)
    assert not calibrated.run("bandpass_job", transit[:10]).success
    assert table_rows(calibrated, "B", transit[:10])["status"].to_list() == ["rejected", "superseded"]
    result = calibrated.run("observation_job", field, ["gain_table"])
    assert not result.success
    assert any("but one rejected" in failure_text(event) for event in result.all_events)
    status = calibrated.observatory.store.query(
        "SELECT status, reason_code FROM observation WHERE partition_key = ?", [field]
    )
    assert status.row(0) == ("ready", "uncalibrated")


@pytest.mark.parametrize(
    ("n_flagged", "validity_h", "fallback"),
    [(5, 4.0, "nearest_valid"), (5, 1.0, "bandpass_only"), (10, 4.0, "nearest_valid"), (10, 1.0, "bandpass_only")],
    ids=["rejected, others near", "rejected, none near", "unsolvable, others near", "unsolvable, none near"],
)
def test_gains_that_cannot_be_had_give_way(calibrated, monkeypatch, n_flagged, validity_h, fallback):
    """Rejected or unsolvable gains give way to the nearest valid ones or the bandpass; the run goes on and says so."""
    transit, field = calibrated.partitions()
    monkeypatch.setenv("CONTIMG_GAIN_VALIDITY_H", str(validity_h))
    assert calibrated.run("observation_job", transit, ["gain_table"]).success
    flag_antennas(calibrated, field, n_flagged)
    selected = ["gain_table", "continuum_image"] if n_flagged == 5 else ["gain_table"]
    result = calibrated.run("observation_job", field, selected)
    assert result.success
    assert table_rows(calibrated, "G", field)["status"].to_list() == (
        ["rejected", "superseded"] if n_flagged == 5 else ["superseded"]
    )
    path = table_rows(calibrated, "G", transit)["path"].item() if fallback == "nearest_valid" else None
    assert use_of(calibrated, field)["G"] == (path, fallback)
    metadata = metadata_of(result, "gain_table")
    assert metadata["gain_fallback"] == fallback
    assert metadata["gains"] == (path or "none, the bandpass alone")
    assert ("no_solutions_because" in metadata) == (n_flagged == 10)
    coverage = check_of(result, "gain_table", "solutions_cover_most_antennas")
    assert (coverage.passed, coverage.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(coverage.metadata["used_instead"].value).startswith(path or "bandpass only")
    assert len(result.asset_materializations_for_node("continuum_image")) == (n_flagged == 5)


def test_gains_after_another_bandpass_are_no_substitute(calibrated, monkeypatch):
    """Gains are relative to the bandpass they were solved after: with another one they are not borrowed."""
    transit, field = calibrated.partitions()
    monkeypatch.setenv("CONTIMG_GAIN_VALIDITY_H", "4")
    assert calibrated.run("observation_job", transit, ["gain_table"]).success
    flag_antennas(calibrated, transit, 1)
    assert calibrated.run("bandpass_job", transit[:10]).success
    flag_antennas(calibrated, field, 10)
    assert calibrated.run("observation_job", field, ["gain_table"]).success
    assert use_of(calibrated, field)["G"] == (None, "bandpass_only")


def test_a_table_from_another_declination_is_not_used(calibrated):
    """Once the dishes have moved, yesterday's bandpass is refused, with both declinations in the message."""
    _, field = calibrated.partitions()
    with calibrated.observatory.store.transaction() as connection:
        connection.execute("UPDATE calibration_table SET pointing_dec_deg = pointing_dec_deg + 20")
    before = use_of(calibrated, field)
    result = calibrated.run("observation_job", field, ["gain_table"])
    assert not result.success
    text = " ".join(failure_text(event) for event in result.all_events)
    assert "declination +16." in text
    assert "one active at +36." in text
    assert "within 1 deg of this declination" in text
    assert use_of(calibrated, field) == before


def test_a_bandpass_beyond_its_validity_is_a_recorded_fallback(calibrated, monkeypatch):
    """Validity is a setting; a bandpass older than that is used as nearest_valid, with its age."""
    transit, field = calibrated.partitions()
    monkeypatch.setenv("CONTIMG_BANDPASS_VALIDITY_H", "0.5")
    assert calibrated.run("bandpass_job", transit[:10]).success
    row = table_rows(calibrated, "B", transit[:10])
    assert (row["valid_to_mjd"] - row["valid_from_mjd"]).item() * 24.0 == pytest.approx(1.0)
    result = calibrated.run("observation_job", field, ["gain_table"])
    assert metadata_of(result, "gain_table")["bandpass_fallback"] == "nearest_valid"
    assert use_of(calibrated, field)["B"] == (row["path"].item(), "nearest_valid")


def test_a_jump_between_observations_is_named(calibrated):
    """An antenna whose gain halves between two observations is named with its size by the stability check."""
    _, field = calibrated.partitions()
    path = calibrated.observatory.products.measurement_set(field)
    names = read_measurement_set(path)["antenna_names"]
    with tables.table(str(path), readonly=False, ack=False) as table:
        data = table.getcol("DATA")
        data[(table.getcol("ANTENNA1") == 0) | (table.getcol("ANTENNA2") == 0)] *= 0.5
        table.putcol("DATA", data)
    result = calibrated.run("observation_job", field, ["gain_table"])
    check = check_of(result, "gain_table", "solutions_are_stable_in_time")
    worst = check.metadata["worst_offenders"].value
    assert {text.split(":")[0] for text in worst[:2]} == {f"{names[0]} X", f"{names[0]} Y"}
    assert all("jump, amplitude x 0.5" in text or "jump, amplitude x 0.4" in text for text in worst[:2])
    assert check.metadata["tables_compared"].value == 1


def test_a_catalogue_of_zero_flux_is_refused(calibrated):
    """Against sources of 0 Jy nothing can be solved: an error that says so, and the tables stay as they were."""
    _, field = calibrated.partitions()
    products = calibrated.observatory.products
    catalogue = products.read_parquet("reference_catalogue", None)
    products.write_parquet("reference_catalogue", None, catalogue.with_columns(flux_jy=pl.lit(0.0)))
    before = {table: calibrated.rows(table) for table in ("calibration_table", "calibration_use")}
    result = calibrated.run("observation_job", field, ["gain_table"])
    assert not result.success
    assert any("holds no flux" in failure_text(event) for event in result.all_events)
    reason = calibrated.observatory.store.query(
        "SELECT reason_code FROM observation WHERE partition_key = ?", [field]
    ).item()
    assert reason == "model_without_flux"
    assert all(calibrated.rows(table).equals(rows) for table, rows in before.items())


LISTED = """
[campaign]
start_date = 2026-01-10
n_days = 1
seed = 11
[array]
n_antennas = 14
max_baseline_m = 300.0
channels_per_subband = 2
n_integrations = 6
[pointing]
apparent_dec_deg = 54.57
[[tiles]]
name = "transit"
ra_deg = 215.0
[sky]
calibrators = []
populations = []
[[sky.sources]]
kind = "constant"
source_id = "J1419+5423"
ra_deg = 214.944
dec_deg = 54.387
flux_jy = 6.0
spectral_index = -0.4
[[sky.sources]]
kind = "constant"
source_id = "neighbour"
tile = "transit"
distance_deg = 0.7
flux_jy = 0.5
[instrument]
rfi_bursts = 0.0
gain_scatter = 0.0
gain_drift = 0.0
bandpass_ripple = 0.0
bandpass_drift = 0.0
"""
"""One transit at +54.57 deg of a source that no primary list has, through dishes whose gain is 0.1."""


def test_a_listed_calibrator_gives_the_bandpass_and_its_flux_scale(tmp_path, monkeypatch):
    """From raw files to the table: the transit is recognised, the gains are true within 2 %, and metadata say by which flux."""
    campaign = simulate_campaign(tmp_path, LISTED)
    for name in (*SETTINGS, "CONTIMG_CALIBRATORS", "CONTIMG_CALIBRATOR_LIST"):
        monkeypatch.setenv(name, "")
    configure(tmp_path, campaign, campaign / "incoming")
    rows = "name,ra_deg,dec_deg,flux_jy,reference_frequency_hz,spectral_index\nJ1419+5423,214.944,54.387,6,1.4e9,-0.4\n"
    (tmp_path / "calibrators.csv").write_text(rows)
    monkeypatch.setenv("CONTIMG_CALIBRATORS", "3C286, J1419+5423")
    with dg.DagsterInstance.ephemeral() as instance:
        made = SmallTelescope(tmp_path, instance)
        with pytest.raises(SettingsError, match=r"CONTIMG_CALIBRATORS.*got J1419\+5423"):
            observe_arrivals(made.observatory)
        assert made.observatory.store.query("SELECT count(*) FROM observation").item() == 0
        monkeypatch.setenv("CONTIMG_CALIBRATOR_LIST", str(tmp_path / "calibrators.csv"))
        observe_arrivals(made.observatory)
        [(transit, calibrator)] = made.observatory.store.query(
            "SELECT partition_key, calibrator FROM observation"
        ).rows()
        assert calibrator == "J1419+5423"
        assert made.run("catalogue_job").success
        assert made.run("observation_job", transit, ["measurement_set"]).success
        result = made.run("bandpass_job", transit[:10])
        assert result.success
        shown = metadata_of(result, "bandpass_table")
        assert (shown["calibrator"], shown["status"]) == ("J1419+5423", "active")
        assert shown["flux_model"] == "listed: 6 Jy at 1.4 GHz, spectral index -0.4"
        solved = read_calibration_table(table_rows(made, "B", transit[:10])["path"].item())
        assert np.median(np.abs(solved["gains"][~solved["flags"]])) == pytest.approx(0.1, rel=0.02)
        (tmp_path / "calibrators.csv").write_text(rows.replace(",6,", ",5,"))
        result = made.run("bandpass_job", transit[:10])
        assert metadata_of(result, "bandpass_table")["flux_model"].startswith("listed: 5 Jy")
        solved = read_calibration_table(table_rows(made, "B", transit[:10])["path"][0])
        assert np.median(np.abs(solved["gains"][~solved["flags"]])) == pytest.approx(0.1 * np.sqrt(6 / 5), rel=0.02)


def test_a_day_without_calibrator_has_no_bandpass(telescope, monkeypatch):
    """Where no calibrator passes through the beam nothing is made and nothing fails; observations wait and say so."""
    monkeypatch.setenv("CONTIMG_CALIBRATORS", "3C147")
    observe_arrivals(telescope.observatory)
    found = telescope.observatory.store.query("SELECT partition_key, calibrator FROM observation ORDER BY ALL")
    assert found["calibrator"].to_list() == [None, None]
    telescope.run("catalogue_job")
    result = telescope.run("bandpass_job", found["partition_key"][0][:10])
    assert result.success
    assert not result.asset_materializations_for_node("bandpass_table")
    assert telescope.observatory.store.query("SELECT count(*) FROM calibration_table").item() == 0
    result = telescope.run("observation_job", found["partition_key"][0], ["measurement_set", "gain_table"])
    assert not result.success
    assert any("no active bandpass table within 7 days" in failure_text(event) for event in result.all_events)
    assert not list((telescope.observatory.products.root / "products").glob("gain_table/*/*"))
