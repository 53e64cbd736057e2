"""Comments of people on sources: written through the API with the token, shown on the page of the source.

What belongs here: the one route that writes them. Decisions about candidates are reviews (``api.py``).
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import polars as pl
from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, Field

from contimg_portal.api import PROBLEMS, REFUSALS, OpenStore, require_token
from contimg_resources.store import queries, register

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


class CommentRequest(BaseModel):
    """What somebody wants to say about a source."""

    by: str = Field(min_length=1, max_length=100, pattern=r"\S", description="who says it")
    comment: str = Field(min_length=1, max_length=2000, pattern=r"\S")


class CommentAnswer(BaseModel):
    """The comment as it was kept."""

    comment_id: str
    source_id: str
    at: datetime


@router.post(
    "/sources/{source_id}/comments", dependencies=[Depends(require_token)], status_code=201, responses=REFUSALS
)
def post_comment(store: OpenStore, source_id: str, said: CommentRequest) -> CommentAnswer:
    """Comment on a source, of the catalogue or not; needs the portal's token."""
    if queries.source(store, source_id) is None and register.blind_source(store, source_id) is None:
        raise HTTPException(404, f"There is no source {source_id}.")
    at, comment_id = datetime.now(UTC), uuid.uuid4().hex
    row = {"comment_id": comment_id, "source_id": source_id, "at": at.replace(tzinfo=None), "by": said.by}
    store.append("source_comment", pl.DataFrame([row | {"comment": said.comment}]))
    return CommentAnswer(comment_id=comment_id, source_id=source_id, at=at)
