"""How a full disk is recognised, whoever says so: the one place that knows.

What belongs here: the numbers and words of the system. What does not: looking at free space before writing (``products``,
``table_folders``), and what follows (``contimg_assets.failures``).
"""

from __future__ import annotations

import errno
import os

from contimg_resources.errors import DiskFullError

FULL_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space, no quota, a file that may not become larger."""


def says_disk_is_full(error: Exception) -> bool:
    """Whether an error says so, by its number or in the system's words, which casacore, CASA and DuckDB pass on."""
    if isinstance(error, OSError) and error.errno in FULL_DISK_ERRORS:
        return True
    return any(os.strerror(number) in str(error) for number in FULL_DISK_ERRORS)


def disk_full(doing: str) -> DiskFullError:
    """Say that the disk filled up while something was done, e.g. "the store x was written"."""
    return DiskFullError(
        f"The disk filled up while {doing}",
        remedy="Free space (measurement sets are the largest products, and are made again), then retry; nothing was left behind.",
    )
