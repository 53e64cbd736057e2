"""The portal's pages for people: what is asked of the store for each, and which template shows it.

Figures are ``plots.py``, the way numbers are written ``formats.py``, JSON for machines ``api.py``. A page reads the
store a few times and computes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bokeh
import polars as pl
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates

from contimg_portal import formats, plots
from contimg_portal.answers import paginate
from contimg_portal.api import OpenStore
from contimg_portal.lens_models import lens_models
from contimg_portal.parameters import Limit, Offset
from contimg_resources.store import queries

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

TEMPLATES = Jinja2Templates(directory=Path(__file__).parent / "templates")
TEMPLATES.env.filters |= {
    "utc": formats.utc,
    "number": formats.number,
    "ra": formats.right_ascension,
    "dec": formats.declination,
}
# Bokeh's documents refer back to what came before: their order must stay.
TEMPLATES.env.policies["json.dumps_kwargs"] = {}
TEMPLATES.env.globals["bokeh_version"] = bokeh.__version__

_PAGE_ROWS = 50


def render(request: Request, template: str, context: Mapping[str, Any], *, status_code: int = 200) -> Response:
    """Page from a template; every template knows the time and how to write an age."""
    now = datetime.now(UTC)
    shared = {"now": now, "age": lambda when: formats.age(when, now), "can_write": _can_write(request)}
    return TEMPLATES.TemplateResponse(request, template, {**shared, **context}, status_code=status_code)


def _can_write(request: Request) -> bool:
    return request.app.state.settings.portal_token is not None


@router.get("/")
def show_overview(request: Request, store: OpenStore) -> Response:
    """State of the platform: how much there is, how old, and what is new."""
    context = {
        "counts": queries.counts(store),
        "observations": queries.observations(store, limit=8).to_dicts(),
        "candidates": queries.candidates(store, limit=8).to_dicts(),
        "last_point_mjd": queries.last_light_curve_mjd(store),
    }
    return render(request, "overview.html", context)


@router.get("/candidates")
def show_candidates(
    request: Request, store: OpenStore, limit: Limit = _PAGE_ROWS, offset: Offset = 0, status: str | None = None
) -> Response:
    """Candidates, the most significant first."""
    frame, next_offset = paginate(lambda **span: queries.candidates(store, status=status, **span), limit, offset)
    context = {"candidates": frame.to_dicts(), "status": status, "limit": limit, "offset": offset}
    return render(request, "candidates.html", {**context, "next_offset": next_offset})


@router.get("/candidates/{candidate_id}")
def show_candidate(request: Request, store: OpenStore, candidate_id: str) -> Response:
    """One candidate: light curve with the lens fit, sub-bands, evidence, review."""
    found = queries.candidate(store, candidate_id)
    if found is None:
        raise HTTPException(404, f"There is no candidate {candidate_id}.")
    evidence = json.loads(found["evidence"]) if found["evidence"] else {}
    models = lens_models(evidence)
    light_curve = queries.light_curve(store, found["source_id"])
    events = _spans([found])
    figures, panels = {}, {}
    if light_curve.height:
        figures["light-curve"] = plots.plot_light_curve(light_curve, events=events, model=models.get("full"))
        panels = plots.plot_bands(light_curve, events=events, models=models)
    context = {
        "candidate": found,
        "evidence": _flatten(evidence),
        "has_fit": bool(models),
        "history": queries.candidate_events(store, candidate_id).to_dicts(),
        "last_point_mjd": _newest(light_curve),
        "figures": figures,
        "panels": panels,
    }
    return render(request, "candidate.html", context)


@router.get("/sources")
def show_sources(request: Request, store: OpenStore, limit: Limit = _PAGE_ROWS, offset: Offset = 0) -> Response:
    """Sources, the most variable first."""
    frame, next_offset = paginate(lambda **span: queries.ranked_sources(store, **span), limit, offset)
    context = {"sources": frame.to_dicts(), "limit": limit, "offset": offset, "next_offset": next_offset}
    return render(request, "sources.html", context)


@router.get("/sources/{source_id}")
def show_source(request: Request, store: OpenStore, source_id: str) -> Response:
    """One source: light curve in all bands, statistics, candidates."""
    found = queries.source(store, source_id)
    if found is None:
        raise HTTPException(404, f"There is no source {source_id}.")
    light_curve = queries.light_curve(store, source_id)
    candidates = queries.candidates_of_source(store, source_id).to_dicts()
    figures = {}
    if light_curve.height:
        figures["light-curve"] = plots.plot_light_curve(light_curve, events=_spans(candidates))
    context = {
        "source": found,
        "statistics": queries.statistics_of(store, source_id).to_dicts(),
        "candidates": candidates,
        "last_point_mjd": _newest(light_curve),
        "n_points": light_curve.height,
        "figures": figures,
    }
    return render(request, "source.html", context)


@router.get("/docs")
def show_docs(request: Request) -> Response:
    """The API's routes, from its OpenAPI description."""
    return render(request, "docs.html", {"paths": request.app.openapi()["paths"]})


def _flatten(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Single values of the evidence and of its groups, named for people; tables of points are in the figures."""
    flat: dict[str, Any] = {}
    for name, value in evidence.items():
        group = value if isinstance(value, Mapping) else {"": value}
        for key, item in group.items():
            if isinstance(item, (bool, int, float, str)):
                flat[f"{name} {key}".strip().replace("_", " ")] = item
    return flat


def _newest(light_curve: pl.DataFrame) -> float | None:
    newest = light_curve["mjd"].max()
    return float(newest) if isinstance(newest, float) else None


def _spans(candidates: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [
        (candidate["start_mjd"], candidate["end_mjd"])
        for candidate in candidates
        if candidate["start_mjd"] is not None and candidate["end_mjd"] is not None
    ]
