"""Tables as answers of the API: one page of JSON, or CSV, Parquet or VOTable, and what OpenAPI says of them.

What belongs here: forms of an answer. What is asked is the routes' (``api.py`` and its neighbours). Missing numbers are
null in JSON, empty in CSV and VOTable; times are UTC.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import polars as pl
import pydantic_core
from fastapi import Response
from pydantic import BaseModel, create_model

from contimg_resources.store.schema import TABLES

_TYPES: Mapping[str, Any] = {
    "VARCHAR": str,
    "DOUBLE": float,
    "INTEGER": int,
    "BIGINT": int,
    "BOOLEAN": bool,
    "TIMESTAMP": datetime,
    "JSON": Any,
}
_MEDIA = {
    "csv": ("text/csv; charset=utf-8", "csv"),
    "parquet": ("application/vnd.apache.parquet", "parquet"),
    "votable": ("application/x-votable+xml", "xml"),
}
_UNITS = {
    "_jy_beam": "Jy beam-1",
    "_jy": "Jy",
    "_deg": "deg",
    "_arcsec": "arcsec",
    "_hz": "Hz",
    "_mjd": "d",
    "mjd": "d",
    "_d": "d",
    "_s": "s",
    "_h": "h",
    "_mb": "Mbyte",
}


class Problem(BaseModel):
    """Why a request failed."""

    detail: str
    reason_code: str


@lru_cache
def row_model(table: str, *more: str, without: tuple[str, ...] = ()) -> type[BaseModel]:
    """What OpenAPI says of a row of a table, with columns joined from others; every value may be null."""
    columns = {c.name: c.sql_type for c in TABLES[table].columns if c.name not in without}
    for other in more:
        columns = {c.name: c.sql_type for c in TABLES[other].columns} | columns
    fields: dict[str, Any] = {name: (_TYPES[kind] | None, None) for name, kind in columns.items()}
    return create_model("".join(part.title().replace("_", "") for part in (table, *more)) + "Row", **fields)


def page_of(rows: type[BaseModel]) -> type[BaseModel]:
    """What OpenAPI says of a page of such rows."""
    fields: dict[str, Any] = {"items": (list[rows], ...), "next_offset": (int | None, ...)}  # type: ignore[valid-type]
    return create_model(f"{rows.__name__}Page", limit=(int, ...), offset=(int, ...), **fields)


def parts_model(name: str, *, one: Mapping[str, str], many: Mapping[str, str]) -> type[BaseModel]:
    """What OpenAPI says of an answer that joins a row of some tables and rows of others, by name of the part."""
    fields: dict[str, Any] = {part: (row_model(table), ...) for part, table in one.items()}
    fields |= {part: (list[row_model(table)], ...) for part, table in many.items()}  # type: ignore[misc]
    return create_model(name, **fields)


def exports(name: str) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of the other formats of a list."""
    content = {media.split(";")[0]: {"schema": {"type": "string"}} for media, _ in _MEDIA.values()}
    return {200: {"description": f"One page of {name}", "content": content}}


def json_answer(value: Any, status_code: int = 200) -> Response:
    """JSON of any value: numbers that are not finite are null, times are UTC."""
    return Response(
        pydantic_core.to_json(value, inf_nan_mode="null"), status_code=status_code, media_type="application/json"
    )


def rows_of(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows as mappings, times with their zone."""
    return in_utc(frame).to_dicts()


def in_utc(frame: pl.DataFrame) -> pl.DataFrame:
    """The store's times are UTC without saying so; here they say so."""
    naive = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime) and kind.time_zone is None]
    return frame.with_columns(pl.col(naive).dt.replace_time_zone("UTC")) if naive else frame


def paginate(question: Callable[..., pl.DataFrame], limit: int, offset: int) -> tuple[pl.DataFrame, int | None]:
    """One page of an answer and the offset of the next, None on the last page."""
    frame = question(limit=limit + 1, offset=offset)
    return frame.head(limit), offset + limit if frame.height > limit else None


def list_answer(question: Callable[..., pl.DataFrame], limit: int, offset: int, form: str, name: str) -> Response:
    """One page of a list in the form that was asked for.

    Parameters
    ----------
    question : callable
        Takes ``limit`` and ``offset``.
    limit, offset : int
    form : {"json", "csv", "parquet", "votable"}
    name : str
        Of the file, without suffix.
    """
    frame, next_offset = paginate(question, limit, offset)
    if form == "json":
        page = {"items": rows_of(frame), "limit": limit, "offset": offset, "next_offset": next_offset}
        answer = json_answer(page)
    else:
        media, suffix = _MEDIA[form]
        answer = Response(_WRITERS[form](in_utc(frame)), media_type=media)
        safe = re.sub(r"[^A-Za-z0-9.+-]", "_", name)
        answer.headers["Content-Disposition"] = f'attachment; filename="{safe}.{suffix}"'
    if next_offset is not None:
        answer.headers["X-Next-Offset"] = str(next_offset)
    return answer


def _as_csv(frame: pl.DataFrame) -> bytes:
    return frame.write_csv().encode()


def _as_parquet(frame: pl.DataFrame) -> bytes:
    stream = io.BytesIO()
    frame.write_parquet(stream)
    return stream.getvalue()


def _as_votable(frame: pl.DataFrame) -> bytes:
    """Numbers with their units, which follow from the names; text elsewhere."""
    import numpy as np
    from astropy.io.votable import from_table
    from astropy.table import MaskedColumn, Table

    table = Table()
    for name, series in zip(frame.columns, frame.iter_columns(), strict=True):
        missing = series.is_null().to_numpy()
        if series.dtype.is_numeric():
            values = series.fill_null(0).to_numpy()
        elif series.dtype == pl.Boolean:
            values = series.fill_null(value=False).to_numpy()
        elif isinstance(series.dtype, pl.Datetime):
            values = np.array(series.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f").fill_null("").to_list(), dtype=str)
        else:
            values = np.array(series.cast(pl.String).fill_null("").to_list(), dtype=str)
        unit = next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), None)
        numeric_unit = unit if series.dtype.is_float() else None
        table[name] = MaskedColumn(values, mask=missing if series.dtype.is_numeric() else None, unit=numeric_unit)
    stream = io.BytesIO()
    from_table(table).to_xml(stream)
    return stream.getvalue()


_WRITERS: Mapping[str, Callable[[pl.DataFrame], bytes]] = {
    "csv": _as_csv,
    "parquet": _as_parquet,
    "votable": _as_votable,
}
