"""Which raw files belong to which observation, remembered in the store: shared by the sensor and by backfills.

What belongs here: the scan of the incoming folder, the judgement of each file and observation, and their rows in tables
``raw_file`` and ``observation``. The grouping rule itself is ``science.grouping``; when to look is ``contimg_sensors.arrivals``.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from contimg_assets.partitions import observation_partition, utc_of_mjd
from contimg_resources.configurable import Observatory
from contimg_resources.errors import RawFileError
from contimg_resources.store.connection import Store

_MOST_FILES_PER_SCAN = 1600
"""Headers read in one scan; the rest waits for the next one, so that a tick stays short."""


def scan_incoming(folder: Path, known: dict[str, int]) -> list[Path]:
    """Sub-band files in the incoming folder that are new or changed size, oldest name first.

    Temporary names (leading dot, ``_incomplete``) are not there yet.
    """
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        fresh = [
            entry.path
            for entry in entries
            if "_sb" in entry.name
            and entry.name.endswith(".hdf5")
            and not entry.name.startswith(".")
            and "_incomplete" not in entry.name
            and known.get(entry.path) != entry.stat().st_size
        ]
    return [Path(path) for path in sorted(fresh)[:_MOST_FILES_PER_SCAN]]
