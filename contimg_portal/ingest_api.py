"""What agents speak to: files in pieces and signs of life, over HTTP, each request with the agents' token.

What belongs here: routes, refusals as status codes, which site a file is of. What happens to a file is
``contimg_resources.transfers.receiving``. An application of its own, apart from the portal: its token allows nothing else,
its limits are for pieces of files, and a portal that is busy or restarted does not hold up the data.

Status codes: 401 and 403 no or a wrong token, 404 unknown site, 409 name taken, 413 piece too large, 422 damaged on the
way or not a raw file, 503 store busy, 507 disk full. The body says ``detail`` and ``reason_code``.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import ValidationError

from contimg_portal.access import is_token
from contimg_resources.errors import DiskFullError, ResourceError, SettingsError, StoreError, TransferError
from contimg_resources.heartbeats import Heartbeat, note_heartbeats
from contimg_resources.settings import Settings
from contimg_resources.store.connection import Store, open_store
from contimg_resources.transfers.delivery import BEATS_PATH, FILES_PATH
from contimg_resources.transfers.description import AgentBeat, Chunk, Progress, Question
from contimg_resources.transfers.receiving import Receiver

_LARGEST_PIECE_BYTES = 64_000_000
"""As ``agent.chunk_mb`` allows."""
_STORE_WAIT_S = 10.0
_STATUS_CODES = {"name_taken": 409, "unknown_site": 404}
_Described = TypeVar("_Described", Question, Chunk)

_bearer = HTTPBearer(auto_error=False, description="The agents' token (CONTIMG_AGENT__TOKEN)")


def _require_agent(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Refuse whoever has not the agents' token."""
    token = request.app.state.settings.agent.token
    if credentials is None:
        raise HTTPException(401, "A token is needed: Authorization: Bearer ….", {"WWW-Authenticate": "Bearer"})
    if not is_token(credentials.credentials, token.get_secret_value()):
        raise HTTPException(403, "The token is wrong.")


router = APIRouter(dependencies=[Depends(_require_agent)])


class Receivers:
    """A receiver for each site, made when the first file of the site comes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._receivers: dict[str, Receiver] = {}
        self._lock = threading.Lock()

    def of_site(self, site: str) -> Receiver:
        """Where files of a site go: the incoming folder, or for a named one ``incoming`` in its data folder."""
        with self._lock:
            if site not in self._receivers:
                folder = self._settings.incoming if not site else self._data_of(site) / "incoming"
                self._receivers[site] = Receiver(folder, minimum_free_gb=self._settings.minimum_free_gb)
            return self._receivers[site]

    def store_of(self, site: str) -> Store:
        """Store of a site: this installation's, or for a named one that in its data folder."""
        update = {"data": self._data_of(site), "store": None} if site else {}
        return open_store(self._settings.model_copy(update=update), wait_s=_STORE_WAIT_S)

    def _data_of(self, site: str) -> Path:
        """Data folder of a named site."""
        if site not in self._settings.sites:
            raise TransferError(
                "No such site", got=repr(site), expected=", ".join(self._settings.sites) or "none but this one's own (empty)",
                remedy="Name it in CONTIMG_SITES here, or correct CONTIMG_AGENT__SITE there.", reason_code="unknown_site",
            )  # fmt: skip
        return self._settings.sites[site]

    def close(self) -> None:
        """Let another process receive."""
        for receiver in self._receivers.values():
            receiver.close()


@router.get(FILES_PATH + "/{name}")
def tell_progress(request: Request, name: str) -> Progress:
    """How much of a file is here."""
    question = _read(Question, request, name)
    receivers: Receivers = request.app.state.receivers
    return receivers.of_site(question.site).progress(question)


@router.put(FILES_PATH + "/{name}")
async def take_piece(request: Request, name: str) -> Progress:
    """Take a piece of a file; with the last one the file is verified and placed."""
    chunk = _read(Chunk, request, name)
    content = bytearray()
    async for block in request.stream():
        content += block
        if len(content) > _LARGEST_PIECE_BYTES:
            raise HTTPException(413, f"A piece has at most {_LARGEST_PIECE_BYTES} bytes.")
    receivers: Receivers = request.app.state.receivers
    return await run_in_threadpool(lambda: receivers.of_site(chunk.site).take(chunk, bytes(content)))


@router.post(BEATS_PATH, status_code=204)
def take_heartbeat(request: Request, beat: AgentBeat) -> Response:
    """Note that an agent lives, by this host's clock."""
    receivers: Receivers = request.app.state.receivers
    store = receivers.store_of(beat.site)
    name = f"agent:{beat.site}:{beat.host}" if beat.site else f"agent:{beat.host}"
    now = datetime.now(UTC).replace(tzinfo=None)
    detail = beat.model_dump_json(exclude={"host", "interval_s"})
    note_heartbeats(store, [Heartbeat(name, "agent", now, beat.interval_s, host=beat.host, detail=detail)])
    return Response(status_code=204)


def create_receiver_app(settings: Settings) -> FastAPI:
    """Application that receives files for these settings.

    Raises
    ------
    SettingsError
        If there is no token: everybody could write.
    """
    if settings.agent.token is None:
        raise SettingsError(
            "CONTIMG_AGENT__TOKEN is not set", got="nothing", expected="at least 8 characters, or sha256:<hex>",
            remedy="Set it here and on the agents' hosts; without it anybody could write files.",
        )  # fmt: skip
    receivers = Receivers(settings)
    receivers.of_site("")  # a folder that somebody else receives for is said at start

    @asynccontextmanager
    async def close_at_end(_: FastAPI) -> AsyncIterator[None]:
        yield
        receivers.close()

    app = FastAPI(title="contimg ingest", docs_url=None, redoc_url=None, lifespan=close_at_end)
    app.state.settings = settings
    app.state.receivers = receivers
    app.include_router(router)

    @app.get("/health/live")
    def tell_alive() -> dict[str, str]:
        """Whether it answers."""
        return {"status": "ok"}

    @app.exception_handler(ResourceError)
    def refuse(_: Request, error: ResourceError) -> JSONResponse:
        return JSONResponse({"detail": str(error), "reason_code": error.reason_code}, _status_code(error))

    @app.exception_handler(HTTPException)
    def say_http_error(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": error.detail, "reason_code": "http"}, error.status_code, error.headers)

    return app


def _status_code(error: ResourceError) -> int:
    if isinstance(error, DiskFullError):
        return 507
    if isinstance(error, StoreError):
        return 503
    return _STATUS_CODES.get(error.reason_code, 422)


def _read(kind: type[_Described], request: Request, name: str) -> _Described:
    """The description of a file, as it was sent and not as the line made it."""
    try:
        described = kind.model_validate({**request.query_params, "name": name})
    except ValidationError as error:
        raise _damaged(str(error)) from error
    if described.check != described.check_digits():
        raise _damaged("other check digits")
    return described


def _damaged(said: str) -> TransferError:
    return TransferError(
        "The description of the file was damaged on the way", got=said, expected="name, host, bytes, hash and their check",
        remedy="It is sent again.", reason_code="corrupted_request", transient=True,
    )  # fmt: skip
