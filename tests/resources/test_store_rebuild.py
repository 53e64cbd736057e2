"""Rows kept beside the products, and a store made again from them: what each kind of writing leaves there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from contimg_resources.errors import StoreBusyError, StoreError
from contimg_resources.products import Products
from contimg_resources.store.candidates import Review, record_candidates, review_candidate
from contimg_resources.store.connection import Store
from contimg_resources.store.consistency import inconsistencies
from contimg_resources.store.rebuild import rebuild_store
from contimg_resources.store.records import FOUND_AGAIN, KEPT, PRODUCT_OF, keep_everything, records_folder
from contimg_resources.store.schema import TABLES

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
SCALE = {"observation_id": "2026-03-01T05:00:30", "band": "full", "factor": 1.1, "run_id": "r1", "code_version": "2"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a data folder with products."""
    (tmp_path / "products").mkdir()
    made = Store(tmp_path / "contimg.duckdb", wait_s=0.2)
    made.initialise()
    return made


def rows_of(store: Store, table: str) -> pl.DataFrame:
    """All rows in order of the key."""
    return store.query(f"SELECT * FROM {table} ORDER BY {', '.join(TABLES[table].key)}")


def rebuilt(store: Store) -> Store:
    """The store after its file was lost and made again."""
    store.path.unlink()
    rebuild_store(store, Products(store.path.parent), at=NOW)
    return store


def candidates(*names: str) -> pl.DataFrame:
    """Candidates of a day."""
    return pl.DataFrame(
        {"candidate_id": names, "source_id": names, "significance": 6.0, "tier": "medium", "verdict": "ese"},
        schema_overrides={"candidate_id": pl.String, "source_id": pl.String},
    )


def record(store: Store, day: str, *names: str) -> None:
    """What the search of a day found."""
    schema = {
        "event_id": pl.String,
        "candidate_id": pl.String,
        "at": pl.Datetime("us"),
        "kind": pl.String,
        "by": pl.String,
    }
    record_candidates(store, candidates(*names), pl.DataFrame(schema=schema), partition_key=day)


def test_every_table_has_one_place_to_come_back_from():
    """A table is kept, or is a product, or is found again by itself: none is forgotten, none is written twice."""
    assert sorted([*KEPT, *PRODUCT_OF, *FOUND_AGAIN]) == sorted(TABLES)


def test_what_a_killed_writer_left_goes_with_the_next_writing(store):
    """A hidden half record of the same partition is removed; that of another one, whose writer has not come back yet, stays."""
    store.replace("flux_scale", pl.DataFrame([SCALE]), partition_key="2026-03-01T05:00")
    [record] = records_folder(store.path).glob("flux_scale/*/*.parquet")
    left = record.with_name(f".{record.name}.8e8895b0.tmp")
    other = record.with_name(".2026-03-01T0505.parquet.8e8895b0.tmp")
    for path in (left, other):
        path.write_bytes(b"half")
    store.replace("flux_scale", pl.DataFrame([SCALE | {"factor": 1.2}]), partition_key="2026-03-01T05:00")
    assert not left.exists()
    assert other.exists()
    assert record.exists()


def test_a_partition_made_again_or_emptied_leaves_no_old_rows(store):
    """The record of a partition holds what was written last; an empty partition has none."""
    for factor in (1.1, 1.2):
        store.replace("flux_scale", pl.DataFrame([SCALE | {"factor": factor}]), partition_key="2026-03-01T05:00")
    other = SCALE | {"observation_id": "2026-03-01T05:05:30"}
    store.replace("flux_scale", pl.DataFrame([other]), partition_key="2026-03-01T05:05")
    store.replace("flux_scale", pl.DataFrame([other]).clear(), partition_key="2026-03-01T05:05")
    before = rows_of(store, "flux_scale")
    assert before["factor"].to_list() == [1.2]
    assert rows_of(rebuilt(store), "flux_scale").equals(before)
    (file,) = records_folder(store.path).rglob("*.parquet")
    metadata = pl.read_parquet_metadata(file)
    told = {name: metadata[f"contimg.{name}"] for name in ("table", "partition_key", "run_id", "code_version")}
    assert told == {"table": "flux_scale", "partition_key": "2026-03-01T05:00", "run_id": "r1", "code_version": "2"}


def test_rows_of_a_table_without_index_bring_their_content_hash_back(store):
    """Copies made elsewhere are still recognised after a rebuild."""
    row = {
        "observation_id": "2026-03-01T05:00:30",
        "source_id": "s1",
        "band": "full",
        "mjd": 61100.0,
        "frequency_hz": 1.4e9,
    }
    row |= {"flux_jy": 1.0, "flux_err_jy": 0.1, "offset_east_deg": 0.0, "offset_north_deg": 0.0, "run_id": "r1"}
    store.replace("flux_reference", pl.DataFrame([row]), partition_key="2026-03-01T05:00")
    before = rows_of(store, "partition_content")
    assert before.height == 1
    assert rows_of(rebuilt(store), "partition_content").equals(before)


def test_a_candidate_that_went_on_to_another_day_and_vanished_stays_away(store):
    """Found on two days it belongs to the second; no longer found there it is gone, also after a rebuild."""
    record(store, "2026-03-01", "a", "b")
    record(store, "2026-03-02", "a", "b")
    review_candidate(store, Review("b", "confirm", "ann", "beautiful"), at=NOW)
    record(store, "2026-03-02")
    before = {table: rows_of(store, table) for table in ("ese_candidate", "candidate_event")}
    assert before["ese_candidate"]["candidate_id"].to_list() == ["b"]
    again = rebuilt(store)
    assert all(rows_of(again, table).equals(rows) for table, rows in before.items())


def test_a_transaction_that_fails_leaves_the_record_of_a_day_for_the_next(store):
    """What was kept before a failure is written over when the work is done again."""
    frame = pl.DataFrame([SCALE])
    with pytest.raises(StoreError), store.transaction() as connection:
        connection.execute("SELECT * FROM nowhere")
    store.replace("flux_scale", frame, partition_key="2026-03-01T05:00")
    with pytest.raises(StoreError, match="belong to another partition"):
        store.replace("flux_scale", frame.with_columns(partition_key=pl.lit("x")), partition_key="2026-03-01T05:05")
    before = rows_of(store, "flux_scale")
    assert rows_of(rebuilt(store), "flux_scale").equals(before)


def test_rows_that_were_never_kept_are_named_and_can_be_kept(store):
    """A store of before this was done: `store check` names each file that is missing, keeping everything mends it."""
    unkept = Store(store.path.with_name("before.duckdb"), keeps_rows=False)
    unkept.replace("flux_scale", pl.DataFrame([SCALE]), partition_key="2026-03-01T05:00")
    unkept.path.rename(store.path)
    found = list(inconsistencies(store, Products(store.path.parent), lambda _, __: pl.DataFrame()))
    assert [item.kind for item in found if item.kind == "rows_not_kept"] == ["rows_not_kept"]
    with store.transaction() as connection:
        assert sum(keep_everything(connection).values()) == 1
    before = rows_of(store, "flux_scale")
    assert rows_of(rebuilt(store), "flux_scale").equals(before)


def test_a_damaged_record_stops_the_rebuild_and_leaves_the_old_file(store):
    """The message names the file; the store is as it was."""
    store.replace("flux_scale", pl.DataFrame([SCALE]), partition_key="2026-03-01T05:00")
    (file,) = records_folder(store.path).rglob("*.parquet")
    file.write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=file.name):
        rebuild_store(store, Products(store.path.parent), at=NOW)
    assert rows_of(store, "flux_scale").height == 1
    assert not list(store.path.parent.glob("*.replaced"))


def test_a_store_that_appears_meanwhile_is_left_alone(store, monkeypatch):
    """Without an old file nothing can be locked: a new one that somebody begins stands, and the rebuild is refused."""
    store.path.unlink()
    products = Products(store.path.parent)
    folder = records_folder(store.path) / "flux_scale"

    def listing(path: Path, pattern: str) -> list[Path]:
        if path == folder and not store.path.exists():
            Store(store.path).initialise()
        return []

    monkeypatch.setattr(Path, "glob", listing)
    with pytest.raises(StoreBusyError, match="has appeared"):
        rebuild_store(store, products, at=NOW)
    assert rows_of(store, "flux_scale").is_empty()
    assert [path.name for path in store.path.parent.iterdir() if path.is_file()] == ["contimg.duckdb"]


def test_without_products_there_is_nothing_to_rebuild(tmp_path):
    """A wrong data folder is named; nothing is made in it."""
    with pytest.raises(StoreError, match="nothing to rebuild"):
        rebuild_store(Store(tmp_path / "contimg.duckdb"), Products(tmp_path), at=NOW)
    assert not list(tmp_path.iterdir())
