"""The platform's own state under ``/api/v1``: checks, timings, calibration, reports, what failed, alerts, services, disk.

Reading is for everyone, retrying and resolving need the token. Data of the sky are ``api.py``; the event stream and
``/metrics`` have modules of their own.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from contimg_portal.access import require_token
from contimg_portal.answers import exports, json_answer, list_answer, page_of, row_model, rows_of
from contimg_portal.api import PROBLEMS, REFUSALS, OpenStore
from contimg_portal.parameters import (
    Day,
    Format,
    Limit,
    Offset,
    Partition,
    PathName,
    Person,
    QueryName,
    Reason,
    Word,
    YesOrNo,
)
from contimg_resources.alerts.ledger import acknowledge_alert
from contimg_resources.products import Products, open_products
from contimg_resources.store import dead_letters, listings
from contimg_resources.store.connection import Store

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)

# Reports are whole documents with pictures and styles of their own; they may show themselves and run nothing.
_REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
_TABLES = {
    "images": "image",
    "mosaics": "mosaic",
    "calibration-tables": "calibration_table",
    "flux-scales": "flux_scale",
    "image-injections": "image_injection",
    "archived-products": "archived_product",
}
"""Lists that are asked for by partition alone."""


def _add_list(path: str, table: str) -> None:
    def list_rows(
        store: OpenStore, limit: Limit = 100, offset: Offset = 0, partition_key: Partition = None, form: Format = "json"
    ) -> Response:
        where = {"partition_key": partition_key}
        return list_answer(lambda **span: listings.rows(store, table, where=where, **span), limit, offset, form, path)

    router.add_api_route(
        f"/{path}",
        list_rows,
        methods=["GET"],
        name=f"list_{table}",
        summary=f"Rows of table {table}",
        response_model=page_of(row_model(table)),
        responses=exports(path),
    )


for _path, _table in _TABLES.items():
    _add_list(_path, _table)


@router.get("/checks", response_model=page_of(row_model("check_result")), responses=exports("checks"))
def list_checks(
    store: OpenStore,
    limit: Limit = 100,
    offset: Offset = 0,
    asset: Word = None,
    partition_key: Partition = None,
    passed: YesOrNo = None,
    form: Format = "json",
) -> Response:
    """Results of checks, newest first."""
    where = {"asset": asset, "partition_key": partition_key, "passed": passed}
    return _list(store, "check_result", where, limit, offset, form, "checks")


@router.get("/timings", response_model=page_of(row_model("stage_timing")), responses=exports("timings"))
def list_timings(
    store: OpenStore,
    limit: Limit = 100,
    offset: Offset = 0,
    asset: Word = None,
    partition_key: Partition = None,
    form: Format = "json",
) -> Response:
    """Times and resources of stages, newest first."""
    where = {"asset": asset, "partition_key": partition_key}
    return _list(store, "stage_timing", where, limit, offset, form, "timings")


@router.get("/timings/summary", response_model=dict[str, Any])
def summarise_timings(store: OpenStore, days: Annotated[int, Query(ge=1, le=3650)] = 30) -> Response:
    """Half and 95 % of the times of each stage in the last days."""
    since = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)
    return json_answer({"days": days, "stages": rows_of(listings.timing_summary(store, since))})


@router.get(
    "/injection-recovery", response_model=page_of(row_model("injection_recovery")), responses=exports("completeness")
)
def list_injection_recovery(
    store: OpenStore,
    limit: Limit = 100,
    offset: Offset = 0,
    as_of: Annotated[str | None, Query(pattern=r"^\d{4}-\d{2}-\d{2}$")] = None,
    form: Format = "json",
) -> Response:
    """How many injected events were found, by depth and duration, newest day first."""
    return _list(store, "injection_recovery", {"as_of": as_of}, limit, offset, form, "injection-recovery")


class ReportList(BaseModel):
    """Days that have a report."""

    days: list[str]


def report_days(products: Products) -> list[str]:
    """Days that have a quality report, newest first."""
    folder = products.report("2000-01-01").parents[1]
    days = (path.parent.name for path in folder.glob("*/*.html"))
    return sorted((day for day in days if re.fullmatch(r"\d{4}-\d{2}-\d{2}", day)), reverse=True)


@router.get("/reports")
def list_reports(request: Request, limit: Limit = 100, offset: Offset = 0) -> ReportList:
    """Days that have a quality report, newest first."""
    return ReportList(days=report_days(open_products(request.app.state.settings))[offset : offset + limit])


@router.get(
    "/reports/{day}",
    response_model=None,
    responses={200: {"description": "The report", "content": {"text/html": {"schema": {"type": "string"}}}}},
)
def show_report(request: Request, day: Day) -> Response:
    """The quality report of a day: one HTML document, which the browser may show but not run."""
    products = open_products(request.app.state.settings)
    path: Path = products.brought(products.report(day))
    if not path.is_file():
        raise HTTPException(404, f"There is no report of {day}.")
    return HTMLResponse(path.read_bytes(), headers={"Content-Security-Policy": _REPORT_POLICY})


@router.get("/dead-letters", response_model=page_of(row_model("dead_letter")), responses=exports("dead letters"))
def list_dead_letters(
    store: OpenStore,
    limit: Limit = 100,
    offset: Offset = 0,
    status: Word = None,
    asset: Word = None,
    form: Format = "json",
) -> Response:
    """What failed for good, newest first."""
    return _list(store, "dead_letter", {"status": status, "asset": asset}, limit, offset, form, "dead-letters")


@router.get("/dead-letters/{letter_id}", response_model=dict[str, Any])
def show_dead_letter(store: OpenStore, letter_id: PathName) -> Response:
    """One dead letter with its history."""
    where = {"letter_id": letter_id}
    found = rows_of(listings.rows(store, "dead_letter", where=where, limit=1))
    if not found:
        raise HTTPException(404, f"There is no dead letter {letter_id}.")
    events = rows_of(listings.rows(store, "dead_letter_event", where=where, limit=1000))
    return json_answer({**found[0], "events": events})


class Decision(BaseModel):
    """Who decides, and why."""

    by: Person
    reason: Reason


class StatusAnswer(BaseModel):
    """What a decision led to."""

    name: str
    status: str


@router.post("/dead-letters/{letter_id}/retry", dependencies=[Depends(require_token)], responses=REFUSALS)
def post_retry(store: OpenStore, letter_id: PathName, decision: Decision) -> StatusAnswer:
    """Ask for a retry of a dead letter; needs the portal's token."""
    letter = dead_letters.request_retry(store, letter_id, by=decision.by, reason=decision.reason, at=_utc_now())
    return StatusAnswer(name=letter_id, status=letter["status"])


@router.post("/dead-letters/{letter_id}/resolve", dependencies=[Depends(require_token)], responses=REFUSALS)
def post_resolution(store: OpenStore, letter_id: PathName, decision: Decision) -> StatusAnswer:
    """Close a dead letter by hand; needs the portal's token."""
    letter = dead_letters.resolve(store, letter_id, by=decision.by, reason=decision.reason, at=_utc_now())
    return StatusAnswer(name=letter_id, status=letter["status"])


@router.post("/alerts/{alert_id}/acknowledge", dependencies=[Depends(require_token)], responses=REFUSALS)
def post_acknowledgement(store: OpenStore, alert_id: PathName, decision: Decision) -> StatusAnswer:
    """Take an alert on; needs the portal's token."""
    alert = acknowledge_alert(store, alert_id, by=decision.by, reason=decision.reason, at=datetime.now(UTC))
    return StatusAnswer(name=alert_id, status=alert["status"])


def _utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


@router.get("/breakers", response_model=page_of(row_model("breaker")), responses=exports("breakers"))
def list_breakers(store: OpenStore, limit: Limit = 100, offset: Offset = 0, form: Format = "json") -> Response:
    """Stages and whether they are stopped because they failed too often."""
    return _list(store, "breaker", {}, limit, offset, form, "breakers")


@router.get("/alerts", response_model=page_of(row_model("alert")), responses=exports("alerts"))
def list_alerts(
    store: OpenStore,
    limit: Limit = 100,
    offset: Offset = 0,
    status: Word = None,
    severity: Word = None,
    rule: QueryName = None,
    form: Format = "json",
) -> Response:
    """Alerts, newest first."""
    return _list(store, "alert", {"status": status, "severity": severity, "rule": rule}, limit, offset, form, "alerts")


@router.get("/heartbeats", response_model=page_of(row_model("heartbeat")), responses=exports("heartbeats"))
def list_heartbeats(store: OpenStore, limit: Limit = 100, offset: Offset = 0, form: Format = "json") -> Response:
    """When each service was last heard of."""
    return _list(store, "heartbeat", {}, limit, offset, form, "heartbeats")


class Disk(BaseModel):
    """Space where the products are."""

    path: str
    total_bytes: int
    used_bytes: int
    free_bytes: int
    store_bytes: int
    minimum_free_bytes: int
    copy_age_s: float | None
    """Age of the copy of the store that pages are made from; 0 when it is current, null while there is none."""


def disk_of(request: Request) -> Disk:
    """Space on the disk of the data folder."""
    settings, store = request.app.state.settings, request.app.state.store
    existing = next(place for place in (settings.data, *settings.data.parents) if place.is_dir())
    usage = shutil.disk_usage(existing)
    return Disk(
        path=str(settings.data),
        total_bytes=usage.total,
        used_bytes=usage.used,
        free_bytes=usage.free,
        store_bytes=store.path.stat().st_size if store.path.exists() else 0,
        minimum_free_bytes=int(settings.minimum_free_gb * 1e9),
        copy_age_s=store.age_s,
    )


@router.get("/disk")
def show_disk(request: Request) -> Disk:
    """Space where the products are."""
    return disk_of(request)


def _list(store: Store, table: str, where: dict[str, Any], limit: int, offset: int, form: str, name: str) -> Response:
    question: Callable[..., pl.DataFrame] = lambda **span: listings.rows(store, table, where=where, **span)  # noqa: E731
    return list_answer(question, limit, offset, form, name)
