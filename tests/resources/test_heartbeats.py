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
