"""``contimg backup`` and ``contimg restore``: what cannot be made again, into a folder and back.

The work is ``contimg_resources.backup``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors


def backup(
    out: Annotated[Path, typer.Option("--out", help="Folder of backups; a new one is made in it.")],
    as_json: JsonOption = False,
) -> None:
    """Back up store, Dagster instance (DAGSTER_HOME), settings and calibration tables while the platform works."""
    with one_screen_errors():
        from contimg_resources.backup.making import make_backup
        from contimg_resources.backup.manifest import checked_manifest
        from contimg_resources.observability import configure_logging
        from contimg_resources.settings import dagster_home, load_settings

        settings = load_settings()
        configure_logging(settings)
        made = make_backup(settings, dagster_home(), out.expanduser().absolute())
        manifest = checked_manifest(made)
    emit(
        {
            "backup": str(made),
            "bytes": sum(file["bytes"] for file in manifest["files"]),
            "n_files": len(manifest["files"]),
            "n_rows": sum(manifest["store_rows"].values()),
            "instance": manifest["instance"] or "none: DAGSTER_HOME is not set",
            "schema_version": manifest["schema_version"],
        },
        as_json=as_json,
    )


def restore(
    folder: Annotated[Path, typer.Argument(metavar="BACKUP", help="Folder that `contimg backup` made.")],
    part: Annotated[
        list[str] | None, typer.Option(help="Only this: store, instance or products; may be repeated.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Move a store and an instance that are there aside.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup; stop Dagster and the portal first. Settings are left to a person: they lie in BACKUP/settings."""
    with one_screen_errors():
        from contimg_resources.backup.restoring import PARTS, restore_backup
        from contimg_resources.settings import dagster_home, load_settings

        if unknown := sorted(set(part or ()) - set(PARTS)):
            message = f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}"
            raise typer.BadParameter(message)
        restored = restore_backup(
            folder.expanduser().absolute(), load_settings(), dagster_home(), parts=part or PARTS, replace=replace
        )
    emit(restored, as_json=as_json)
