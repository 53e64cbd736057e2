"""``contimg group``: which raw files form which observations, and what is wrong with them.

What belongs here: saying what was found. The rule is ``science.grouping``, what is decided by it
``science.arrival_decisions``; files and inventories are read by ``contimg_resources.raw_files``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors


def group(
    source: Annotated[
        Path | None, typer.Argument(metavar="DIR|INVENTORY.csv", help="Folder of raw files, or a CSV that lists them.")
    ] = None,
    window: Annotated[float, typer.Option(min=0.0, help="Seconds between names where no header can be read.")] = 60.0,
    telescope: Annotated[str | None, typer.Option(help="Report files of any other telescope as corrupt.")] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Decide again about everything that arrived, from the store's record.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Sort raw sub-band files into observations: complete, incomplete, duplicate or corrupt, with reason codes.

    An observation is recognised by the time in its headers; by the time in the file names, within the window, only
    where a header cannot be read. An inventory has columns timestamp and subband (or n_subbands_found).

    With --replay nothing is read but the store (CONTIMG_DATA): every decision ever taken about arrivals is taken again
    from the facts recorded with it, and those that today's code decides differently are listed.
    """
    if replay == (source is not None):
        message = "give either a folder or inventory, or --replay"
        raise typer.BadParameter(message)
    with one_screen_errors():
        if source is None:
            emit(replayed_decisions(), as_json=as_json, rows="differences")
        else:
            emit(grouped(source, window, telescope), as_json=as_json, rows="observations")


def grouped(source: Path, window_s: float, telescope: str | None) -> dict[str, Any]:
    """Observations of a folder or inventory, and how many of each kind."""
    from contimg_assets.science.grouping import SubbandFile, group_subbands
    from contimg_resources.raw_files import describe_raw_file, list_raw_files, read_inventory

    if source.is_file():
        records = read_inventory(source)
    else:
        records = [describe_raw_file(path, telescope_name=telescope) for path in list_raw_files(source)]
    groups = group_subbands([SubbandFile(**record) for record in records], name_window_s=window_s)
    counts = {
        f"n_{status}": sum(found.status == status for found in groups)
        for status in ("complete", "incomplete", "duplicate", "corrupt")
    }
    return {
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
    }


def replayed_decisions() -> dict[str, Any]:
    """Every recorded decision taken again, and those that come out differently."""
    from contimg_assets.science.arrival_decisions import decide_again
    from contimg_resources.settings import load_settings
    from contimg_resources.store.connection import open_store

    store = open_store(load_settings())
    recorded = store.query(
        "SELECT decision_id, observation_id, \"at\", decision, coalesce(reason_code, '') AS reason_code, n_subbands, files"
        " FROM arrival_decision WHERE decision <> 'superseded' AND files <> '{}' ORDER BY \"at\", observation_id"
    )
    kept = store.query("SELECT count(*) FROM arrival_decision").item()
    differences = []
    for row in recorded.iter_rows(named=True):
        decided, n_subbands = decide_again(json.loads(row["files"]))
        today = ("several observations", "") if decided is None else (decided.decision, decided.reason_code)
        if (*today, n_subbands) != (row["decision"], row["reason_code"], row["n_subbands"]):
            differences.append(
                {
                    "decision_id": row["decision_id"],
                    "observation_id": row["observation_id"],
                    "at": row["at"],
                    "recorded": f"{row['decision']} {row['reason_code']} {row['n_subbands']}",
                    "today": f"{' '.join(today)} {n_subbands}",
                }
            )
    return {
        "n_decisions": kept,
        "n_replayed": recorded.height,
        "n_different": len(differences),
        "differences": differences,
    }
