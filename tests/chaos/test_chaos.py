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
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from contimg_portal.cli import app
from tests.assets.conftest import small_campaign  # noqa: F401 (a fixture)
from tests.chaos.campaign import Campaign, Step, Trouble

KILLS = int(os.environ.get("KILLS", "10"))
SEED = 20260125
ARRIVALS = Step("arrivals", "arrivals")
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
