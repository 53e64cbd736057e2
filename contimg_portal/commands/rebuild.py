"""``contimg rebuild``: make again what came of calibration tables or of a version of the code, and all that was made from it.

What belongs here: the choice, shown before it is asked for. The lineage is ``contimg_resources.store.lineage``; asking Dagster is
`contimg backfill`'s way of asking. The store itself is made again by `contimg store rebuild`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from contimg_portal.commands.backfill import BackfillRefusedError, launch
from contimg_portal.console import JsonOption, emit, one_screen_errors

if TYPE_CHECKING:
    from contimg_resources.store.connection import Store

_FIRST, _LAST = "0000", "9999"


def rebuild(  # noqa: PLR0917 - one parameter per option of the command line
    calibration_table: Annotated[
        str,
        typer.Option(
            metavar="ID", help="What used this table: path, last part of it, or beginning of its content hash."
        ),
    ] = "",
    out_of_use: Annotated[
        bool, typer.Option("--out-of-use", help="What used calibration tables that are superseded or rejected now.")
    ] = False,
    code_version: Annotated[str, typer.Option(metavar="V", help="What this version of an asset's code made.")] = "",
    asset: Annotated[str, typer.Option(help="Only partitions of this asset, and what is made from them.")] = "",
    since: Annotated[datetime | None, typer.Option(help="From this instant on, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Until this instant, UTC; a date means the whole day.")] = None,
    reject: Annotated[
        bool, typer.Option("--reject", help="Take the calibration table out of use first, for good.")
    ] = False,
    by: Annotated[str, typer.Option(help="Who rejects it.")] = "",
    reason: Annotated[str, typer.Option(help="Why it is rejected.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be made again.")] = False,
    dagster_url: Annotated[
        str, typer.Option(envvar="DAGSTER_URL", help="Where Dagster serves.")
    ] = "http://127.0.0.1:3000",
    as_json: JsonOption = False,
) -> None:
    """Make products again along their lineage, in Dagster: of a bad calibration table, of old code, of an asset."""
    from contimg_resources.store import lineage

    if [bool(calibration_table), out_of_use, bool(code_version or asset)].count(True) != 1:
        message = "give --calibration-table, or --out-of-use, or --code-version and/or --asset"
        raise typer.BadParameter(message)
    if asset and asset not in lineage.READ_BY:
        message = f"unknown asset {asset}; known: {', '.join(lineage.READ_BY)}"
        raise typer.BadParameter(message)
    if reject and not (calibration_table and by.strip() and reason.strip()):
        message = "--reject needs --calibration-table, --by and --reason"
        raise typer.BadParameter(message)
    first, last = _windows(since, until)
    with one_screen_errors():
        store = _open_store()
        if calibration_table:
            path = str(lineage.calibration_table(store, calibration_table)["path"])
            chosen, why = lineage.users_of_table(store, path, first, last), f"calibration table {path}"
            if reject and not dry_run:
                lineage.reject_table(store, path, by=by, reason=reason)
        elif out_of_use:
            chosen = lineage.users_of_withdrawn_tables(store, first, last)
            why = "calibration tables that are out of use"
        else:
            chosen = lineage.made_partitions(store, first, last, asset=asset or None, code_version=code_version or None)
            why = " ".join([asset or "assets", *([f"of code version {code_version}"] if code_version else [])])
        partitions = lineage.with_downstream(store, chosen)
        if not partitions:
            raise BackfillRefusedError(
                f"nothing was made with {why} in that time",
                remedy="Choose another range or table; versions are remembered since each stage notes them with its timing.",
            )
        answer = {"why": why, "n_partitions": sum(map(len, partitions.values()))}
        answer |= {
            "backfill_id": None if dry_run else launch(dagster_url, partitions, title=f"rebuild: {why}", remake=True)
        }
        shown = [
            {
                "asset": name,
                "n": len(keys),
                "first": keys[0],
                "last": keys[-1],
                **({"partitions": keys} if as_json else {}),
            }
            for name, keys in partitions.items()
        ]
        emit(answer | {"made_again": shown}, as_json=as_json, rows="made_again")


def _windows(since: datetime | None, until: datetime | None) -> tuple[str, str]:
    """First and last window of a range of time, open where nothing is given."""
    if until is not None and (until.hour, until.minute, until.second) == (0, 0, 0):
        until += timedelta(days=1) - timedelta(seconds=1)
    first, last = (
        open_end if when is None else f"{when.replace(tzinfo=UTC):%Y-%m-%dT%H:%M}"
        for when, open_end in ((since, _FIRST), (until, _LAST))
    )
    if last < first:
        message = f"--until {last} is before --since {first}"
        raise typer.BadParameter(message)
    return first, last


def _open_store() -> Store:
    from contimg_resources.settings import load_settings
    from contimg_resources.store.connection import open_store

    return open_store(load_settings())
