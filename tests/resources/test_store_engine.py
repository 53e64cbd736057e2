"""The DuckDB in memory that a process keeps for its store: renewed before what DuckDB keeps of each use adds up."""

from datetime import UTC, datetime

import duckdb
import polars as pl
import pytest

from contimg_resources.heartbeats import Heartbeat, note_heartbeats
from contimg_resources.store.connection import Store
from contimg_resources.store.engine import MOST_ATTACHMENTS, engine_of, note_detached
from contimg_resources.store.records import KEPT, records_folder

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC).replace(tzinfo=None)


@pytest.fixture
def store(tmp_path):
    """A store with one row, used once."""
    made = Store(tmp_path / "contimg.duckdb", wait_s=30)
    note_heartbeats(made, [Heartbeat("sensor:a", "sensor", NOW, 60.0)])
    return made


def test_a_process_begins_its_duckdb_anew_after_so_many_uses(store):
    """Uses count, the last of them closes DuckDB with all that it kept, and the next finds the store as it was."""
    first = engine_of(store.path, keeps_rows=True)
    assert store.query("SELECT count(*) AS n FROM heartbeat").item() == 1
    assert engine_of(store.path, keeps_rows=True) is first
    for _ in range(MOST_ATTACHMENTS - 3):  # the fixture's write and the question are two
        note_detached(store.path)
    assert engine_of(store.path, keeps_rows=True) is first
    assert store.query("SELECT name FROM heartbeat").item() == "sensor:a"
    with pytest.raises(duckdb.ConnectionException, match="closed"):
        first.execute("SELECT 1")
    assert store.query("SELECT name FROM heartbeat").item() == "sensor:a"
    assert engine_of(store.path, keeps_rows=True) is not first


def test_rows_are_kept_beside_the_products_also_after_it(store):
    """The next DuckDB knows the folder of records as the first did."""
    first = engine_of(store.path, keeps_rows=True)
    for _ in range(MOST_ATTACHMENTS - 1):
        note_detached(store.path)
    assert engine_of(store.path, keeps_rows=True) is not first
    assert "observation" in KEPT
    store.upsert("observation", _observation())
    assert list(records_folder(store.path).glob("observation/2026-03-01/*.parquet"))


def _observation():
    key = "2026-03-01T12:00"
    row = {"observation_id": f"{key}:00", "partition_key": key, "start_mjd": 61100.5, "status": "ready"}
    return pl.DataFrame([row])
