"""Which raw files there are: a folder looked through, or an inventory that somebody else made.

What belongs here: listing and naming the files, with what their headers say. Grouping them is ``science.grouping``;
reading visibilities is ``uvh5``.

Files named ``..._incomplete.hdf5`` and names that begin with a dot are still being written or transferred: they are not
there yet.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

from contimg_resources.errors import ProductMissingError, RawFileError
from contimg_resources.uvh5_header import parse_file_name, read_subband_header


def list_raw_files(folder: Path) -> list[Path]:
    """Finished sub-band files in a folder (not in its sub-folders), sorted by name.

    Raises
    ------
    ProductMissingError
        If the folder does not exist.
    """
    if not folder.is_dir():
        raise ProductMissingError(f"folder {folder} does not exist", remedy="Check the path.")
    return sorted(path for path in folder.iterdir() if parse_file_name(path.name) is not None)


def describe_raw_file(path: Path, *, telescope_name: str | None = None) -> dict[str, Any]:
    """One raw file as ``science.grouping.SubbandFile`` sees it: the fields of that record.

    A file that cannot be used is described by its name and the reason code of its error.
    """
    named = parse_file_name(path.name)
    name_mjd, subband = named if named is not None else (math.nan, None)
    start_mjd, reason_code = math.nan, ""
    try:
        start_mjd = read_subband_header(path, telescope_name=telescope_name).start_mjd
    except RawFileError as error:
        reason_code = error.reason_code
    return {
        "name": path.name,
        "name_mjd": name_mjd,
        "subband": subband,
        "start_mjd": start_mjd,
        "reason_code": reason_code,
    }


def read_inventory(path: Path) -> list[dict[str, Any]]:
    """Read a CSV inventory of raw files as records for ``science.grouping.SubbandFile``.

    Either one row per file, with ``timestamp`` (of the file name) and ``subband``, or one row per timestamp with
    ``n_subbands_found``, which does not say which sub-bands they are. Headers are unknown in both.

    Raises
    ------
    RawFileError
        If the file is not a CSV with these columns.
    """
    try:
        frame = pl.read_csv(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unusable(path, str(error)) from error
    counted = "n_subbands_found" in frame.columns
    if "timestamp" not in frame.columns or not (counted or "subband" in frame.columns):
        raise _unusable(path, f"columns {', '.join(frame.columns)}")
    records = []
    for row in frame.iter_rows(named=True):
        numbers = [None] * int(row["n_subbands_found"]) if counted else [int(row["subband"])]
        for place, subband in enumerate(numbers):
            name = f"{row['timestamp']}_sb{place if subband is None else subband:02d}.hdf5"
            named = parse_file_name(name)
            if named is None:
                raise _unusable(path, f"timestamp {row['timestamp']!r}")
            records.append({"name": name, "name_mjd": named[0], "subband": subband})
    return records


def _unusable(path: Path, got: str) -> RawFileError:
    return RawFileError(
        f"inventory {path}",
        got=got,
        expected="a CSV with timestamp (YYYY-MM-DDTHH:MM:SS) and subband or n_subbands_found",
        remedy="Write one row per file, or give the folder itself.",
        reason_code="inventory_unusable",
    )
