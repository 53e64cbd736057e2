"""What machines ask to watch the platform: ``/health/live``, ``/health/ready``, ``/health`` and ``/metrics``.

What the answers hold is ``health.py`` and ``metrics.py``. Each answer comes within a second, whatever hangs.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from contimg_portal.health import NEEDED, Health, worst
from contimg_portal.metrics import Metrics

router = APIRouter(tags=["monitoring"])


@router.get("/health/live")
async def is_alive() -> dict[str, str]:
    """Answer as long as the process serves requests."""
    return {"status": "alive"}


@router.get("/health/ready", responses={503: {"description": "the portal has nothing to serve; the reasons say why"}})
def is_ready(request: Request) -> JSONResponse:
    """200 when store and folders can be used, else 503 with the failing component."""
    health: Health = request.app.state.health
    reasons = [
        f"{c.name}: {c.detail}. {c.remedy}"
        for c in health.look(*NEEDED)
        # A store that does not exist yet is only a warning for the doctor, but there is nothing to serve.
        if c.status in {"unhealthy", "unknown"} or (c.name == "store" and c.status != "healthy")
    ]
    status = "not ready" if reasons else "ready"
    return JSONResponse({"status": status, "reasons": reasons}, status_code=503 if reasons else 200)


@router.get("/health")
def show_health(request: Request) -> dict[str, Any]:
    """State of every component: healthy, degraded, unhealthy or unknown; when it was looked at, and what to do."""
    health: Health = request.app.state.health
    found = health.look()
    return {"status": worst(found), "components": [asdict(component) for component in found]}


@router.get("/metrics", response_class=Response)
def show_metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
