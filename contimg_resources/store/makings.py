"""What a partition was made from, noted when it is whole: by it a run that is asked for the same again knows that there is no work.

What belongs here: the note, which stands with the timing of the stage that made the partition (``stage_timing``, stage ``whole``):
a hash of the inputs, the state of the product's files, and of its rows in the store. What the inputs of an asset are is said by
``contimg_assets.recipes``; whether it is made again is decided by ``contimg_assets.unchanged``.

The state of files is their names, sizes and times of change: cheap for a measurement set of gigabytes, and another one as soon as
somebody edits it, removes a part or brings it back from an archive. The state of rows is DuckDB's hash of all they say, the run
that wrote them included. Another version of DuckDB may give another hash; partitions are then made again, which is never wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from contimg_resources.products import file_hash
from contimg_resources.store.connection import Store
from contimg_resources.store.records import keep_rows
from contimg_resources.store.schema import TABLES
from contimg_resources.table_folders import LOCK_FILE

REMAKE_TAG = "contimg/remake"
"""Run tag by which somebody insists: with the value ``yes`` partitions are made again although nothing changed."""
WHY_SKIPPED = "skipped"
"""Metadata of a materialization that took no work, and why."""
MADE, SKIPPED = "whole", "skipped"
"""Values of ``stage`` in ``stage_timing``: the partition was made; it was asked for and nothing was to be done."""


@dataclass(frozen=True, slots=True)
class Making:
    """A partition that was made whole, and from what."""

    input_hash: str
    file_state: str
    row_state: str
    run_id: str
    made_at: datetime
    """UTC without zone: when the stage that made it began."""


@dataclass(frozen=True, slots=True)
class Noted:
    """What the store knows of a partition at one moment."""

    observations: list[dict[str, Any]]
    makings: dict[str, Making]
    """By asset; of those whose inputs are known."""


def noted(store: Store, partition_key: str) -> Noted:
    """Observations that began in a partition's window, and what its assets were made from."""
    with store.reading() as connection:
        observations = connection.sql(
            "SELECT observation_id, start_mjd, duration_s, pointing_ra_deg, pointing_dec_deg, n_subbands, status"
            " FROM observation WHERE partition_key = ? ORDER BY observation_id",
            params=[partition_key],
        ).pl()
        rows = connection.execute(
            "SELECT asset, input_hash, file_state, row_state, run_id, started_at FROM stage_timing"
            " WHERE partition_key = ? AND stage = ? AND input_hash IS NOT NULL AND file_state IS NOT NULL"
            " AND row_state IS NOT NULL AND run_id IS NOT NULL",
            [partition_key, MADE],
        ).fetchall()
    return Noted(observations.to_dicts(), {asset: Making(*values) for asset, *values in rows})


def forget_making(store: Store, asset: str, partition_key: str) -> None:
    """Forget what a partition was made from, before it is made again: half of a new one must not pass for the old one."""
    with store.transaction() as connection:
        connection.execute(
            "UPDATE stage_timing SET input_hash = NULL WHERE asset = ? AND partition_key = ? AND stage = ?",
            [asset, partition_key, MADE],
        )
        keep_rows(connection, "stage_timing", [partition_key])


def hash_of(inputs: Mapping[str, Any]) -> str:
    """SHA-256 of named inputs, 64 hexadecimal digits; values are what JSON can say, without NaN."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, allow_nan=False).encode()).hexdigest()


def file_state(paths: Sequence[Path]) -> str | None:
    """State of a product's files and folders (names, sizes, times of change to the nanosecond); None if one is missing."""
    found = []
    try:
        for path in paths:
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in files:
                told = file.stat()
                if file.name != LOCK_FILE and not file.is_dir():
                    found.append([f"{path.name}/{file.relative_to(path)}", told.st_size, told.st_mtime_ns])
            if path.is_dir() and not files:
                return None
    except OSError:
        return None
    return hash_of({"files": found})


def content_of_file(path: Path) -> str | None:
    """SHA-256 of a file, computed once for each state of it in a process; None if it is missing."""
    try:
        told = path.stat()
    except OSError:
        return None
    return _content(path, told.st_size, told.st_mtime_ns)


@lru_cache(maxsize=8)
def _content(path: Path, _size: int, _mtime_ns: int) -> str:
    return file_hash(path)


def row_state(
    store: Store, partition_key: str, tables: Sequence[str], *, may_be_empty: Sequence[str] = ()
) -> str | None:
    """State of a partition's rows in some tables; None if one has no rows that must have some."""
    states = {}
    with store.reading() as connection:
        for table in (*tables, *may_be_empty):
            name = TABLES[table].name
            [(n_rows, content)] = connection.execute(
                f'SELECT count(*), bit_xor(hash(t)) FROM "{name}" t WHERE partition_key = ?',  # noqa: S608 (from the schema)
                [partition_key],
            ).fetchall()
            if not n_rows and table in tables:
                return None
            states[table] = [n_rows, content or 0]
    return hash_of(states)
