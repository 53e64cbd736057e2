"""The pages of observations: how far every day and every observation has come, and all there is about a single one.

What belongs here: what is asked of the store and the products for ``/observations``. The rules of the states are
``stages.py``, pixels ``sky_pictures.py``.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import partial
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse

from contimg_portal import formats, sky_figures
from contimg_portal.api import Limit, Offset, OpenStore
from contimg_portal.calibration_views import calibration_figures
from contimg_portal.pages import PAGE_ROWS, cache_of, render
from contimg_portal.source_frame import sources_near
from contimg_portal.stages import ASSET_OF_STAGE, STAGES, STATES, count_states, stage_states
from contimg_resources.errors import ResourceError
from contimg_resources.image_regions import read_geometry
from contimg_resources.products import Products, open_products
from contimg_resources.store import nights
from contimg_resources.store.connection import Store
from contimg_resources.store.moment import one_moment

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

_MOST_A_DAY = 400
"""A day has 280 observations."""
_MOST_CIRCLES = 400
_STATUSES = ("collecting", "ready", "processed", "quarantined")

Name = Annotated[str | None, Query(max_length=40)]


def _empty_as_none(value: str | None) -> str | None:
    return value or None


@router.get("/observations")
def show_observations(
    request: Request,
    store: OpenStore,
    limit: Limit = PAGE_ROWS,
    offset: Offset = 0,
    days_offset: Offset = 0,
    day: Annotated[str | None, Query(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = None,
    status: Annotated[str | None, Query(pattern=r"^(collecting|ready|processed|quarantined)?$")] = None,
    q: Name = None,
) -> Response:
    """Strip of days and stages, and the observations of a day, of a status or of all."""
    n_subbands = request.app.state.telescope.n_subbands
    n_days = request.app.state.settings.pages.strip_days
    strip, next_days = cache_of(request).get(
        ("days", days_offset), lambda: _strip(store, n_subbands, n_days, days_offset)
    )
    from_mjd = _mjd_of_day(day)
    with one_moment(store) as moment:
        facts = nights.observation_facts(
            moment,
            limit=limit + 1,
            offset=offset,
            from_mjd=from_mjd,
            to_mjd=None if from_mjd is None else from_mjd + 1.0,
            status=_empty_as_none(status),
            named=_empty_as_none(q),
        )
    rows = facts.head(limit).to_dicts()
    context = {
        "days": strip,
        "days_offset": days_offset,
        "next_days": next_days,
        "n_days": n_days,
        "stages": STAGES,
        "states": STATES,
        "rows": [row | {"stages": stage_states(row, n_subbands)} for row in rows],
        "n_subbands": n_subbands,
        "filters": {"day": day or "", "status": status or "", "q": q or ""},
        "statuses": _STATUSES,
        "limit": limit,
        "offset": offset,
        "next_offset": offset + limit if facts.height > limit else None,
    }
    return render(request, "observations.html", context)


def _mjd_of_day(day: str | None) -> float | None:
    if not day:
        return None
    try:
        wanted = date.fromisoformat(day)
    except ValueError as error:
        raise HTTPException(422, f"{day} is not a day; days are written 2026-02-13.") from error
    return formats.to_mjd(datetime(wanted.year, wanted.month, wanted.day, tzinfo=UTC))


def _strip(store: Store, n_subbands: int, n_days: int, offset: int) -> tuple[list[dict[str, Any]], int | None]:
    """Per day the number of observations and the number in each state by stage; the offset of earlier days."""
    with one_moment(store) as moment:
        days = nights.observed_days(moment, limit=n_days + 1, offset=offset)
        shown = days[:n_days]
        if not shown:
            return [], None
        # Between the oldest and the newest day shown there are no others: one question for all of them.
        oldest, newest = _mjd_of_day(shown[-1]), _mjd_of_day(shown[0])
        facts = nights.observation_facts(
            moment, limit=_MOST_A_DAY * n_days, from_mjd=oldest, to_mjd=None if newest is None else newest + 1.0
        )
    states: dict[str, list[dict[str, str]]] = {day: [] for day in shown}
    for row in facts.to_dicts():
        states.setdefault(row["partition_key"][:10], []).append(stage_states(row, n_subbands))
    strip = [{"day": day, "n": len(states[day]), "stages": count_states(states[day])} for day in shown]
    return strip, offset + n_days if len(days) > n_days else None


@router.get("/observations/{observation_id}")
def show_observation(request: Request, store: OpenStore, observation_id: str, band: str = "full") -> Response:
    """One observation: stages, images, calibration, checks, files, timings, runs."""
    with one_moment(store) as moment:
        facts = nights.observation_facts(moment, limit=2, named=observation_id).filter(observation_id=observation_id)
        if facts.is_empty():
            raise HTTPException(404, f"There is no observation {observation_id}.")
        observation = facts.row(0, named=True)
        key = observation["partition_key"]
        found: dict[str, Any] = {
            "images": nights.observation_images(moment, observation_id).to_dicts(),
            "calibration": nights.calibration_of(moment, observation_id).to_dicts(),
            "scales": nights.flux_scales_of(moment, observation_id).to_dicts(),
            "checks": nights.checks_of(moment, key).to_dicts(),
            "timings": nights.timings_of(moment, key).to_dicts(),
            "files": nights.observation_files(moment, observation_id).to_dicts(),
            "letters": nights.dead_letters_of(moment, key).to_dicts(),
            "decisions": nights.decisions_about(moment, observation_id).to_dicts(),
        }
    products = open_products(request.app.state.settings)
    image = next((row for row in found["images"] if row["band"] == band), None)
    figures: dict[str, Any] = {}
    trouble = None
    if image is not None:
        viewer = cache_of(request).get(
            ("viewer", observation_id, band), lambda: _viewer(request, store, products, observation, image)
        )
        figures |= viewer.get("figures", {})
        trouble = viewer.get("trouble")
    panels = {
        row["kind"]: cache_of(request).get(
            ("table", row["path"]), partial(calibration_figures, products, row["kind"], row["path"])
        )
        for row in found["calibration"]
        if row["path"]
    }
    n_subbands = request.app.state.telescope.n_subbands
    context = {
        **found,
        "observation": observation,
        "states": stage_states(observation, n_subbands),
        "stages": STAGES,
        "asset_of_stage": ASSET_OF_STAGE,
        "n_subbands": n_subbands,
        "band": band,
        "image": image,
        "image_trouble": trouble,
        "panels": panels,
        "figures": figures,
        "has_figures": bool(figures or panels),
        "runs": _runs(found["timings"], found["letters"]),
        "slowest_s": max((row["duration_s"] for row in found["timings"]), default=0.0),
    }
    return render(request, "observation.html", context)


def _viewer(
    request: Request, store: Store, products: Products, observation: dict[str, Any], image: dict[str, Any]
) -> dict[str, Any]:
    path = products.brought(image["path"])
    path = path / f"{image['band']}_image.fits" if path.is_dir() else path
    try:
        geometry = read_geometry(path)
    except ResourceError as error:
        return {"trouble": error.what}
    radius_deg = 0.5 * max(geometry.n_x, geometry.n_y) * geometry.cell_arcsec / 3600.0
    centre = geometry.wcs.wcs.crval
    catalogue = sources_near(cache_of(request), store, float(centre[0]), float(centre[1]), 1.5 * radius_deg)
    catalogue = catalogue.sort("catalogue_flux_jy", descending=True, nulls_last=True).head(_MOST_CIRCLES)
    address = f"observations/{observation['observation_id']}/sky.png?band={image['band']}"
    return {"figures": {"sky": sky_figures.plot_image(geometry, address, catalogue)}}


def _runs(timings: list[dict[str, Any]], letters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of Dagster that worked on an observation, the latest first, each with the assets it made."""
    made = pl.DataFrame(
        [
            {"run_id": row["run_id"], "asset": row["asset"], "at": row["started_at"], "is_failure": False}
            for row in timings
        ]
        + [
            {"run_id": row["run_id"], "asset": row["asset"], "at": row["last_at"], "is_failure": True}
            for row in letters
        ],
        schema={"run_id": pl.String, "asset": pl.String, "at": pl.Datetime, "is_failure": pl.Boolean},
    )
    return (
        made.drop_nulls("run_id")
        .group_by("run_id")
        .agg(pl.col("asset").sort_by("at").unique(maintain_order=True), pl.col("at").min(), pl.col("is_failure").any())
        .sort("at", descending=True)
        .to_dicts()
    )
