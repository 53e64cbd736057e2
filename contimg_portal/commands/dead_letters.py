"""``contimg dead-letters``: what failed for good, retried or closed with who and why; and failures by stage and cause.

A retry is asked for in the store and started by the running Dagster (sensor ``dead_letter_retries``), with the code it has
loaded then; states and history are ``contimg_resources.store.dead_letters``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors

if TYPE_CHECKING:
    from contimg_resources.store.connection import Store

app = typer.Typer(help="What failed for good: list, show, retry, resolve, summarise.", no_args_is_help=True)

LetterArgument = Annotated[str, typer.Argument(metavar="LETTER", help="Letter id, as `list` shows it.")]
ByOption = Annotated[str, typer.Option("--by", help="Who decides.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why.")]

_LISTED = ("letter_id", "status", "reason_code", "n_attempts", "last_at", "next_retry_at", "error_class")


@app.command("list")
def list_letters(
    status: Annotated[str, typer.Option(help="open, pending, retrying, failed, resolved or all.")] = "open",
    asset: Annotated[str | None, typer.Option(help="Only of this asset.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    json_output: JsonOption = False,
) -> None:
    """List dead letters, those that failed last first."""
    from contimg_resources.store.dead_letters import STATUSES, letters

    if status not in {"open", "all", *STATUSES}:
        message = f"unknown status {status}; known: open, all, {', '.join(STATUSES)}"
        raise typer.BadParameter(message)
    with one_screen_errors():
        found = letters(_open_store(), status=None if status == "all" else status, asset=asset, limit=limit).to_dicts()
        rows = found if json_output else [{name: row[name] for name in _LISTED} for row in found]
        emit({"n_letters": len(rows), "letters": rows}, as_json=json_output, rows="letters")


@app.command()
def show(letter: LetterArgument, json_output: JsonOption = False) -> None:
    """Show one dead letter with its message, what to do, and its history."""
    with one_screen_errors():
        from contimg_resources.store import dead_letters

        store = _open_store()
        found = dead_letters.letter(store, letter)
        if found is None:
            raise dead_letters.unknown_letter(letter)
        history = dead_letters.letter_events(store, letter).drop("letter_id").to_dicts()
        emit({**found, "events": history}, as_json=json_output, rows="events")


@app.command()
def retry(letter: LetterArgument, by: ByOption, reason: ReasonOption, json_output: JsonOption = False) -> None:
    """Ask for a retry; the running Dagster starts it within seconds, with the code it has loaded."""
    with one_screen_errors():
        from contimg_resources.store.dead_letters import request_retry

        changed = request_retry(_open_store(), letter, by=by, reason=reason, at=_now())
        emit({"letter_id": letter, "status": changed["status"], "by": by, "reason": reason}, as_json=json_output)


@app.command()
def resolve(letter: LetterArgument, by: ByOption, reason: ReasonOption, json_output: JsonOption = False) -> None:
    """Close a dead letter without a retry."""
    with one_screen_errors():
        from contimg_resources.store import dead_letters

        changed = dead_letters.resolve(_open_store(), letter, by=by, reason=reason, at=_now())
        emit({"letter_id": letter, "status": changed["status"], "by": by, "reason": reason}, as_json=json_output)


@app.command()
def summary(
    hours: Annotated[float, typer.Option(min=0.0, help="How far back.")] = 24.0, json_output: JsonOption = False
) -> None:
    """Failures of the last hours by stage and cause."""
    with one_screen_errors():
        from contimg_resources.store.dead_letters import failure_summary

        rows = failure_summary(_open_store(), since=_now() - timedelta(hours=hours)).to_dicts()
        total = sum(row["n_failures"] for row in rows)
        emit({"hours": hours, "n_failures": total, "causes": rows}, as_json=json_output, rows="causes")


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _open_store() -> Store:
    from contimg_resources.settings import load_settings
    from contimg_resources.store.connection import open_store

    return open_store(load_settings())
