"""Who may do what, and how much of it: the token for writing, and limits for each client.

What belongs here: refusing. Reading needs no token; the portal is on loopback or behind a proxy that authenticates.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contimg_resources.settings_api import ApiSettings

_bearer = HTTPBearer(auto_error=False, description="The portal token (CONTIMG_PORTAL_TOKEN)")
_header = APIKeyHeader(
    name="X-Contimg-Token",
    auto_error=False,
    description="The portal token, where a proxy needs the header Authorization for the name and password of the person",
)
_HASHED = "sha256:"
_COMPUTING = ("/api/v1/variability", "/api/v1/photometry", "/api/v1/jobs")
_UNLIMITED = ("/static/", "/bokeh/", "/health", "/metrics")


def require_token(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    token: Annotated[str | None, Depends(_header)],
) -> None:
    """Refuse a writing request without the portal's token; 403 when no token is configured at all."""
    expected = request.app.state.settings.portal_token
    if expected is None:
        raise HTTPException(403, "Writing is switched off: no CONTIMG_PORTAL_TOKEN is set.")
    given = token or (credentials.credentials if credentials is not None else None)
    if given is None:
        raise HTTPException(401, "A token is needed: Authorization: Bearer ….", {"WWW-Authenticate": "Bearer"})
    if not is_token(given, expected.get_secret_value()):
        raise HTTPException(403, "The token is wrong.")


def is_token(given: str, expected: str) -> bool:
    """Whether a token is the one expected, which may be kept as ``sha256:<hex>`` so that nobody can read it off the settings.

    Both are hashed and compared in constant time, so that the answer's delay does not tell how much of a guess is right.
    A plain hash suffices for a long random token; it would not for a password.
    """
    digest = hashlib.sha256(given.encode()).hexdigest()
    if expected.startswith(_HASHED):
        wanted = expected.removeprefix(_HASHED).strip().lower()
    else:
        wanted = hashlib.sha256(expected.encode()).hexdigest()
    return secrets.compare_digest(digest.encode(), wanted.encode())


class RequestLimits:
    """Refuses requests of a client that asks too much with 429, and bodies too large with 413.

    Parameters
    ----------
    app : ASGI application
    settings : ApiSettings
    """

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._limits = {
            "read": RateLimitItemPerMinute(settings.reads_per_minute),
            "compute": RateLimitItemPerMinute(settings.computes_per_minute),
            "write": RateLimitItemPerMinute(settings.writes_per_minute),
        }
        self._largest_bytes = int(settings.largest_body_mb * 1e6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"].startswith(_UNLIMITED):
            await self._app(scope, receive, send)
            return
        kind, client = _kind(scope), str((scope.get("client") or ("unknown",))[0])
        limit = self._limits[kind]
        if not self._limiter.hit(limit, kind, client):
            detail = f"More than {limit.amount} requests of this kind in a minute. Ask more slowly."
            refusal = JSONResponse({"detail": detail, "reason_code": "too_many_requests"}, 429, {"Retry-After": "60"})
            await refusal(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or int(length) > self._largest_bytes:
            detail = f"The request is larger than {self._largest_bytes} bytes. Send it in parts."
            await JSONResponse({"detail": detail, "reason_code": "too_large"}, 413)(scope, receive, send)
            return
        await self._app(scope, self._bounded(receive), send)

    def _bounded(self, receive: Receive) -> Receive:
        """Stop reading a body that says nothing of its length and does not end."""
        taken = 0

        async def receive_some() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message if taken <= self._largest_bytes else {"type": "http.disconnect"}

        return receive_some


def _kind(scope: Scope) -> str:
    if scope["method"] in {"GET", "HEAD", "OPTIONS"}:
        return "compute" if scope["path"].endswith("/variability") else "read"
    return "compute" if scope["path"].startswith(_COMPUTING) else "write"
