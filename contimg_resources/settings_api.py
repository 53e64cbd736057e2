"""Settings of the portal's API: how much one client may ask, who may ask from other pages, how long answers are kept."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _split_list(value: Any) -> Any:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


class ApiSettings(BaseModel):
    """What an operator may change about the API."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reads_per_minute: int = Field(60_000, ge=1, description="pages and answers one client may ask for")
    computes_per_minute: int = Field(60, ge=1, description="computations one client may ask for")
    writes_per_minute: int = Field(60, ge=1, description="writing requests of one client, with the right token or not")
    cors_origins: Annotated[list[str], BeforeValidator(_split_list)] = Field(
        [], description="other web sites whose pages may read the API, e.g. https://survey.example.org; none by default"
    )
    answers_kept_s: float = Field(
        10.0, ge=0, le=3600, description="how long an answer is good while the store is written"
    )
    answers_at_once: int = Field(
        2, ge=1, le=256, description="pages and answers made at the same time, others wait for their turn"
    )
    largest_body_mb: float = Field(32.0, gt=0, le=1024, description="largest request that is read")
    queued_jobs: int = Field(8, ge=1, le=1000, description="computations that may wait; more are refused with 503")
