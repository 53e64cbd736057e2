"""What happened, as one stream others can follow: from Dagster's event log and the append-only tables of the store.

What belongs here: the kinds, the order, the cursor. Pages, server-sent events and webhooks hand the stream on
(``contimg_portal.events_api``, ``contimg_resources.event_webhooks``). Nothing is stored anew: a source is read in the
order in which its rows were written (Dagster's record id, DuckDB's row id), and a cursor is the position in each source,
so it survives restarts of everything. Times would not do: a candidate is dated by the sky, not by the clock.

Delivery is *at least once*: where a source was rebuilt and is shorter than a cursor remembers, it is read from its
beginning. Each event has an ``id`` that stays the same, to tell repetitions.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import itertools
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import EventRecordsFilter

from contimg_resources.alerts.probe import Reading
from contimg_resources.errors import ResourceError
from contimg_resources.event_sources import (
    KINDS,
    KINDS_OF_TYPE,
    TABLES_OF_EVENTS,
    Event,
    Found,
    from_dagster,
    from_store,
)
from contimg_resources.store.connection import Store

MOST_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some events, oldest first within their source, and where to go on."""

    events: list[Event]
    cursor: str
    has_more: bool


@dataclass(frozen=True, slots=True)
class _Cursor:
    """First position not yet read, by source."""

    dagster: int = 0
    candidate_event: int = 0
    alert_history: int = 0
    dead_letter_event: int = 0
    breaker_event: int = 0


def read_events(
    store: Store,
    instance: dg.DagsterInstance | None,
    since: str = "",
    *,
    kinds: Collection[str] = (),
    limit: int = 100,
) -> EventPage:
    """Events after a cursor.

    Parameters
    ----------
    store : Store
        One that does not exist yet has no events.
    instance : DagsterInstance or None
        Without one, only the store's events.
    since : str
        Cursor of an earlier page; empty: from the beginning; ``now``: only what is still to come; or an ISO time.
    kinds : collection of str
        Only these; none: all.
    limit : int
        At most so many, up to 1000.

    Returns
    -------
    EventPage
        A page may be empty and have more behind it, where many events of other kinds were passed over.

    Raises
    ------
    ResourceError
        If the cursor or a kind is not known (reason code ``wrong_cursor``, ``wrong_kind``).
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ResourceError(
            "There is no event of that kind",
            got=", ".join(unknown),
            expected=", ".join(KINDS),
            remedy="Correct kind.",
            reason_code="wrong_kind",
        )
    wanted, limit = set(kinds) or set(KINDS), max(1, min(limit, MOST_EVENTS))
    position = _position(store, instance, since)
    sources = {"dagster": from_dagster(instance, position.dagster, wanted, limit)}
    sources |= from_store(store, asdict(position), wanted, limit)
    merged = heapq.merge(*(_keyed(name, found) for name, found in sources.items()))
    events: list[Event] = []
    for _, name, at, event in itertools.islice(merged, limit):
        position = replace(position, **{name: at + 1})
        if event.kind in wanted:
            events.append(event)
    has_more = sum(len(found) for found in sources.values()) >= limit
    return EventPage(events, _encode(position), has_more)


def count_recent(
    store: Store, instance: dg.DagsterInstance | None, kind: str, now: datetime, window_s: float
) -> list[Reading]:
    """How many events of a kind there were within a window, by subject: what alert rules about events measure."""
    cursor = (now - timedelta(seconds=window_s)).isoformat()
    counts: dict[str, list[str]] = {}
    for _ in range(10):
        page = read_events(store, instance, cursor, kinds=[kind], limit=MOST_EVENTS)
        for event in page.events:
            counts.setdefault(event.subject, []).append(event.message)
        cursor = page.cursor
        if not page.has_more:
            break
    return [
        Reading(len(messages), subject, f"{len(messages)} in {window_s / 60:.0f} min, last: {messages[-1]}")
        for subject, messages in sorted(counts.items())
    ]


def _keyed(name: str, found: Sequence[Found]) -> Iterable[tuple[datetime, str, int, Event]]:
    """Events of a source with a key that never goes back, so that merging keeps the source's own order."""
    latest = datetime.min.replace(tzinfo=UTC)
    for at, event in found:
        latest = max(latest, event.at)
        yield latest, name, at, event


def _position(store: Store, instance: dg.DagsterInstance | None, since: str) -> _Cursor:
    if not since:
        return _Cursor()
    ends = _ends(store, instance)
    if since == "now":
        return ends
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        return _decode(since, ends)
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return _first_after(store, instance, moment, ends)


def _ends(store: Store, instance: dg.DagsterInstance | None) -> _Cursor:
    """Positions behind everything there is."""
    newest = instance.event_log_storage.get_maximum_record_id() if instance is not None else None
    lengths = _ask_tables(store, "SELECT coalesce(max(rowid) + 1, 0) FROM {table}")
    return _Cursor(dagster=(newest or 0) + 1, **lengths)


def _first_after(store: Store, instance: dg.DagsterInstance | None, moment: datetime, ends: _Cursor) -> _Cursor:
    """Positions of the first events at or after a time."""
    at = moment.astimezone(UTC).replace(tzinfo=None)
    rows = _ask_tables(store, 'SELECT coalesce(min(rowid), -1) FROM {table} WHERE "at" >= ?', at)
    starts = {table: row if row >= 0 else getattr(ends, table) for table, row in rows.items()}
    first = ends.dagster
    if instance is not None:
        for event_type in KINDS_OF_TYPE:
            after = EventRecordsFilter(event_type, after_timestamp=moment.timestamp())
            records = instance.event_log_storage.get_event_records(after, limit=1, ascending=True)
            first = min([first, *(record.storage_id for record in records)])
    return _Cursor(dagster=first, **starts)


def _ask_tables(store: Store, question: str, *parameters: datetime) -> dict[str, int]:
    """Answer of each table to a question that has its name for ``{table}``."""
    if not store.path.exists():
        return dict.fromkeys(TABLES_OF_EVENTS, 0)
    with store.reading() as connection:
        return {
            table: int(connection.execute(question.format(table=table), list(parameters)).fetchall()[0][0])
            for table in TABLES_OF_EVENTS
        }


def _encode(position: _Cursor) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(asdict(position).values())).encode()).decode().rstrip("=")


def _decode(text: str, ends: _Cursor) -> _Cursor:
    try:
        values = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        names = list(asdict(ends))
        position = _Cursor(**{name: int(value) for name, value in zip(names, values, strict=True)})
    except (ValueError, TypeError, binascii.Error) as error:
        raise ResourceError(
            "This is not a cursor of the event stream",
            got=repr(text[:80]),
            expected="the cursor of an earlier page, an ISO time, or now",
            remedy="Leave it out to start from the beginning.",
            reason_code="wrong_cursor",
        ) from error
    # A source that is shorter than remembered was rebuilt: its events are told again rather than missed.
    return _Cursor(**{name: at if 0 <= at <= getattr(ends, name) else 0 for name, at in asdict(position).items()})
