"""The portal's application: routes, static files, errors as pages or JSON, headers.

What the routes show is ``pages.py``, ``api.py`` and, for machines that watch, ``monitoring.py``. The portal only
reads products and store, but for reviews; it keeps no state of its own, so any number of them may run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import bokeh
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.routing import Mount

from contimg_portal import (
    api,
    candidate_pages,
    comments,
    events_api,
    monitoring,
    observation_pages,
    overview_page,
    pages,
    sky_pictures,
    source_pages,
)
from contimg_portal.health import Health
from contimg_portal.metrics import Metrics
from contimg_portal.store_cache import StoreCache
from contimg_resources.errors import ResourceError, StoreBusyError
from contimg_resources.products import Products
from contimg_resources.settings import Settings
from contimg_resources.store.connection import Store
from contimg_resources.telescope import load_telescope

STORE_WAIT_S = 10.0
"""A page waits this long for a writer; then it says so instead of hanging."""

# Scripts come from the portal alone. Styles may be inline because Bokeh sets them on its elements.
_CONTENT_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
)
HOME_SITE = ""
"""The portal's own store among the sites."""
_MACHINE_PATHS = ("/api/", "/health", "/metrics", "/openapi.json")


_PAGES = (overview_page, observation_pages, source_pages, candidate_pages, pages, sky_pictures)


def create_app(settings: Settings, *, site: str | None = None) -> FastAPI:
    """Portal for these settings.

    Parameters
    ----------
    settings : Settings
        ``data`` says where the store is, ``portal_token`` who may write, ``sites`` what else is shown.
    site : str, optional
        Name of the site when this is a further one, shown below ``/sites/<name>`` and not written.
    """
    # FastAPI's own documentation pages load scripts from the network; ``pages`` has one that does not.
    app = FastAPI(
        title="contimg",
        summary="DSA-110 continuum imaging: sources, light curves, candidates",
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.store = Store(Products(settings.data).store_path, wait_s=STORE_WAIT_S)
    app.state.cache = StoreCache(app.state.store.path, settings.pages.cache_s)
    app.state.telescope = load_telescope(settings.array)
    app.state.site = site
    for of_pages in _PAGES:
        app.include_router(of_pages.router)
    app.include_router(api.router)
    app.include_router(comments.router)
    app.include_router(events_api.router)
    app.include_router(monitoring.router)
    app.state.health = Health(settings)
    app.state.metrics = Metrics(settings)
    _add_errors(app)
    app.middleware("http")(_add_headers)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    bokeh_scripts = Path(bokeh.__file__).parent / "server" / "static" / "js"
    app.mount("/bokeh", StaticFiles(directory=bokeh_scripts), name="bokeh")
    _add_sites(app, settings, site)
    return app


def _add_sites(app: FastAPI, settings: Settings, site: str | None) -> None:
    """Show the stores of other sites below ``/sites/<name>``, for reading: who decides there has a portal of his own."""
    app.state.sites = {}
    if site is not None or not settings.sites:
        return
    app.state.sites = {HOME_SITE: app.state.store}
    for name, folder in settings.sites.items():
        elsewhere = settings.model_copy(update={"data": folder, "portal_token": None, "sites": {}})
        of_site = create_app(elsewhere, site=name)
        app.mount(f"/sites/{name}", of_site, name=f"site-{name}")
        app.state.sites[name] = of_site.state.store
    for mounted in app.routes:
        if isinstance(mounted, Mount) and isinstance(mounted.app, FastAPI):
            mounted.app.state.sites = app.state.sites


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ResourceError)
    def show_resource_error(request: Request, error: ResourceError) -> Response:
        status_code = 422 if error.reason_code == "wrong_review" else 503
        headers = {"Retry-After": "5"} if isinstance(error, StoreBusyError) else {}
        title = {"store_missing": "No data yet", "store_busy": "The store is busy"}.get(
            error.reason_code, "The store cannot be read"
        )
        response = _error(request, status_code, title, f"{error.what}. {error.remedy}", error.reason_code)
        response.headers.update(headers)
        return response

    @app.exception_handler(HTTPException)
    def show_http_error(request: Request, error: HTTPException) -> Response:
        title = "Not found" if error.status_code == 404 else "This did not work"
        detail = "There is no such page." if error.detail == "Not Found" else str(error.detail)
        response = _error(request, error.status_code, title, detail, "http")
        response.headers.update(error.headers or {})
        return response


def _error(request: Request, status_code: int, title: str, detail: str, reason_code: str) -> Response:
    base = request.scope.get("root_path", "")
    if request.url.path.removeprefix(base).startswith(_MACHINE_PATHS):
        return JSONResponse({"detail": detail, "reason_code": reason_code}, status_code=status_code)
    context = {"title": title, "detail": detail, "status_code": status_code}
    return pages.render(request, "error.html", context, status_code=status_code)


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Content-Security-Policy"] = _CONTENT_POLICY
    return response
