"""The agent's side of the line: questions and pieces to the ingest host over HTTP, and what its answers mean.

What belongs here: one request and its outcome. What is sent when, and what is tried again, is ``shipping``.
"""

from __future__ import annotations

from typing import Self

import httpx
from pydantic import ValidationError

from contimg_resources.errors import TransferError
from contimg_resources.settings_agent import AgentSettings
from contimg_resources.transfers.description import AgentBeat, Chunk, Progress, Question, Transfer

FILES_PATH = "/agents/v1/files"
BEATS_PATH = "/agents/v1/heartbeats"
_FOR_GOOD = {"not_a_raw_file", "name_taken"}
"""Refusals of a file that trying again does not change."""
_SAID_AT_MOST = 300


class IngestHost:
    """The receiver as the agent sees it. Safe for threads.

    Parameters
    ----------
    settings : AgentSettings
        With ``url`` and ``token``.
    """

    def __init__(self, settings: AgentSettings) -> None:
        token = settings.token.get_secret_value() if settings.token else ""
        self._url = settings.url or ""
        self._client = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(settings.timeout_s, connect=min(settings.timeout_s, 10.0)),
        )

    def __enter__(self) -> Self:
        """Open the line."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the line."""
        self._client.close()

    def progress(self, transfer: Transfer) -> Progress:
        """How much of a file is there."""
        question = Question.about(transfer)
        return self._ask("GET", f"{FILES_PATH}/{transfer.name}", question, None)

    def send(self, chunk: Chunk, content: bytes) -> Progress:
        """Send a piece; the answer says where to go on."""
        return self._ask("PUT", f"{FILES_PATH}/{chunk.name}", chunk, content)

    def beat(self, beat: AgentBeat) -> None:
        """Give a sign of life."""
        self._request("POST", BEATS_PATH, content=beat.model_dump_json(), headers={"Content-Type": "application/json"})

    def _ask(self, method: str, path: str, about: Question | Chunk, content: bytes | None) -> Progress:
        response = self._request(method, path, params=about.model_dump(exclude={"name"}), content=content)
        try:
            answer = Progress.model_validate_json(response.content)
        except ValidationError as error:
            raise self._down(f"an answer that says nothing: {response.text[:_SAID_AT_MOST]!r}") from error
        if answer.sha256 != about.sha256 or answer.offset > about.bytes:
            raise self._down("an answer about another file")
        return answer

    def _request(self, method: str, path: str, **arguments: object) -> httpx.Response:
        try:
            response = self._client.request(method, path, **arguments)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            raise self._down(f"{type(error).__name__} {error}".strip()) from error
        if response.is_success:
            return response
        detail, reason_code = _refusal(response)
        raise TransferError(
            f"{self._url} refuses {path}", got=f"{response.status_code}: {detail}", expected="a file that is taken",
            remedy=_REMEDIES.get(response.status_code, "Look at the receiver's log; it is tried again."),
            reason_code=reason_code, transient=reason_code not in _FOR_GOOD,
        )  # fmt: skip

    def _down(self, said: str) -> TransferError:
        return TransferError(
            f"{self._url} cannot be reached", got=said, expected="an answer of `contimg agent receive`",
            remedy="Look at the network and the receiver; the agent keeps the files and tries again.",
            reason_code="unreachable", transient=True,
        )  # fmt: skip


_REMEDIES = {
    401: "Set CONTIMG_AGENT__TOKEN on this host.",
    403: "Set the same CONTIMG_AGENT__TOKEN on this host and on the receiver.",
    404: "Check CONTIMG_AGENT__URL, and CONTIMG_SITES on the receiver for this site.",
    409: "Look which host is right; the file stays here.",
    507: "Free space on the ingest host; the agent keeps the file and tries again.",
}


def _refusal(response: httpx.Response) -> tuple[str, str]:
    """What a refusal says, and its reason code."""
    try:
        said = response.json()
        return str(said["detail"])[:_SAID_AT_MOST], str(said["reason_code"])
    except (ValueError, KeyError, TypeError):
        return response.text[:_SAID_AT_MOST], "unreachable"
