"""``contimg backfill``: ask the running Dagster for a backfill by time.

The work is Dagster's own backfill, asked for through its GraphQL API: it appears in the UI, makes one run per observation,
and can be cancelled and resumed there as here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors
from contimg_resources.errors import ResourceError

PER_OBSERVATION = ("measurement_set", "gain_table", "continuum_image", "forced_photometry", "flux_scale")
PER_DAY = (
    "bandpass_table",
    "light_curves",
    "variability_statistics",
    "ese_candidates",
    "blind_sources",
    "injection_recovery",
    "quality_report",
)
_LAUNCH = """
mutation Backfill($parameters: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $parameters) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
    ... on UnauthorizedError { message }
    ... on PartitionKeysNotFoundError { message }
    ... on InvalidSubsetError { message }
  }
}
"""


_CANCEL = """
mutation Cancel($id: String!) {
  cancelPartitionBackfill(backfillId: $id) {
    __typename
    ... on CancelBackfillSuccess { backfillId }
    ... on PythonError { message }
    ... on UnauthorizedError { message }
  }
}
"""
_RESUME = """
mutation Resume($id: String!) {
  reexecutePartitionBackfill(reexecutionParams: {parentRunId: $id, strategy: FROM_FAILURE}) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
    ... on UnauthorizedError { message }
    ... on PartitionKeysNotFoundError { message }
    ... on InvalidSubsetError { message }
  }
}
"""
_TIMEOUT_S = 120.0
_NAME_MARGIN = timedelta(minutes=5)
_WINDOW = timedelta(minutes=5)


class BackfillRefusedError(ResourceError):
    """Raise when Dagster cannot be reached or refuses the backfill."""

    reason_code = "backfill_refused"


def backfill(
    start: Annotated[
        datetime | None, typer.Option("--from", help="First instant, UTC (2026-01-25 or 2026-01-25T03:00:00).")
    ] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="Last instant, UTC; a date means the whole day.")] = None,
    assets: Annotated[str, typer.Option(help="Comma-separated asset keys; default: all that observations make.")] = "",
    cancel: Annotated[str, typer.Option(metavar="ID", help="Cancel this backfill; what is made stays.")] = "",
    resume: Annotated[
        str, typer.Option(metavar="ID", help="Make what a cancelled or failed backfill has not made; it gets a new id.")
    ] = "",
    remake: Annotated[
        bool, typer.Option("--remake", help="Make everything again, also what was made from the same inputs.")
    ] = False,
    dagster_url: Annotated[
        str, typer.Option(envvar="DAGSTER_URL", help="Where Dagster serves.")
    ] = "http://127.0.0.1:3000",
    as_json: JsonOption = False,
) -> None:
    """Make the products of a range of time, from raw files to candidates, in Dagster; or cancel or resume that."""
    if cancel or resume:
        if start or end or assets or remake or (cancel and resume):
            message = "give a range of time, or --cancel ID, or --resume ID"
            raise typer.BadParameter(message)
        with one_screen_errors():
            done = ask(dagster_url, _CANCEL if cancel else _RESUME, {"id": cancel or resume})
            emit({"backfill_id": done, **({"resumes": resume} if resume else {"cancelled": True})}, as_json=as_json)
        return
    with one_screen_errors():
        first, last = asked_range(start, end)
        wanted = asked_assets(assets)
        windows = observation_windows(first, last)
        days = sorted({window[:10] for window in windows})
        if not windows:
            raise BackfillRefusedError(
                f"no observation began between {first:%Y-%m-%dT%H:%M} and {last:%Y-%m-%dT%H:%M}",
                remedy="Choose another range; `contimg group` on the incoming folder lists what is there.",
            )
        emit(
            {
                "backfill_id": launch(
                    dagster_url,
                    {asset: windows if asset in PER_OBSERVATION else days for asset in wanted},
                    title=f"{windows[0]} to {windows[-1]}",
                    remake=remake,
                ),
                "observations": len(windows),
                "days": len(days),
            },
            as_json=as_json,
        )


def asked_range(start: datetime | None, end: datetime | None) -> tuple[datetime, datetime]:
    """First and last instant asked for; a date as the end means the whole day."""
    if start is None or end is None:
        message = "--from and --to are needed"
        raise typer.BadParameter(message)
    first, last = start.replace(tzinfo=UTC), end.replace(tzinfo=UTC)
    if (last.hour, last.minute, last.second) == (0, 0, 0):
        last += timedelta(days=1) - timedelta(seconds=1)
    if last < first:
        message = f"--to {end:%Y-%m-%dT%H:%M} is before --from {start:%Y-%m-%dT%H:%M}"
        raise typer.BadParameter(message)
    return first, last


def asked_assets(assets: str) -> list[str]:
    """Assets asked for; all by default."""
    wanted = [name.strip() for name in assets.split(",") if name.strip()] or [*PER_OBSERVATION, *PER_DAY]
    unknown = set(wanted) - {*PER_OBSERVATION, *PER_DAY}
    if unknown:
        message = f"unknown assets {', '.join(sorted(unknown))}; known: {', '.join([*PER_OBSERVATION, *PER_DAY])}"
        raise typer.BadParameter(message)
    return wanted


def observation_windows(first: datetime, last: datetime) -> list[str]:
    """Partition keys of the observations that began in a range: known to the store, or lying in the incoming folder."""
    from contimg_resources.settings import load_settings
    from contimg_resources.store.connection import open_store

    settings = load_settings()
    store = open_store(settings)
    low, high = (f"{when:%Y-%m-%dT%H:%M}" for when in (first - timedelta(minutes=4), last))
    known: set[str] = set()
    if store.path.exists():
        rows = store.query(
            "SELECT DISTINCT partition_key FROM observation WHERE partition_key BETWEEN ? AND ?", [low, high]
        )
        known = set(rows["partition_key"].to_list())
    known |= windows_of_files(settings.incoming, first, last, known)
    return sorted(key for key in known if low <= key <= high)


def windows_of_files(incoming: Path, first: datetime, last: datetime, known: set[str]) -> set[str]:
    """Windows of raw files named in a range that are not known yet, by the start times in their headers.

    One header is read per minute of names: the files of an observation share their start.
    """
    from contimg_resources.errors import RawFileError
    from contimg_resources.uvh5_header import parse_file_name, read_subband_header

    windows: set[str] = set()
    if not incoming.is_dir():
        return windows
    low, high = (f"{when:%Y-%m-%dT%H:%M}" for when in (first - _NAME_MARGIN, last + _NAME_MARGIN))
    seen: set[str] = set()
    for name in sorted(name for name in os.listdir(incoming) if low <= name[:16] <= high):  # noqa: PTH208  (40,000 names)
        if name[:16] in seen or window_of(name) in known or parse_file_name(name) is None:
            continue
        try:
            start_mjd = read_subband_header(incoming / name).start_mjd
        except RawFileError:
            continue
        seen.add(name[:16])
        start = datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=start_mjd)
        windows.add(window_of(f"{start:%Y-%m-%dT%H:%M}"))
    return windows


def window_of(stamp: str) -> str:
    """Window of a time written as ``2026-01-25T22:26...``: the key of its five minutes."""
    return f"{stamp[:14]}{int(stamp[14:16]) // 5 * 5:02d}" if stamp[14:16].isdigit() else stamp


def runs_of_windows(windows: list[str]) -> list[tuple[str, str]]:
    """First and last of every unbroken run of windows: a season of single windows would be a request of megabytes."""
    runs: list[tuple[str, str]] = []
    for window in windows:
        if runs and datetime.fromisoformat(window) - datetime.fromisoformat(runs[-1][1]) == _WINDOW:
            runs[-1] = (runs[-1][0], window)
        else:
            runs.append((window, window))
    return runs


def launch(dagster_url: str, partitions: Mapping[str, list[str]], *, title: str, remake: bool) -> str:
    """Launch a backfill of some partitions of some assets, which Dagster makes in the order of its graph; return its id.

    With ``remake`` its runs carry the tag that makes assets work although their inputs are unchanged.
    """
    from contimg_resources.store.makings import REMAKE_TAG

    selections = [
        {
            "assetKey": {"path": [asset]},
            "partitions": {
                "ranges": [
                    {"start": first, "end": last}
                    for first, last in (
                        runs_of_windows(keys) if asset in PER_OBSERVATION else [(key, key) for key in keys]
                    )
                ]
            },
        }
        for asset, keys in partitions.items()
    ]
    tags = [{"key": REMAKE_TAG, "value": "yes"}] if remake else []
    parameters = {"partitionsByAssets": selections, "title": title, "tags": tags}
    return ask(dagster_url, _LAUNCH, {"parameters": parameters})


def ask(dagster_url: str, mutation: str, variables: dict[str, Any]) -> str:
    """Send a mutation about a backfill and return the id it answers with."""
    import httpx

    try:
        answer = httpx.post(
            f"{dagster_url}/graphql", json={"query": mutation, "variables": variables}, timeout=_TIMEOUT_S
        )
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise BackfillRefusedError(
            f"Dagster at {dagster_url} did not answer: {error}",
            remedy="Start it (make demo, dagster dev) or give --dagster-url.",
        ) from error
    result = answer.json()
    done = next(iter((result.get("data") or {}).values()), None) or {}
    if "backfillId" not in done:
        raise BackfillRefusedError(
            f"Dagster refused: {done.get('message') or result.get('errors') or done}",
            remedy="Correct the range, the assets or the id (`Runs > Backfills` in the UI lists them).",
        )
    return str(done["backfillId"])
