"""What waits is the same number wherever it is shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from contimg_resources.alerts import science_measurements
from contimg_resources.alerts.probe import Probe
from contimg_resources.settings import load_settings
from contimg_resources.store import state
from contimg_resources.store.backlog import Backlog, backlog
from contimg_resources.store.connection import Store
from contimg_resources.store.measures import measure_store

NOW = datetime.now(UTC).replace(tzinfo=None)


def observed(number: int, status: str, **fields: object) -> dict[str, object]:
    """An observation that began so many hours ago and was complete ten minutes later."""
    start = NOW - timedelta(hours=number)
    row = {"observation_id": f"{start:%Y-%m-%dT%H:%M:%S}", "partition_key": f"{start:%Y-%m-%dT%H:%M}"}
    row |= {"start_mjd": 61_081.0 - number / 24, "status": status, "first_seen_at": start + timedelta(minutes=5)}
    return row | {"complete_at": start + timedelta(minutes=10)} | fields


def letter(row: dict[str, object], status: str) -> dict[str, object]:
    """A dead letter of an observation."""
    told = {"letter_id": f"{row['partition_key']}", "asset": "continuum_image", "partition_key": row["partition_key"]}
    return told | {"first_at": NOW, "last_at": NOW, "message": "m", "n_attempts": 1, "status": status}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One that collects, two that wait, of which one had failed, one that failed, and two that do not wait."""
    store = Store(tmp_path / "contimg.duckdb")
    failed, retried = observed(9, "ready"), observed(8, "ready")
    rows = [failed, retried, observed(7, "ready"), observed(6, "collecting", complete_at=None)]
    rows += [observed(5, "processed"), observed(4, "quarantined")]
    store.upsert("observation", pl.DataFrame(rows, infer_schema_length=None))
    store.upsert("dead_letter", pl.DataFrame([letter(failed, "failed"), letter(retried, "resolved")]))
    return store


def test_gate_metrics_alerts_and_pages_count_alike(store: Store):
    """Ready, without an open dead letter; what collects files and what failed is counted apart."""
    found = backlog(store, now=NOW)
    oldest_at = NOW - timedelta(hours=8) + timedelta(minutes=10)
    assert found == Backlog(1, 2, 1, oldest_at, f"{NOW - timedelta(hours=8):%Y-%m-%dT%H:%M}", 7 * 3600 + 50 * 60)
    measured = {one.measure.name: one.rows for one in measure_store(store)[0]}
    assert measured["backlog_observations"] == [((), 2.0)]
    since_s = (datetime.now(UTC).replace(tzinfo=None) - NOW).total_seconds()
    assert measured["backlog_oldest_seconds"][0][1] == pytest.approx(found.oldest_age_s + since_s, abs=60)
    assert state.site_summary(store)["n_waiting"] == 2
    with store.reading() as connection:
        probe = Probe(load_settings(), NOW.replace(tzinfo=UTC), connection, 0.0, "", None)
        (reading,) = science_measurements.backlog_observations(probe)
    assert reading.value == 2
    assert found.oldest_partition in reading.detail


def test_nothing_waits_in_an_empty_store(tmp_path: Path):
    """Zeros, and no oldest."""
    empty = Store(tmp_path / "contimg.duckdb")
    empty.initialise()
    assert backlog(empty, now=NOW) == Backlog(0, 0, 0, None, None, 0.0)
    measured = {one.measure.name: one.rows for one in measure_store(empty)[0]}
    assert measured["backlog_oldest_seconds"] == [((), 0.0)]
