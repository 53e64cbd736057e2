"""The pages of sources: the ranked list with the plane of variability, and all there is about one source.

What belongs here: what is asked for ``/sources``. Filtering is ``source_frame.py``, cut-outs ``sky_pictures.py``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import polars as pl
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, BeforeValidator, Field

from contimg_portal import plots, sky_figures
from contimg_portal.api import OpenStore
from contimg_portal.cutouts import extreme_cutouts
from contimg_portal.pages import PAGE_ROWS, cache_of, render
from contimg_portal.source_frame import SORTS, SourceFilter, filtered_sources, read_position, source_frame, sources_near
from contimg_portal.sparklines import SPARKLINE_D, sparklines
from contimg_resources.store import queries, register
from contimg_resources.store.connection import Store
from contimg_resources.store.moment import one_moment

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

_BLIND_ROWS = 20
_NEIGHBOUR_DEG = 0.25
_MOST_NEIGHBOURS = 12
_SORT_NAMES = "|".join(SORTS)

_empty = BeforeValidator(lambda value: None if value == "" else value)
"""A form sends the fields that were left empty, too."""
Minimum = Annotated[Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None, _empty]


class SourceQuery(BaseModel):
    """What the address of the list asks for."""

    limit: int = Field(PAGE_ROWS, ge=1, le=1000)
    offset: int = Field(0, ge=0)
    blind_offset: int = Field(0, ge=0)
    q: str = Field("", max_length=80)
    radius_arcmin: Annotated[Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] | None, _empty] = 10.0
    eta_min: Minimum = None
    v_min: Minimum = None
    epochs_min: Annotated[Annotated[int, Field(ge=0, le=1_000_000)] | None, _empty] = None
    kind: Literal["all", "candidates", "references", "extended"] = "all"
    sort: str = Field("", pattern=f"^({_SORT_NAMES})?$")
    band: str = Field("full", pattern=r"^[A-Za-z0-9_-]{1,20}$")

    def filter(self) -> SourceFilter:
        """The same as a filter of the register."""
        return SourceFilter(
            self.q.strip(), self.radius_arcmin or 10.0, self.eta_min, self.v_min, self.epochs_min, self.kind, self.sort
        )


@router.get("/sources")
def show_sources(request: Request, store: OpenStore, asked: Annotated[SourceQuery, Query()]) -> Response:
    """Sources, the most variable first or as asked for, above those that no catalogue has."""
    cache, wanted, band = cache_of(request), asked.filter(), asked.band
    frame = source_frame(cache, store, band)
    passing = filtered_sources(frame, wanted)
    shown = passing.slice(asked.offset, asked.limit)
    newest: Any = frame["last_mjd"].max()
    since_mjd = newest - SPARKLINE_D if newest is not None else 0.0
    with one_moment(store) as moment:
        points = register.points_of(moment, shown["source_id"].to_list(), since_mjd=since_mjd, band=band)
        blind = register.blind_sources(moment, limit=_BLIND_ROWS + 1, offset=asked.blind_offset)
        bands = register.statistics_bands(moment)
    figures = {}
    if frame["eta"].is_not_null().any():
        figures["plane"] = cache.get(("plane", band), lambda: _plane(frame))
    filters = asked.model_dump(exclude={"limit", "offset", "blind_offset"})
    last = asked.offset + asked.limit
    context = {
        "sources": shown.to_dicts(),
        "sparklines": sparklines(points),
        "sparkline_d": SPARKLINE_D,
        "n_sources": frame.height,
        "n_passing": passing.height,
        "is_position": read_position(wanted.text) is not None,
        "figures": figures,
        "filters": filters,
        "query": "&" + urlencode({name: value for name, value in filters.items() if value not in (None, "")}),
        "sorts": list(SORTS),
        "bands": bands or ["full"],
        "limit": asked.limit,
        "offset": asked.offset,
        "next_offset": last if passing.height > last else None,
        "blind": blind.head(_BLIND_ROWS).to_dicts(),
        "blind_offset": asked.blind_offset,
        "next_blind_offset": asked.blind_offset + _BLIND_ROWS if blind.height > _BLIND_ROWS else None,
        "blind_rows": _BLIND_ROWS,
    }
    return render(request, "sources.html", context)


def _plane(frame: pl.DataFrame) -> dict[str, Any]:
    candidates = frame.filter(pl.col("n_candidates") > 0)["source_id"].to_list()
    return sky_figures.plot_eta_v(frame, candidates)


@router.get("/sources/{source_id}")
def show_source(request: Request, store: OpenStore, source_id: str) -> Response:
    """One source: light curve in all bands, statistics, images, neighbours, candidates, comments."""
    with one_moment(store) as moment:
        found = queries.source(moment, source_id)
        blind = register.blind_source(moment, source_id) if found is None else None
        if found is None and blind is None:
            raise HTTPException(404, f"There is no source {source_id}.")
        light_curve = queries.light_curve(moment, source_id) if found else register.blind_light_curve(moment, source_id)
        candidates = queries.candidates_of_source(moment, source_id).to_dicts()
        statistics = queries.statistics_of(moment, source_id).to_dicts()
        comments = register.comments_on(moment, source_id).to_dicts()
        known: dict[str, Any] = found or blind or {}
        cutouts = extreme_cutouts(moment, known["ra_deg"], known["dec_deg"], light_curve)
    figures = {}
    if light_curve.height:
        figures["light-curve"] = plots.plot_light_curve(light_curve, events=event_spans(candidates))
    context = {
        "source": known,
        "is_blind": found is None,
        "statistics": statistics,
        "candidates": candidates,
        "comments": comments,
        "cutouts": cutouts,
        "neighbours": _neighbours(request, store, known),
        "last_point_mjd": newest_point(light_curve),
        "n_points": light_curve.height,
        "figures": figures,
    }
    return render(request, "source.html", context)


def _neighbours(request: Request, store: Store, known: dict[str, Any]) -> list[dict[str, Any]]:
    around = sources_near(cache_of(request), store, known["ra_deg"], known["dec_deg"], _NEIGHBOUR_DEG)
    return around.filter(pl.col("source_id") != known["source_id"]).head(_MOST_NEIGHBOURS).to_dicts()


def newest_point(light_curve: pl.DataFrame) -> float | None:
    """Time of the newest point, MJD."""
    newest = light_curve["mjd"].max()
    return float(newest) if isinstance(newest, float) else None


def event_spans(candidates: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """First and last MJD of each candidate that has them."""
    return [
        (candidate["start_mjd"], candidate["end_mjd"])
        for candidate in candidates
        if candidate["start_mjd"] is not None and candidate["end_mjd"] is not None
    ]
