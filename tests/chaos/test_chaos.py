"""Processes killed at random points, disks that fill up, stores that are held: afterwards everything is as if nothing had been.

``KILLS`` (10 here, 100 with ``make chaos``) is the number of SIGKILLs, those of ``test_daemon`` included; the seed is fixed.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from contimg_portal.cli import app
from tests.chaos.campaign import (
    ARRIVALS,
    DAEMON_ROUNDS,
    FILLER,
    KILLS,
    KILLS_PER_ROUND,
    Campaign,
    Trouble,
    assert_equal,
    fill_disk,
    hold_store,
)

SEED = 20260125
STEP_KILLS = KILLS - DAEMON_ROUNDS * len(KILLS_PER_ROUND)
"""The others are in ``test_daemon``."""
DISK_MB = 128


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk, in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a disk to fill cannot be mounted here ({mounted.stderr.strip()}); run the tests as root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # noqa: S607


@pytest.mark.timeout(3600)
def test_after_kills_everything_equals_the_undisturbed_run(
    undisturbed: Campaign, tmp_path: Path, record_property
) -> None:
    """SIGKILL at seeded file operations and times of every step; the same runs again give the same rows and files.

    What a run that was not killed in time has made is made again from the start by the next, which would find nothing to do.
    """
    rng = np.random.default_rng(SEED)
    campaign = Campaign(tmp_path / "killed", undisturbed.raw)
    assert campaign.run(ARRIVALS) == 0
    steps = campaign.steps()
    share = rng.multinomial(STEP_KILLS, [1 / len(steps)] * len(steps))
    killed = dict.fromkeys([step.name for step in steps], 0)
    for step, n_kills in zip(steps, share, strict=True):
        tried = step
        for number in range(3 * n_kills):
            if killed[step.name] == n_kills:
                break
            operations = int(rng.integers(1, undisturbed.operations[step.name] + 1))
            seconds = float(rng.uniform(0.05, 1.0) * undisturbed.seconds[step.name])
            by_time = number % 3 == 2
            trouble = Trouble("kill", seconds=seconds) if by_time else Trouble("kill", operations=operations)
            is_killed = campaign.run(tried, trouble) == -signal.SIGKILL
            killed[step.name] += is_killed
            tried = replace(step, remake=not is_killed)
        assert campaign.run(step) == 0, step.name
    record_property("kills", str(killed))
    assert list(killed.values()) == share.tolist(), killed
    assert_equal(campaign, undisturbed)


@pytest.mark.timeout(1800)
def test_a_full_disk_and_a_held_store_leave_no_trace(undisturbed: Campaign, small_disk: Path, record_property) -> None:
    """The disk of raw files, products, store and Dagster fills up at random file operations; with room again all is as ever.

    Raw files that were cut off when the disk filled up come again; what is visible meanwhile is whole; the store is held for
    seconds while the day is made.
    """
    rng = np.random.default_rng(SEED + 1)
    shutil.copytree(undisturbed.raw / "truth", small_disk / "truth")
    campaign = Campaign(small_disk, small_disk)
    arrive_on_full_disk(campaign, undisturbed.raw / "incoming")
    assert campaign.run(ARRIVALS) == 0
    expected, filler, failed = undisturbed.products(), small_disk / FILLER, []
    for step in campaign.steps():
        operations = int(rng.integers(1, undisturbed.operations[step.name] // 2 + 1))
        spare_bytes = int(rng.integers(0, 200_000))
        failed += [step.name] * (campaign.run(step, Trouble("disk full", operations, spare_bytes=spare_bytes)) != 0)
        filler.unlink(missing_ok=True)
        # Rows of observations change until the last step: the store is compared when all is done.
        made = {place: content for place, content in campaign.products().items() if not place.startswith("store_rows/")}
        assert [place for place, content in made.items() if expected.get(place) != content] == [], step.name
        if step.name == "day":
            holder = hold_store(campaign.store.path)
        assert campaign.run(step) == 0, step.name
    holder.wait()
    assert holder.stdout is not None
    holder.stdout.close()
    record_property("failed", str(failed))
    assert len(failed) >= 3
    assert_equal(campaign, undisturbed)


def arrive_on_full_disk(campaign: Campaign, source: Path) -> None:
    """Raw files arrive until there is no room, are looked at, and come again when there is."""
    incoming, filler = campaign.raw / "incoming", campaign.raw / FILLER
    fill_disk(filler, sum(file.stat().st_size for file in source.iterdir()) // 2)
    with pytest.raises(shutil.Error, match="No space left"):
        shutil.copytree(source, incoming, copy_function=shutil.copyfile)
    campaign.run(ARRIVALS)  # there is no room for the store either
    filler.unlink()
    shutil.copytree(source, incoming, copy_function=shutil.copyfile, dirs_exist_ok=True)


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
