"""Waiting observations as the arrival sensor remembers them: true whoever changes the store, and whenever."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from contimg_resources.arrival_waits import ArrivalWaits
from contimg_resources.store.connection import Store

SEEN = datetime(2026, 3, 1, 22, 30)  # noqa: DTZ001 (UTC without zone, as in the store)
WAIT_S = 600.0
ROW = {"observation_id": "2026-03-01T22:26:05", "partition_key": "2026-03-01T22:25", "start_mjd": 61100.9}
OTHER_PROCESS = """
import sys
from datetime import datetime
from pathlib import Path
import polars as pl
from contimg_resources.store.connection import Store
row = {"observation_id": "2026-03-01T22:26:05", "partition_key": "2026-03-01T22:25", "start_mjd": 61100.9}
row |= {"status": "collecting", "first_seen_at": datetime(2026, 3, 1, 22, 30)}
Store(Path(sys.argv[1])).upsert("observation", pl.DataFrame([row]))
"""


@pytest.fixture
def old_store(tmp_path: Path) -> Store:
    """An empty store that nobody has written for a while."""
    store = Store(tmp_path / "contimg.duckdb")
    store.initialise()
    let_rest(store)
    return store


def let_rest(store: Store) -> None:
    """Make the store's file look as if its last write were an hour ago."""
    then = store.path.stat().st_mtime - 3600.0
    os.utime(store.path, (then, then))


def test_a_wait_is_over_when_its_time_has_come(old_store: Store):
    """Nothing waits in an empty store; an observation does for ten minutes; what is ready no longer does."""
    waits = ArrivalWaits()
    assert not waits.is_over(old_store, now=SEEN + timedelta(days=1), wait_s=WAIT_S)
    old_store.upsert("observation", pl.DataFrame([ROW | {"status": "collecting", "first_seen_at": SEEN}]))
    assert not waits.is_over(old_store, now=SEEN + timedelta(seconds=WAIT_S - 1.0), wait_s=WAIT_S)
    assert waits.is_over(old_store, now=SEEN + timedelta(seconds=WAIT_S), wait_s=WAIT_S)
    old_store.upsert("observation", pl.DataFrame([ROW | {"status": "ready"}]))
    assert not waits.is_over(old_store, now=SEEN + timedelta(seconds=WAIT_S), wait_s=WAIT_S)


def test_what_another_process_records_is_seen(old_store: Store):
    """A backfill that finds files makes observations wait: the sensor's memory does not hide them."""
    waits = ArrivalWaits()
    assert not waits.is_over(old_store, now=SEEN + timedelta(hours=1), wait_s=WAIT_S)
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, str(old_store.path)], check=True)
    let_rest(old_store)
    assert waits.is_over(old_store, now=SEEN + timedelta(hours=1), wait_s=WAIT_S)


def test_a_store_that_stays_as_it_is_is_not_asked_again(old_store: Store, monkeypatch: pytest.MonkeyPatch):
    """One question for any number of looks, and one for each look while the file may be written again unnoticed."""
    asked: list[str] = []
    ask = Store.query
    monkeypatch.setattr(Store, "query", lambda self, sql, *rest: (asked.append(sql), ask(self, sql, *rest))[1])
    waits = ArrivalWaits()
    for number in range(5):
        waits.is_over(old_store, now=SEEN + timedelta(seconds=number), wait_s=WAIT_S)
    assert len(asked) == 1
    old_store.upsert("observation", pl.DataFrame([ROW | {"status": "collecting", "first_seen_at": SEEN}]))
    for number in range(3):
        waits.is_over(old_store, now=SEEN + timedelta(seconds=number), wait_s=WAIT_S)
    assert len(asked) == 4
