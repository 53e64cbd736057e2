"""``contimg retention``: what would be archived or removed and why, doing it, and bringing a day back.

The rules, for products and for events of runs, are ``contimg_resources.retention``; here they become tables. `apply` is also
Dagster's job ``retention_job``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

if TYPE_CHECKING:
    from contimg_resources.retention.decisions import Decision
    from contimg_resources.retention.execution import Retention
    from contimg_resources.retention.run_events import RunEvents, RunEventTotals

app = typer.Typer(help="What may be archived or removed and why; doing it; bringing it back.", no_args_is_help=True)


@app.command()
def plan(
    every: Annotated[bool, typer.Option("--all", help="Also what stays, with the reason.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what `apply` would do now, and why; changes nothing."""
    with one_screen_errors():
        decisions, events = _retention().plan(), _run_events()
        old_events = events.plan() if events is not None else None
    if not decisions:
        stderr.print("no product has a policy: everything is kept (CONTIMG_RETENTION__POLICIES)", highlight=False)
    n_bytes: Counter[str] = Counter()
    for item in decisions:
        n_bytes[str(item.action)] += item.product.n_bytes
    shown = [item for item in decisions if every or item.action != "keep"]
    rows = [_row(item) for item in shown] if as_json else _by_partition(shown)
    emit(
        {
            **{f"n_{name}": sum(item.action == name for item in decisions) for name in ("archive", "remove", "keep")},
            **{f"{name}_bytes": n_bytes[name] for name in ("archive", "remove", "keep")},
            **_event_counts(old_events),
            "products": rows,
        },
        as_json=as_json,
        rows="products",
    )


@app.command()
def apply(as_json: JsonOption = False) -> None:
    """Archive what is due, remove what is due; completes what was interrupted. Exit code 1 if something could not be done."""
    with one_screen_errors():
        events = _run_events()
        old_events = events.apply() if events is not None else None
        outcome = _retention().apply()
    emit(
        {**asdict(outcome), **_event_counts(old_events), "problems": [{"problem": text} for text in outcome.problems]},
        as_json=as_json,
        rows="problems",
    )
    if outcome.problems:
        raise typer.Exit(1)


@app.command()
def restore(
    day: Annotated[str, typer.Argument(metavar="DAY", help="UTC day, YYYY-MM-DD.")], as_json: JsonOption = False
) -> None:
    """Bring back a day from the archive, with the calibration tables it used; exit code 1 if some of it must be made again."""
    with one_screen_errors():
        from contimg_resources.retention.restoration import restore_day

        restored = restore_day(_retention(), day)
    emit(asdict(restored), as_json=as_json)
    if restored.remade:
        raise typer.Exit(1)


@app.command("list")
def list_copies(
    day: Annotated[str | None, typer.Option(help="Only of this UTC day.")] = None, as_json: JsonOption = False
) -> None:
    """List what was archived or removed by day and asset."""
    with one_screen_errors():
        rows = (
            _retention()
            .store.query(
                """SELECT partition_key[:10] AS day, asset, status, count(*) AS n, sum(bytes)::BIGINT AS bytes,
                max(archived_at) AS archived_at FROM archived_product WHERE $day IS NULL OR partition_key[:10] = $day
                GROUP BY ALL ORDER BY day, asset, status""",
                {"day": day},
            )
            .to_dicts()
        )
    emit({"n": sum(row["n"] for row in rows), "products": rows}, as_json=as_json, rows="products")


def _row(item: Decision) -> dict[str, Any]:
    product = item.product
    return {
        "action": str(item.action),
        "kind": product.kind,
        "partition": product.partition_key,
        "status": product.status,
        "bytes": product.n_bytes,
        "reason": item.reason,
        "path": product.path,
    }


def _by_partition(items: list[Decision]) -> list[dict[str, Any]]:
    """One line for what a partition has of a kind: an observation has 16 raw files."""
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for item in items:
        product = item.product
        key = (str(item.action), product.kind, product.partition_key, product.status, item.reason)
        line = merged.setdefault(
            key, dict(zip(("action", "kind", "partition", "status", "reason"), key, strict=True)) | {"n": 0, "MB": 0.0}
        )
        line["n"] += 1
        line["MB"] = round(line["MB"] + product.n_bytes / 1e6, 3)
    return list(merged.values())


def _event_counts(totals: RunEventTotals | None) -> dict[str, int]:
    return {
        "n_runs_with_old_events": totals.n_runs if totals is not None else 0,
        "n_old_run_events": totals.n_events if totals is not None else 0,
        "old_run_event_bytes": totals.n_bytes if totals is not None else 0,
    }


def _retention() -> Retention:
    from contimg_resources.instance_view import InstanceView, partitions_under_way
    from contimg_resources.observability import configure_logging
    from contimg_resources.retention.execution import Retention
    from contimg_resources.settings import dagster_home, load_settings
    from contimg_resources.store.connection import open_store

    settings, home = load_settings(), dagster_home()
    configure_logging(settings)  # lines about waiting for the store go to stderr, not into the JSON
    store = open_store(settings)
    if home is None:
        stderr.print("DAGSTER_HOME is not set: runs under way are not looked at", highlight=False)
        return Retention(settings, store)
    view = InstanceView(home)
    return Retention(settings, store, running=lambda: partitions_under_way(view.instance))


def _run_events() -> RunEvents | None:
    """Events of runs, if the settings let any go and there is an instance."""
    from contimg_resources.instance_view import InstanceView
    from contimg_resources.retention.run_events import RunEvents
    from contimg_resources.settings import dagster_home, load_settings

    settings, home = load_settings().retention, dagster_home()
    if home is None or (settings.run_events_days is None and settings.failed_run_events_days is None):
        return None
    return RunEvents(InstanceView(home).instance, settings)
