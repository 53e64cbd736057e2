"""Archiving, removing and bringing back with real files and a real store: nothing needed goes, nothing is lost by a kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from random import Random

import pytest
from typer.testing import CliRunner

from contimg_assets.science.variability import variability_statistics
from contimg_portal.cli import app
from contimg_resources.errors import ProductMissingError, SettingsError
from contimg_resources.products import Products
from contimg_resources.retention.archive import ArchiveError
from contimg_resources.retention.decisions import Action
from contimg_resources.retention.execution import RetentionBusyError
from contimg_resources.retention.restoration import restore_day
from contimg_resources.settings import load_settings
from contimg_resources.store.consistency import inconsistencies
from tests.retention.small_archive import (
    NEEDED,
    OLD,
    UNFINISHED,
    build,
    environment,
    files,
    in_a_process,
    retention,
)

KILLS = int(os.environ.get("KILLS", "4"))
"""Points at which each of apply and restore is killed; ``KILLS=1000`` takes every one."""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A small installation; its folder."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    build(tmp_path)
    return tmp_path


def names_of(found, key):
    """Files of an observation among those found."""
    day, time = key[:10], key[11:].replace(":", "")
    return {name for name in found if key in name or (day in name and f"/{time}" in name)}


def test_apply_archives_and_removes_what_is_due_and_nothing_that_is_needed(site):
    """The old observation goes but for its report and its active table, the candidate's and the unfinished one stay whole."""
    before = files(site)
    outcome = retention().apply()
    after = files(site)
    assert outcome.problems == []
    gone = before.keys() - after.keys()
    assert names_of(before, OLD) <= gone
    assert not names_of(before, NEEDED) & gone
    assert not names_of(before, UNFINISHED) & gone
    assert {after[name] for name in after} <= {before[name] for name in after}
    superseded = {name for name in before if ".bbbbbbbbbbb" in name}
    assert {name for name in superseded if OLD[:10] in name or NEEDED[:10] in name} <= gone
    assert not {name for name in gone if ".aaaaaaaaaaa" in name or name.endswith(".html")}
    assert outcome.n_archived > outcome.n_removed > 5  # of what the candidate needs there are copies, too
    rows = retention().store.query(
        "SELECT status, archive_path IS NULL AS bare, count(*) FROM archived_product GROUP BY ALL"
    )
    assert ("removed", True, 1) in rows.rows()  # the mosaic, which is made again from the raw files


def test_a_second_apply_finds_nothing_to_do(site):
    """The plan comes to rest."""
    working = retention()
    assert {item.action for item in working.plan()} == {Action.KEEP, Action.ARCHIVE, Action.REMOVE}
    working.apply()
    after = files(site)
    again = working.apply()
    assert (again.n_archived, again.n_removed, again.n_resumed, again.problems) == (0, 0, 0, [])
    assert {item.action for item in working.plan()} == {Action.KEEP}
    assert files(site) == after


def test_store_check_knows_what_was_archived(site):
    """Products that are in the archive are not missing; one that vanished is."""
    working = retention()
    working.apply()
    missing = inconsistencies(working.store, working.products, variability_statistics)
    assert [item for item in missing if item.kind == "missing_product"] == []
    active = working.store.query("SELECT path FROM calibration_table WHERE status = 'active' ORDER BY path")["path"][0]
    shutil.rmtree(active)
    missing = inconsistencies(working.store, working.products, variability_statistics)
    assert {item.subject for item in missing if item.kind == "missing_product"} == {active}


def test_a_restored_day_has_the_same_bytes_and_times(site):
    """SHA-256 and modification time of every file; what was removed without a copy is named."""
    before = files(site)
    working = retention()
    working.apply()
    restored = restore_day(working, OLD[:10])
    after = files(site)
    missing = before.keys() - after.keys()
    assert {name for name in missing if OLD[:10] in name} == {f"data/products/mosaic/{OLD[:10]}/0500/mosaic.fits"}
    assert [path.split("/mosaic/")[1] for path in restored.remade] == [f"{OLD[:10]}/0500"]
    assert all(after[name] == before[name] for name in after)
    assert restored.n_restored == 5
    assert restore_day(working, OLD[:10]).n_restored == 0


def test_restoring_replaces_nothing_that_was_made_anew(site):
    """A measurement set that was made again stays as it is, and the answer names it."""
    working = retention()
    working.apply()
    anew = working.products.measurement_set(OLD) / "table.dat"
    anew.parent.mkdir(parents=True)
    anew.write_text("made with another code")
    assert restore_day(working, OLD[:10]).kept == [str(anew.parent)]
    assert anew.read_text() == "made with another code"


def test_a_day_that_was_never_archived_cannot_be_restored(site):
    """The message says where to look."""
    with pytest.raises(ProductMissingError, match="Nothing of 2026-01-11 was archived"):
        restore_day(retention(), "2026-01-11")


def test_nothing_is_removed_whose_copy_is_damaged(site, monkeypatch):
    """One byte of a copy changes before the product is removed: it stays, is archived anew, and goes the next time."""
    monkeypatch.setenv("CONTIMG_RETENTION__POLICIES", "measurement_set: archive 0, remove 5")
    retention().apply()
    [copy] = (site / "archive" / "measurement_set" / OLD[:10]).glob("*/content/table.dat")
    copy.write_bytes(b"X" + copy.read_bytes()[1:])
    outcome = retention(days_later=6).apply()
    assert "is damaged" in outcome.problems[0]
    assert Products(site / "data").measurement_set(OLD).is_dir()
    assert retention(days_later=6).apply().n_archived == 1
    assert retention(days_later=12).apply().n_removed == 1
    assert restore_day(retention(days_later=12), OLD[:10]).n_restored == 1


def test_nothing_is_removed_that_changed_after_it_was_archived(site, monkeypatch):
    """Other content under the old time: the product is not its copy, so it is copied again before it goes."""
    monkeypatch.setenv("CONTIMG_RETENTION__POLICIES", "image: archive 0, remove 5")
    retention().apply()
    image = Products(site / "data").image_folder(OLD) / "full_image.fits"
    state = image.stat()
    image.write_bytes(b"X" + image.read_bytes()[1:])
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))
    changed = image.read_bytes()
    outcome = retention(days_later=6).apply()
    assert "no longer what was archived" in outcome.problems[0]
    assert image.exists()
    retention(days_later=6).apply()
    retention(days_later=12).apply()
    assert not image.exists()
    restore_day(retention(days_later=12), OLD[:10])
    assert image.read_bytes() == changed


def test_a_candidate_found_while_products_are_removed_is_noticed(site):
    """The need is asked for again before each removal, not only when the plan is made."""
    working = retention()
    asked = []

    def running():
        asked.append(1)
        if len(asked) == 3:  # both plans are made: this is the first removal
            with working.store.transaction() as connection:
                connection.execute("UPDATE ese_candidate SET start_mjd = NULL, end_mjd = NULL")
        return ()

    working.running = running
    outcome = working.apply()
    assert len(asked) > 8
    assert outcome.n_removed == 4  # the first raw file, and three calibration tables that nobody used
    assert Products(site / "data").image_folder(OLD).is_dir()
    assert Products(site / "data").measurement_set(OLD).is_dir()


def test_an_archive_that_is_not_mounted_is_noticed(site):
    """Its folder is empty: nothing is archived into it, nothing removed."""
    retention().apply()
    (site / "archive").rename(site / "elsewhere")
    (site / "archive").mkdir()
    before = files(site)
    with pytest.raises(ArchiveError, match="Mount the disk"):
        retention(days_later=100).apply()
    assert files(site) == before
    assert not list((site / "archive").iterdir())


def test_a_copied_installation_leaves_the_files_of_the_original_alone(site, tmp_path_factory, monkeypatch):
    """The copied store still names the original's raw files and tables: neither removed by the copy nor brought back into it."""
    before = files(site)
    other = tmp_path_factory.mktemp("copy")
    shutil.copytree(site, other, dirs_exist_ok=True)
    for name, value in environment(other).items():
        monkeypatch.setenv(name, value)
    assert retention().apply().n_removed == 3  # the copy's own measurement set, image and mosaic
    assert files(site) == before
    shutil.rmtree(site / "incoming")
    assert restore_day(retention(), OLD[:10]).n_restored == 2
    assert not (site / "incoming").exists()


def test_two_processes_do_not_archive_at_once(site):
    """The second one is told to wait."""
    with retention().alone(), pytest.raises(RetentionBusyError, match="Another process"):
        retention().apply()


def test_an_archive_among_the_products_is_refused(site, monkeypatch):
    """It would archive itself."""
    monkeypatch.setenv("CONTIMG_RETENTION__ARCHIVE", str(site / "data" / "products" / "archive"))
    with pytest.raises(SettingsError, match="among what is to be archived"):
        retention()


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ("raw: remove 7", "cannot be made again"),
        ("images: remove 7", "Input should be 'raw'"),
        ("image: remove", "policies are typed as"),
        ("image: remove 7; image: remove 8", "two policies for image"),
        ("image/active: remove 7", "status of this kind"),
    ],
)
def test_wrong_policies_are_refused_by_name(site, monkeypatch, policies, message):
    """A policy that would lose something, or that nobody understands, never starts."""
    monkeypatch.setenv("CONTIMG_RETENTION__POLICIES", policies)
    with pytest.raises(SettingsError, match=message):
        load_settings()


def test_the_command_plans_applies_and_restores(site):
    """Table, bytes and reason per product; the same numbers as the plan says are archived."""
    runner = CliRunner()
    planned = json.loads(runner.invoke(app, ["retention", "plan", "--all", "--json"]).stdout)
    assert {row["reason"] for row in planned["products"] if row["partition"] == NEEDED} >= set()
    assert planned["n_archive"] > 0
    assert planned["archive_bytes"] == sum(row["bytes"] for row in planned["products"] if row["action"] == "archive")
    applied = runner.invoke(app, ["retention", "apply", "--json"])
    assert applied.exit_code == 0, applied.output
    assert json.loads(applied.stdout)["n_archived"] == planned["n_archive"]
    kept = json.loads(runner.invoke(app, ["retention", "plan", "--all", "--json"]).stdout)["products"]
    assert "candidate ESE-1" in {row["reason"] for row in kept if row["partition"] == NEEDED}
    assert f"observation {UNFINISHED} is collecting" in {
        row["reason"] for row in kept if row["partition"] == UNFINISHED
    }
    listed = json.loads(runner.invoke(app, ["retention", "list", "--json"]).stdout)
    assert listed["n"] == planned["n_archive"] + planned["n_remove"]
    restored = runner.invoke(app, ["retention", "restore", OLD[:10], "--json"])
    assert restored.exit_code == 1  # the mosaic must be made again
    assert json.loads(restored.stdout)["n_restored"] == 5


def test_without_policies_nothing_happens(site, monkeypatch):
    """The default keeps everything."""
    monkeypatch.delenv("CONTIMG_RETENTION__POLICIES")
    before = files(site)
    assert retention().plan() == []
    retention().apply()
    assert files(site) == before


def _killed(context, root, point, day):
    process = context.Process(target=in_a_process, args=(environment(root), point, day, root / "counted"))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.timeout(300 + 10 * KILLS)
@pytest.mark.parametrize("day", [None, OLD[:10]], ids=["apply", "restore"])
def test_a_kill_at_any_file_operation_loses_nothing(tmp_path, monkeypatch, day):
    """SIGKILL at seeded points: every product is here or in the archive, whole; the next call ends as an undisturbed one."""
    whole = tmp_path / "whole"
    build(whole)
    original = files(whole)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.retention.small_archive"])
    here = tmp_path / "site"  # rows hold absolute paths: every trial has the same folder

    def begin():
        shutil.rmtree(here, ignore_errors=True)
        build(here)
        for name, value in environment(here).items():
            monkeypatch.setenv(name, value)
        if day is not None:
            retention().apply()

    def finish():
        retention().apply() if day is None else restore_day(retention(), day)
        return files(here), retention().store.query(
            "SELECT path, status, content_hash FROM archived_product ORDER BY path"
        ).rows()

    begin()
    assert _killed(context, here, 0, day) == 0
    n_operations = int((here / "counted").read_text())
    undisturbed = finish()
    points = Random(7).sample(range(1, n_operations + 1), min(KILLS, n_operations))  # noqa: S311
    for point in sorted(points):
        begin()
        assert _killed(context, here, point, day) == -signal.SIGKILL
        left = files(here)
        assert all(left[name] == original[name] for name in left), point
        working = retention()
        for path, archive_path, content_hash in working.store.query(
            "SELECT path, archive_path, content_hash FROM archived_product WHERE archive_path IS NOT NULL"
        ).iter_rows():
            if not Products(here / "data").located(path).exists():
                working.archive.verify(type(here)(archive_path), content_hash)
        copied = {str(row[0]) for row in working.store.query("SELECT path FROM archived_product").rows()}
        lost = {str(here / name) for name in original.keys() - left.keys()}
        assert all(any(name.startswith(path) for path in copied) for name in lost), point
        assert finish() == undisturbed, point
        hidden = [path for path in here.rglob(".*") if path.name != ".partial"]
        # What was being brought back keeps its hidden name, as of any product that was being written; nothing else is left.
        assert all(day is not None and path.suffix in {".partial", ".tmp"} for path in hidden), point
        assert not list((here / "archive" / ".partial").iterdir()), point
