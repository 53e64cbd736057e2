"""The event stream by HTTP: pages of JSON with a cursor, and server-sent events that never end.

What an event is, and the cursor, are ``contimg_resources.events``. A client remembers the last cursor (``id:`` of a
server-sent event, ``cursor`` of a page) and goes on from there after any restart; it may be told the same event twice
and tells by its ``id``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import dagster as dg
from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from contimg_portal.api import PROBLEMS
from contimg_resources.alerts.probe import open_instance
from contimg_resources.errors import ResourceError, StoreBusyError
from contimg_resources.event_sources import KINDS
from contimg_resources.events import EventPage, read_events
from contimg_resources.store.connection import Store

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)

POLL_S = 2.0
KEEP_ALIVE_S = 15.0
LONGEST_STREAM_S = 600.0
"""A stream ends after this; browsers connect again by themselves and go on at their last event."""
MOST_STREAMS = 50

Since = Annotated[
    str, Query(max_length=200, description="cursor of an earlier page, an ISO time, `now`, or nothing: the beginning")
]
Kinds = Annotated[list[str], Query(max_length=len(KINDS), description="only these kinds; repeat for several")]


def _open_file(request: Request) -> Store:
    """The store's file itself: cursors count its rows, and the portal's copy has them in another order."""
    copied: Store = request.app.state.store
    return Store(copied.path, wait_s=copied.wait_s)


StoreFile = Annotated[Store, Depends(_open_file)]


class Events(BaseModel):
    """One page of events, oldest first."""

    events: list[dict[str, Any]]
    cursor: str
    has_more: bool


class Kind(BaseModel):
    """A kind of event."""

    kind: str
    meaning: str


def _instance(request: Request) -> dg.DagsterInstance | None:
    """Dagster's instance, opened once for the application; without DAGSTER_HOME only the store's events are seen."""
    if not hasattr(request.app.state, "dagster_instance"):
        request.app.state.dagster_instance = open_instance()
    instance: dg.DagsterInstance | None = request.app.state.dagster_instance
    return instance


def _read(request: Request, store: Store, since: str, kinds: list[str], limit: int) -> EventPage:
    try:
        return read_events(store, _instance(request), since, kinds=kinds, limit=limit)
    except ResourceError as error:
        if error.reason_code not in {"wrong_cursor", "wrong_kind"}:
            raise
        name = "since" if error.reason_code == "wrong_cursor" else "kind"
        problem = {"type": error.reason_code, "loc": ("query", name), "msg": str(error)}
        raise RequestValidationError([problem]) from error


@router.get("/events")
def list_events(
    request: Request,
    store: StoreFile,
    since: Since = "",
    kind: Kinds = [],  # noqa: B006  (FastAPI copies it)
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Events:
    """What happened after a cursor; ask again with the cursor of the answer, at once when it has more."""
    page = _read(request, store, since, kind, limit)
    return Events(events=[event.as_dict() for event in page.events], cursor=page.cursor, has_more=page.has_more)


@router.get("/events/kinds")
def list_event_kinds() -> list[Kind]:
    """Every kind of event and what it means."""
    return [Kind(kind=kind, meaning=meaning) for kind, meaning in KINDS.items()]


@router.get(
    "/events/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, 503: {"description": "too many streams"}},
)
async def stream_events(
    request: Request,
    store: StoreFile,
    since: Since = "now",
    kind: Kinds = [],  # noqa: B006
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
) -> StreamingResponse:
    """Server-sent events: what happens from now on, or after a cursor (`since`, or the header Last-Event-ID)."""
    state = request.app.state
    if getattr(state, "n_event_streams", 0) >= MOST_STREAMS:
        raise HTTPException(503, f"{MOST_STREAMS} streams are open; use /api/v1/events.", {"Retry-After": "60"})
    # The first page is read before the answer begins, so that a wrong cursor is an error and not a broken stream.
    first = await run_in_threadpool(_read, request, store, last_event_id or since, kind, 100)
    return StreamingResponse(
        _follow(request, store, first, kind), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _follow(request: Request, store: Store, page: EventPage, kinds: list[str]) -> AsyncIterator[str]:
    state = request.app.state
    state.n_event_streams = getattr(state, "n_event_streams", 0) + 1
    began = spoken = time.monotonic()
    try:
        yield f"retry: {POLL_S * 1000:.0f}\n\n"
        while time.monotonic() - began < LONGEST_STREAM_S and not await request.is_disconnected():
            for event in page.events:
                # Every event of a page carries the cursor of the page before it but the last: at least once, never lost.
                is_last = event is page.events[-1]
                yield _message(event.kind, event.as_dict(), page.cursor if is_last else "")
                spoken = time.monotonic()
            if time.monotonic() - spoken > KEEP_ALIVE_S:
                yield ": still here\n\n"
                spoken = time.monotonic()
            if not page.has_more:
                await asyncio.sleep(POLL_S)
            page = await _next(request, store, page, kinds)
    finally:
        state.n_event_streams -= 1


async def _next(request: Request, store: Store, page: EventPage, kinds: list[str]) -> EventPage:
    """The page after this one; an empty one while the store is busy."""
    try:
        return await run_in_threadpool(_read, request, store, page.cursor, kinds, 100)
    except StoreBusyError:
        return EventPage([], page.cursor, has_more=False)


def _message(kind: str, content: dict[str, Any], cursor: str) -> str:
    identifier = f"id: {cursor}\n" if cursor else ""
    return f"{identifier}event: {kind}\ndata: {json.dumps(content, default=str)}\n\n"
