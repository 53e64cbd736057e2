"""The portal's data under ``/api/v1``: observations, sources, candidates, what was measured of them.

Reading is for everyone who reaches the port, reviews need the token. Pages for people are ``pages.py``, the platform's
own state ``operations_api.py``, computations ``compute_api.py``; parameters are ``parameters.py``, forms of answers
``answers.py``. Lists are paginated with ``limit`` and ``offset``; ``next_offset`` is null on the last page.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel

from contimg_portal.access import require_token
from contimg_portal.answers import (
    Problem,
    exports,
    json_answer,
    list_answer,
    page_of,
    paginate,
    parts_model,
    row_model,
    rows_of,
)
from contimg_portal.parameters import (
    Band,
    Declination,
    Format,
    Limit,
    Mjd,
    Number,
    Offset,
    OptionalBand,
    Partition,
    PathName,
    Person,
    QueryName,
    Radius,
    Reason,
    RightAscension,
    Word,
    YesOrNo,
)
from contimg_resources.store import listings, queries
from contimg_resources.store.candidates import Review, review_candidate
from contimg_resources.store.connection import Store

__all__ = ["PROBLEMS", "REFUSALS", "Limit", "Offset", "OpenStore", "paginate", "require_token", "router"]

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Parameters that do not belong together"},
    404: {"model": Problem, "description": "There is no such thing"},
    413: {"model": Problem, "description": "The request is too large"},
    429: {"model": Problem, "description": "Too many requests; see Retry-After"},
    503: {"model": Problem, "description": "The store is missing or busy; see Retry-After"},
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "A token is needed"},
    403: {"model": Problem, "description": "The token is wrong, or writing is switched off"},
    409: {"model": Problem, "description": "Its state does not allow this"},
}
router = APIRouter(prefix="/api/v1", responses=PROBLEMS)

_SOURCES = page_of(row_model("source", "variability_statistics"))
_CANDIDATE = row_model("ese_candidate", "source")


class ReviewRequest(BaseModel):
    """A decision about a candidate."""

    kind: Literal["confirm", "reject", "reopen"]
    by: Person
    reason: Reason


class ReviewAnswer(BaseModel):
    """What a review led to."""

    candidate_id: str
    status: str


async def open_store(request: Request) -> Store:
    """Store of this portal: read from its newest copy, written in the file. Async, or it would cost a turn of a thread."""
    store: Store = request.app.state.store
    return store


OpenStore = Annotated[Store, Depends(open_store)]


def _missing(kind: str, name: str) -> HTTPException:
    return HTTPException(404, f"There is no {kind} {name}.")


@router.get("/observations", response_model=page_of(row_model("observation")), responses=exports("observations"))
def list_observations(
    store: OpenStore,
    limit: Limit = 100,
    offset: Offset = 0,
    status: Word = None,
    partition_key: Partition = None,
    form: Format = "json",
) -> Response:
    """Observations, newest first."""
    where = {"status": status, "partition_key": partition_key}
    return list_answer(
        lambda **span: listings.rows(store, "observation", where=where, **span), limit, offset, form, "observations"
    )


_OBSERVATION = parts_model(
    "Observation",
    one={"observation": "observation"},
    many={
        "files": "raw_file",
        "images": "image",
        "calibration": "calibration_use",
        "flux_scale": "flux_scale",
        "checks": "check_result",
        "timings": "stage_timing",
    },
)


@router.get("/observations/{observation_id}", response_model=_OBSERVATION)
def show_observation(store: OpenStore, observation_id: PathName) -> Response:
    """One observation: its files, images, calibration, checks and timings."""
    by_id = {"observation_id": observation_id}
    found = rows_of(listings.rows(store, "observation", where=by_id, limit=1))
    if not found:
        raise _missing("observation", observation_id)
    by_partition = {"partition_key": found[0]["partition_key"]}

    def part(table: str, where: dict[str, Any]) -> list[dict[str, Any]]:
        return rows_of(listings.rows(store, table, where=where, limit=1000))

    return json_answer(
        {
            "observation": found[0],
            "files": part("raw_file", by_id),
            "images": part("image", by_id),
            "calibration": part("calibration_use", by_id),
            "flux_scale": part("flux_scale", by_id),
            "checks": part("check_result", by_partition),
            "timings": part("stage_timing", by_partition),
        }
    )


@router.get("/sources", response_model=_SOURCES, responses=exports("sources"))
def list_sources(  # noqa: PLR0913, PLR0917 (each is a parameter of the request)
    store: OpenStore,
    limit: Limit = 100,
    offset: Offset = 0,
    band: Band = "full",
    name: QueryName = None,
    ra_deg: RightAscension = None,
    dec_deg: Declination = None,
    radius_deg: Radius = 0.1,
    min_eta: Number = None,
    min_modulation_index: Number = None,
    min_flux_jy: Number = None,
    is_reference: YesOrNo = None,
    form: Format = "json",
) -> Response:
    """Sources with their newest statistics in a band, the most variable first; within a cone the nearest first."""
    if (ra_deg is None) != (dec_deg is None):
        raise HTTPException(400, "A cone needs ra_deg and dec_deg.")
    wanted = listings.SourceFilter(
        band=band,
        name=name,
        ra_deg=ra_deg,
        dec_deg=dec_deg,
        radius_deg=radius_deg,
        min_eta=min_eta,
        min_modulation_index=min_modulation_index,
        min_flux_jy=min_flux_jy,
        is_reference=is_reference,
    )
    return list_answer(lambda **span: listings.sources(store, wanted, **span), limit, offset, form, "sources")


_SOURCE = parts_model(
    "Source",
    one={"source": "source"},
    many={"statistics": "variability_statistics", "candidates": "ese_candidate"},
)


@router.get("/sources/{source_id}", response_model=_SOURCE)
def show_source(store: OpenStore, source_id: PathName) -> Response:
    """One source: position, newest statistics in every band, candidates."""
    found = queries.source(store, source_id)
    if found is None:
        raise _missing("source", source_id)
    return json_answer(
        {
            "source": found,
            "statistics": rows_of(queries.statistics_of(store, source_id)),
            "candidates": rows_of(queries.candidates_of_source(store, source_id)),
        }
    )


@router.get(
    "/sources/{source_id}/light-curve",
    response_model=page_of(row_model("light_curve")),
    responses=exports("a light curve"),
)
def show_light_curve(
    store: OpenStore,
    source_id: PathName,
    limit: Limit = 1000,
    offset: Offset = 0,
    band: OptionalBand = None,
    start_mjd: Mjd = None,
    end_mjd: Mjd = None,
    form: Format = "json",
) -> Response:
    """Light curve of a source in all bands or one, in order of band and time."""
    if queries.source(store, source_id) is None:
        raise _missing("source", source_id)
    span = {"band": band, "start_mjd": start_mjd, "end_mjd": end_mjd}
    return list_answer(
        lambda **page: listings.light_curve(store, source_id, **span, **page),  # type: ignore[arg-type]
        limit,
        offset,
        form,
        f"light-curve-{source_id}",
    )


@router.get(
    "/sources/{source_id}/statistics",
    response_model=page_of(row_model("variability_statistics")),
    responses=exports("statistics"),
)
def list_statistics(
    store: OpenStore,
    source_id: PathName,
    limit: Limit = 100,
    offset: Offset = 0,
    band: OptionalBand = None,
    form: Format = "json",
) -> Response:
    """Statistics of a source as of each day, newest first in each band."""
    if queries.source(store, source_id) is None:
        raise _missing("source", source_id)
    where = {"source_id": source_id, "band": band}
    return list_answer(
        lambda **span: listings.rows(store, "variability_statistics", where=where, **span),
        limit,
        offset,
        form,
        f"statistics-{source_id}",
    )


@router.get("/candidates", response_model=page_of(_CANDIDATE), responses=exports("candidates"))
def list_candidates(
    store: OpenStore,
    limit: Limit = 100,
    offset: Offset = 0,
    status: Word = None,
    verdict: Word = None,
    form: Format = "json",
) -> Response:
    """Candidates, the most significant first."""
    return list_answer(
        lambda **span: queries.candidates(store, status=status, verdict=verdict, **span),
        limit,
        offset,
        form,
        "candidates",
    )


@router.get("/candidates/{candidate_id}", response_model=dict[str, Any])
def show_candidate(store: OpenStore, candidate_id: PathName) -> Response:
    """One candidate with its evidence and its history."""
    found = queries.candidate(store, candidate_id)
    if found is None:
        raise _missing("candidate", candidate_id)
    evidence = json.loads(found["evidence"]) if found["evidence"] else None
    return json_answer(
        {**found, "evidence": evidence, "events": rows_of(queries.candidate_events(store, candidate_id))}
    )


@router.post("/candidates/{candidate_id}/review", dependencies=[Depends(require_token)], responses=REFUSALS)
def post_review(store: OpenStore, candidate_id: PathName, review: ReviewRequest) -> ReviewAnswer:
    """Confirm, reject or reopen a candidate; needs the portal's token."""
    if queries.candidate(store, candidate_id) is None:
        raise _missing("candidate", candidate_id)
    decision = Review(candidate_id, review.kind, review.by, review.reason)
    return ReviewAnswer(candidate_id=candidate_id, status=review_candidate(store, decision, at=datetime.now(UTC)))
