"""``contimg alerts``: what is wrong, who has taken it on, whether the channels work; also without a running daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors

if TYPE_CHECKING:
    from contimg_resources.settings import Settings
    from contimg_resources.store.connection import Store

app = typer.Typer(help="Evaluate alert rules, list and acknowledge alerts, test channels.", no_args_is_help=True)

_LISTED = ("alert_id", "severity", "rule", "subject", "status", "first_at", "message", "acknowledged_by")


@app.command()
def evaluate(
    tell: Annotated[bool, typer.Option(help="Tell the channels what is new.")] = True,
    json_output: JsonOption = False,
) -> None:
    """Measure everything that rules are about, now; open and resolve alerts. Exit code 1 when a rule is broken."""
    with one_screen_errors():
        from contimg_resources.alerts.evaluation import evaluate_alerts

        found = evaluate_alerts(_settings(), is_delivered=tell)
        rows = [
            {
                "rule": rule.name,
                "subject": reading.subject,
                "value": reading.value,
                "limit": f"{rule.operator} {rule.threshold:g}",
                "is_broken": rule.is_broken(reading.value),
                "detail": reading.detail,
            }
            for rule in found.rules
            for reading in found.measured.get(rule.name) or ()
        ]
        unseen = [rule.name for rule in found.rules if found.measured.get(rule.name) is None]
        summary: dict[str, Any] = {
            "n_broken": len(found.broken()),
            "n_delivered": found.n_delivered,
            "n_failed": found.n_failed,
            "not_seen_from_here": ", ".join(unseen),
        }
        emit({**summary, "readings": rows}, as_json=json_output, rows="readings")
    if found.broken():
        raise typer.Exit(1)


@app.command("list")
def list_open(
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    json_output: JsonOption = False,
) -> None:
    """List alerts that are open or acknowledged, the most severe first."""
    with one_screen_errors():
        from contimg_resources.alerts.ledger import list_alerts

        rows = list_alerts(_store(_settings()), is_open=not everything, limit=limit).to_dicts()
        if not json_output:
            rows = [{name: row[name] for name in _LISTED} for row in rows]
        emit({"n_alerts": len(rows), "alerts": rows}, as_json=json_output, rows="alerts")


@app.command()
def acknowledge(
    alert: Annotated[str, typer.Argument(metavar="ALERT", help="Alert id, as `list` shows it.")],
    by: Annotated[str, typer.Option("--by", help="Who takes it on.")],
    reason: Annotated[str, typer.Option("--reason", help="What is being done.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Take an alert on: no more reminders until it is resolved."""
    with one_screen_errors():
        from datetime import UTC, datetime

        from contimg_resources.alerts.ledger import acknowledge_alert

        row = acknowledge_alert(_store(_settings()), alert, by=by, at=datetime.now(UTC), reason=reason)
        emit({name: row[name] for name in _LISTED}, as_json=json_output)


@app.command("test")
def send_test(json_output: JsonOption = False) -> None:
    """Send a test message to every channel of CONTIMG_ALERT_URLS and say what became of it."""
    with one_screen_errors():
        from contimg_resources.alerts.channels import parse_channels, send
        from contimg_resources.errors import SettingsError

        channels = parse_channels(_settings().alert_urls)
        if not channels:
            raise SettingsError(
                "No channel is set",
                got="CONTIMG_ALERT_URLS is empty",
                expected="apprise URLs, e.g. ops=slack://…, mailto://…, json://host/path",
                remedy="Set CONTIMG_ALERT_URLS.",
            )
        text = "This is a test of contimg's alerts; nothing is wrong."
        problems = {channel.name: send(channel, "contimg test", text, "info") for channel in channels}
        rows = [{"channel": name, "outcome": problem or "delivered"} for name, problem in problems.items()]
        emit({"n_channels": len(rows), "channels": rows}, as_json=json_output, rows="channels")
    if any(problems.values()):
        raise typer.Exit(1)


@app.command()
def rules(json_output: JsonOption = False) -> None:
    """List the rules in force, with what can be measured and every kind of event."""
    with one_screen_errors():
        from contimg_resources.alerts.evaluation import known_rules
        from contimg_resources.alerts.probe import MEASUREMENTS
        from contimg_resources.event_sources import KINDS

        rows = [
            {
                "rule": rule.name,
                "severity": rule.severity,
                "breaks_when": f"{rule.measurement} {rule.operator} {rule.threshold:g}",
                "duration_s": rule.duration_s,
                "cool_down_s": rule.cool_down_s,
                "channels": ", ".join(rule.channels) or "all",
            }
            for rule in known_rules(_settings())
        ]
        known = {"metrics": ", ".join(sorted(MEASUREMENTS)), "events": ", ".join(KINDS)}
        emit({**known, "rules": rows}, as_json=json_output, rows="rules")


def _settings() -> Settings:
    from contimg_resources.settings import load_settings

    return load_settings()


def _store(settings: Settings) -> Store:
    from contimg_resources.store.connection import open_store

    return open_store(settings)
