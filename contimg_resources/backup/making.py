"""Making a backup while the platform works: each part of one moment, the whole appearing under its name when it is complete.

What belongs here: what goes into a backup and in which order. Products that can be made again from raw files are not in it; raw
files and large products are archived by ``retention``.

The store comes first and the instance after it: then Dagster may know of materializations whose rows the restored store lacks (they
are made again), never the other way round. The store's file is copied while it is held for reading, as any reader holds it: writers
wait for the copy (0.1 s for 20 MB), and no half transaction is in it.
"""

from __future__ import annotations

import shutil
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from contimg_resources.backup.instance import dump_instance
from contimg_resources.backup.manifest import BackupError, checked_manifest, write_manifest
from contimg_resources.errors import TransferError
from contimg_resources.products import Products, open_products, sync_names
from contimg_resources.settings import Settings, config_path
from contimg_resources.store.connection import Store
from contimg_resources.store.records import records_folder
from contimg_resources.store.schema import SCHEMA_VERSION
from contimg_resources.table_folders import require_space, sync_folder

_LOG = structlog.get_logger(__name__)
STORE, INSTANCE, SETTINGS, PRODUCTS = "store", "instance", "settings", "products"
"""Folders of a backup."""
_KEPT_ASSETS = ("bandpass_table", "gain_table")
"""Products that are backed up: calibration tables."""
_STAMP = "%Y%m%dT%H%M%SZ"


def make_backup(settings: Settings, home: Path | None, folder: Path, *, now: datetime | None = None) -> Path:
    """Back up into a new folder ``contimg-<time>`` and return it.

    Parameters
    ----------
    settings : Settings
    home : Path or None
        ``DAGSTER_HOME``; without it the backup has no instance.
    folder : Path
        Where backups are kept; best on another disk.
    now : datetime, optional
        Names the backup, UTC.
    """
    at = now or datetime.now(UTC)
    target = folder / f"contimg-{at.strftime(_STAMP)}"
    if target.exists():
        raise BackupError(
            f"{target} exists", got="a backup of this second", expected="no such folder", remedy="Try again."
        )
    folder.mkdir(parents=True, exist_ok=True)
    products = open_products(settings)
    require_space(target, 1.1 * _estimated_bytes(products, home))
    partial = folder / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir(mode=0o700)  # the configuration may hold secrets
    try:
        facts = _gather(settings, products, home, partial)
        write_manifest(partial, {"created_at": at.isoformat(), **facts})
        sync_folder(partial)
        checked_manifest(partial)
        partial.rename(target)
        sync_names(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _gather(settings: Settings, products: Products, home: Path | None, partial: Path) -> dict[str, Any]:
    rows = copy_store(Store(products.store_path), partial / STORE / products.store_path.name)
    instance = dump_instance(home, partial / INSTANCE) if home is not None else None
    (partial / SETTINGS).mkdir()
    shown = settings.model_dump_json(indent=1)  # secrets are masked
    (partial / SETTINGS / "settings.json").write_text(shown + "\n")
    for path in (config_path(), settings.array, settings.calibrator_list, settings.alert_rules):
        if path is not None:
            shutil.copy2(path, partial / SETTINGS / path.name)
    _bring_tables(products)  # after the store was copied: all that it names
    for folder in _kept_folders(products):
        _copy_products(folder, partial / PRODUCTS / folder.name)
    return {
        "contimg": version("contimg"),
        "dagster": version("dagster"),
        "schema_version": SCHEMA_VERSION,
        "data": str(products.root),
        "instance": instance,
        "store_rows": rows,
    }


def copy_store(store: Store, target: Path) -> dict[str, int]:
    """Copy the store's file as it is between two transactions; return the number of rows of each table.

    Raises
    ------
    BackupError
        If the copy does not have the rows that the store had.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    log = store.path.with_name(store.path.name + ".wal")
    with store.reading() as connection:
        rows = _row_counts(connection)
        # The file itself last: closing it gives up this process's lock of it.
        for source, place in ((log, target.with_name(log.name)), (store.path, target)):
            if source.exists():
                shutil.copyfile(source, place)
                place.chmod(0o600)
    with Store(target).reading() as connection:
        copied = _row_counts(connection)
    if copied != rows:
        raise BackupError(
            f"The copy of {store.path} is not the store",
            got=f"rows {copied}",
            expected=f"rows {rows}",
            remedy="Look for a program that wrote the file without contimg; then try again.",
        )
    return rows


def _row_counts(connection: Any) -> dict[str, int]:
    """Rows of every table of the file, also of those that this version of the code does not know."""
    tables = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'store' ORDER BY ALL"
    ).fetchall()
    return {name: int(connection.execute(f'SELECT count(*) FROM "{name}"').fetchall()[0][0]) for (name,) in tables}  # noqa: S608


def _kept_folders(products: Products) -> list[Path]:
    """Folders of calibration tables, and of the records of rows that lie in no product, which is beside the store."""
    return [*(products.root / "products" / name for name in _KEPT_ASSETS), records_folder(products.store_path)]


def _bring_tables(products: Products) -> None:
    """Fetch calibration tables that other hosts made; when the home is away they are safe there, and the log says so."""
    if products.home is None:
        return
    try:
        for asset in _KEPT_ASSETS:
            for key in products.home.partitions(asset):
                products.brought(products.stem(asset, key))
    except TransferError as error:
        _LOG.warning("backup_without_tables_of_other_hosts", error=str(error))


def _copy_products(source: Path, target: Path) -> None:
    """Copy whole products; one that is replaced or removed meanwhile is copied as it is then, or not at all."""
    for day in sorted(source.iterdir()) if source.is_dir() else ():
        for product in sorted(day.iterdir()) if day.is_dir() else [day]:
            place = target / product.relative_to(source)
            if product.name.startswith("."):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copytree(product, place) if product.is_dir() else shutil.copy2(product, place)
            except (FileNotFoundError, shutil.Error):
                if product.exists():
                    raise
                shutil.rmtree(place, ignore_errors=True)


def _estimated_bytes(products: Products, home: Path | None) -> int:
    folders = _kept_folders(products) + ([home] if home is not None else [])
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sum(
        path.stat().st_size for path in [*files, *([products.store_path] if products.store_path.exists() else [])]
    )
