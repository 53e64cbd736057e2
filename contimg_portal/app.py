"""The portal's application: routes, static files, errors as pages or JSON, headers.

What the routes show is ``pages.py``, ``api.py`` and, for machines that watch, ``monitoring.py``. The portal only
reads products and store, but for reviews; it keeps no state of its own, so any number of them may run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import bokeh
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contimg_assets.science.errors import DataError
from contimg_portal import (
    api,
    candidate_pages,
    comments,
    compute_api,
    events_api,
    monitoring,
    observation_pages,
    operations_api,
    operations_pages,
    overview_page,
    pages,
    settings_api,
    sky_pictures,
    source_pages,
)
from contimg_portal.access import RequestLimits
from contimg_portal.health import Health
from contimg_portal.jobs import Jobs
from contimg_portal.kept_pages import KeptAnswers
from contimg_portal.metrics import Metrics
from contimg_portal.store_cache import StoreCache
from contimg_portal.turns import Turns
from contimg_resources.errors import ResourceError
from contimg_resources.settings import Settings
from contimg_resources.store.connection import open_store
from contimg_resources.store.snapshot import SnapshotStore
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
_STATUS_CODES = {
    "wrong_review": 422,
    "unknown_candidate": 404,
    "unknown_letter": 404,
    "unknown_alert": 404,
    "letter_is_resolved": 409,
    "letter_is_retrying": 409,
    "resolved_alert": 409,
    "wrong_acknowledgement": 422,
}
"""Of errors that are the request's, by reason code; others are the store's (503)."""


_PAGES = (overview_page, observation_pages, source_pages, candidate_pages, operations_pages, pages, sky_pictures)
_APIS = (api, comments, operations_api, settings_api, compute_api, events_api, monitoring)


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
        lifespan=_close_at_end,
    )
    app.state.settings = settings
    app.state.told_settings = settings_api.told_settings(settings, site)
    app.state.store = SnapshotStore(open_store(settings).path, wait_s=STORE_WAIT_S)
    app.state.cache = StoreCache(app.state.store.path, settings.pages.cache_s)
    app.state.telescope = load_telescope(settings.array)
    app.state.site = site
    app.state.jobs = Jobs(settings.api.queued_jobs)
    for routes in (*_PAGES, *_APIS):
        app.include_router(routes.router)
    app.state.health = Health(settings)
    app.state.metrics = Metrics(settings)
    _add_errors(app)
    app.add_middleware(_SafeHeaders)
    # Each is put around the ones before: an answer that is kept costs neither headers nor routing.
    app.add_middleware(KeptAnswers, store=app.state.store, kept_s=settings.api.answers_kept_s)
    app.add_middleware(Turns, at_once=settings.api.answers_at_once)
    if settings.api.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.api.cors_origins, allow_methods=["GET"])
    app.add_middleware(RequestLimits, settings=settings.api)
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
        elsewhere = settings.model_copy(
            update={"data": folder, "portal_token": None, "sites": {}, "store": None, "products_url": None}
        )
        of_site = create_app(elsewhere, site=name)
        app.mount(f"/sites/{name}", of_site, name=f"site-{name}")
        app.state.sites[name] = of_site.state.store
    for mounted in app.routes:
        if isinstance(mounted, Mount) and isinstance(mounted.app, FastAPI):
            mounted.app.state.sites = app.state.sites


@asynccontextmanager
async def _close_at_end(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.jobs.close()
    app.state.store.close()


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ResourceError)
    def show_resource_error(request: Request, error: ResourceError) -> Response:
        status_code = _STATUS_CODES.get(error.reason_code, 503)
        headers = {"Retry-After": "5"} if error.transient else {}
        title = {"store_missing": "No data yet", "store_busy": "The store is busy"}.get(
            error.reason_code, "The store cannot be read"
        )
        response = _error(request, status_code, title, f"{error.what}. {error.remedy}", error.reason_code)
        response.headers.update(headers)
        return response

    @app.exception_handler(DataError)
    def show_data_error(request: Request, error: DataError) -> Response:
        return _error(request, 400, "These data cannot be used", str(error), error.reason_code)

    @app.exception_handler(RequestValidationError)
    def show_wrong_request(request: Request, error: RequestValidationError) -> Response:
        # Without the input: it may be anything, also a number that JSON cannot write.
        problems = [{name: problem[name] for name in ("loc", "msg", "type")} for problem in error.errors()]
        if request.url.path.startswith(_MACHINE_PATHS):
            return JSONResponse({"detail": problems}, status_code=422)
        said = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in problems)
        return _error(request, 422, "This cannot be asked", said, "wrong_request")

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


class _SafeHeaders:
    """Headers that every answer has. Plain ASGI: Starlette's function middleware costs a task and two streams a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers.setdefault("Content-Security-Policy", _CONTENT_POLICY)
            await send(message)

        await self._app(scope, receive, send_with_headers)
