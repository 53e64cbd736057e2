"""``contimg backfill``: ask the running Dagster for a backfill by time.

The work is Dagster's own backfill, launched through its GraphQL API, so it appears in the UI and is cancelled there.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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


class BackfillRefusedError(ResourceError):
    """Raise when Dagster cannot be reached or refuses the backfill."""

    reason_code = "backfill_refused"


def backfill(
    start: Annotated[datetime, typer.Option("--from", help="First instant, UTC (2026-01-25 or 2026-01-25T03:00:00).")],
    end: Annotated[datetime, typer.Option("--to", help="Last instant, UTC; a date means the whole day.")],
    assets: Annotated[str, typer.Option(help="Comma-separated asset keys; default: all that observations make.")] = "",
    dagster_url: Annotated[
        str, typer.Option(envvar="DAGSTER_URL", help="Where Dagster serves.")
    ] = "http://127.0.0.1:3000",
    as_json: JsonOption = False,
) -> None:
    """Remake every product of a range of time, from raw files to candidates, in Dagster."""
    with one_screen_errors():
        first, last = start.replace(tzinfo=UTC), end.replace(tzinfo=UTC)
        if (last.hour, last.minute, last.second) == (0, 0, 0):
            last += timedelta(days=1) - timedelta(seconds=1)
        if last < first:
            message = f"--to {end:%Y-%m-%dT%H:%M} is before --from {start:%Y-%m-%dT%H:%M}"
            raise typer.BadParameter(message)
        wanted = [name.strip() for name in assets.split(",") if name.strip()] or [*PER_OBSERVATION, *PER_DAY]
        unknown = set(wanted) - {*PER_OBSERVATION, *PER_DAY}
        if unknown:
            message = f"unknown assets {', '.join(sorted(unknown))}; known: {', '.join([*PER_OBSERVATION, *PER_DAY])}"
            raise typer.BadParameter(message)
        windows = observation_windows(first, last)
        days = sorted({window[:10] for window in windows})
        if not windows:
            raise BackfillRefusedError(
                f"no observation began between {first:%Y-%m-%dT%H:%M} and {last:%Y-%m-%dT%H:%M}",
                remedy="Choose another range; `contimg group` on the incoming folder lists what is there.",
            )
        emit(
            {
                "backfill_id": launch(dagster_url, wanted, windows, days),
                "observations": len(windows),
                "days": len(days),
            },
            as_json=as_json,
        )


def observation_windows(first: datetime, last: datetime) -> list[str]:
    """Partition keys of the observations that began in a range: known to the store, or lying in the incoming folder."""
    from contimg_resources.products import Products
    from contimg_resources.settings import load_settings
    from contimg_resources.store.connection import Store

    settings = load_settings()
    store = Store(Products(settings.data).store_path)
    known: set[str] = set()
    if store.path.exists():
        rows = store.query("SELECT DISTINCT partition_key FROM observation")
        known = set(rows["partition_key"].to_list())
    known |= windows_of_files(settings.incoming)
    low, high = (f"{when:%Y-%m-%dT%H:%M}" for when in (first - timedelta(minutes=4), last))
    return sorted(key for key in known if low <= key <= high)


def windows_of_files(incoming: Any) -> set[str]:
    """Partition keys of the raw files in a folder, by the start times in their headers (one header per name time)."""
    from contimg_resources.errors import RawFileError
    from contimg_resources.uvh5 import read_subband_header

    windows: set[str] = set()
    if not incoming.is_dir():
        return windows
    seen: set[str] = set()
    for path in sorted(incoming.glob("[!.]*_sb*.hdf5")):
        name_minute = path.name[:16]
        if name_minute in seen or "_incomplete" in path.name:
            continue
        try:
            start_mjd = read_subband_header(path).start_mjd
        except RawFileError:
            continue
        seen.add(name_minute)
        start = datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=start_mjd)
        windows.add(start.replace(minute=start.minute - start.minute % 5).strftime("%Y-%m-%dT%H:%M"))
    return windows


def launch(dagster_url: str, assets: list[str], windows: list[str], days: list[str]) -> str:
    """Launch the backfill and return its id."""
    import httpx

    def selection(asset: str) -> dict[str, Any]:
        keys = windows if asset in PER_OBSERVATION else days
        return {
            "assetKey": {"path": [asset]},
            "partitions": {"ranges": [{"start": key, "end": key} for key in keys]},
        }

    parameters = {
        "partitionsByAssets": [selection(asset) for asset in assets],
        "title": f"{windows[0]} to {windows[-1]}",
    }
    try:
        answer = httpx.post(
            f"{dagster_url}/graphql", json={"query": _LAUNCH, "variables": {"parameters": parameters}}, timeout=60
        )
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise BackfillRefusedError(
            f"Dagster at {dagster_url} did not answer: {error}",
            remedy="Start it (make demo, dagster dev) or give --dagster-url.",
        ) from error
    result = answer.json()
    launched = (result.get("data") or {}).get("launchPartitionBackfill") or {}
    if "backfillId" not in launched:
        raise BackfillRefusedError(
            f"Dagster refused the backfill: {launched.get('message') or result.get('errors') or launched}",
            remedy="Correct the range or the assets.",
        )
    return str(launched["backfillId"])
