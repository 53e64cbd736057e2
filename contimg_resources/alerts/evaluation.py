"""One evaluation of all rules: measure, judge, remember, tell. Called by the sensor, the portal and the command.

Who evaluates: the sensor ``alerts`` every 30 s; the portal as soon as the sensor has been quiet for 45 s (a daemon that
is down cannot say so); ``contimg alerts evaluate`` whenever somebody asks. All work on the same ledger, so an alert is
raised once whoever saw it first.

When the store itself cannot be opened there is no ledger: then only rules about the store are judged, people are told
directly, and a small file beside the store remembers that they were; the next evaluation that can enters it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import structlog

import contimg_resources.alerts.platform_measurements  # registers its measurements
import contimg_resources.alerts.science_measurements  # noqa: F401  (likewise)
from contimg_resources.alerts.channels import parse_channels, send
from contimg_resources.alerts.delivery import compose, deliver_notices
from contimg_resources.alerts.ledger import record_evaluation
from contimg_resources.alerts.probe import MEASUREMENTS, Probe, Reading, open_instance
from contimg_resources.alerts.rules import AlertRule, load_rules
from contimg_resources.errors import StoreError
from contimg_resources.products import atomic_write
from contimg_resources.settings import Settings
from contimg_resources.store.connection import Store, open_store

INTERVAL_S = 30.0
STORE_WAIT_S = 15.0
"""An evaluation waits this long for the store; longer would be an alert by itself."""
HEARTBEAT = "alerts"
_STORE_METRICS = {"store_wait_s", "disk_free_gb", "disk_reserve_ratio", "memory_available_fraction"}
"""What can be measured without the store."""
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one evaluation found and did."""

    rules: tuple[AlertRule, ...]
    measured: Mapping[str, Sequence[Reading] | None]
    """Readings by rule."""
    history: list[dict[str, Any]]
    """Rows added to the history."""
    n_delivered: int
    n_failed: int
    store_problem: str

    def broken(self) -> list[tuple[AlertRule, Reading]]:
        """Rules that are broken now, with the reading that breaks them."""
        return [
            (rule, reading)
            for rule in self.rules
            for reading in self.measured.get(rule.name) or ()
            if rule.is_broken(reading.value)
        ]


def known_rules(settings: Settings) -> tuple[AlertRule, ...]:
    """Rules of this installation; SettingsError where one names a metric or an event that does not exist."""
    from contimg_resources.event_sources import KINDS

    return load_rules(settings.alert_rules, metrics=set(MEASUREMENTS), events=set(KINDS))


def evaluate_alerts(
    settings: Settings,
    *,
    instance: dg.DagsterInstance | None = None,
    at: datetime | None = None,
    is_delivered: bool = True,
    heartbeat: bool = False,
) -> Evaluation:
    """Measure, judge, remember and tell, once.

    Parameters
    ----------
    settings : Settings
    instance : DagsterInstance, optional
        Default: that of ``DAGSTER_HOME``, if there is one.
    at : datetime, optional
        Time of the evaluation, UTC; default now.
    is_delivered : bool
        Whether people are told.
    heartbeat : bool
        Whether to leave a sign of life of the sensor in the store.

    Returns
    -------
    Evaluation
    """
    now = at or datetime.now(UTC)
    rules = known_rules(settings)
    store = open_store(settings, wait_s=STORE_WAIT_S)
    with ExitStack() as stack:
        if instance is None:
            instance = open_instance()
            if instance is not None:
                stack.enter_context(instance)
        measured, problem = _measure(settings, rules, store, instance, now)
    if problem:
        return _without_store(settings, rules, measured, problem, now)
    if not store.path.exists():
        return Evaluation(rules, measured, [], 0, 0, "")
    _enter_remembered(store, settings)
    history = record_evaluation(store, rules, measured, now)
    if heartbeat:
        _leave_heartbeat(store, now)
    counts = {"n_delivered": 0, "n_failed": 0}
    channels = parse_channels(settings.alert_urls)
    if is_delivered and channels:
        counts = deliver_notices(store, rules, channels, now)
    return Evaluation(rules, measured, history, counts["n_delivered"], counts["n_failed"], "")


def _measure(
    settings: Settings,
    rules: Sequence[AlertRule],
    store: Store,
    instance: dg.DagsterInstance | None,
    now: datetime,
) -> tuple[dict[str, Sequence[Reading] | None], str]:
    """Readings by rule, and why the store could not be read."""
    began, problem = time.monotonic(), ""
    with ExitStack() as stack:
        connection = None
        if store.path.exists():
            try:
                connection = stack.enter_context(store.reading())
            except StoreError as error:
                problem = str(error)
        probe = Probe(settings, now, connection, time.monotonic() - began, problem, instance)
        readings = {
            rule.metric: MEASUREMENTS[rule.metric](probe)
            for rule in rules
            if rule.metric and (not problem or rule.metric in _STORE_METRICS)
        }
    measured = {rule.name: readings.get(rule.metric) for rule in rules if rule.metric}
    return measured | _count_events(rules, store, instance, now, problem), problem


def _count_events(
    rules: Sequence[AlertRule], store: Store, instance: dg.DagsterInstance | None, now: datetime, problem: str
) -> dict[str, Sequence[Reading] | None]:
    """Readings of rules about events: how many within the window, by subject."""
    from contimg_resources.events import count_recent

    return {
        rule.name: None if problem else count_recent(store, instance, rule.event, now, rule.window_s)
        for rule in rules
        if rule.event
    }


def _leave_heartbeat(store: Store, now: datetime) -> None:
    store.upsert(
        "heartbeat",
        pl.DataFrame(
            {
                "name": [HEARTBEAT],
                "kind": ["sensor"],
                "last_at": [now.astimezone(UTC).replace(tzinfo=None)],
                "interval_s": [INTERVAL_S],
                "detail": ["evaluation of alert rules"],
            }
        ),
    )


def seconds_since_sensor(settings: Settings, now: datetime) -> float | None:
    """How long ago the sensor last evaluated; None when it never did or the store cannot be read."""
    store = open_store(settings, wait_s=STORE_WAIT_S)
    try:
        rows = store.query("SELECT last_at FROM heartbeat WHERE name = ?", [HEARTBEAT]).rows()
    except StoreError:
        return None
    return (now - rows[0][0].replace(tzinfo=UTC)).total_seconds() if rows else None


def _remembered_path(settings: Settings) -> Path:
    return settings.data / "alerts_without_store.json"


def _without_store(
    settings: Settings,
    rules: Sequence[AlertRule],
    measured: Mapping[str, Sequence[Reading] | None],
    problem: str,
    now: datetime,
) -> Evaluation:
    """Tell of broken rules once, and remember it in a file until the store can be written."""
    path = _remembered_path(settings)
    told = json.loads(path.read_text()) if path.exists() else {}
    evaluation = Evaluation(tuple(rules), measured, [], 0, 0, problem)
    fresh = [(rule, reading) for rule, reading in evaluation.broken() if rule.name not in told]
    n_delivered = n_failed = 0
    for rule, reading in fresh:
        notice = _notice(rule, reading, now)
        wanted = [c for c in parse_channels(settings.alert_urls) if not rule.channels or c.name in rule.channels]
        reached = [channel.name for channel in wanted if not send(channel, *compose([notice]))]
        n_delivered, n_failed = n_delivered + len(reached), n_failed + len(wanted) - len(reached)
        if reached or not wanted:
            told[rule.name] = notice | {"at": now.isoformat(), "channels": reached}
    atomic_write(path, lambda stream: stream.write(json.dumps(told, indent=1).encode()))
    _LOG.warning("alerts_without_store", problem=problem, n_delivered=n_delivered, n_failed=n_failed)
    return Evaluation(tuple(rules), measured, [], n_delivered, n_failed, problem)


def _notice(rule: AlertRule, reading: Reading, now: datetime) -> dict[str, Any]:
    detail = f"{rule.summary}: {reading.detail or f'{reading.value:g}'}."
    return {
        "rule": rule.name,
        "subject": reading.subject,
        "severity": rule.severity,
        "kind": "opened",
        "detail": detail,
        "alert_id": f"{rule.name}-{now:%Y%m%dT%H%M%S}",
        "at": now,
        "value": reading.value,
        "limit_value": rule.threshold,
    }


def _enter_remembered(store: Store, settings: Settings) -> None:
    """Enter into the ledger what people were told while the store could not be opened; then forget the file."""
    path = _remembered_path(settings)
    if not path.exists():
        return
    for notice in json.loads(path.read_text()).values():
        at = datetime.fromisoformat(notice["at"]).astimezone(UTC).replace(tzinfo=None)
        row = {name: notice[name] for name in ("alert_id", "rule", "subject", "severity", "value", "limit_value")}
        row |= {"message": notice["detail"], "status": "open", "first_at": at, "last_at": at, "n_occurrences": 1}
        store.append("alert", pl.DataFrame([row]))
        opened = {"event_id": notice["alert_id"], "alert_id": notice["alert_id"], "at": at, "kind": "opened"}
        opened |= {"by": "contimg", "detail": notice["detail"]}
        rows = [{**opened, "channel": None}]
        rows += [
            opened | {"event_id": f"{notice['alert_id']}/{name}/1/delivered", "kind": "delivered", "channel": name}
            for name in notice["channels"]
        ]
        store.append("alert_history", pl.DataFrame(rows, schema_overrides={"channel": pl.String}))
    path.unlink()
