"""Days that do not hold what was measured: found by the times of their stages."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from contimg_resources.products import Products
from contimg_resources.store.connection import Store
from contimg_resources.store.consistency import inconsistencies

NIGHT = datetime(2026, 3, 2, 5)  # noqa: DTZ001 (UTC without zone, as in the store)


def stage(asset: str, partition_key: str, started_at: datetime) -> dict[str, object]:
    """One stage of ten seconds."""
    return {
        "asset": asset,
        "partition_key": partition_key,
        "stage": "whole",
        "run_id": "r",
        "code_version": "1",
        "started_at": started_at,
        "duration_s": 10.0,
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two days of two observations: the second of the second day was scaled while its light curves were made."""
    store = Store(tmp_path / "contimg.duckdb")
    store.initialise()
    rows = [
        stage("flux_scale", "2026-03-01T05:00", NIGHT - timedelta(days=1)),
        stage("flux_scale", "2026-03-01T05:05", NIGHT - timedelta(days=1)),
        stage("light_curves", "2026-03-01", NIGHT - timedelta(hours=23)),
        stage("flux_scale", "2026-03-02T05:00", NIGHT),
        stage("light_curves", "2026-03-02", NIGHT + timedelta(seconds=15)),
        stage("flux_scale", "2026-03-02T05:05", NIGHT + timedelta(seconds=8)),
    ]
    store.upsert("stage_timing", pl.DataFrame(rows))
    return store


def days_out_of_date(store: Store, now: datetime) -> list[str]:
    """What the check says of days."""
    found = inconsistencies(store, Products(store.path.parent), lambda _, __: pl.DataFrame(), now=now)
    return [item.subject for item in found if item.kind == "out_of_date"]


def test_a_day_that_lacks_an_observation_is_named_after_an_hour(store):
    """Within the hour the day may still be on its way; once it is made again it is sound."""
    assert days_out_of_date(store, NIGHT + timedelta(minutes=30)) == []
    (subject,) = days_out_of_date(store, NIGHT + timedelta(hours=2))
    assert subject == "2026-03-02: made before the fluxes of 1 observations, the first 2026-03-02T05:05"
    again = stage("light_curves", "2026-03-02", NIGHT + timedelta(hours=3))
    store.upsert("stage_timing", pl.DataFrame([again]))
    assert days_out_of_date(store, NIGHT + timedelta(hours=5)) == []


def test_a_day_without_light_curves_is_named(store):
    """Scaled fluxes and no light curve at all: a day that was never asked for."""
    store.upsert("stage_timing", pl.DataFrame([stage("flux_scale", "2026-03-03T05:00", NIGHT + timedelta(days=1))]))
    found = days_out_of_date(store, NIGHT + timedelta(days=2))
    assert [subject[:10] for subject in found] == ["2026-03-02", "2026-03-03"]
