"""Who was last heard of when: sensors of the platform, and the nodes of the correlator by the files they write.

What belongs here: rows of table ``heartbeat`` and the question who has gone quiet. Telling people is the alerts' work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

import polars as pl

from contimg_resources.store.connection import Store
from contimg_resources.store.frames import fit_frame
from contimg_resources.store.schema import TABLES

SENSOR_INTERVAL_S = 60.0
"""How often the arrival sensor says that it lives (it looks more often)."""
WRITER_INTERVAL_S = 309.24
"""Between two files of one correlator node: 24 integrations of 12.885 s."""
_INTERVALS_MISSED = 3.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life. Times are UTC without zone, as in the store."""

    name: str
    """``sensor:incoming_observations``, ``writer:sb03``; with a host ``writer:lxd110h03:sb03``."""
    kind: str
    """``sensor`` or ``writer``."""
    last_at: datetime
    interval_s: float
    host: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Silence:
    """Somebody who was not heard of for too long."""

    name: str
    kind: str
    last_at: datetime
    silent_s: float
    interval_s: float


def note_heartbeats(store: Store, beats: Iterable[Heartbeat]) -> None:
    """Keep the newest sign of life of each; an older one does not overwrite a newer."""
    frame = pl.DataFrame([asdict(beat) for beat in beats], infer_schema_length=None)
    if frame.is_empty():
        return
    newest = frame.sort("last_at", maintain_order=True).unique("name", keep="last")
    fitted = fit_frame(TABLES["heartbeat"], newest, partial=True)
    with store.transaction() as connection:
        connection.register("incoming_rows", fitted)
        connection.execute(
            "INSERT INTO heartbeat (name, kind, host, last_at, interval_s, detail)"
            " SELECT name, kind, host, last_at, interval_s, detail FROM incoming_rows"
            " ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, host = excluded.host,"
            " interval_s = excluded.interval_s, detail = excluded.detail,"
            " last_at = greatest(heartbeat.last_at, excluded.last_at)"
        ).fetchall()


def gone_quiet(store: Store, now: datetime, *, intervals: float = _INTERVALS_MISSED) -> list[Silence]:
    """Who was not heard of for so many of their own intervals, longest silence first.

    Parameters
    ----------
    store : Store
    now : datetime
        UTC without zone.
    intervals : float
    """
    rows = store.query("SELECT name, kind, last_at, interval_s FROM heartbeat WHERE interval_s IS NOT NULL")
    silent = rows.with_columns(silent_s=(pl.lit(now) - pl.col("last_at")).dt.total_microseconds() / 1e6)
    late = silent.filter(pl.col("silent_s") > intervals * pl.col("interval_s")).sort("silent_s", descending=True)
    return [Silence(**row) for row in late.select("name", "kind", "last_at", "silent_s", "interval_s").to_dicts()]
