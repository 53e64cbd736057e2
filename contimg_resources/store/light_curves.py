"""Light-curve points out of the store: all of them up to a time, those of some sources, or which sources have changed.

What belongs here: these questions, in one fixed order of rows. How points lie by source is ``source_order.py``;
writing is ``connection.py``; what people ask one source at a time is ``queries.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import polars as pl

from contimg_resources.store.connection import Store
from contimg_resources.store.partitions import partition_contents
from contimg_resources.store.source_order import (
    VALUES,
    Block,
    BlockSizes,
    Contents,
    in_order,
    joined_marks,
    open_blocks,
    partitions_to_seal,
    points_of_table,
    served_partitions,
    table_marks,
    write_block,
)

_TABLE = "light_curve"
_COLUMNS = ", ".join(("source_id", "band", *VALUES))
CONDITIONS = ("primary_beam", "separation_from_centre_deg", "n_antennas", "calibration_fallback")
"""How a point was observed; only asked for where something was found, and therefore not kept by source."""

_SIZES = BlockSizes()
_IN_PARTITIONS = "partition_key IN (SELECT unnest(?::VARCHAR[]))"


def points_until(store: Store, before_mjd: float, sizes: BlockSizes = _SIZES) -> pl.DataFrame:
    """Points of every source before a time, sorted by source, band and epoch.

    Returns
    -------
    polars.DataFrame
        ``source_id``, ``band``, ``epoch_mjd``, ``mjd``, ``frequency_hz``, ``flux_jy``, ``flux_err_jy``,
        ``flux_sys_err_jy``.
    """
    return _points(store, None, before_mjd, sizes)


def points_of_sources(
    store: Store, source_ids: Sequence[str], before_mjd: float, sizes: BlockSizes = _SIZES
) -> pl.DataFrame:
    """Points of some sources before a time, with the same columns in the same order."""
    return _points(store, source_ids, before_mjd, sizes)


def conditions_of_sources(store: Store, source_ids: Sequence[str], before_mjd: float) -> pl.DataFrame:
    """How the points of some sources before a time were observed; from the table itself, for few sources at a time.

    Returns
    -------
    polars.DataFrame
        ``source_id``, ``band``, ``epoch_mjd`` and ``CONDITIONS``; sorted by the first three.
    """
    return store.query(
        f"SELECT source_id, band, epoch_mjd, {', '.join(CONDITIONS)} FROM light_curve"  # noqa: S608 (constants)
        " WHERE source_id IN (SELECT unnest(?::VARCHAR[])) AND mjd < ? ORDER BY source_id, band, epoch_mjd",
        [list(source_ids), before_mjd],
    )


def marks_of_sources(store: Store, before_mjd: float, sizes: BlockSizes = _SIZES) -> pl.DataFrame:
    """Of each source with points before a time, a mark that changes when one of these points does.

    Returns
    -------
    polars.DataFrame
        ``source_id``, ``mark`` (a hash of the points), ``first_mjd``, ``newest_mjd``; sorted by source.
    """
    served, rest = _found(store, None, before_mjd, sizes)
    return joined_marks([*(block.marks(partitions, before_mjd) for block, partitions in served), table_marks(rest)])


def _points(store: Store, source_ids: Sequence[str] | None, before_mjd: float, sizes: BlockSizes) -> pl.DataFrame:
    served, rest = _found(store, source_ids, before_mjd, sizes)
    parts = [block.points(partitions, source_ids, before_mjd) for block, partitions in served]
    return in_order([*parts, points_of_table(rest)])


def _found(
    store: Store, source_ids: Sequence[str] | None, before_mjd: float, sizes: BlockSizes
) -> tuple[list[tuple[Block, list[str]]], pl.DataFrame]:
    """Blocks with the partitions to take from each, and the rows that none of them serves."""
    folder = store.path.parent / "light_curves_by_source"
    while True:
        with store.reading() as connection:
            contents = partition_contents(connection, _TABLE)
            if not _are_all_noted(connection, contents):
                return [], _unserved(connection, None, source_ids, before_mjd)
            blocks = open_blocks(folder)
            served = served_partitions(blocks, contents)
            to_seal = partitions_to_seal(served, contents, sizes)
            if not to_seal:
                rest = sorted(set(contents) - {partition for partitions in served.values() for partition in partitions})
                unserved = _unserved(connection, rest, source_ids, before_mjd)
                return [(block, served[block.name]) for block in blocks], unserved
            rows = connection.sql(
                f"SELECT {_COLUMNS}, partition_key FROM light_curve WHERE {_IN_PARTITIONS}"  # noqa: S608 (constants)
                " ORDER BY source_id, band, epoch_mjd",
                params=[to_seal],
            ).pl()
        write_block(folder, rows, contents, to_seal)


def _are_all_noted(connection: duckdb.DuckDBPyConnection, contents: Contents) -> bool:
    """Whether the table has the rows that were noted; not so if somebody deleted or inserted some by hand."""
    [(counted,)] = connection.execute("SELECT count(*) FROM light_curve").fetchall()
    return bool(counted == sum(n_rows for _, n_rows in contents.values()))


def _unserved(
    connection: duckdb.DuckDBPyConnection,
    partitions: Sequence[str] | None,
    source_ids: Sequence[str] | None,
    before_mjd: float,
) -> pl.DataFrame:
    """Points from the table, of some partitions or all."""
    where = ["mjd < ?"]
    parameters: list[Any] = [before_mjd]
    for condition, chosen in ((_IN_PARTITIONS, partitions), ("source_id IN (SELECT unnest(?::VARCHAR[]))", source_ids)):
        if chosen is not None:
            where.append(condition)
            parameters.append(list(chosen))
    rows: pl.DataFrame = connection.sql(
        f"SELECT {_COLUMNS} FROM light_curve WHERE {' AND '.join(where)}",  # noqa: S608 (constants)
        params=parameters,
    ).pl()
    return rows
