"""A day made too early, a store that is lost: what is made again equals what was."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from contimg_portal.cli import app
from contimg_resources.setting_changes import note_settings
from contimg_resources.settings import load_settings
from contimg_resources.store import dead_letters
from contimg_resources.store.candidates import Review, add_candidate, review_candidate
from contimg_resources.store.connection import Store
from contimg_resources.store.records import FOUND_AGAIN
from contimg_resources.store.schema import TABLES
from tests.chaos.campaign import ARRIVALS, Campaign, assert_equal, hold_store

NOW = datetime(2026, 1, 11, 12, tzinfo=UTC)
STATE_OF_THE_MOMENT = FOUND_AGAIN - {"partition_content"}
MAY_BE_EMPTY = STATE_OF_THE_MOMENT | {"archived_product", "alert", "alert_history"} | {"blind_association"}
MAY_BE_EMPTY |= {"blind_detection", "blind_photometry", "blind_source"}


@pytest.mark.timeout(1800)
def test_a_day_made_while_its_observations_arrive_ends_as_if_made_once(undisturbed: Campaign, tmp_path: Path) -> None:
    """The day's science after its first observation, and again after its last: store and products are those of one making."""
    campaign = Campaign(tmp_path / "early", undisturbed.raw)
    assert campaign.run(ARRIVALS) == 0
    *steps, observation, mosaic, day = campaign.steps()
    for step in (*steps, day, observation, mosaic, day):
        assert campaign.run(step) == 0, step.name
    assert_equal(campaign, undisturbed)


def test_a_lost_store_is_rebuilt_from_the_products(undisturbed: Campaign, tmp_path: Path, monkeypatch) -> None:
    """From the products alone every table comes back row for row, run ids and reviews too; a second rebuild changes nothing."""
    data = tmp_path / "data"
    shutil.copytree(undisturbed.data / "products", data / "products", copy_function=os.link)
    shutil.copy(undisturbed.store.path, data / "contimg.duckdb")
    monkeypatch.setenv("CONTIMG_DATA", str(data))
    store = Store(data / "contimg.duckdb")
    decide_something(store)
    before = {table: every_row(store, table) for table in TABLES}
    assert {name for name, rows in before.items() if rows.is_empty()} <= MAY_BE_EMPTY
    for damage in (store.path.unlink, lambda: store.path.write_bytes(b"not a database"), lambda: None):
        damage()
        result = CliRunner().invoke(app, ["store", "rebuild", "--json"])
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        assert told["found"] == []
        assert told["n_products_without_run"] == 0
        after = {table: every_row(store, table) for table in set(TABLES) - STATE_OF_THE_MOMENT}
        assert [table for table, rows in after.items() if not rows.equals(before[table])] == []
    aside = sorted(data.glob("contimg.duckdb.*.replaced"))
    assert [path.read_bytes()[:14] == b"not a database" for path in aside] == [True, False]
    assert sorted(path.name for path in data.iterdir()) == [
        "contimg.duckdb",
        *(path.name for path in aside),
        "products",
    ]


def test_a_rebuild_is_refused_while_somebody_writes(undisturbed: Campaign, tmp_path: Path, monkeypatch) -> None:
    """While another process holds the file the rebuild waits, then gives up, and leaves the file as it is."""
    (tmp_path / "products").mkdir()
    path = tmp_path / "contimg.duckdb"
    shutil.copy(undisturbed.store.path, path)
    monkeypatch.setenv("CONTIMG_DATA", str(tmp_path))
    holder = hold_store(path)
    refused = CliRunner().invoke(app, ["store", "rebuild", "--wait", "0.3"])
    holder.kill()
    holder.wait()
    assert holder.stdout is not None
    holder.stdout.close()
    assert refused.exit_code == 1
    assert "is in use" in refused.output
    assert sorted(each.name for each in tmp_path.glob("contimg.duckdb*")) in (
        ["contimg.duckdb"],
        ["contimg.duckdb", "contimg.duckdb.wal"],
    )
    assert Store(path).query("SELECT count(*) FROM observation").item() == 2


def every_row(store: Store, table: str) -> pl.DataFrame:
    """All columns of all rows in order of the key."""
    return store.query(f"SELECT * FROM {table} ORDER BY {', '.join(TABLES[table].key)}")


def decide_something(store: Store) -> None:
    """What people do, and what happens to the platform: a named candidate is rejected, a source commented on, a letter closed."""
    light_curve = every_row(store, "light_curve")
    seen = {"candidate_id": "seen", "source_id": light_curve["source_id"][0], "significance": 5.5, "tier": "medium"}
    seen |= {"start_mjd": 61000.0, "end_mjd": 61010.0, "verdict": "ese", "evidence": '{"n": 1}'}
    add_candidate(store, pl.DataFrame([seen]), by="ann", reason="by eye", at=NOW)
    review_candidate(store, Review("seen", "reject", "ben", "a bright neighbour"), at=NOW)
    comment = {"comment_id": "c1", "source_id": seen["source_id"], "at": NOW.replace(tzinfo=None), "by": "ann"}
    store.append("source_comment", pl.DataFrame([comment | {"comment": "watch this one"}]))
    failure = {"asset": "mosaic", "partition_key": "2026-01-10-05:00", "run_id": "r1", "job_name": "mosaic_job"}
    failure |= {
        "at": NOW.replace(tzinfo=None),
        "error_class": "OSError",
        "reason_code": "io_error",
        "message": "bad disk",
    }
    with store.transaction() as connection:
        what = dead_letters.StageFailure(**failure, remedy="look", retry_helps=True, is_platform=True)
        dead_letters.record_failure(connection, what, dead_letters.RetryRules(3, 60.0, 2.0, 3600.0))
    dead_letters.resolve(store, "mosaic@2026-01-10-05:00", by="ann", reason="disk replaced", at=NOW)
    note_settings(store, load_settings(), process="sensor:incoming_observations", at=NOW.replace(tzinfo=None))
