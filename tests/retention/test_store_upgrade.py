"""A store that version 4 made with its own statements: upgraded with every row, rolled back to the same bytes."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
from typer.testing import CliRunner

from contimg_portal.cli import app
from contimg_resources.errors import StoreError
from contimg_resources.products import Products, file_hash
from contimg_resources.setting_changes import note_settings
from contimg_resources.settings import load_settings
from contimg_resources.store.connection import Store
from contimg_resources.store.schema import SCHEMA_VERSION
from contimg_resources.store.upgrade import roll_back_store, upgrade_store

TABLES_OF_4 = Path(__file__).parents[1] / "golden" / "store_version4" / "tables.sql"
_VALUES = {
    "DOUBLE": "i + 0.25",
    "BIGINT": "i * 1000000000000",
    "INTEGER": "i",
    "BOOLEAN": "i % 2 = 0",
    "TIMESTAMP": "TIMESTAMP '2026-01-10' + to_days(i)",
    "JSON": "'{\"n\": 1}'",
    "VARCHAR": "'text ' || i",
}
N_ROWS = 50


@pytest.fixture
def old(settings):
    """A store of version 4 with rows in every table; its path."""
    path = Products(settings.data).store_path
    path.parent.mkdir(parents=True)
    with duckdb.connect(str(path)) as connection:
        for statement in TABLES_OF_4.read_text().split(";\n"):
            connection.execute(statement) if statement.strip() else None
        columns = connection.execute(
            "SELECT table_name, list(data_type ORDER BY column_index) FROM duckdb_columns()"
            " WHERE NOT internal AND table_name <> 'schema_version' GROUP BY table_name"
        ).fetchall()
        for table, types in columns:
            values = ", ".join(_VALUES[name] for name in types)
            connection.execute(
                f'INSERT INTO "{table}" SELECT {values} FROM (SELECT range::INTEGER AS i FROM range({N_ROWS}))'
            )
        connection.execute("UPDATE dead_letter SET n_attempts = NULL WHERE letter_id = 'text 3'")
    return path


def content(path):
    """Rows of every table of a file."""
    with duckdb.connect(str(path), read_only=True) as connection:
        names = [row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {name: connection.sql(f'SELECT * FROM "{name}" ORDER BY ALL').pl() for name in names}


def test_every_row_and_value_of_the_old_store_is_in_the_upgraded_one(old):
    """All columns that both versions have; renamed ones under their new name; required ones filled."""
    with pytest.raises(StoreError, match="contimg store upgrade"):
        Store(old).query("FROM observation")
    before = content(old)
    upgraded = upgrade_store(old)
    after = content(old)
    n_tables = len(before) - 1
    assert (upgraded.from_version, upgraded.to_version, upgraded.n_rows) == (4, SCHEMA_VERSION, n_tables * N_ROWS)
    assert after["schema_version"]["version"].to_list() == [SCHEMA_VERSION]
    for name in before.keys() - {"schema_version"}:
        shared = [column for column in before[name].columns if column in after[name].columns]
        if name == "dead_letter":
            shared.remove("n_attempts")
        keys = shared
        assert after[name].select(shared).sort(keys).equals(before[name].select(shared).sort(keys)), name
    letters = after["dead_letter"].join(before["dead_letter"], on="letter_id", suffix="_before")
    assert letters["first_at"].equals(letters["at"].alias("first_at"))
    assert letters["last_at"].equals(letters["at"].alias("last_at"))
    assert letters.filter(letter_id="text 3")["n_attempts"].to_list() == [1]
    assert letters.filter(letter_id="text 4")["n_attempts"].to_list() == [4]


def test_the_upgraded_store_is_written_as_any_other(old):
    """New columns and new tables take rows."""
    upgrade_store(old)
    store = Store(old)
    rows = pl.DataFrame(
        {"observation_id": ["text 1"], "band": ["text 1"], "partition_key": ["p"], "path": ["x"], "n_antennas": [96]}
    )
    store.upsert("image", rows)
    assert store.query("SELECT n_antennas FROM image WHERE observation_id = 'text 1'").item() == 96
    assert store.query("SELECT count(*) FROM archived_product").item() == N_ROWS


def test_an_upgrade_is_rolled_back_to_the_same_bytes(old):
    """And what was upgraded lies aside; a third way is not made up."""
    before = file_hash(old)
    upgrade_store(old)
    aside = roll_back_store(old)
    assert file_hash(old) == before
    assert Store(aside).query("SELECT count(*) FROM observation").item() == N_ROWS
    with pytest.raises(StoreError, match="no way back"):
        roll_back_store(old)


def test_an_upgrade_that_fails_changes_nothing(old):
    """A table that nobody knows would be lost: it is named, and the old file stays as it was, alone."""
    with duckdb.connect(str(old)) as connection:
        connection.execute("CREATE TABLE of_somebody (n INTEGER)")
    before = file_hash(old)
    with pytest.raises(StoreError, match="of_somebody"):
        upgrade_store(old)
    assert file_hash(old) == before
    assert [path.name for path in old.parent.iterdir()] == [old.name]


def test_a_store_of_this_version_is_left_alone(settings):
    """Nothing is to be done, and it says so."""
    path = Products(settings.data).store_path
    Store(path).initialise()
    before = file_hash(path)
    with pytest.raises(StoreError, match="up to date"):
        upgrade_store(path)
    assert file_hash(path) == before


LATER = {5: ["source_comment", "setting_change"], 6: ["setting_change"]}
"""Tables that came after a version."""


@pytest.mark.parametrize("version", sorted(LATER))
def test_a_store_of_a_later_version_gets_what_came_since(settings, version):
    """It is refused with the command to give; the tables and the columns that it did not have are there afterwards."""
    path = Products(settings.data).store_path
    Store(path).upsert("source", pl.DataFrame({"source_id": ["S1"], "ra_deg": [1.0], "dec_deg": [2.0]}))
    with duckdb.connect(str(path)) as connection:
        for table in LATER[version]:
            connection.execute(f"DROP TABLE {table}")
        for column in ("cpu_s", "input_hash", "file_state", "row_state") if version == 5 else ():
            connection.execute(f"ALTER TABLE stage_timing DROP COLUMN {column}")
        connection.execute("UPDATE schema_version SET version = ?", [version])
    with pytest.raises(StoreError, match="contimg store upgrade"):
        Store(path).query("FROM source")
    upgraded = upgrade_store(path)
    assert (upgraded.from_version, upgraded.to_version, upgraded.n_rows) == (version, SCHEMA_VERSION, 1)
    store = Store(path)
    assert note_settings(store, settings, process="test", at=datetime(2026, 1, 25)) > 0  # noqa: DTZ001 (as the store has it)
    columns = "count(*), (SELECT count(cpu_s) + count(input_hash) FROM stage_timing)"
    assert store.query(f"SELECT {columns} FROM source_comment").row(0) == (0, 0)
    assert store.query("SELECT source_id FROM source").item() == "S1"


def test_the_command_upgrades_and_rolls_back(old):
    """One verb there and back."""
    runner = CliRunner()
    before = file_hash(old)
    done = runner.invoke(app, ["store", "upgrade", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["from_version"] == 4
    assert Path(json.loads(done.stdout)["kept"]).exists()
    assert runner.invoke(app, ["store", "upgrade", "--rollback"]).exit_code == 0
    assert file_hash(Products(load_settings().data).store_path) == before
