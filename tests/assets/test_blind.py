"""Sources outside the catalogue through the assets: found in mosaics, one identity over two days, followed, judged."""

import dagster as dg
import numpy as np
import polars as pl
import pytest

from contimg_assets.blind import blind_detections, blind_sources
from contimg_assets.image_injection import recover_from_images
from contimg_assets.imaging import mosaic
from contimg_resources.configurable import Observatory
from tests.assets.test_mosaic import publish
from tests.science.test_mosaic import CENTRES_DEG, DEC_DEG, RMS_JY, grid_of_sources, simulate_tile

DAYS = ("2026-01-25", "2026-01-26")
STEADY = (359.95, DEC_DEG + 0.15, 0.03)
"""A source the catalogue lacks, on both days."""
ARRIVED = (0.25, DEC_DEG - 0.15, 0.03)
"""One of the second day only."""
FACTOR = 1.1
TABLES = ("blind_detection", "blind_association", "blind_photometry", "blind_source")


@pytest.fixture(scope="module")
def sky():
    """Catalogue sources, and the tiles of both days."""
    rng = np.random.default_rng(21)
    known = grid_of_sources(rng, flux_jy=0.05, spacing_deg=0.3)
    extra = {DAYS[0]: [STEADY], DAYS[1]: [STEADY, ARRIVED]}
    tiles = {
        day: [
            simulate_tile(ra, np.vstack([known, extra[day]]), rms_jy=rms, rng=rng)
            for ra, rms in zip(CENTRES_DEG[:2], RMS_JY[:2], strict=True)
        ]
        for day in DAYS
    }
    return known, tiles


@pytest.fixture
def observatory(sky, tmp_path, monkeypatch):
    """A store and products that hold the images, flux scales and catalogue of two days."""
    monkeypatch.setenv("CONTIMG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONTIMG_THREADS", "1")
    monkeypatch.setenv("CONTIMG_MINIMUM_FREE_GB", "0")
    observatory = Observatory()
    known, tiles = sky
    for number, day in enumerate(DAYS):
        keys = [f"{day}T22:05", f"{day}T22:10"]
        publish(observatory, tiles[day], keys=keys, declinations_deg=[DEC_DEG] * 2)
        times = [61_065.92 + number + 0.0036 * k for k in range(2)]
        names = [f"{key}:00" for key in keys]
        observatory.store.upsert(
            "observation",
            pl.DataFrame(
                {"observation_id": names, "partition_key": keys, "start_mjd": times, "status": ["processed"] * 2}
            ),
        )
        for key, name in zip(keys, names, strict=True):
            scale = pl.DataFrame({"observation_id": [name], "band": ["full"], "factor": [FACTOR]})
            observatory.store.replace("flux_scale", scale, partition_key=key)
    catalogue = pl.DataFrame(
        {
            "source_id": [f"K{k}" for k in range(len(known))],
            "ra_deg": known[:, 0],
            "dec_deg": known[:, 1],
            "flux_jy": known[:, 2],
            "flux_err_jy": 0.01 * known[:, 2],
            "major_arcsec": np.zeros(len(known)),
        }
    )
    observatory.products.write_parquet("reference_catalogue", None, catalogue)
    return observatory


def materialize(observatory, asset, partition_key):
    """Materialize one partition of an asset in this process."""
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize(
            [asset], partition_key=partition_key, resources={"observatory": observatory}, instance=instance
        )
    assert run.success
    return {check.check_name: check for check in run.get_asset_check_evaluations()}


def rows(observatory, table):
    """Rows of a table without the run that made them."""
    return observatory.store.query(f"SELECT * EXCLUDE (run_id) FROM {table} ORDER BY ALL")


def near(table, position):
    """Rows within 20 arcsec of a position."""
    turn = (pl.col("ra_deg") - position[0] + 180.0) % 360.0 - 180.0
    return table.filter(turn.abs() < 20 / 3600, (pl.col("dec_deg") - position[1]).abs() < 20 / 3600)


def test_a_source_is_found_named_and_followed(observatory):
    """Both days: new sources found and no others, one name each, forced fluxes on the flux scale, kinds; all again is the same."""
    for day in DAYS:
        materialize(observatory, mosaic, f"{day}-22:00")
    for day in reversed(DAYS):
        checks = materialize(observatory, blind_detections, f"{day}-22:00")
        assert set(checks) == {"false_detections_are_those_of_noise", "bright_catalogue_sources_are_found"}
        assert all(check.passed for check in checks.values())
        assert checks["bright_catalogue_sources_are_found"].metadata["n_bright"].value > 20
    found = rows(observatory, "blind_detection")
    strong = found.filter(pl.col("snr") > 8.0)
    assert strong.height == 3
    assert strong["kind"].unique().to_list() == ["new"]
    assert near(strong, STEADY)["partition_key"].to_list() == [f"{day}-22:00" for day in DAYS]
    assert near(strong, ARRIVED)["partition_key"].to_list() == [f"{DAYS[1]}-22:00"]
    for row in strong.iter_rows(named=True):
        assert abs(row["peak_flux_jy_beam"] - 0.03) < 5.0 * row["peak_flux_err_jy_beam"]

    for day in DAYS:
        checks = materialize(observatory, blind_sources, day)
        assert checks["finds_are_confirmed_by_photometry"].passed
    sources = rows(observatory, "blind_source")
    steady, arrived = near(sources, STEADY), near(sources, ARRIVED)
    assert steady["source_id"].n_unique() == 1
    assert steady["n_detections"].to_list() == [1, 2]
    assert steady["kind"].to_list() == ["new", "new"]
    assert arrived["kind"].to_list() == ["transient"]
    assert arrived["n_epochs"].to_list() == [4]
    fluxes = rows(observatory, "blind_photometry")
    assert fluxes.filter(source_id=steady["source_id"][0]).height == 4
    before = fluxes.filter(source_id=arrived["source_id"][0]).filter(pl.col("mjd") < 61_066.0)
    assert before["partition_key"].unique().to_list() == [DAYS[1]]
    assert (before["flux_jy"].abs() < 4.0 * before["flux_err_jy"]).all()
    own = fluxes.filter(source_id=steady["source_id"][0])
    assert ((own["flux_jy"] - 0.03 / FACTOR).abs() < 5.0 * own["flux_err_jy"]).all()

    first = {table: rows(observatory, table) for table in TABLES}
    for day in DAYS:
        materialize(observatory, blind_detections, f"{day}-22:00")
        materialize(observatory, blind_sources, day)
    for table in TABLES:
        assert rows(observatory, table).equals(first[table]), table


def test_a_day_and_an_hour_without_images_make_nothing_and_fail_nothing(observatory):
    """Empty tables, every check passed."""
    assert all(c.passed for c in materialize(observatory, blind_detections, "2026-02-01-05:00").values())
    assert all(c.passed for c in materialize(observatory, blind_sources, "2026-02-01").values())
    assert rows(observatory, "blind_source").height == 0
    assert recover_from_images(observatory, "2026-02-01")["n_injected"].sum() == 0


def test_sources_put_into_the_days_images_are_recovered(observatory):
    """Two images of a day: the brightest sources are all found with their fluxes; the same day gives the same rows."""
    table = recover_from_images(observatory, DAYS[0])
    assert table["n_images"].unique().to_list() == [2]
    assert observatory.store.replace("image_injection", table, partition_key=DAYS[0]) == table.height
    brightest = table.row(-1, named=True)
    assert brightest["n_injected"] >= 20
    assert brightest["completeness"] >= 0.95
    assert abs(brightest["forced_flux_ratio"] - 1.0) < 4.0 * brightest["forced_flux_ratio_err"]
    assert table.equals(recover_from_images(observatory, DAYS[0]))


def test_a_new_mosaic_is_searched_and_its_day_follows():
    """One mosaic made: its hour is requested and no other; detections made: their day."""
    from contimg_assets.definitions import defs

    chosen = dg.AssetSelection.assets("blind_detections", "blind_sources")
    with dg.DagsterInstance.ephemeral() as instance:
        told = dg.evaluate_automation_conditions(defs, instance, asset_selection=chosen)
        assert told.total_requested == 0
        for made, requested, partition in (
            ("mosaic", "blind_detections", "2026-01-25-22:00"),
            ("blind_detections", "blind_sources", "2026-01-25"),
        ):
            instance.report_runless_asset_event(dg.AssetMaterialization(made, partition="2026-01-25-22:00"))
            told = dg.evaluate_automation_conditions(defs, instance, asset_selection=chosen, cursor=told.cursor)
            assert told.total_requested == 1
            assert told.get_requested_partitions(dg.AssetKey(requested)) == {partition}
