"""Restoring a backup: checked first, then put in place part by part; what was there is moved aside, never removed.

What belongs here: the order and the moving aside. The daemon, the webserver and the portal must be stopped meanwhile. A crash
leaves each part aside or restored; a second call with ``replace`` completes the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contimg_resources.backup.instance import database_in_use, restore_instance
from contimg_resources.backup.making import INSTANCE, PRODUCTS, STORE
from contimg_resources.backup.manifest import BackupError, checked_manifest
from contimg_resources.products import atomic_write, file_hash, open_products
from contimg_resources.settings import Settings
from contimg_resources.table_folders import replaced_folder

PARTS = (STORE, INSTANCE, PRODUCTS)
"""What can be restored; settings are read by a person and put where they belong."""


def restore_backup(
    backup: Path, settings: Settings, home: Path | None, *, parts: Sequence[str] = PARTS, replace: bool = False
) -> dict[str, Any]:
    """Restore parts of a backup; return its manifest without the list of files, and what was moved aside.

    Parameters
    ----------
    backup : Path
    settings : Settings
        Say where the data folder is now; it may be another one than that of the backup.
    home : Path or None
        ``DAGSTER_HOME``.
    parts : sequence of str
        Of `PARTS`.
    replace : bool
        Whether a store or an instance that is there may be moved aside.

    Raises
    ------
    BackupError
        If the backup is damaged, or something is there and may not be moved aside; nothing has changed then.
    """
    manifest = checked_manifest(backup)
    products = open_products(settings)
    log = products.store_path.with_name(products.store_path.name + ".wal")
    there = [path for path in (products.store_path, log) if STORE in parts and path.exists()]
    wants_instance = INSTANCE in parts and manifest["instance"] is not None
    if wants_instance and home is None:
        raise BackupError(
            "The backup has a Dagster instance and there is no place for it",
            got="DAGSTER_HOME unset",
            expected="a folder",
            remedy="Set DAGSTER_HOME, or restore other parts with --part.",
        )
    if wants_instance and home is not None:
        there += [path for name in ("history", "schedules") if (path := home / name).exists()]
    database = database_in_use(backup / INSTANCE, home) if wants_instance and home is not None else None
    if (there or database) and not replace:
        raise BackupError(
            "Restoring would take the place of what is there",
            got=", ".join(map(str, [*there, *([database] if database else [])])),
            expected="no store and no instance",
            remedy="Stop Dagster and the portal; then add --replace, which moves these aside.",
        )
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    aside = [str(path.rename(path.with_name(f"{path.name}.before-restore-{stamp}"))) for path in there]
    if STORE in parts:
        for source in sorted((backup / STORE).iterdir(), reverse=True):  # the log of changes, if any, before the file
            _place_file(source, products.store_path.with_name(source.name))
    if wants_instance and home is not None:
        aside += restore_instance(backup / INSTANCE, home, stamp)
    n_products = _restore_products(backup / PRODUCTS, products.root / "products") if PRODUCTS in parts else 0
    facts = {name: value for name, value in manifest.items() if name not in {"files", "store_rows"}}
    n_rows = sum(manifest["store_rows"].values())
    return {**facts, "n_rows": n_rows, "n_products": n_products, "moved_aside": aside}


def _place_file(source: Path, target: Path) -> None:
    with source.open("rb") as stream:
        atomic_write(target, lambda copy: shutil.copyfileobj(stream, copy))


def _restore_products(source: Path, target: Path) -> int:
    """Put back products that are not there, or are not what they were; return how many."""
    n_restored = 0
    for product in sorted(source.glob("*/*/*")):
        place = target / product.relative_to(source)
        if place.exists() and file_hash(place) == file_hash(product):
            continue
        n_restored += 1
        if product.is_dir():
            with replaced_folder(place) as temporary:
                shutil.copytree(product, temporary)
        else:
            _place_file(product, place)
    return n_restored
