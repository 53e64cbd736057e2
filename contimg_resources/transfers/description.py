"""What agent and receiver say to each other about a file: its description, the progress, a sign of life.

What belongs here: the messages and their check digits. Who sends them is ``delivery``, who answers is ``receiving``.

Every request carries a check of its own description: a line that flips bits would otherwise make a file of another name
or length, which no checksum of the content notices. It protects against accidents; against people there is TLS.
"""

from __future__ import annotations

import builtins
import hashlib
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from contimg_resources.settings_agent import NAME_PATTERN

_CHECK_DIGITS = 16
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def check_digits(self) -> str:
        """Digits that change when any field does."""
        fields = self.model_dump(exclude={"check"})
        text = "\n".join(f"{name}={fields[name]}" for name in sorted(fields))
        return hashlib.sha256(text.encode()).hexdigest()[:_CHECK_DIGITS]


class Transfer(_Message):
    """A file that is to be handed over."""

    name: str = Field(pattern=r"^[A-Za-z0-9:._-]{1,128}$")
    site: str = Field("", pattern=rf"^$|{NAME_PATTERN}")
    host: str = Field(pattern=NAME_PATTERN)
    bytes: int = Field(ge=0)
    modified_us: int
    """Time of the file, microseconds since 1970."""
    sha256: _Hash
    """Of the whole file."""


class Question(Transfer):
    """How far a transfer is."""

    check: str = ""

    @classmethod
    def about(cls, transfer: Transfer) -> Self:
        """The question with its check."""
        bare = cls(**transfer.model_dump())
        return bare.model_copy(update={"check": bare.check_digits()})


class Chunk(Transfer):
    """A piece of a file; its bytes travel beside it."""

    offset: int = Field(ge=0)
    chunk_sha256: _Hash
    check: str = ""

    @classmethod
    def of(cls, transfer: Transfer, offset: int, content: builtins.bytes) -> Self:
        """The piece of a transfer that begins at an offset, with its check."""
        digest = hashlib.sha256(content).hexdigest()
        bare = cls(**transfer.model_dump(), offset=offset, chunk_sha256=digest)
        return bare.model_copy(update={"check": bare.check_digits()})


class Progress(_Message):
    """How much of a file the receiver has, in order from its start."""

    state: Literal["absent", "partial", "confirmed"]
    """Confirmed: whole, verified, on disk under its name."""
    offset: int = Field(ge=0)
    sha256: _Hash
    """Of the file that is meant."""


class AgentBeat(_Message):
    """A sign of life of an agent, and how it is."""

    site: str = Field("", pattern=rf"^$|{NAME_PATTERN}")
    host: str = Field(pattern=NAME_PATTERN)
    interval_s: float = Field(gt=0, le=3600)
    n_waiting: int = Field(ge=0)
    waiting_bytes: int = Field(ge=0)
    n_confirmed: int = Field(ge=0)
    n_refused: int = Field(ge=0)
    n_lost: int = Field(ge=0)
    """Files that vanished from the host before they were confirmed."""
    free_gb: float
    """Of the disk of the folder."""
