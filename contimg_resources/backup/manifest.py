"""What a backup says of itself: every file with size and SHA-256, versions of code and schema, rows of the store.

What belongs here: writing and checking ``manifest.json``. What goes into a backup is ``making.py``, what comes out of it
``restoring.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contimg_resources.errors import ResourceError
from contimg_resources.products import file_hash

MANIFEST = "manifest.json"
FORMAT = 1


class BackupError(ResourceError):
    """Raise when a backup cannot be made or is not what its manifest says."""

    reason_code = "backup_failed"


def write_manifest(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest of all files of a folder, and return it.

    Parameters
    ----------
    folder : Path
    facts : dict
        Versions, places and numbers of rows.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
    listed = [
        {"name": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in files
    ]
    manifest = {"format": FORMAT, **facts, "files": listed}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def checked_manifest(folder: Path) -> dict[str, Any]:
    """Manifest of a backup whose every file is what it was.

    Raises
    ------
    BackupError
        If there is no manifest, or a file is missing, added or changed.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BackupError(
            f"{folder} is not a backup",
            got=f"no {MANIFEST} in it",
            expected="the folder that `contimg backup` printed",
            remedy="Give that folder; if it is the one, its manifest was deleted and the backup cannot be trusted.",
        ) from error
    except (OSError, json.JSONDecodeError) as error:
        raise _damaged(folder, f"{MANIFEST}: {error}") from error
    if manifest.get("format") != FORMAT:
        raise _damaged(folder, f"format {manifest.get('format')}")
    listed = {file["name"]: file["sha256"] for file in manifest["files"]}
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST}
    if strange := sorted(found ^ listed.keys()):
        raise _damaged(folder, f"missing or added: {', '.join(strange[:5])}")
    if changed := [name for name, sha256 in listed.items() if file_hash(folder / name) != sha256]:
        raise _damaged(folder, f"other content: {', '.join(changed[:5])}")
    return manifest


def _damaged(folder: Path, got: str) -> BackupError:
    return BackupError(
        f"{folder} is not a sound backup",
        got=got,
        expected=f"a folder made by `contimg backup`, format {FORMAT}, as it was made",
        remedy="Take another backup; this one cannot be trusted.",
    )
