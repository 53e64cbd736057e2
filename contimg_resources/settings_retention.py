"""What an operator may set about how long products and events of runs stay. The default keeps everything.

What belongs here: the section ``retention`` of the settings, and the reading of policies, one per kind of product and status, as a
person types them. What follows from a policy is ``retention.decisions``; what no policy may touch is ``retention.needs``; which
events may go is ``retention.run_events``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import NoDecode

REMADE = ("measurement_set", "image", "mosaic")
"""Kinds that are made again from raw files: these alone may be removed without a copy."""
_TABLE_STATUSES = ("any", "active", "superseded", "rejected")
_OBSERVATION_STATUSES = ("any", "processed")
"""What is not processed is never touched, so no policy is about it."""
Awaited = Literal["mosaic", "blind_detections", "quality_report", "blind_sources"]
_EXAMPLE = "raw: archive 1, remove 7; measurement_set: remove 30; calibration/superseded: archive 0, remove 30"
_POLICY = re.compile(r"(\w+)(?:/(\w+))?\s*:\s*(.+)")
_STEP = re.compile(r"(archive|remove)\s+([0-9.]+)")


class Policy(BaseModel):
    """How long products of one kind and status stay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["raw", "measurement_set", "image", "mosaic", "calibration"]
    status: Literal["any", "processed", "active", "superseded", "rejected"] = Field(
        "any", description="of the observations, or of the calibration table"
    )
    archive_after_d: float | None = Field(None, ge=0, description="copied to the archive so long after it was made, d")
    remove_after_d: float | None = Field(
        None, ge=0, description="removed so long after it was archived, or made if it is not archived, d"
    )

    @model_validator(mode="after")
    def _loses_nothing(self) -> Policy:
        if self.archive_after_d is None and self.remove_after_d is None:
            message = f"{self.kind}: say archive, remove or both, as in {_EXAMPLE}"
            raise ValueError(message)
        if self.remove_after_d is not None and self.archive_after_d is None and self.kind not in REMADE:
            message = (
                f"{self.kind}: cannot be made again, so it is removed only after it was archived: add archive DAYS"
            )
            raise ValueError(message)
        allowed = _TABLE_STATUSES if self.kind == "calibration" else _OBSERVATION_STATUSES
        if self.status not in allowed:
            message = f"{self.kind}/{self.status}: the status of this kind is one of {', '.join(allowed)}"
            raise ValueError(message)
        return self


def _split_policies(value: Any) -> Any:
    """Read ``raw: archive 1, remove 7; measurement_set: remove 30`` as a list of policies."""
    if not isinstance(value, str):
        return value
    policies = []
    for item in (part.strip() for part in value.split(";")):
        if not item:
            continue
        matched = _POLICY.fullmatch(item)
        steps = [_STEP.fullmatch(step.strip()) for step in matched.group(3).split(",")] if matched else [None]
        if matched is None or None in steps:
            message = f"{item}: policies are typed as {_EXAMPLE} (days)"
            raise ValueError(message)
        days = {f"{step.group(1)}_after_d": step.group(2) for step in steps if step is not None}
        policies.append({"kind": matched.group(1), "status": matched.group(2) or "any", **days})
    return policies


def _split_names(value: Any) -> Any:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _absolute(value: Any) -> Any:
    return Path(value).expanduser().absolute() if isinstance(value, (str, Path)) and str(value) else value


class RetentionSettings(BaseModel):
    """How long products stay, where copies of them go, and how long Dagster's events of runs stay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    archive: Annotated[Path | None, BeforeValidator(_absolute)] = Field(
        None, description="folder (another disk, NFS) that products are archived to"
    )
    policies: Annotated[list[Policy], NoDecode, BeforeValidator(_split_policies)] = Field(
        [], description=f"{_EXAMPLE} (days; TOML: a list of tables); empty keeps everything"
    )
    withdraw: bool = Field(
        default=False,
        description="CONTIMG_PRODUCTS_URL loses what is removed; what other hosts made is archived and removed too",
    )
    candidate_margin_d: float = Field(
        7.0, ge=0, description="what was observed of a candidate's source so long before and after the event stays, d"
    )
    wait_for: Annotated[list[Awaited], NoDecode, BeforeValidator(_split_names)] = Field(
        ["mosaic", "quality_report"],
        description="assets of the hour and the day that must have been made before an observation is finished",
    )
    run_events_days: float | None = Field(
        None,
        ge=1,
        description="days after a run succeeded that Dagster's events of how it went stay; absent keeps them for ever",
    )
    failed_run_events_days: float | None = Field(
        None, ge=1, description="the same after a run failed or was canceled; what failed and why stays for ever"
    )

    @model_validator(mode="after")
    def _policies_can_be_followed(self) -> RetentionSettings:
        named = [(policy.kind, policy.status) for policy in self.policies]
        doubled = sorted({"/".join(name) for name in named if named.count(name) > 1})
        if doubled:
            message = f"two policies for {', '.join(doubled)}"
            raise ValueError(message)
        if self.archive is None and any(policy.archive_after_d is not None for policy in self.policies):
            message = "policies that archive need a folder: set CONTIMG_RETENTION__ARCHIVE"
            raise ValueError(message)
        return self
