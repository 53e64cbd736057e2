"""What requests may say: every parameter with its type, range and pattern, so that nothing else reaches the store.

What belongs here: types of parameters. What they are used for is the routes' (``api.py`` and its neighbours).
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import AfterValidator, Field

_NAME = r"^[^\x00-\x1f\x7f'\"`;\\/%<>{}$?]+$"
"""Names of sources, candidates and so on: neither quotes nor anything else that means something to SQL, HTML or a path."""

Name = Annotated[str, Field(min_length=1, max_length=128, pattern=_NAME)]
PathName = Annotated[str, Path(min_length=1, max_length=128, pattern=_NAME)]
QueryName = Annotated[str | None, Query(min_length=1, max_length=128, pattern=_NAME)]
Word = Annotated[str | None, Query(max_length=40, pattern=r"^[a-z][a-z0-9_-]*$")]
Band = Annotated[str, Query(max_length=40, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]
OptionalBand = Annotated[str | None, Query(max_length=40, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]
Partition = Annotated[str | None, Query(max_length=40, pattern=r"^[0-9][0-9T:-]*$")]
Day = Annotated[str, Path(pattern=r"^\d{4}-\d{2}-\d{2}$", max_length=10)]
Limit = Annotated[int, Query(ge=1, le=10_000)]
Offset = Annotated[int, Query(ge=0, le=1_000_000_000)]
Number = Annotated[float | None, Query(allow_inf_nan=False, ge=-1e12, le=1e12)]
Mjd = Annotated[float | None, Query(allow_inf_nan=False, ge=0, le=200_000)]
RightAscension = Annotated[float | None, Query(allow_inf_nan=False, ge=0, lt=360)]
Declination = Annotated[float | None, Query(allow_inf_nan=False, ge=-90, le=90)]
Radius = Annotated[float, Query(allow_inf_nan=False, gt=0, le=180, description="degrees")]
YesOrNo = Annotated[bool | None, Query()]
Format = Annotated[Literal["json", "csv", "parquet", "votable"], Query(alias="format", description="of the answer")]
# From a picojansky to a megajansky, a megahertz to a terahertz: beyond, sums of squares lose their meaning.
FluxJy = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
FluxError = Annotated[float, Field(allow_inf_nan=False, ge=1e-12, le=1e6)]
SystematicError = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e6)]
FrequencyHz = Annotated[float, Field(allow_inf_nan=False, ge=1e6, le=1e12)]


def _said(text: str) -> str:
    if not text.strip():
        message = "it is blank"
        raise ValueError(message)
    return text


Person = Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S"), AfterValidator(_said)]
Reason = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S"), AfterValidator(_said)]
