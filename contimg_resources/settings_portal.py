"""What an operator may choose about the portal's pages: limits of age and number, spans of time, sites, refreshing.

What belongs here: the section ``pages`` of the settings and the reading of ``CONTIMG_SITES``. Reading the environment is
``settings.py`` alone. Limits follow the telescope's cadence, as the freshness policies of the assets do; an element is
amber beyond its first limit and red beyond its second.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import NoDecode

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def _split_sites(value: Any) -> Any:
    """Read ``ovro=/data/ovro, west=/data/west`` as a mapping of name to folder."""
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",") if item.strip()]
    wrong = [name for name, sign, folder in pairs if not (sign and folder.strip())]
    if wrong:
        message = f"{', '.join(wrong)}: sites are typed as name=data folder, name=data folder"
        raise ValueError(message)
    return {name.strip(): folder.strip() for name, _, folder in pairs}


def _require_site_names(sites: dict[str, Path]) -> dict[str, Path]:
    wrong = [name for name in sites if not _SITE_NAME.fullmatch(name)]
    if wrong:
        message = f"{', '.join(wrong)}: names of sites are letters, digits, - and _, for they are part of addresses"
        raise ValueError(message)
    return {name: folder.expanduser().absolute() for name, folder in sites.items()}


Sites = Annotated[dict[str, Path], NoDecode, BeforeValidator(_split_sites), AfterValidator(_require_site_names)]
"""Data folders of further sites by name."""


class PageSettings(BaseModel):
    """What an operator may change about the pages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    observation_amber_h: float = Field(0.5, gt=0, description="age of the newest observation and of its products, h")
    observation_red_h: float = Field(6.0, gt=0)
    hour_amber_h: float = Field(3.0, gt=0, description="age of the newest mosaic and of blind detections, h")
    hour_red_h: float = Field(9.0, gt=0)
    day_amber_h: float = Field(26.0, gt=0, description="age of what is made once a day, h")
    day_red_h: float = Field(50.0, gt=0)
    backlog_amber: int = Field(12, ge=1, description="observations waiting; an hour brings about twelve")
    backlog_red: int = Field(60, ge=1)
    antennas_amber_fraction: float = Field(0.1, gt=0, le=1, description="fraction of antennas that are weak or dead")
    antennas_red_fraction: float = Field(0.25, gt=0, le=1)

    strip_days: int = Field(30, ge=1, le=366, description="days on the sky strip and on the strip of stages")
    refresh_s: float = Field(30.0, ge=1, le=3600, description="pages renew their changing parts this often, s")
    cache_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="heavy tables and figures are renewed at most this often while the store changes, s",
    )

    @model_validator(mode="after")
    def _red_comes_after_amber(self) -> PageSettings:
        for name in type(self).model_fields:
            if "_amber" in name and getattr(self, name) > getattr(self, name.replace("_amber", "_red")):
                message = f"{name} {getattr(self, name):g} exceeds {name.replace('_amber', '_red')}"
                raise ValueError(message)
        return self
