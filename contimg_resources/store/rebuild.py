"""The store made again from the products alone, when its file is lost, damaged, or of another version.

What belongs here: putting the rows of products and records (``records.py``) into a fresh file, and exchanging the files. The
old one is moved aside, never removed. Whether the new one agrees with itself is ``consistency.py``.

The old file is locked meanwhile, as DuckDB would lock it: nobody can write what the new one would miss, and who wants to waits
and then finds the new file. Where there is no file, one that somebody begins meanwhile is left alone and the rebuild refused.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path

import duckdb
import polars as pl

from contimg_resources.errors import StoreBusyError, StoreError
from contimg_resources.products import Products
from contimg_resources.store.connection import Store, insert
from contimg_resources.store.frames import fit_frame
from contimg_resources.store.partitions import note_content
from contimg_resources.store.records import KEPT, OF_HISTORY, PRODUCT_OF, records_folder
from contimg_resources.store.schema import TABLES, Table

_PAUSE_S = 0.1
_OPENING_S = 0.5
"""Longer than it takes between opening a file and locking it: who opened the old one just before it was moved must not get it."""
_PROVENANCE = ("partition_key", "run_id", "code_version")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild has made."""

    n_rows: dict[str, int]
    """By table."""
    n_files: int
    """Products and records that were read."""
    moved_to: Path | None
    """Where the old file lies now."""
    without_run: tuple[str, ...]
    """Products made before they named their run: their rows have no ``run_id`` and no ``code_version``."""


def rebuild_store(store: Store, products: Products, *, at: datetime) -> Rebuilt:
    """Write a fresh store with the rows of all products and records, and put it in the place of the old one.

    Parameters
    ----------
    store : Store
        Its file may be absent, damaged or of another version.
    products : Products
        Tables that other hosts made are fetched from the home, where products have one.
    at : datetime
        For the name of the old file.

    Raises
    ------
    StoreBusyError
        If somebody held the store for longer than ``store.wait_s``, or began a new one meanwhile.
    StoreError
        If there is nothing to rebuild it from (``nothing_to_rebuild``), or a product cannot be read; the old file is as it was.
    """
    if products.home is not None:
        for asset in PRODUCT_OF.values():
            for key in products.home.partitions(asset):
                products.brought(products.table(asset, key))
    if not (products.root / "products").is_dir():
        raise StoreError(
            f"There is nothing to rebuild the store {store.path} from",
            got=f"no folder {products.root / 'products'}",
            expected="products",
            remedy="Set CONTIMG_DATA to the data folder whose products there are.",
            reason_code="nothing_to_rebuild",
        )
    with _held(store) as is_there:
        fresh = _fresh_file(store.path)
        n_rows, files, without_run = _fill(Store(fresh, keeps_rows=False), store.path, products)
        moved_to = _exchange(store.path, fresh, at) if is_there else None
        if not is_there:
            _place(store.path, fresh)
    return Rebuilt(n_rows, files, moved_to, tuple(without_run))


def _fill(store: Store, path: Path, products: Products) -> tuple[dict[str, int], int, list[str]]:
    n_rows, n_files = dict.fromkeys(TABLES, 0), 0
    without_run: list[str] = []
    store.initialise()
    for name, table in TABLES.items():
        folder = products.root / "products" / PRODUCT_OF[name] if name in PRODUCT_OF else None
        folder = records_folder(path) / name if name in KEPT else folder
        if folder is None:
            continue
        # A stem without a dot is the product; what is kept beside it to save time has a second suffix.
        files = [file for file in sorted(folder.glob("*/*.parquet")) if "." not in file.stem]
        with store.transaction() as connection:
            for _, grouped in groupby(files, key=lambda file: file.parent):
                some = list(grouped)
                frames = _read_together(table, some) or [_read(table, file, products) for file in some]
                if name in PRODUCT_OF:
                    pairs = zip(some, frames, strict=True)
                    without_run += [str(file) for file, rows in pairs if "run_id" not in rows.columns]
                n_rows[name] += _insert(connection, table, frames)
                n_files += len(some)
    with store.transaction() as connection:
        [(n_rows["partition_content"],)] = connection.execute("SELECT count(*) FROM partition_content").fetchall()
    return n_rows, n_files, without_run


def _read_together(table: Table, files: list[Path]) -> list[pl.DataFrame]:
    """Rows of records that have the columns of today, in one go; nothing if they must be read one by one."""
    if table.name not in KEPT:
        return []
    try:
        rows = pl.read_parquet(files)
    except (pl.exceptions.PolarsError, OSError):
        return []  # of several versions, or one is damaged: reading one by one tells which
    return [rows] if set(rows.columns) == set(table.column_names) else []


def _read(table: Table, file: Path, products: Products) -> pl.DataFrame:
    """Rows of a product or a record, with the provenance that a product has in its metadata."""
    try:
        rows = pl.read_parquet(file)
        metadata = pl.read_parquet_metadata(file) if table.name in PRODUCT_OF else {}
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StoreError(
            f"{file} cannot be read",
            got=str(error).splitlines()[0],
            expected="a Parquet file",
            remedy="Move it aside and make its partition again with `contimg rebuild`; then rebuild the store once more.",
            reason_code="damaged_product",
        ) from error
    told = {name: metadata[f"contimg.{name}"] for name in _PROVENANCE if f"contimg.{name}" in metadata}
    if table.name in PRODUCT_OF:
        key = told.pop("partition_key", None) or _partition_of(file, PRODUCT_OF[table.name], products)
        rows = rows.with_columns(pl.lit(value).alias(name) for name, value in {"partition_key": key, **told}.items())
    return rows.select(name for name in rows.columns if name in table.column_names)


def _partition_of(file: Path, asset: str, products: Products) -> str:
    """Partition of a product that does not name it, by the place where it lies."""
    day, name = file.parent.name, file.stem
    keys = (day, f"{day}T{name[:2]}:{name[2:]}") if asset != "blind_detections" else (f"{day}-{name[:2]}:{name[2:]}",)
    return next(key for key in keys if products.table(asset, key) == file)


def _insert(connection: duckdb.DuckDBPyConnection, table: Table, frames: Sequence[pl.DataFrame]) -> int:
    """Insert the rows of one folder; of a row that is in two of its files the last."""
    frames = [frame for frame in frames if frame.height]
    if not frames:
        return 0
    rows = pl.concat(frames, how="diagonal_relaxed").unique(table.key, keep="last", maintain_order=True)
    fitted = fit_frame(table, rows)
    if table.is_partitioned and not table.is_indexed:
        for (partition_key,), some in fitted.group_by(["partition_key"], maintain_order=True):
            note_content(connection, table, some, str(partition_key))
    if KEPT.get(table.name) == OF_HISTORY:  # whoever follows events reads them in the order in which they were written
        fitted = fitted.sort("at", maintain_order=True)
    return insert(connection, table, fitted, on_conflict="update" if table.is_indexed else "raise")


@contextmanager
def _held(store: Store) -> Iterator[bool]:
    """Keep everybody else from the old file, whatever state it is in; False if there is none."""
    if not store.path.exists():
        yield False
        return
    with store.path.open("r+b") as file:
        _lock(file.fileno(), store)
        yield True


def _lock(descriptor: int, store: Store) -> None:
    """Take the lock that DuckDB takes, waiting as long as the store would."""
    until = time.monotonic() + store.wait_s
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if time.monotonic() >= until:
                raise StoreBusyError(
                    f"The store {store.path} is in use",
                    got=f"a lock of another process for {store.wait_s:.0f} s",
                    expected="nobody who writes or reads",
                    remedy="Wait for the run that writes, or end the process that keeps it open (a duckdb shell?); then retry.",
                ) from error
            time.sleep(_PAUSE_S)
        else:
            return


def _fresh_file(path: Path) -> Path:
    """Name for the new file beside the old one; what a killed rebuild has left there is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.rebuilding")
    for file in (fresh, _log_of(fresh)):
        file.unlink(missing_ok=True)
    return fresh


def _log_of(path: Path) -> Path:
    """DuckDB's write-ahead log beside a file."""
    return path.with_name(path.name + ".wal")


def _exchange(path: Path, fresh: Path, at: datetime) -> Path:
    """Move the old file aside and the new one into its place."""
    aside = path.with_name(f"{path.name}.{at:%Y%m%dT%H%M%S%f}.replaced")
    path.rename(aside)
    if _log_of(path).exists():
        _log_of(path).rename(_log_of(aside))
    fresh.rename(path)
    time.sleep(_OPENING_S)
    return aside


def _place(path: Path, fresh: Path) -> None:
    """Give the new file its name unless somebody has begun another one."""
    try:
        os.link(fresh, path)
    except FileExistsError as error:
        raise StoreBusyError(
            f"A store has appeared at {path} meanwhile",
            got="a file that was not there before",
            expected="nobody who writes",
            remedy="Run `contimg store rebuild` again: it will move that file aside.",
        ) from error
    finally:
        fresh.unlink()
