"""Bringing back a day from the archive: the same bytes under the same names, the calibration tables that it used among them.

What belongs here: which copies a day consists of, and the rows that say it is here again. Fetching a copy is ``archive.py``. What
is still here is left alone, and what was made anew since is never replaced; a crash leaves each product either here or in the
archive, and a second call completes the day.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contimg_resources.errors import ProductMissingError
from contimg_resources.products import file_hash
from contimg_resources.retention.execution import Retention, change_copy


@dataclass
class Restored:
    """What came back."""

    n_restored: int = 0
    restored_bytes: int = 0
    n_present: int = 0
    """Products that were here already, with the content of the copy."""
    kept: list[str] = field(default_factory=list)
    """Products that were made anew since: left as they are."""
    elsewhere: list[str] = field(default_factory=list)
    """Products of another installation, from which this store was copied: left alone."""
    remade: list[str] = field(default_factory=list)
    """Products that were removed without a copy: to be made again."""


def restore_day(retention: Retention, day: str) -> Restored:
    """Bring back what was archived of a UTC day and the calibration tables that its observations used.

    Parameters
    ----------
    retention : Retention
    day : str
        ``YYYY-MM-DD``.

    Raises
    ------
    ProductMissingError
        If nothing of the day was ever archived.
    ArchiveError
        If a copy is damaged; what came before it is here.
    TransferError
        If what came back cannot be published again, where it was withdrawn; it is here, and a second call publishes it.
    """
    rows = retention.store.query(
        """SELECT * FROM archived_product WHERE partition_key[:10] = $day
           OR path IN (SELECT path FROM calibration_use WHERE partition_key[:10] = $day)
        ORDER BY path""",
        {"day": day},
    )
    if rows.is_empty():
        raise ProductMissingError(
            f"Nothing of {day} was archived",
            got="no row in archived_product",
            expected="an archived day",
            remedy="Look at `contimg retention list`.",
        )
    restored = Restored()
    with retention.alone():
        for row in rows.iter_rows(named=True):
            _bring_back(retention, row, restored)
    return restored


def _bring_back(retention: Retention, row: dict[str, Any], restored: Restored) -> None:
    place = retention.products.located(row["path"])
    if not retention.is_own(place):
        restored.elsewhere.append(row["path"])
        return
    if row["archive_path"] is None:
        restored.remade += [] if place.exists() else [row["path"]]
        return
    if place.exists():
        if file_hash(place) != row["content_hash"]:
            restored.kept.append(row["path"])
            return
        restored.n_present += 1
        if row["status"] not in {"removing", "removed"}:
            return
    else:
        retention.products.check_free_space(row["bytes"])
        retention.archive.fetch(Path(row["archive_path"]), row["content_hash"], place)
        restored.n_restored += 1
        restored.restored_bytes += row["bytes"]
    retention.elsewhere.publish(place)
    change_copy(retention.store, row["path"], status="restored", restored_at=retention.now())
