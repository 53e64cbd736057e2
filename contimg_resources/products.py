"""Where every product lies, how it is named, and the writing that leaves it whole or absent.

``<data>/products/<asset>/<YYYY-MM-DD>/<HHMM>...``: one folder or file per partition, without colons in names. Every
file is written beside its place under a temporary name, fsynced, and renamed. The formats of measurement sets,
calibration tables and FITS are in their own modules; the store is ``store``. Raw files stay in the watched folder.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import polars as pl

from contimg_resources.errors import DiskFullError, ProductMissingError, ProductNotPublishedError, ResourceError
from contimg_resources.full_disks import disk_full, says_disk_is_full
from contimg_resources.tracing import traced

if TYPE_CHECKING:
    from contimg_resources.settings import Settings

_PARTITION = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T-](\d{2}):?(\d{2}))?")
_DAY, _TIME = re.compile(r"\d{4}-\d\d-\d\d"), re.compile(r"\d{4}")
_HASH_DIGITS = 12
"""Of a content hash in a name: enough for the tables of one partition."""
_UNPARTITIONED = "all"
_STORE = "contimg.duckdb"
_HASH_BLOCK_BYTES = 1 << 20
_PATIENCE_S = 30.0
"""A stage or a page does not wait longer for the home."""
_UNFINISHED = ".tmp"
"""Ending of the hidden name of a file that is being written."""


class PublishedProducts(Protocol):
    """A place that has copies of products (``product_home``)."""

    def refresh(self, products: Products, asset: str, partition_key: str | None) -> None:
        """Bring what is newer there, or missing here, of a partition to its place on the local disk, each part whole."""

    def has(self, products: Products, path: Path) -> bool:
        """Whether a copy of the file or folder at that place is there."""

    def partitions(self, asset: str) -> list[str | None]:
        """Partitions of an asset of which there are copies, oldest first."""


class Products:
    """Paths of all products below the data folder, and reading and writing of those that are plain files.

    Parameters
    ----------
    root : Path
        The data folder (`Settings.data`).
    minimum_free_gb : float
        Free space (GB) that must remain after writing.
    home : PublishedProducts, optional
        Where what is missing here, or was made again elsewhere, is fetched from before it is read.
    scratch : Path, optional
        Folder for work in progress, which may be a disk of this host; default below the data folder.
    store_path : Path, optional
        The DuckDB file; default in the data folder. Elsewhere where this is not the host of the store.
    """

    def __init__(
        self,
        root: Path,
        *,
        minimum_free_gb: float = 0.0,
        home: PublishedProducts | None = None,
        scratch: Path | None = None,
        store_path: Path | None = None,
    ) -> None:
        self.root = root.absolute()
        self.store_path = store_path or self.root / _STORE
        """The DuckDB file."""
        self._scratch = scratch or self.root / "scratch"
        self.minimum_free_gb = minimum_free_gb
        self.home = home

    def stem(self, asset: str, partition_key: str | None) -> Path:
        """Path of a partition without its suffix, e.g. ``products/continuum_image/2026-01-25/2225``.

        Parameters
        ----------
        asset : str
            Asset key.
        partition_key : str or None
            ``YYYY-MM-DDTHH:MM`` (observation), ``YYYY-MM-DD-HH:MM`` (hour), ``YYYY-MM-DD`` (day), or None.
        """
        folder = self.root / "products" / asset
        if partition_key is None:
            return folder / _UNPARTITIONED
        matched = _PARTITION.fullmatch(partition_key)
        if matched is None:
            raise ResourceError(
                f"{asset} has no partition of that name",
                got=repr(partition_key),
                expected="YYYY-MM-DD or YYYY-MM-DDTHH:MM",
                remedy="Give the partition as Dagster shows it.",
            )
        day, hour, minute = matched.groups()
        return folder / day / ("day" if hour is None else hour + minute)

    def measurement_set(self, partition_key: str) -> Path:
        """Folder of an observation's flagged measurement set."""
        return self.stem("measurement_set", partition_key).with_suffix(".ms")

    def bandpass_table(self, day: str, content_hash: str) -> Path:
        """Folder of a day's CASA B table of that content: a table made anew does not displace the one that images used."""
        return self.stem("bandpass_table", day).with_suffix(f".{content_hash[:_HASH_DIGITS]}.bcal")

    def gain_table(self, partition_key: str, content_hash: str) -> Path:
        """Folder of an observation's CASA G table of that content."""
        return self.stem("gain_table", partition_key).with_suffix(f".{content_hash[:_HASH_DIGITS]}.gcal")

    def image_folder(self, partition_key: str) -> Path:
        """Folder of an observation's FITS images."""
        return self.stem("continuum_image", partition_key)

    def mosaic_folder(self, partition_key: str) -> Path:
        """Folder of an hour's mosaic and its weight map."""
        return self.stem("mosaic", partition_key)

    def table(self, asset: str, partition_key: str | None) -> Path:
        """Parquet file of a partition's measurements."""
        return self.stem(asset, partition_key).with_suffix(".parquet")

    def document(self, asset: str, partition_key: str | None, suffix: str) -> Path:
        """File of another kind of a partition, e.g. with suffix ``.json``."""
        return self.stem(asset, partition_key).with_suffix(suffix)

    def report(self, day: str) -> Path:
        """A day's quality report, one HTML file."""
        return self.document("quality_report", day, ".html")

    def reference_catalogue(self) -> Path:
        """The reference catalogue, Parquet."""
        return self.table("reference_catalogue", None)

    def scratch(self, name: str) -> Path:
        """Path for work in progress; whoever makes it removes it."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch / f"{name}-{uuid.uuid4().hex[:8]}"

    def partition_of(self, path: Path) -> tuple[str, str | None] | None:
        """Asset and partition of what lies at a path, as `stem` takes them; None for what is no product.

        Hours are given as the observation window with which they begin: both have the same stem.
        """
        if not path.is_relative_to(self.root / "products"):
            return None
        asset, *parts = path.relative_to(self.root / "products").parts or ("",)
        name = parts[min(1, len(parts) - 1)].split(".")[0] if parts else ""
        if len(parts) > 1 and _DAY.fullmatch(parts[0]) and (name == "day" or _TIME.fullmatch(name)):
            return asset, parts[0] if name == "day" else f"{parts[0]}T{name[:2]}:{name[2:]}"
        return (asset, None) if parts and parts[0].split(".")[0] == _UNPARTITIONED else None

    def noted(self, path: Path) -> Path:
        """Path by which the store knows a product: where it lies, or would lie, on the host of the store.

        So rows do not depend on the host that made them; `located` and `present` lead back to the local disk.
        """
        return self.store_path.parent / path.relative_to(self.root)

    def located(self, noted: str | Path) -> Path:
        """Where a product lies whose path was noted when it was made: a data folder may be moved, copied or mounted elsewhere.

        Parameters
        ----------
        noted : path
            As the store has it. One that is not below a folder ``products`` is returned as it is; so is one that exists, where
            products have no home: with one, each host reads its own copies.
        """
        path = Path(noted)
        if "products" not in path.parts or (self.home is None and path.exists()):
            return path
        start = len(path.parts) - path.parts[::-1].index("products") - 1
        return self.root.joinpath(*path.parts[start:])

    @traced("io.write_parquet")
    def write_parquet(
        self, asset: str, partition_key: str | None, frame: pl.DataFrame, *, made_by: Mapping[str, str] | None = None
    ) -> Path:
        """Write a partition's measurements; the same frame made by the same run gives the same bytes.

        Parameters
        ----------
        asset : str
        partition_key : str or None
        frame : polars.DataFrame
        made_by : mapping, optional
            ``run_id`` and ``code_version``: they go into the file's metadata, so that rows of the store can be made of it.
        """
        path = self.table(asset, partition_key)
        self.check_free_space(int(frame.estimated_size()))
        metadata = None
        if made_by is not None:
            told = {"asset": asset, "partition_key": partition_key or "", **made_by}
            metadata = {f"contimg.{name}": value for name, value in told.items()}
        atomic_write(path, lambda stream: frame.write_parquet(stream, compression="zstd", metadata=metadata))
        return path

    @traced("io.read_parquet")
    def read_parquet(self, asset: str, partition_key: str | None) -> pl.DataFrame:
        """Read a partition's measurements; ProductMissingError when there are none."""
        return pl.read_parquet(self.present(self.table(asset, partition_key)))

    def brought(self, noted: str | Path) -> Path:
        """Where a product lies on the local disk, its newest version fetched from the home; it may be missing there too."""
        path = self.located(noted)
        partition = self.partition_of(path)
        if self.home is not None and partition is not None:
            self.home.refresh(self, *partition)
        return path

    def present(self, noted: str | Path) -> Path:
        """Where a product lies (see `located`) that is to be read: everybody who reads one asks here.

        Raises
        ------
        ProductMissingError
            If it is neither on the local disk nor in the home.
        """
        path = self.brought(noted)
        if self.home is not None and not path.exists() and self.partition_of(path) is not None:
            raise ProductNotPublishedError(
                f"Product {path} is neither here nor in the home of products",
                got="nothing published",
                expected="a file or folder",
                remedy="If another host made it: run `contimg products publish` there. Else materialize its asset again.",
            )
        return require(path)

    def holds(self, noted: str | Path) -> bool:
        """Whether `present` would find a product; nothing is fetched."""
        path = self.located(noted)
        return path.exists() or (self.home is not None and self.home.has(self, path))

    def write_bytes(self, path: Path, content: bytes) -> Path:
        """Write a file whole or not at all."""
        self.check_free_space(len(content))
        atomic_write(path, lambda stream: stream.write(content))
        return path

    def write_text(self, path: Path, content: str) -> Path:
        """Write a UTF-8 text file whole or not at all."""
        return self.write_bytes(path, content.encode())

    def write_json(self, path: Path, content: Mapping[str, Any] | list[Any]) -> Path:
        """Write JSON whole or not at all; NaN is refused, because it is not JSON."""
        return self.write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def of_partition(self, asset: str, partition_key: str | None) -> list[Path]:
        """Everything a partition has on disk: its folder, and files or folders of its name with any suffix."""
        stem = self.stem(asset, partition_key)
        if not stem.parent.is_dir():
            return []
        return sorted(path for path in stem.parent.iterdir() if path.name.split(".")[0] == stem.name)

    def remove(self, asset: str, partition_key: str | None) -> list[Path]:
        """Remove a partition's products; return what was removed. Absent products are not an error."""
        removed = self.of_partition(asset, partition_key)
        for path in removed:
            remove_whole(path)
        return removed

    def check_free_space(self, n_bytes: int) -> None:
        """Raise DiskFullError unless that many bytes fit and the reserve remains.

        Parameters
        ----------
        n_bytes : int
            What is about to be written, bytes.
        """
        existing = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        free_bytes = shutil.disk_usage(existing).free
        needed = n_bytes + self.minimum_free_gb * 1e9
        if free_bytes < needed:
            raise DiskFullError(
                f"The disk of {self.root} is too full to write",
                got=f"{free_bytes / 1e9:.2f} GB free",
                expected=f"{needed / 1e9:.2f} GB ({n_bytes / 1e9:.2f} to write, the rest CONTIMG_MINIMUM_FREE_GB)",
                remedy="Free space (measurement sets are the largest products, and are made again from the raw files) or move"
                " CONTIMG_DATA; then retry.",
            )


def open_products(settings: Settings) -> Products:
    """Products of an installation, which know their home where one is set."""
    home = None
    if settings.products_url is not None:
        from contimg_resources.product_home import ProductHome

        home = ProductHome(settings.products_url, patience_s=_PATIENCE_S)
    free_gb, scratch, store_path = settings.minimum_free_gb, settings.scratch, settings.store
    return Products(settings.data, minimum_free_gb=free_gb, home=home, scratch=scratch, store_path=store_path)


def remove_whole(path: Path) -> None:
    """Remove a file or folder; a kill halfway leaves no half product under its name (`finish_removal` does the rest)."""
    doomed = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.removed")
    path.rename(doomed)
    shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()


def finish_removal(path: Path) -> None:
    """Remove what a killed `remove_whole` of this path left; there is no half product among it that somebody could need."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.removed"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def unfinished_remains(path: Path) -> list[Path]:
    """What a killed `atomic_write` of this path left, and what one under way is writing: only for who alone may write it."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.*{_UNFINISHED}"))


def require(path: Path) -> Path:
    """Return a path that exists, or raise ProductMissingError naming it."""
    if not path.exists():
        raise ProductMissingError(
            f"Product {path} is missing",
            got="nothing there",
            expected="a file or folder",
            remedy="Materialize the asset that makes it for this partition, then retry.",
        )
    return path


@contextmanager
def _placed_whole(path: Path) -> Iterator[BinaryIO]:
    """Binary stream to a temporary sibling that takes the path's name once it is written and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let ``write`` fill a file that appears under its name only when it is complete.

    Parameters
    ----------
    path : Path
        Folders above it are made.
    write : callable
        Called with an open binary stream.

    Raises
    ------
    DiskFullError
        If the disk fills up meanwhile; nothing is left behind.
    """
    try:
        with _placed_whole(path) as stream:
            write(stream)
    except OSError as error:
        if not says_disk_is_full(error):
            raise
        raise disk_full(f"{path} was written") from error


def sync_names(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names, as hexadecimal text."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if file != path:
            digest.update(file.relative_to(path).as_posix().encode())
        with file.open("rb") as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
