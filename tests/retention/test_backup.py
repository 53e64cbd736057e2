"""Backup and restore: of one moment while writers work, refused when damaged, and the drill that destroys store and instance."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from datetime import datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from typer.testing import CliRunner

from contimg_portal.cli import app
from contimg_resources.backup.making import copy_store, make_backup
from contimg_resources.backup.manifest import BackupError, checked_manifest
from contimg_resources.backup.restoring import restore_backup
from contimg_resources.products import Products
from contimg_resources.settings import load_settings
from contimg_resources.store.connection import Store
from contimg_resources.store.schema import TABLES
from tests.retention.small_archive import NEEDED, OLD, build, environment

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A small campaign's store, calibration tables and settings; its folder."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    configuration = tmp_path / "contimg.toml"
    configuration.write_text('portal_token = "not-to-be-seen"\n')
    monkeypatch.setenv("CONTIMG_CONFIG", str(configuration))
    build(tmp_path)
    return tmp_path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The project's embedded Dagster instance with a run and materializations of two partitions."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", folder / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    work(folder)
    return folder


@dg.asset
def night():
    """A thing that is made."""
    return 1


def work(folder):
    """Make something in an instance."""
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        assert dg.materialize([night], instance=instance).success
        for key in (OLD, NEEDED):
            instance.report_runless_asset_event(dg.AssetMaterialization("measurement_set", partition=key))


def known(folder):
    """Runs and materialized partitions that Dagster knows."""
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        runs = sorted((run.run_id, run.status.value) for run in instance.get_runs())
        partitions = instance.get_materialized_partitions(dg.AssetKey("measurement_set"))
        newest = instance.get_latest_materialization_event(dg.AssetKey("night"))
        return runs, partitions, None if newest is None else newest.timestamp


def rows(store):
    """Every row of every table."""
    return {name: store.query(f"SELECT * FROM {name} ORDER BY ALL").rows() for name in TABLES}


def test_the_drill_store_and_instance_destroyed_and_restored(site, home):
    """Tables are equal, Dagster knows its materializations, and calibration tables have their bytes."""
    runner = CliRunner()
    store = Store(Products(site / "data").store_path)
    rows_before, known_before = rows(store), known(home)
    tables = site / "data" / "products" / "bandpass_table"
    bytes_before = {path: path.read_bytes() for path in sorted(tables.rglob("table.dat"))}
    made = runner.invoke(app, ["backup", "--out", str(site / "backups"), "--json"])
    assert made.exit_code == 0, made.output
    backup = json.loads(made.stdout)["backup"]
    assert "not-to-be-seen" not in (Path(backup) / "settings" / "settings.json").read_text()
    assert (Path(backup) / "settings" / "contimg.toml").exists()
    assert Path(backup).stat().st_mode & 0o077 == 0

    store.path.unlink()
    shutil.rmtree(home)
    shutil.rmtree(tables)
    restored = runner.invoke(app, ["restore", backup, "--json"])
    assert restored.exit_code == 0, restored.output
    assert json.loads(restored.stdout)["n_products"] == len(bytes_before)
    assert rows(store) == rows_before
    assert known(home) == known_before
    assert {path: path.read_bytes() for path in sorted(tables.rglob("table.dat"))} == bytes_before
    work(home)  # and it goes on from there
    assert len(known(home)[0]) == 2


def _write_pairs(path, ready, stop):
    """Write one row into each of two tables per transaction until told to stop."""
    store = Store(path)
    n = 0
    while not stop.is_set():
        with store.transaction() as connection:
            connection.execute("INSERT INTO source_comment VALUES (?, 'S1', now()::TIMESTAMP, 'w', 'c')", [str(n)])
            connection.execute("INSERT INTO heartbeat VALUES (?, 'w', NULL, now()::TIMESTAMP, 1, NULL)", [str(n)])
        n += 1
        ready.set()


def test_a_copy_of_the_store_is_of_one_moment_while_writers_work(site):
    """Six copies beside a process that writes pairs: each has whole pairs, each more than the one before."""
    store = Store(Products(site / "data").store_path)
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    writer = context.Process(target=_write_pairs, args=(store.path, ready, stop))
    writer.start()
    try:
        assert ready.wait(120)
        counted = []
        for n in range(6):
            copy_store(store, site / f"copy{n}.duckdb")
            with Store(site / f"copy{n}.duckdb").reading() as connection:
                [pair] = connection.execute(
                    "SELECT (SELECT count(*) FROM source_comment), (SELECT count(*) FROM heartbeat)"
                ).fetchall()
            counted.append(pair)
            time.sleep(0.05)
    finally:
        stop.set()
        writer.join()
    assert writer.exitcode == 0
    assert all(comments == beats > 0 for comments, beats in counted)
    assert counted == sorted(counted)
    assert counted[-1] > counted[0]


def test_a_damaged_backup_is_refused_before_anything_changes(site):
    """One byte, one file more, one file less: named, and the store stays."""
    backup = make_backup(load_settings(), None, site / "backups")
    copy = backup / "store" / "contimg.duckdb"
    for not_it in (backup.parent, copy):
        with pytest.raises(BackupError, match="folder that `contimg backup` printed"):
            restore_backup(not_it, load_settings(), None, replace=True)
    sound = copy.read_bytes()
    copy.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(BackupError, match=r"other content: store/contimg\.duckdb"):
        restore_backup(backup, load_settings(), None, replace=True)
    copy.write_bytes(sound)
    (backup / "store" / "more").write_text("")
    with pytest.raises(BackupError, match="missing or added: store/more"):
        restore_backup(backup, load_settings(), None, replace=True)
    (backup / "store" / "more").unlink()
    copy.unlink()
    with pytest.raises(BackupError, match=r"missing or added: store/contimg\.duckdb"):
        restore_backup(backup, load_settings(), None, replace=True)
    assert rows(Store(Products(site / "data").store_path))["observation"]


def test_restoring_moves_aside_what_is_there_and_only_when_told(site):
    """Without --replace nothing happens; with it the store of before lies beside the restored one."""
    store = Store(Products(site / "data").store_path)
    backup = make_backup(load_settings(), None, site / "backups", now=datetime(2026, 6, 1))  # noqa: DTZ001
    before = rows(store)
    store.upsert("source", pl.DataFrame({"source_id": ["LATER"], "ra_deg": [1.0], "dec_deg": [2.0]}))
    with pytest.raises(BackupError, match="take the place of what is there"):
        restore_backup(backup, load_settings(), None)
    restored = restore_backup(backup, load_settings(), None, replace=True)
    assert rows(store) == before
    [aside] = restored["moved_aside"]
    assert rows(Store(Path(aside)))["source"][0][0] == "LATER"
    assert checked_manifest(backup)["instance"] is None


def test_the_drill_with_postgresql(site, tmp_path, monkeypatch, postgres):
    """pg_dump while it serves, the database dropped and made empty, pg_restore: Dagster knows its materializations."""
    import psycopg2

    pytest.importorskip("dagster_postgres", reason="pip install dagster-postgres")
    home = tmp_path / "home"
    home.mkdir()
    url = postgres.replace("postgresql:", "postgresql+psycopg2:").replace("/postgres", "/dagster")
    (home / "dagster.yaml").write_text(
        f"storage:\n  postgres:\n    postgres_url: {url}\ntelemetry: {{enabled: false}}\n"
    )
    monkeypatch.setenv("DAGSTER_HOME", str(home))

    def administer(statement):
        connection = psycopg2.connect(postgres)
        connection.autocommit = True
        connection.cursor().execute(statement)
        connection.close()

    administer("CREATE DATABASE dagster")
    work(home)
    known_before = known(home)
    backup = make_backup(load_settings(), home, site / "backups")
    assert checked_manifest(backup)["instance"] == "postgresql"
    administer("DROP DATABASE dagster")
    administer("CREATE DATABASE dagster")
    assert restore_backup(backup, load_settings(), home, parts=("instance",))["moved_aside"] == []
    assert known(home) == known_before
    work(home)
    later = known(home)
    assert len(later[0]) == 2

    with pytest.raises(BackupError, match=r"take the place of what is there[\s\S]*127\.0\.0\.1"):
        restore_backup(backup, load_settings(), home, parts=("instance",))
    assert known(home) == later
    restored = restore_backup(backup, load_settings(), home, parts=("instance",), replace=True)
    assert known(home) == known_before
    [aside] = restored["moved_aside"]
    schema = aside.split()[1]
    connection = psycopg2.connect(postgres.replace("/postgres", "/dagster"))
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT run_id FROM {schema}.runs ORDER BY 1")
        assert [run_id for (run_id,) in cursor] == sorted(run_id for run_id, _ in later[0])
    connection.close()

    again = make_backup(load_settings(), home, site / "later_backups")
    administer("DROP DATABASE dagster")
    administer("CREATE DATABASE dagster")
    restore_backup(again, load_settings(), home, parts=("instance",))
    assert known(home) == known_before
    connection = psycopg2.connect(postgres.replace("/postgres", "/dagster"))
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM information_schema.schemata WHERE schema_name LIKE 'before_restore%'")
        assert cursor.fetchone() == (0,)
    connection.close()
