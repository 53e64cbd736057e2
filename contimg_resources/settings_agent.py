"""Settings of the edge agent, which ships raw files from the host that writes them, and of the host that receives them."""

from __future__ import annotations

import socket

from pydantic import BaseModel, ConfigDict, Field, SecretStr

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Of hosts and sites: they become parts of file names."""


class AgentSettings(BaseModel):
    """What an operator may change about shipping files between hosts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = Field(
        None, pattern=r"^https?://", description="where `contimg agent receive` listens, http:// or https://"
    )
    token: SecretStr | None = Field(
        None, min_length=8, description="shared by agents and receiver; the receiver may keep it as sha256:<hex>"
    )
    site: str = Field("", pattern=rf"^$|{NAME_PATTERN}", description="site of this host; the receiver's own when empty")
    host: str = Field(
        default_factory=lambda: socket.gethostname() or "unnamed", pattern=NAME_PATTERN, description="name of this host"
    )
    chunk_mb: float = Field(8.0, gt=0, le=64, description="sent and acknowledged at a time; what a cut line repeats")
    poll_s: float = Field(1.0, gt=0, le=3600, description="between two looks at the folder")
    beat_interval_s: float = Field(30.0, gt=0, le=3600, description="between two heartbeats")
    retry_max_s: float = Field(30.0, gt=0, le=3600, description="longest wait between two tries while the line is down")
    timeout_s: float = Field(30.0, gt=0, le=600, description="how long one request may stand still")
    keep_confirmed_gb: float | None = Field(
        None,
        ge=0,
        description=(
            "files that the receiver has confirmed are deleted, oldest first, beyond so much; nothing is ever deleted"
            " when absent, and never a file that is not confirmed"
        ),
    )
