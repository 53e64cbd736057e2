"""The pages about the platform itself: ``/quality`` (reports, completeness, calibration), ``/operations``, ``/settings``.

What belongs here: what these pages ask and which template shows it. Figures are ``quality_figures.py``; the same data
as JSON are ``operations_api.py`` and ``settings_api.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from contimg_portal.api import OpenStore
from contimg_portal.operations_api import disk_of, report_days
from contimg_portal.pages import render
from contimg_portal.quality_figures import plot_calibration, plot_completeness
from contimg_resources.errors import ResourceError
from contimg_resources.products import open_products
from contimg_resources.setting_changes import setting_changes
from contimg_resources.store import listings

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

_REPORTS_SHOWN = 60
_CALIBRATIONS_SHOWN = 500
_ROWS_SHOWN = 50
_TIMING_DAYS = 30


@router.get("/quality")
def show_quality(request: Request, store: OpenStore) -> Response:
    """Daily reports, completeness of the event search, and how calibration develops."""
    recovery = listings.completeness(store)
    calibration = listings.calibration_trend(store, limit=_CALIBRATIONS_SHOWN)
    figures = {}
    if recovery.height:
        figures["completeness"] = plot_completeness(recovery)
    if calibration["snr_median"].count():
        figures["calibration"] = plot_calibration(calibration)
    failed = listings.rows(store, "check_result", where={"passed": False}, limit=_ROWS_SHOWN)
    context = {
        "figures": figures,
        "days": report_days(open_products(request.app.state.settings))[:_REPORTS_SHOWN],
        "recovery": recovery.to_dicts(),
        "calibration": calibration.tail(8).reverse().to_dicts(),
        "failed": failed.to_dicts(),
    }
    return render(request, "quality.html", context)


@router.get("/operations")
def show_operations(request: Request, store: OpenStore) -> Response:
    """What failed for good, stopped stages, alerts, times of stages, disk and services."""
    now = datetime.now(UTC).replace(tzinfo=None)
    letters = listings.rows(store, "dead_letter", limit=_ROWS_SHOWN)
    alerts = listings.rows(store, "alert", limit=_ROWS_SHOWN)
    beats = listings.rows(store, "heartbeat", limit=_ROWS_SHOWN).with_columns(
        is_late=pl.lit(now) - pl.col("last_at") > pl.duration(milliseconds=3000 * pl.col("interval_s"))
    )
    context = {
        "letters": letters.sort(pl.col("status") == "resolved", maintain_order=True).to_dicts(),
        "breakers": listings.rows(store, "breaker", limit=_ROWS_SHOWN).to_dicts(),
        "alerts": alerts.sort(pl.col("status") == "resolved", maintain_order=True).to_dicts(),
        "timings": listings.timing_summary(store, now - timedelta(days=_TIMING_DAYS)).to_dicts(),
        "timing_days": _TIMING_DAYS,
        "beats": beats.to_dicts(),
        "disk": disk_of(request),
    }
    return render(request, "operations.html", context)


@router.get("/settings")
def show_settings(request: Request, store: OpenStore) -> Response:
    """Every setting of this portal, what differs from the default first, and the changes; also while there is no store."""
    changes: list[dict[str, Any]] = []
    problem = ""
    try:
        changes = setting_changes(store, limit=_ROWS_SHOWN).to_dicts()
    except ResourceError as error:
        problem = f"{error.what}. {error.remedy}"
    found = request.app.state.told_settings
    context = {
        **found,
        "differing": [row for row in found["settings"] if not row["is_default"]],
        "defaults": [row for row in found["settings"] if row["is_default"]],
        "changes": changes,
        "problem": problem,
    }
    return render(request, "settings.html", context)
