"""The overview: the sky, the array and the platform at a glance, each element with its age and its colour.

What belongs here: what is asked of the store for ``/`` and which limits judge it. Limits themselves are settings, colours
the style sheet's.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from contimg_assets.science.coordinates import local_sidereal_time_deg
from contimg_portal import formats, limits, sky_figures
from contimg_portal.api import OpenStore
from contimg_portal.calibration_views import antenna_overview
from contimg_portal.pages import cache_of, render
from contimg_resources.errors import ResourceError
from contimg_resources.products import open_products
from contimg_resources.settings import Settings
from contimg_resources.store import queries, state
from contimg_resources.store.backlog import backlog
from contimg_resources.store.connection import Store
from contimg_resources.store.moment import one_moment

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

_N_CANDIDATES, _N_ALERTS = 8, 8
_STRIP_RENEWED_S = 300
"""The meridian on the strip moves by a twentieth of its smallest division in so long."""


@router.get("/")
def show_overview(request: Request, store: OpenStore) -> Response:
    """State of the telescope and the platform."""
    now = datetime.now(UTC)
    settings: Settings = request.app.state.settings
    telescope = request.app.state.telescope
    with one_moment(store) as moment:
        newest = state.newest_observation(moment)
        found: dict[str, Any] = {
            "counts": queries.counts(moment),
            "backlog": backlog(moment, now=now.replace(tzinfo=None)),
            "trouble": state.trouble_counts(moment),
            "assets": state.asset_freshness(moment).to_dicts(),
            "candidates": state.newest_candidates(moment, limit=_N_CANDIDATES).to_dicts(),
            "alerts": state.open_alerts(moment, limit=_N_ALERTS).to_dicts(),
            "last_point_mjd": queries.last_light_curve_mjd(moment),
        }
        gains = state.newest_calibration(moment, "G")
    cache, products = cache_of(request), open_products(settings)
    lst_deg = local_sidereal_time_deg(formats.to_mjd(now), telescope.longitude_deg)
    figures: dict[str, Any] = {}
    if newest is not None:
        key = "strip", int(now.timestamp() // _STRIP_RENEWED_S)
        figures["strip"] = cache.get(
            key, lambda: _strip(store, newest["start_mjd"], lst_deg, settings.pages.strip_days)
        )
    antennas = cache.get(("antennas", gains["path"]), lambda: antenna_overview(products, gains)) if gains else None
    if antennas and "figure" in antennas:
        figures["antennas"] = antennas["figure"]
    context = {
        **found,
        "newest": newest,
        "gains": gains,
        "antennas": antennas,
        "figures": figures,
        "lst": formats.right_ascension(lst_deg)[:5],
        "strip_days": settings.pages.strip_days,
        "levels": _levels(settings, now, newest, found, gains, antennas),
        "site_rows": _site_rows(request),
    }
    return render(request, "overview.html", context)


def _strip(store: Store, newest_mjd: float, lst_deg: float, days: int) -> dict[str, Any]:
    first_mjd = float(int(newest_mjd)) + 1.0 - days
    return sky_figures.plot_sky_strip(state.pointings_since(store, first_mjd), lst_deg, days)


def _levels(
    settings: Settings,
    now: datetime,
    newest: dict[str, Any] | None,
    found: dict[str, Any],
    gains: dict[str, Any] | None,
    antennas: dict[str, Any] | None,
) -> dict[str, Any]:
    """Good, amber or red for each element of the page."""
    pages = settings.pages
    bad_fraction = antennas.get("bad_fraction") if antennas else None
    worst = {alert["severity"] for alert in found["alerts"]}
    return {
        "observation": limits.age_level(newest["start_mjd"] if newest else None, "observation", pages, now),
        "light_curves": limits.age_level(found["last_point_mjd"], "day", pages, now),
        "backlog": limits.level(found["backlog"].n_waiting, pages.backlog_amber, pages.backlog_red),
        "antennas": limits.level(bad_fraction, pages.antennas_amber_fraction, pages.antennas_red_fraction),
        "gains": limits.age_level(gains["solved_at_mjd"] if gains else None, "observation", pages, now),
        "alerts": "red" if worst & {"critical", "error"} else "amber" if worst else "good",
        "dead_letters": "red" if found["trouble"]["n_dead_letters"] else "good",
        "assets": {
            row["asset"]: limits.asset_level(row["asset"], row["made_at"], pages, now) for row in found["assets"]
        },
    }


def _site_rows(request: Request) -> list[dict[str, Any]]:
    """One line per site, to compare them; none where this is the only one."""
    rows = []
    for name, site_store in request.app.state.sites.items():
        row: dict[str, Any] = {"name": name}
        try:
            row |= state.site_summary(site_store)
        except ResourceError as error:
            row["trouble"] = error.what
        rows.append(row)
    return rows
