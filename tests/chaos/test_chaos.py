"""Processes killed at random points, disks that fill up, stores that are held: afterwards everything is as if nothing had been.

``KILLS`` (10 here, 100 with ``make chaos``) is the number of SIGKILLs; the seed is fixed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from contimg_portal.cli import app
from contimg_resources.store import dead_letters
from contimg_resources.store.candidates import Review, add_candidate, review_candidate
from contimg_resources.store.connection import Store
from contimg_resources.store.records import FOUND_AGAIN
from contimg_resources.store.schema import TABLES
from tests.assets.conftest import small_campaign  # noqa: F401 (a fixture)
from tests.chaos.campaign import Campaign, Step, Trouble

KILLS = int(os.environ.get("KILLS", "10"))
SEED = 20260125
ARRIVALS = Step("arrivals", "arrivals")
NOW = datetime(2026, 1, 11, 12, tzinfo=UTC)
STATE_OF_THE_MOMENT = FOUND_AGAIN - {"partition_content"}
MAY_BE_EMPTY = STATE_OF_THE_MOMENT | {"archived_product", "alert", "alert_history"} | {"blind_association"}
MAY_BE_EMPTY |= {"blind_detection", "blind_photometry", "blind_source"}
_HOLDER = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1], config={"storage_compatibility_version": "v1.0.0"})
connection.execute("BEGIN; CREATE TABLE held (x INTEGER)")
print("held", flush=True)
time.sleep(2)
"""


@pytest.fixture(scope="module")
def undisturbed(small_campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:  # noqa: F811
    """The campaign without any trouble, and what each step costs."""
    campaign = Campaign(tmp_path_factory.mktemp("undisturbed"), small_campaign)
    assert campaign.run(ARRIVALS) == 0
    for step in campaign.steps():
        assert campaign.run(step) == 0, step.name
    return campaign


def assert_equal(disturbed: Campaign, undisturbed: Campaign) -> None:
    """Store and products are equal, row by row and file by file."""
    expected, found = undisturbed.content(), disturbed.content()
    assert expected["light_curve"].height > 0
    assert [table for table, rows in expected.items() if not rows.equals(found[table])] == []
    products, made = undisturbed.products(), disturbed.products()
    assert sorted(made) == sorted(products)
    assert [place for place, content in products.items() if made[place] != content] == []


@pytest.mark.timeout(3600)
def test_after_kills_everything_equals_the_undisturbed_run(
    undisturbed: Campaign, tmp_path: Path, record_property
) -> None:
    """SIGKILL at seeded file operations and times of every step; the same runs again give the same rows and files."""
    rng = np.random.default_rng(SEED)
    campaign = Campaign(tmp_path / "killed", undisturbed.raw)
    assert campaign.run(ARRIVALS) == 0
    steps = campaign.steps()
    share = rng.multinomial(KILLS, [1 / len(steps)] * len(steps))
    killed = dict.fromkeys([step.name for step in steps], 0)
    for step, n_kills in zip(steps, share, strict=True):
        for number in range(n_kills):
            operations = int(rng.integers(1, undisturbed.operations[step.name] + 1))
            seconds = float(rng.uniform(0.05, 1.0) * undisturbed.seconds[step.name])
            by_time = number % 3 == 2
            trouble = Trouble("kill", seconds=seconds) if by_time else Trouble("kill", operations=operations)
            killed[step.name] += campaign.run(step, trouble) == -signal.SIGKILL
        assert campaign.run(step) == 0, step.name
    record_property("kills", str(killed))
    assert sum(killed.values()) >= 0.8 * KILLS, killed
    assert_equal(campaign, undisturbed)


@pytest.mark.timeout(1800)
def test_a_full_disk_and_a_held_store_leave_no_trace(undisturbed: Campaign, tmp_path: Path) -> None:
    """From a random file operation on nothing can be written, or the store is held for seconds: then all is made as ever."""
    rng = np.random.default_rng(SEED + 1)
    campaign = Campaign(tmp_path / "full", undisturbed.raw)
    assert campaign.run(ARRIVALS) == 0
    n_failed = 0
    for step in campaign.steps():
        operations = int(rng.integers(1, undisturbed.operations[step.name] // 2 + 1))
        n_failed += campaign.run(step, Trouble("disk full", operations=operations)) != 0
        if step.name == "day":
            holder = subprocess.Popen(
                [sys.executable, "-c", _HOLDER, str(campaign.store.path)], stdout=subprocess.PIPE, text=True
            )
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
        assert campaign.run(step) == 0, step.name
        if step.name == "day":
            holder.wait()
            holder.stdout.close()
    assert n_failed >= 3
    assert_equal(campaign, undisturbed)


@pytest.mark.timeout(1800)
def test_a_day_made_while_its_observations_arrive_ends_as_if_made_once(undisturbed: Campaign, tmp_path: Path) -> None:
    """The day's science after its first observation, and again after its last: store and products are those of one making."""
    campaign = Campaign(tmp_path / "early", undisturbed.raw)
    assert campaign.run(ARRIVALS) == 0
    *steps, observation, mosaic, day = campaign.steps()
    for step in (*steps, day, observation, mosaic, day):
        assert campaign.run(step) == 0, step.name
    assert_equal(campaign, undisturbed)


def test_store_check_finds_what_was_broken(undisturbed: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound store passes `contimg store check`, wherever its folder lies; each kind of damage is named, and fails the command."""
    copy = undisturbed.root / "data" / "sound.duckdb"
    shutil.copy(undisturbed.store.path, copy)
    monkeypatch.setenv("CONTIMG_DATA", str(undisturbed.data))
    sound = CliRunner().invoke(app, ["store", "check", "--json"])
    assert (sound.exit_code, json.loads(sound.stdout)["found"]) == (0, [])
    moved = undisturbed.data.rename(undisturbed.data.with_name("moved"))
    monkeypatch.setenv("CONTIMG_DATA", str(moved))
    elsewhere = CliRunner().invoke(app, ["store", "check", "--json"])
    moved.rename(undisturbed.data)
    monkeypatch.setenv("CONTIMG_DATA", str(undisturbed.data))
    assert (elsewhere.exit_code, json.loads(elsewhere.stdout)["found"]) == (0, [])
    image = Path(undisturbed.store.query("SELECT path FROM image WHERE band = 'full' LIMIT 1").item())
    image.rename(image.with_suffix(".away"))
    with undisturbed.store.transaction() as connection:
        connection.execute("INSERT INTO light_curve SELECT * FROM light_curve LIMIT 1")
        connection.execute("DELETE FROM source WHERE source_id = (SELECT min(source_id) FROM forced_photometry)")
        connection.execute("UPDATE variability_statistics SET weighted_mean_flux_jy = 2 * weighted_mean_flux_jy")
    broken = CliRunner().invoke(app, ["store", "check", "--json"])
    image.with_suffix(".away").rename(image)
    shutil.move(copy, undisturbed.store.path)
    assert broken.exit_code == 1
    kinds = {row["kind"] for row in json.loads(broken.stdout)["found"]}
    assert kinds == {"missing_product", "doubled_row", "orphan", "rows_and_product_differ", "wrong_statistics"}


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
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    refused = CliRunner().invoke(app, ["store", "rebuild", "--wait", "0.3"])
    holder.kill()
    holder.wait()
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
