"""The portal's application: routes, health, static files, errors as pages or JSON, headers.

What the routes show is ``pages.py`` and ``api.py``. The portal only reads products and store, but for reviews; it keeps
no state of its own, so any number of them may run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bokeh
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from contimg_assets.science.errors import DataError
from contimg_portal import api, compute_api, operations_api, operations_pages, pages
from contimg_portal.access import RequestLimits
from contimg_portal.diagnosis import examine_portal
from contimg_portal.jobs import Jobs
from contimg_portal.kept_answers import KeptAnswers
from contimg_resources.errors import ResourceError
from contimg_resources.products import Products
from contimg_resources.settings import Settings
from contimg_resources.store.snapshot import SnapshotStore

STORE_WAIT_S = 10.0
"""A page waits this long for a writer; then it says so instead of hanging."""

# Scripts come from the portal alone. Styles may be inline because Bokeh sets them on its elements.
_CONTENT_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
)
_STATUS_CODES = {
    "wrong_review": 422,
    "unknown_candidate": 404,
    "unknown_letter": 404,
    "unknown_alert": 404,
    "letter_is_resolved": 409,
    "letter_is_retrying": 409,
    "alert_is_resolved": 409,
}
"""Of errors that are the request's, by reason code; others are the store's (503)."""
_MACHINE_PATHS = ("/api/", "/health", "/openapi.json")


def create_app(settings: Settings) -> FastAPI:
    """Portal for these settings.

    Parameters
    ----------
    settings : Settings
        ``data`` says where the store is, ``portal_token`` who may write.
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
    app.state.store = SnapshotStore(Products(settings.data).store_path, wait_s=STORE_WAIT_S)
    app.state.jobs = Jobs(settings.api.queued_jobs)
    app.include_router(pages.router)
    for routes in (api, operations_api, compute_api, operations_pages):
        app.include_router(routes.router)
    _add_health(app)
    _add_errors(app)
    app.middleware("http")(_add_headers)
    # Each is put around the ones before: an answer that is kept costs neither headers nor routing.
    app.add_middleware(KeptAnswers, store=app.state.store, kept_s=settings.api.answers_kept_s)
    if settings.api.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.api.cors_origins, allow_methods=["GET"])
    app.add_middleware(RequestLimits, settings=settings.api)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    bokeh_scripts = Path(bokeh.__file__).parent / "server" / "static" / "js"
    app.mount("/bokeh", StaticFiles(directory=bokeh_scripts), name="bokeh")
    return app


@asynccontextmanager
async def _close_at_end(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.jobs.close()
    app.state.store.close()


def _add_health(app: FastAPI) -> None:
    @app.get("/health/live")
    def is_alive() -> dict[str, str]:
        """Answer as long as the process serves requests."""
        return {"status": "alive"}

    @app.get("/health/ready")
    def is_ready(request: Request) -> JSONResponse:
        """200 when the store can be read and the data folder written, else 503 with the reasons."""
        findings = list(examine_portal(request.app.state.settings, request.app.state.store))
        # A store that does not exist yet is only a warning for the doctor, but there is nothing to serve.
        reasons = [f"{f.name}: {f.detail}. {f.remedy}" for f in findings if f.state == "error"]
        reasons += [f"store: {f.detail}. {f.remedy}" for f in findings if f.name == "store" and f.state == "warn"]
        status = "not ready" if reasons else "ready"
        return JSONResponse({"status": status, "reasons": reasons}, status_code=503 if reasons else 200)

    @app.get("/health")
    def show_health(request: Request) -> dict[str, Any]:
        """State of every component."""
        findings = [asdict(f) for f in examine_portal(request.app.state.settings, request.app.state.store)]
        states = {finding["state"] for finding in findings}
        worst = next(state for state in ("error", "warn", "ok") if state in states)
        return {"status": worst, "components": findings}


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
    if request.url.path.startswith(_MACHINE_PATHS):
        return JSONResponse({"detail": detail, "reason_code": reason_code}, status_code=status_code)
    context = {"title": title, "detail": detail, "status_code": status_code}
    return pages.render(request, "error.html", context, status_code=status_code)


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers.setdefault("Content-Security-Policy", _CONTENT_POLICY)
    return response
