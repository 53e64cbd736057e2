"""The pages of candidates: the list, and the evidence of one for the person who decides.

What belongs here: what is asked for ``/candidates``. Curves of the fit are ``lens_models.py``, figures ``plots.py``; the
decision itself goes through the API.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse

from contimg_portal import plots
from contimg_portal.api import Limit, Offset, OpenStore, paginate
from contimg_portal.cutouts import event_cutouts
from contimg_portal.lens_models import event_depths, lens_models, residuals
from contimg_portal.pages import PAGE_ROWS, render
from contimg_portal.source_pages import event_spans, newest_point
from contimg_resources.store import queries
from contimg_resources.store.moment import one_moment

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

_MOST_CUTOUTS = 9


@router.get("/candidates")
def show_candidates(
    request: Request,
    store: OpenStore,
    limit: Limit = PAGE_ROWS,
    offset: Offset = 0,
    status: Annotated[str | None, Query(pattern=r"^(detected|confirmed|rejected)?$")] = None,
    verdict: Annotated[str | None, Query(pattern=r"^(ese|achromatic|scintillation|systematic)?$")] = None,
) -> Response:
    """Candidates, the most significant first."""
    frame, next_offset = paginate(
        lambda **span: queries.candidates(store, status=status or None, verdict=verdict or None, **span), limit, offset
    )
    context = {
        "candidates": frame.to_dicts(),
        "status": status or None,
        "verdict": verdict or None,
        "limit": limit,
        "offset": offset,
    }
    return render(request, "candidates.html", {**context, "next_offset": next_offset})


@router.get("/candidates/{candidate_id}")
def show_candidate(request: Request, store: OpenStore, candidate_id: str) -> Response:
    """One candidate: light curve with the lens fit, residuals, sub-bands, cut-outs, evidence, review."""
    with one_moment(store) as moment:
        found = queries.candidate(moment, candidate_id)
        if found is None:
            raise HTTPException(404, f"There is no candidate {candidate_id}.")
        light_curve = queries.light_curve(moment, found["source_id"])
        history = queries.candidate_events(moment, candidate_id).to_dicts()
        events = event_spans([found])
        cutouts = []
        if events and found["ra_deg"] is not None:
            cutouts = event_cutouts(moment, found["ra_deg"], found["dec_deg"], light_curve, events[0], _MOST_CUTOUTS)
    evidence = json.loads(found["evidence"]) if found["evidence"] else {}
    models = lens_models(evidence)
    figures, panels = {}, {}
    if light_curve.height:
        figures["light-curve"] = plots.plot_light_curve(light_curve, events=events, model=models.get("full"))
        panels = plots.plot_bands(light_curve, events=events, models=models)
    if models:
        figures["residuals"] = plots.plot_residuals(residuals(evidence), events=events)
        measured, predicted = event_depths(evidence, found["duration_d"] or 0.0)
        if measured.height > 1:
            figures["chromaticity"] = plots.plot_chromaticity(measured, predicted)
    context = {
        "candidate": found,
        "evidence": _flatten(evidence),
        "has_fit": bool(models),
        "history": history,
        "last_point_mjd": newest_point(light_curve),
        "cutouts": cutouts,
        "figures": figures,
        "panels": panels,
    }
    return render(request, "candidate.html", context)


def _flatten(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Single values of the evidence and of its groups, named for people; tables of points are in the figures."""
    flat: dict[str, Any] = {}
    for name, value in evidence.items():
        group = value if isinstance(value, Mapping) else {"": value}
        for key, item in group.items():
            if isinstance(item, (bool, int, float, str)):
                flat[f"{name} {key}".strip().replace("_", " ")] = item
    return flat
