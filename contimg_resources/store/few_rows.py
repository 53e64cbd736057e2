"""Answers of few rows as frames, without the way through Arrow, which costs three times as much processor time as a short question.

What belongs here: choosing how rows leave DuckDB; the frame is the same either way. A page asks about ten questions that have
a few rows each, again and again with other parameters: a question is remembered by its text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import polars as pl

from contimg_resources.store.frames import DTYPES

_FEW = 500
"""Rows up to which building Python's objects is quicker (at the 16 columns of a light curve)."""
_has_few: dict[str, bool] = {}
"""By the question's text. Texts are constants of this package, so that there are not many."""
_without_rows: dict[tuple[str, tuple[str, ...]], pl.DataFrame] = {}
"""Answers without rows, by the question's text and columns: many have none, and an empty frame costs as much as a full one."""


def answer_of(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None
) -> pl.DataFrame:
    """Answer of one SELECT through an open connection."""
    if _has_few.get(sql, False):
        result = connection.execute(sql, parameters)
        dtypes = {name: DTYPES.get(str(kind)) for name, kind, *_ in result.description or ()}
        rows = result.fetchall()  # all: DuckDB refuses further work on a connection whose result is not read to its end
        _has_few[sql] = len(rows) <= _FEW
        if None not in dtypes.values() and (not rows or len(rows[0]) == len(dtypes)):
            return pl.DataFrame(rows, schema=dtypes, orient="row") if rows else _empty(sql, dtypes)
        _has_few[sql] = False
    answer: pl.DataFrame = connection.sql(sql, params=parameters).pl()
    _has_few.setdefault(sql, answer.height <= _FEW)
    return answer


def _empty(sql: str, dtypes: Mapping[str, Any]) -> pl.DataFrame:
    key = sql, tuple(dtypes)
    if key not in _without_rows:
        _without_rows[key] = pl.DataFrame(schema=dtypes)
    return _without_rows[key].clone()
