"""Casacore table folders as products: written whole or not at all, with errors that name the file.

What belongs here: the atomic replacement of a folder, the check of free space and the naming of casacore's errors, shared
by measurement sets and calibration tables. What does not: what is in the tables.

Method: write to a hidden sibling, sync every file, exchange both names in one step (renameat2), remove the old folder. So a
process killed at any point leaves the old product or the new one, and of two that make the same product the last stands.
Rejected: moving the old folder aside first, after which a kill leaves no product at all.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contimg_resources.errors import CasaError, DiskFullError
from contimg_resources.full_disks import disk_full, says_disk_is_full

LOCK_FILE = "table.lock"
"""File of a casacore table that is written when it is only read."""
_AT_FDCWD, _RENAME_NOREPLACE, _RENAME_EXCHANGE = -100, 1, 2
"""Of Linux's renameat2(2)."""


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Give a temporary name beside ``target``; on success it takes the target's place, on failure it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield temporary
        sync_folder(temporary)
        _take_place(temporary, target)
        if temporary.is_file():  # a file had the name before
            temporary.unlink()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, target: Path) -> None:
    """Give a folder the name of its target in one step; what had the name before gets the temporary one."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Another process may make or remove the same product between the two attempts: then the other one applies.
    for flags in (_RENAME_NOREPLACE, _RENAME_EXCHANGE) * 3:
        if libc.renameat2(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(target), flags) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EEXIST, errno.ENOENT):
            raise OSError(code, f"cannot give {temporary.name} its place: {os.strerror(code)}", str(target))
    raise OSError(errno.EBUSY, "other processes keep making and removing it", str(target))


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for work in progress; it is removed with all it holds, whatever happens."""
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scratch_beside(target: Path) -> Path:
    """Path beside a product, on its disk, for work in progress on it."""
    return target.absolute().with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.work")


def sync_folder(folder: Path) -> None:
    """Wait until every file of a folder is on the disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def require_space(target: Path, needed_bytes: float) -> None:
    """Refuse to start a product that the disk cannot hold (its parent folder must exist)."""
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < needed_bytes:
        raise DiskFullError(
            f"not enough space for {target}",
            got=f"{free_bytes / 1e9:.2f} GB free",
            expected=f"{needed_bytes / 1e9:.2f} GB",
            remedy="Free some space (old measurement sets can be made again), then retry.",
        )


@contextmanager
def casacore_errors(path: Path, action: str) -> Iterator[None]:
    """Name the file and the action in casacore's errors, and tell a full disk from everything else."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        message = str(error).strip()
        if says_disk_is_full(error):
            raise disk_full(f"casacore was to {action} {path}") from error
        raise CasaError(
            f"casacore cannot {action} {path}",
            got=message,
            expected="success",
            remedy="Check permissions and other users of the file; make the product again if it is damaged.",
        ) from error
