"""``contimg group``: which raw files form which observations, and what is wrong with them.

What belongs here: saying what was found. The rule is ``science.grouping``; files and inventories are read by
``contimg_resources.raw_files``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors


def group(
    source: Annotated[
        Path, typer.Argument(metavar="DIR|INVENTORY.csv", help="Folder of raw files, or a CSV that lists them.")
    ],
    window: Annotated[float, typer.Option(min=0.0, help="Seconds between names where no header can be read.")] = 60.0,
    telescope: Annotated[str | None, typer.Option(help="Report files of any other telescope as corrupt.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Sort raw sub-band files into observations: complete, incomplete, duplicate or corrupt, with reason codes.

    An observation is recognised by the time in its headers; by the time in the file names, within the window, only
    where a header cannot be read. An inventory has columns timestamp and subband (or n_subbands_found).
    """
    with one_screen_errors():
        from contimg_assets.science.grouping import SubbandFile, group_subbands
        from contimg_resources.raw_files import describe_raw_file, list_raw_files, read_inventory

        if source.is_file():
            records = read_inventory(source)
        else:
            records = [describe_raw_file(path, telescope_name=telescope) for path in list_raw_files(source)]
        groups = group_subbands([SubbandFile(**record) for record in records], name_window_s=window)
        counts = {
            f"n_{status}": sum(found.status == status for found in groups)
            for status in ("complete", "incomplete", "duplicate", "corrupt")
        }
        emit(
            {
                "source": source,
                "n_files": len(records),
                "n_observations": len(groups),
                **counts,
                "observations": [
                    {
                        "observation_id": found.observation_id,
                        "status": found.status,
                        "reason_code": found.reason_code,
                        "n_subbands": found.n_subbands,
                        "n_files": len(found.files),
                        "unusable_files": " ".join(f"{f.name}:{f.reason_code}" for f in found.files if f.reason_code),
                    }
                    for found in groups
                ],
            },
            as_json=as_json,
            rows="observations",
        )
