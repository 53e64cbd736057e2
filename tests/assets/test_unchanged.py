"""A partition that is asked for again: skipped with the reason where nothing changed, made again for every kind of change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from contimg_assets import recipes
from contimg_assets.arrivals import observe_arrivals, raw_files_of
from contimg_assets.calibration import bandpass_table
from contimg_assets.jobs import OBSERVATION_ASSETS
from contimg_assets.photometry import flux_scale
from contimg_assets.unchanged import Stage
from contimg_resources.measurement_sets import read_measurement_set, write_flags
from contimg_resources.store.lineage import reject_table
from contimg_resources.store.rebuild import rebuild_store
from tests.assets.conftest import SETTINGS, SmallTelescope, configure, telescope_with_bandpass

CHAIN = ["measurement_set", "gain_table", "continuum_image", "forced_photometry", "flux_scale"]
TABLES = ("calibration_table", "calibration_use", "image", "forced_photometry", "flux_scale", "flux_reference")


@pytest.fixture(scope="module")
def observed_folder(tmp_path_factory: pytest.TempPathFactory, small_campaign: Path) -> Path:
    """A bandpass and everything of one observation, made once; copied for each test."""
    root = tmp_path_factory.mktemp("observed")
    shutil.copytree(small_campaign / "incoming", root / "incoming")
    with telescope_with_bandpass(root, small_campaign, root / "incoming") as made:
        _, field = made.partitions()
        assert made.run("observation_job", field).success
    shutil.copytree(root / "data", root / "saved" / "data")
    shutil.copytree(root / "incoming", root / "saved" / "incoming")
    return root


@pytest.fixture
def observed(observed_folder: Path, small_campaign: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallTelescope]:
    """That telescope as it was made, whatever another test did to it."""
    for part in ("data", "incoming"):
        shutil.rmtree(observed_folder / part)
        shutil.copytree(observed_folder / "saved" / part, observed_folder / part)
    for name in SETTINGS:
        monkeypatch.setenv(name, "")
    configure(observed_folder, small_campaign, observed_folder / "incoming")
    with dg.DagsterInstance.ephemeral() as instance:
        yield SmallTelescope(observed_folder, instance)


def made_by(result: dg.ExecuteInProcessResult) -> list[str]:
    """Assets that worked in a run, those skipped left out, in the order of the chain."""
    assert result.success
    return [name for name in ["bandpass_table", *CHAIN] if name in materialized(result) and not skipped(result, name)]


def materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    """Assets that a run handed over, by work or without."""
    return {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}


def skipped(result: dg.ExecuteInProcessResult, asset: str) -> str:
    """Why an asset was skipped; empty if it was made."""
    (made,) = result.asset_materializations_for_node(asset)
    return str(made.metadata["skipped"].value) if "skipped" in made.metadata else ""


def rows_of(telescope: SmallTelescope) -> dict[str, pl.DataFrame]:
    """Every row, with the run that made it."""
    query = telescope.observatory.store.query
    tables = {table: query(f"SELECT * FROM {table} ORDER BY ALL") for table in (*TABLES, "check_result")}
    return tables | {"made": query("SELECT * FROM stage_timing WHERE stage = 'whole' ORDER BY ALL")}


@pytest.mark.timeout(1200)
def test_unchanged_inputs_are_skipped_with_the_reason(observed):
    """Nothing is worked on, and files, rows and times stay; the result names the run, and repeats every check as such."""
    transit, field = observed.partitions()
    store = observed.observatory.store
    before = rows_of(observed)
    with store.transaction() as connection:
        connection.execute("UPDATE observation SET status = 'ready', reason_code = 'store_busy'")
    result, day = observed.run("observation_job", field), observed.run("bandpass_job", transit[:10])
    assert made_by(result) == made_by(day) == []
    assert materialized(result) | materialized(day) == {*CHAIN, "bandpass_table"}
    first_run = before["image"]["run_id"][0]
    assert skipped(result, "continuum_image").startswith(f"unchanged inputs since run {first_run} at 20")
    checks = [one for one in result.get_asset_check_evaluations() if one.asset_key.to_user_string() in CHAIN]
    assert len(checks) == before["check_result"].filter(pl.col("asset").is_in(CHAIN) & (partition_is(field))).height
    assert all(str(one.metadata["repeated"].value).startswith(f"evaluated by run {first_run}") for one in checks)
    after = rows_of(observed)
    others = pl.col("asset") != "raw_visibilities"
    assert after["check_result"].filter(others).equals(before["check_result"].filter(others))
    assert all(after[table].equals(before[table]) for table in (*TABLES, "made"))
    noted = store.query("SELECT asset FROM stage_timing WHERE stage = 'skipped' ORDER BY ALL")["asset"].to_list()
    assert noted == sorted([*CHAIN, "bandpass_table"])
    status = store.query("SELECT status, reason_code FROM observation WHERE partition_key = ?", [field])
    assert status.row(0) == ("processed", None)


def partition_is(partition_key: str) -> pl.Expr:
    """Rows of one partition."""
    return pl.col("partition_key") == partition_key


def touch_raw_file(telescope: SmallTelescope) -> None:
    """A file that was sent once more."""
    path = raw_files_of(telescope.partitions()[1], telescope.observatory)[0]
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))


def change_catalogue(telescope: SmallTelescope) -> None:
    """A catalogue with other fluxes."""
    products = telescope.observatory.products
    catalogue = products.read_parquet("reference_catalogue", None)
    products.write_parquet("reference_catalogue", None, catalogue.with_columns(pl.col("flux_jy") * 1.001))


def list_a_calibrator(telescope: SmallTelescope) -> None:
    """A calibrator list, which may replace a source of the catalogue."""
    path = telescope.root / "calibrators.csv"
    path.write_text("name,ra_deg,dec_deg,flux_jy,reference_frequency_hz,spectral_index\nJ1,80.5,16.5,1,1.4e9,-0.7\n")
    setting("CALIBRATOR_LIST", str(path))(telescope)


def solve_another_bandpass(telescope: SmallTelescope) -> None:
    """A bandpass of the same transit with one antenna less."""
    transit, _ = telescope.partitions()
    flag_an_antenna(telescope, transit)
    assert telescope.run("bandpass_job", transit[:10]).success


def flag_an_antenna(telescope: SmallTelescope, partition_key: str) -> None:
    """Edit the flags of a measurement set, as `contimg flag` does."""
    path = telescope.observatory.products.measurement_set(partition_key)
    data = read_measurement_set(path)
    chosen = np.unique(data["antenna1"])[0]
    write_flags(path, data["flags"] | ((data["antenna1"] == chosen) | (data["antenna2"] == chosen))[:, None, None])


def edit_measurement_set(telescope: SmallTelescope) -> None:
    """Flags written by hand into the field's own data."""
    flag_an_antenna(telescope, telescope.partitions()[1])


def open_again(telescope: SmallTelescope) -> None:
    """An observation for which files are still awaited."""
    with telescope.observatory.store.transaction() as connection:
        connection.execute("UPDATE observation SET status = 'collecting'")


def setting(name: str, value: str) -> Callable[[SmallTelescope], None]:
    """Another value of a setting."""
    return lambda _telescope: os.environ.__setitem__(f"CONTIMG_{name}", value)


def removed(asset: str, *parts: str) -> Callable[[SmallTelescope], None]:
    """A product of the field, or a part of it, that is gone."""

    def remove(telescope: SmallTelescope) -> None:
        products = telescope.observatory.products
        (path,) = [one for one in products.of_partition(asset, telescope.partitions()[1]) if one.suffix != ".json"]
        path = path.joinpath(*parts)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def deleted(table: str) -> Callable[[SmallTelescope], None]:
    """Rows of the field that are gone from the store."""
    return lambda telescope: telescope.observatory.store.delete(table, partition_key=telescope.partitions()[1])


def fail_check(telescope: SmallTelescope) -> None:
    """A check that blocks, failed."""
    with telescope.observatory.store.transaction() as connection:
        connection.execute("UPDATE check_result SET passed = false WHERE check_name = 'correction_is_reasonable'")


def lose_store(telescope: SmallTelescope) -> None:
    """Store and kept rows deleted, files seen again: nothing is known of what products were made from."""
    products = telescope.observatory.products
    products.store_path.unlink()
    shutil.rmtree(products.root / "products" / "store_rows")
    observe_arrivals(telescope.observatory)


def reject_bandpass(telescope: SmallTelescope) -> None:
    """The day's bandpass, taken out of use by hand."""
    store = telescope.observatory.store
    path = store.query("SELECT path FROM calibration_table WHERE kind = 'B'").item()
    reject_table(store, path, by="ann", reason="the calibrator was resolved")


def damage_bandpass(telescope: SmallTelescope) -> None:
    """A bandpass of which nothing is left on disk."""
    shutil.rmtree(telescope.observatory.store.query("SELECT path FROM calibration_table WHERE kind = 'B'").item())


READS_TABLES = ["bandpass_table", "gain_table", "continuum_image"]
CHANGES: dict[str, tuple[Callable[[SmallTelescope], None], list[str]]] = {
    "raw file replaced": (touch_raw_file, CHAIN[:1]),
    "observation open again": (open_again, ["bandpass_table", *CHAIN]),
    "flagging changed": (setting("FLAGGING__THRESHOLD_SCALE", "1.1"), CHAIN[:1]),
    "engine changed": (setting("CALIBRATION__ENGINE", "casa"), READS_TABLES),
    "declination limit changed": (setting("CALIBRATION_DECLINATION_DEG", "1.5"), READS_TABLES[:2]),
    "imaging changed": (setting("IMAGING__ROBUST", "0.4"), ["continuum_image"]),
    "flag of the day's science changed": (setting("FEATURE_FLUX_SCALE", "catalogue:50"), []),
    "catalogue changed": (change_catalogue, ["bandpass_table", *CHAIN[1:]]),
    "calibrator listed": (list_a_calibrator, READS_TABLES),
    "bandpass rejected": (reject_bandpass, READS_TABLES),
    "bandpass damaged": (damage_bandpass, READS_TABLES),
    "measurement set edited": (edit_measurement_set, CHAIN[:3]),
    "measurement set gone": (removed("measurement_set"), CHAIN[:3]),
    "one image gone": (removed("continuum_image", "band0_image.fits"), CHAIN[2:4]),
    "photometry gone": (removed("forced_photometry"), CHAIN[3:]),
    "rows of photometry gone": (deleted("forced_photometry"), ["forced_photometry"]),
    "references gone": (deleted("flux_reference"), ["flux_scale"]),
    "blocking check failed": (fail_check, ["flux_scale"]),
    "store lost": (lose_store, ["bandpass_table", *CHAIN]),
}


def looked_at(telescope: SmallTelescope) -> list[str]:
    """Assets that would be made if a run came to them now, each looked at by itself: nothing upstream is made anew."""
    transit, field = telescope.partitions()
    store = telescope.observatory.store
    chosen = []
    for definition in (bandpass_table, *OBSERVATION_ASSETS):
        name, version = definition.key.to_user_string(), str(definition.code_versions_by_key[definition.key])
        key = transit[:10] if definition is bandpass_table else field
        before = store.query("SELECT * FROM stage_timing")
        if (
            Stage(store, name, key, version).unchanged(getattr(recipes, f"of_{name}")(telescope.observatory, key))
            is None
        ):
            chosen.append(name)
        store.upsert("stage_timing", before)  # looking forgets what a partition to be made was made from
    return chosen


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_made_again(observed, change):
    """Each kind of change makes again what reads it, and only that."""
    change_it, expected = CHANGES[change]
    change_it(observed)
    assert looked_at(observed) == expected


def test_another_code_version_makes_again(observed):
    """What an earlier version of an asset's code made is made again."""
    _, field = observed.partitions()
    stage = Stage(observed.observatory.store, "flux_scale", field, "another")
    assert stage.unchanged(recipes.of_flux_scale(observed.observatory, field)) is None


@pytest.mark.timeout(1200)
def test_changes_reach_what_is_downstream_and_no_more(observed):
    """A new bandpass remakes gains, image and fluxes; an equal measurement set remade remakes nothing else; insisting all."""
    _, field = observed.partitions()
    before = rows_of(observed)
    solve_another_bandpass(observed)
    assert made_by(observed.run("observation_job", field)) == CHAIN[1:]
    assert not rows_of(observed)["forced_photometry"].drop("run_id").equals(before["forced_photometry"].drop("run_id"))
    removed("measurement_set")(observed)
    assert made_by(observed.run("observation_job", field)) == CHAIN[:1]
    assert made_by(observed.run("observation_job", field)) == []
    assert made_by(observed.run("observation_job", field, insists=True)) == CHAIN


def test_an_image_without_its_measurement_set_fails_as_ever(observed):
    """Retention took the measurement set: asking for the image alone is no reason to skip it, and says what is missing."""
    _, field = observed.partitions()
    removed("measurement_set")(observed)
    result = observed.run("observation_job", field, ["continuum_image"])
    assert not result.success
    reason = observed.observatory.store.query(
        "SELECT reason_code FROM observation WHERE partition_key = ?", [field]
    ).item()
    assert reason == "product_missing"


def test_a_rebuilt_store_still_knows_what_products_were_made_from(observed):
    """The notes are kept beside the products: after `contimg store rebuild` nothing is made again."""
    store = observed.observatory.store
    store.path.unlink()
    rebuild_store(store, observed.observatory.products, at=datetime(2026, 1, 11, tzinfo=UTC))
    assert looked_at(observed) == []


def test_a_partition_half_made_again_is_not_taken_for_whole(observed):
    """Once it was decided to make a partition again, going back to the inputs of before does not bring the note back."""
    _, field = observed.partitions()
    os.environ["CONTIMG_PHOTOMETRY__MINIMUM_REFERENCES"] = "2"
    stage = Stage(
        observed.observatory.store, "flux_scale", field, flux_scale.code_versions_by_key[flux_scale.key] or ""
    )
    assert stage.unchanged(recipes.of_flux_scale(observed.observatory, field)) is None
    del os.environ["CONTIMG_PHOTOMETRY__MINIMUM_REFERENCES"]
    assert looked_at(observed) == ["flux_scale"]
