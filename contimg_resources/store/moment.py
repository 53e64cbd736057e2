"""Several questions about one moment of the store: what a page shows together must belong together.

What belongs here: the reader that keeps one read-only connection for a block. A page asks about ten questions, and
attaching the file costs more than most answers; a writer waits meanwhile, so blocks are short. Questions with names are
``queries.py`` and its neighbours; single ones may go through ``Store.query``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import duckdb
import polars as pl

from contimg_resources.store.connection import Store
from contimg_resources.store.few_rows import answer_of


class Answers(Protocol):
    """What questions are asked: a store, or one moment of it."""

    @property
    def newest_statistics(self) -> str:
        """Table, or SELECT in parentheses, of each source's newest statistics by band."""

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Answer of one SELECT."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The store as it is while a block runs."""

    connection: duckdb.DuckDBPyConnection
    newest_statistics: str

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Answer of one SELECT."""
        return answer_of(self.connection, sql, parameters)


@contextmanager
def one_moment(store: Store) -> Iterator[Moment]:
    """All answers in the block are of one moment; errors are those of `Store.reading`."""
    with store.reading() as connection:
        yield Moment(connection, store.newest_statistics)
