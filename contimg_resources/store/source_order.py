"""Light curves once more, in the order of sources: what makes the history of some sources quick to read.

The table ``light_curve`` lies in the order it is written, by day: the points of a thousand sources among a hundred
thousand are in every block of it, so that reading them costs as much as reading everything (0.5 s at 1e7 rows, of which
the comparison of 1e7 names is half). Here the same points lie source after source in files that are mapped into memory,
and a source's points of many days are one piece: 20 ms.

The table remains the truth; these files can be deleted at any time. A block holds some partitions, each with the hash of
the content it was made from (``partitions.py``), and serves only those whose hash is still that of the table. What no
block serves (the newest day, a day made again with another content) is read from the table, and goes into a block when
there is enough of it; a block swallows smaller ones, so that their number grows with the logarithm of the rows up to
``BlockSizes.largest``. Which blocks there are never changes an answer, only its time.

Rejected, measured at 1e7 rows: the table sorted by source (0.3 s, and a day rewrites everything), one row of lists per
source (0.1 s, and a day rewrites every source), a number in place of the name (0.3 s).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_resources.products import atomic_write

VALUES = ("epoch_mjd", "mjd", "frequency_hz", "flux_jy", "flux_err_jy", "flux_sys_err_jy")
"""Numbers of a point, beside its source and band."""

_LIST = "blocks.json"
_ROW = np.dtype([("partition", "i4"), ("band", "i4"), *((name, "f8") for name in VALUES)])
_FILES = ("rows", "sources", "starts")

Contents = Mapping[str, tuple[str, int]]
"""Content hash and number of rows by partition, as ``partitions.partition_contents`` returns them."""


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """When rows make a block."""

    smallest: int = 250_000
    """So many rows that no block serves make one; reading them from the table takes about 30 ms."""

    largest: int = 4_000_000
    """Rows that are enough: a block is sorted in memory, 56 bytes a row, several times."""


@dataclass(frozen=True, slots=True)
class Points:
    """Points of some sources, with their names apart."""

    groups: pl.DataFrame
    """``source_id`` and ``band``, each pair once."""

    group: NDArray[np.int64]
    """Row of ``groups`` for each point."""

    rows: NDArray[np.void]
    """``_ROW``; NaN where the table has NULL."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some partitions' points in the order of source, band and epoch, mapped into memory."""

    name: str
    """Follows from the partitions and their content."""

    partitions: dict[str, str]
    """Content hash by partition; a point names its partition by the place in this order."""

    bands: list[str]
    """A point names its band by the place in this order."""

    rows: NDArray[np.void]
    """``_ROW``, sorted by source, band and epoch."""

    sources: NDArray[np.bytes_]
    """Names in ascending order, UTF-8."""

    starts: NDArray[np.int64]
    """First row of each source, and the number of rows."""

    def points(self, serves: Sequence[str], source_ids: Sequence[str] | None, before_mjd: float) -> Points:
        """Points before a time, of some partitions, of some or all sources."""
        rows, chosen = self.rows, np.arange(self.sources.size)
        if source_ids is not None:
            chosen = self._places(source_ids)
            rows = rows[_ranges(self.starts[chosen], self.starts[chosen + 1])]
        source = np.repeat(np.arange(chosen.size), self.starts[chosen + 1] - self.starts[chosen])
        is_served = np.array([partition in serves for partition in self.partitions])
        kept = is_served[rows["partition"]] & (rows["mjd"] < before_mjd)
        names = pl.Series("source_id", self.sources[chosen].tolist(), pl.Binary).cast(pl.String)
        groups = pl.DataFrame(names).join(pl.DataFrame({"band": self.bands}), how="cross", maintain_order="left_right")
        group = source * len(self.bands) + rows["band"]
        return Points(groups, group[kept], rows[kept])

    def marks(self, serves: Sequence[str], before_mjd: float) -> pl.DataFrame:
        """Marks of all sources by their points before a time in some partitions, as of ``table_marks``."""
        is_served = np.array([partition in serves for partition in self.partitions])
        bands = _hashes(self.bands)
        found = []
        edges = [0, *range(_SOURCES_AT_ONCE, self.sources.size, _SOURCES_AT_ONCE), self.sources.size]
        for first, end in pairwise(edges):
            rows = self.rows[self.starts[first] : self.starts[end]]
            kept = is_served[rows["partition"]] & (rows["mjd"] < before_mjd)
            source = np.repeat(np.arange(end - first), np.diff(self.starts[first : end + 1]))
            found.append(_marks(source[kept], end - first, bands[rows["band"][kept]], rows[kept]))
        names = pl.Series("source_id", self.sources.tolist(), pl.Binary).cast(pl.String)
        return (
            pl.concat([pl.DataFrame(schema=_MARKS), *found])
            .with_columns(names)
            .filter(pl.col("newest_mjd").is_finite())
        )

    def _places(self, source_ids: Sequence[str]) -> NDArray[np.int64]:
        """Places of those sources that the block has."""
        wanted = np.unique(np.array([source_id.encode() for source_id in source_ids], dtype=np.bytes_))
        place = np.searchsorted(self.sources, wanted)
        place = np.minimum(place, self.sources.size - 1)
        return np.asarray(place[self.sources[place] == wanted], dtype=np.int64)


def _ranges(first: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from each first up to its end, one range after the other."""
    length = end - first
    return np.asarray(np.arange(length.sum()) + np.repeat(first - np.cumsum(length) + length, length), dtype=np.int64)


def open_blocks(folder: Path) -> list[Block]:
    """The blocks of a folder; one whose files have gone is left out."""
    try:
        entries = json.loads((folder / _LIST).read_text())
    except FileNotFoundError:
        return []
    return [block for name, entry in entries.items() if (block := _open(folder, name, entry)) is not None]


def _open(folder: Path, name: str, entry: dict[str, Any]) -> Block | None:
    try:
        files = [np.load(folder / f"{name}.{kind}.npy", mmap_mode="r") for kind in _FILES]
        return Block(name, entry["partitions"], entry["bands"], *files)
    except FileNotFoundError:  # another process has put a larger block in its place
        return None


def served_partitions(blocks: Sequence[Block], contents: Contents) -> dict[str, list[str]]:
    """By name of the block, the partitions to take from it: those it holds as the table does, each from one block."""
    taken: set[str] = set()
    served: dict[str, list[str]] = {}
    for block in blocks:
        current = [
            partition
            for partition, content in block.partitions.items()
            if partition not in taken and contents.get(partition, ("", 0))[0] == content
        ]
        taken.update(current)
        served[block.name] = current
    return served


def partitions_to_seal(served: Mapping[str, Sequence[str]], contents: Contents, sizes: BlockSizes) -> list[str]:
    """Partitions that should make a block now, if any: enough of those that no block serves, and smaller blocks with them.

    The newest day is left out, since it is made again with every observation.
    """
    in_blocks = {partition for partitions in served.values() for partition in partitions}
    chosen: list[str] = []
    n_rows = 0
    for partition in sorted(set(contents) - in_blocks - {max(contents, default="")}):
        if n_rows < sizes.largest:
            chosen.append(partition)
            n_rows += contents[partition][1]
    if n_rows < sizes.smallest:
        return []
    for rows, partitions in sorted((sum(contents[p][1] for p in served[name]), served[name]) for name in served):
        if rows <= n_rows and n_rows + rows <= sizes.largest:
            chosen += partitions
            n_rows += rows
    return sorted(chosen)


def write_block(folder: Path, rows: pl.DataFrame, contents: Contents, partitions: Sequence[str]) -> None:
    """Put a block beside those there are, and remove blocks that serve nothing any more.

    Parameters
    ----------
    folder : Path
        Made when absent.
    rows : polars.DataFrame
        ``source_id``, ``band``, ``partition_key`` and ``VALUES`` of the partitions, sorted by source, band and epoch.
    contents : mapping
        Of all partitions the table has.
    partitions : sequence of str
        Those of the block.
    """
    held = {partition: contents[partition][0] for partition in partitions}
    name = hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]
    bands = rows["band"].unique().sort().to_list()
    sources = rows["source_id"].rle().struct.unnest()
    arrays = {
        "rows": _as_records(rows, list(held), bands),
        "sources": np.array([source_id.encode() for source_id in sources["value"]], dtype=np.bytes_),
        "starts": np.concatenate([[0], np.cumsum(sources["len"].to_numpy().astype(np.int64))]),
    }
    for kind in _FILES:
        atomic_write(folder / f"{name}.{kind}.npy", partial(np.save, arr=arrays[kind]))
    others = [block for block in open_blocks(folder) if block.name != name]
    remaining = {partition: content for partition, content in contents.items() if partition not in held}
    served = served_partitions(others, remaining)
    listed = {
        block.name: {"partitions": block.partitions, "bands": block.bands} for block in others if served[block.name]
    }
    listed[name] = {"partitions": held, "bands": bands}
    atomic_write(folder / _LIST, lambda stream: stream.write(json.dumps(listed).encode()))
    for path in folder.glob("*.npy"):
        if path.name.split(".")[0] not in listed:
            path.unlink(missing_ok=True)


def _as_records(rows: pl.DataFrame, partitions: list[str], bands: list[str]) -> NDArray[np.void]:
    records = np.empty(rows.height, _ROW)
    records["partition"] = rows["partition_key"].cast(pl.Enum(partitions)).to_physical().to_numpy()
    records["band"] = rows["band"].cast(pl.Enum(bands)).to_physical().to_numpy()
    for name in VALUES:
        records[name] = rows[name].to_numpy()  # NULL becomes NaN
    return records


def points_of_table(rows: pl.DataFrame) -> Points:
    """Points read from the table itself: ``source_id``, ``band`` and ``VALUES``."""
    groups = rows.select("source_id", "band").unique(maintain_order=True).with_row_index("group")
    group = rows.join(groups, on=["source_id", "band"], how="left", maintain_order="left")["group"]
    records = np.zeros(rows.height, _ROW)
    for name in VALUES:
        records[name] = rows[name].to_numpy()
    return Points(groups.select("source_id", "band"), group.to_numpy().astype(np.int64), records)


def in_order(parts: Sequence[Points]) -> pl.DataFrame:
    """All points in one table: ``source_id``, ``band`` and ``VALUES``, sorted by source, band and epoch.

    Names are sorted once each, not once per point.
    """
    parts = sorted(parts, key=lambda part: float(part.rows["epoch_mjd"].min(initial=np.inf)))
    groups = pl.concat([part.groups for part in parts])
    names = groups.unique().sort("source_id", "band").with_row_index("place")
    places = groups.join(names, on=["source_id", "band"], how="left", maintain_order="left")["place"].to_numpy()
    starts = np.cumsum([0, *(part.groups.height for part in parts)])
    place = np.concatenate([places[start + part.group] for start, part in zip(starts[:-1], parts, strict=True)])
    column = {name: np.concatenate([part.rows[name] for part in parts]) for name in VALUES}
    # A few ascending runs one after the other, which this sort merges, and mostly in order of time as well.
    order = np.argsort(place, kind="stable")
    sorted_place, sorted_epoch = place[order], column["epoch_mjd"][order]
    if np.any((sorted_epoch[1:] < sorted_epoch[:-1]) & (sorted_place[1:] == sorted_place[:-1])):
        order = np.lexsort((column["epoch_mjd"], place))
    named: pl.DataFrame = names.select("source_id", "band")[sorted_place]
    return named.with_columns(pl.Series(name, column[name][order]).fill_nan(None) for name in VALUES)


_MARKS: dict[str, type[pl.DataType]] = {"mark": pl.UInt64, "first_mjd": pl.Float64, "newest_mjd": pl.Float64}
_SOURCES_AT_ONCE = 4096
"""Sources whose points are hashed together: what is copied of the mapped file stays small."""

_ODD = np.array([0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53], dtype=np.uint64)
"""Multipliers of MurmurHash3's finaliser (A. Appleby, public domain)."""


def _hashes(names: Sequence[str]) -> NDArray[np.uint64]:
    digests = [hashlib.sha256(name.encode()).digest()[:8] for name in names]
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


def _marks(
    source: NDArray[np.int64], n_source: int, band_hash: NDArray[np.uint64], rows: NDArray[np.void]
) -> pl.DataFrame:
    """Sum of the hashes of each source's points, which depends neither on their order nor on the block they lie in."""
    mark = band_hash
    for name in VALUES:
        # Multiplication and exclusive or wrap around, as they should.
        mark = (mark ^ np.ascontiguousarray(rows[name]).view(np.uint64)) * _ODD[0]
        mark = (mark ^ (mark >> np.uint64(33))) * _ODD[1]
        mark ^= mark >> np.uint64(29)
    total = np.zeros(n_source, dtype=np.uint64)
    first, newest = np.full(n_source, np.inf), np.full(n_source, -np.inf)
    if source.size:
        begins = np.flatnonzero(np.diff(source, prepend=-1))
        total[source[begins]] = np.add.reduceat(mark, begins)
        first[source[begins]] = np.minimum.reduceat(rows["mjd"], begins)
        newest[source[begins]] = np.maximum.reduceat(rows["mjd"], begins)
    return pl.DataFrame({"mark": total, "first_mjd": first, "newest_mjd": newest}, schema=_MARKS)


def table_marks(rows: pl.DataFrame) -> pl.DataFrame:
    """Marks of the sources of rows read from the table itself: ``source_id`` and ``_MARKS``, sorted by source."""
    points = points_of_table(rows.sort("source_id"))
    names = points.groups["source_id"].unique().sort()
    place = points.groups.join(names.to_frame().with_row_index("place"), on="source_id", maintain_order="left")["place"]
    source = place.to_numpy().astype(np.int64)[points.group]
    return _marks(
        source, names.len(), _hashes(points.groups["band"].to_list())[points.group], points.rows
    ).with_columns(names)


def joined_marks(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Marks of sources whose points lie in several places."""
    every = pl.concat([part.select("source_id", *_MARKS) for part in parts])
    names = every["source_id"].unique().sort()
    place = every.join(names.to_frame().with_row_index("place"), on="source_id", maintain_order="left")["place"]
    total = np.zeros(names.len(), dtype=np.uint64)
    np.add.at(total, place.to_numpy(), every["mark"].to_numpy())
    times = every.group_by("source_id").agg(pl.col("first_mjd").min(), pl.col("newest_mjd").max()).sort("source_id")
    return times.select("source_id", pl.Series("mark", total), "first_mjd", "newest_mjd")
