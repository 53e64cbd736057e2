"""Whoever was not heard of for three of their own intervals has gone quiet."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from contimg_resources.heartbeats import Heartbeat, gone_quiet, note_heartbeats
from contimg_resources.store.connection import Store

NOW = datetime(2026, 2, 25, 6)  # noqa: DTZ001  (UTC without zone, as in the store)


def test_the_silent_are_named_longest_first(tmp_path: Path):
    """Each by its own interval; a beat that arrives late does not turn the clock back."""
    store = Store(tmp_path / "store.duckdb")
    beats = {"sensor:a": (180.0, 60.0), "sensor:b": (181.0, 60.0), "writer:sb03": (2000.0, 309.0)}
    note_heartbeats(
        store,
        [
            Heartbeat(name, name.split(":")[0], NOW - timedelta(seconds=age), interval)
            for name, (age, interval) in beats.items()
        ],
    )
    note_heartbeats(store, [Heartbeat("sensor:b", "sensor", NOW - timedelta(hours=5), 60.0)])
    quiet = gone_quiet(store, NOW)
    assert [(silence.name, silence.silent_s) for silence in quiet] == [("writer:sb03", 2000.0), ("sensor:b", 181.0)]
    note_heartbeats(store, [Heartbeat("writer:sb03", "writer", NOW, 309.0)])
    assert [silence.name for silence in gone_quiet(store, NOW)] == ["sensor:b"]


def test_of_several_beats_of_one_the_newest_is_kept(tmp_path: Path):
    """Told at once, in any order; what is not told of is empty."""
    store = Store(tmp_path / "store.duckdb")
    beats = [
        Heartbeat("writer:sb03", "writer", NOW - timedelta(seconds=age), 309.0, detail=f"{age}") for age in (9, 1, 5)
    ]
    note_heartbeats(store, beats)
    found = store.query("SELECT name, host, last_at, detail FROM heartbeat")
    assert found.rows() == [("writer:sb03", None, NOW - timedelta(seconds=1), "1")]
    note_heartbeats(store, [])
    assert store.query("SELECT count(*) FROM heartbeat").item() == 1
