"""What all pages of the portal share: templates, the way they are rendered, sites; and the page about the API.

What belongs here: the environment of the templates. Each group of pages has a module of its own (``overview_page``,
``observation_pages``, ``source_pages``, ``candidate_pages``); figures are ``plots.py`` and its neighbours, the way
numbers are written ``formats.py``, JSON for machines ``api.py``. A page reads one moment of the store and computes nothing
that science should.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bokeh
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates

from contimg_portal import formats
from contimg_portal.store_cache import StoreCache

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

TEMPLATES = Jinja2Templates(directory=Path(__file__).parent / "templates")
TEMPLATES.env.filters |= {
    "utc": formats.utc,
    "number": formats.number,
    "ra": formats.right_ascension,
    "dec": formats.declination,
    "bytes": formats.byte_count,
    "duration": formats.duration,
}
# Bokeh's documents refer back to what came before: their order must stay.
TEMPLATES.env.policies["json.dumps_kwargs"] = {}
TEMPLATES.env.globals["bokeh_version"] = bokeh.__version__

PAGE_ROWS = 50


def render(request: Request, template: str, context: Mapping[str, Any], *, status_code: int = 200) -> Response:
    """Page from a template; every template knows the time, how to write an age, and where its site is mounted."""
    now = datetime.now(UTC)
    settings = request.app.state.settings
    base = str(request.scope.get("root_path", "")).rstrip("/")
    shared = {
        "now": now,
        "age": lambda when: formats.age(when, now),
        "can_write": settings.portal_token is not None,
        "base": base,
        "path": request.url.path.removeprefix(base) or "/",
        "refresh_s": settings.pages.refresh_s,
        "site": request.app.state.site,
        "sites": request.app.state.sites,
        # Runs of another site are in another Dagster, which this portal does not know.
        "dagster_url": settings.dagster_url.rstrip("/") if request.app.state.site is None else None,
    }
    return TEMPLATES.TemplateResponse(request, template, {**shared, **context}, status_code=status_code)


def cache_of(request: Request) -> StoreCache:
    """Answers kept in memory for this portal's store."""
    cache: StoreCache = request.app.state.cache
    return cache


@router.get("/docs")
def show_docs(request: Request) -> Response:
    """The API's routes, from its OpenAPI description."""
    return render(request, "docs.html", {"paths": request.app.openapi()["paths"]})
