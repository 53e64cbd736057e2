"""The portal's data as JSON under ``/api/v1``: reading for everyone who reaches the port, reviews with the token.

Pages for people are ``pages.py``; what may be asked is ``contimg_resources.store.queries``. Lists are paginated with
``limit`` and ``offset``; ``next_offset`` is null on the last page. Missing numbers are null.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import polars as pl
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

from contimg_resources.store import queries
from contimg_resources.store.candidates import Review, review_candidate
from contimg_resources.store.connection import Store

router = APIRouter(prefix="/api/v1")

_bearer = HTTPBearer(auto_error=False, description="The portal token (CONTIMG_PORTAL_TOKEN)")


class Page(BaseModel):
    """One page of a list."""

    items: list[dict[str, Any]]
    limit: int
    offset: int
    next_offset: int | None


class ReviewRequest(BaseModel):
    """A decision about a candidate."""

    kind: Literal["confirm", "reject", "reopen"]
    by: str = Field(min_length=1, max_length=100, pattern=r"\S", description="who decides")
    reason: str = Field(min_length=1, max_length=2000, pattern=r"\S")


class ReviewAnswer(BaseModel):
    """What a review led to."""

    candidate_id: str
    status: str


def open_store(request: Request) -> Store:
    """Store of this portal."""
    store: Store = request.app.state.store
    return store


def require_token(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Refuse a writing request without the portal's token; 403 when no token is configured at all."""
    expected = request.app.state.settings.portal_token
    if expected is None:
        raise HTTPException(403, "Writing is switched off: no CONTIMG_PORTAL_TOKEN is set.")
    if credentials is None:
        raise HTTPException(401, "A token is needed: Authorization: Bearer ….", {"WWW-Authenticate": "Bearer"})
    # Compared in constant time, so that the answer's delay does not tell how much of a guess is right.
    if not secrets.compare_digest(credentials.credentials.encode(), expected.get_secret_value().encode()):
        raise HTTPException(403, "The token is wrong.")


OpenStore = Annotated[Store, Depends(open_store)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0)]


def paginate(question: Callable[..., pl.DataFrame], limit: int, offset: int) -> tuple[pl.DataFrame, int | None]:
    """One page of an answer and the offset of the next, None on the last page."""
    frame = question(limit=limit + 1, offset=offset)
    return frame.head(limit), offset + limit if frame.height > limit else None


def _page(question: Callable[..., pl.DataFrame], limit: int, offset: int) -> Page:
    frame, next_offset = paginate(question, limit, offset)
    return Page(items=frame.to_dicts(), limit=limit, offset=offset, next_offset=next_offset)


@router.get("/observations")
def list_observations(store: OpenStore, limit: Limit = 100, offset: Offset = 0, status: str | None = None) -> Page:
    """Observations, newest first."""
    return _page(lambda **span: queries.observations(store, status=status, **span), limit, offset)


@router.get("/sources")
def list_sources(store: OpenStore, limit: Limit = 100, offset: Offset = 0, band: str = "full") -> Page:
    """Sources with their newest statistics in a band, the most variable first."""
    return _page(lambda **span: queries.ranked_sources(store, band=band, **span), limit, offset)


@router.get("/sources/{source_id}/light-curve")
def show_light_curve(store: OpenStore, source_id: str, limit: Limit = 1000, offset: Offset = 0) -> Page:
    """Light curve of a source in all bands, in order of band and time."""
    if queries.source(store, source_id) is None:
        raise HTTPException(404, f"There is no source {source_id}.")
    return _page(lambda **span: queries.light_curve(store, source_id, **span), limit, offset)


@router.get("/candidates")
def list_candidates(
    store: OpenStore, limit: Limit = 100, offset: Offset = 0, status: str | None = None, verdict: str | None = None
) -> Page:
    """Candidates, the most significant first."""
    return _page(lambda **span: queries.candidates(store, status=status, verdict=verdict, **span), limit, offset)


@router.get("/candidates/{candidate_id}")
def show_candidate(store: OpenStore, candidate_id: str) -> dict[str, Any]:
    """One candidate with its evidence and its history."""
    found = queries.candidate(store, candidate_id)
    if found is None:
        raise HTTPException(404, f"There is no candidate {candidate_id}.")
    evidence = json.loads(found["evidence"]) if found["evidence"] else None
    return {**found, "evidence": evidence, "events": queries.candidate_events(store, candidate_id).to_dicts()}


@router.post("/candidates/{candidate_id}/review", dependencies=[Depends(require_token)])
def post_review(store: OpenStore, candidate_id: str, review: ReviewRequest) -> ReviewAnswer:
    """Confirm, reject or reopen a candidate; needs the portal's token."""
    if queries.candidate(store, candidate_id) is None:
        raise HTTPException(404, f"There is no candidate {candidate_id}.")
    decision = Review(candidate_id, review.kind, review.by, review.reason)
    return ReviewAnswer(candidate_id=candidate_id, status=review_candidate(store, decision, at=datetime.now(UTC)))
