"""The ledger of alerts in the store: what opens, goes on, is acknowledged and resolved, and what people were told.

Tables ``alert`` (one row per occurrence of a rule and subject), ``alert_history`` (append-only) and ``alert_condition``
(rules that are broken, since when: what ``duration_s`` is measured from). All changes of one evaluation are one
transaction, so any number of processes may evaluate side by side.

=============  ==========================================================================================================
kind           meaning of a row of ``alert_history``
=============  ==========================================================================================================
opened         the rule fired: people are told
reopened       it fired again within the cool-down: people are not told
reminded       it is still broken after the cool-down and nobody has acknowledged it: people are told
acknowledged   somebody has taken it on: quiet until it is resolved
resolved       the rule holds again: people are told
settled        the rule holds again, but people had not been told since it fired: they are not told now
delivery_*     see ``delivery``; also ``delivered``
=============  ==========================================================================================================
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import polars as pl

from contimg_resources.alerts.probe import Reading
from contimg_resources.alerts.rules import AlertRule
from contimg_resources.errors import StoreError
from contimg_resources.store.connection import Store, insert
from contimg_resources.store.frames import fit_frame
from contimg_resources.store.records import keep_rows
from contimg_resources.store.schema import TABLES

TOLD = ("opened", "reminded", "resolved")
"""Kinds of history that people are told of."""
_OPEN = "SELECT * FROM alert WHERE status IN ('open', 'acknowledged') ORDER BY first_at, alert_id"
_LAST_TOLD = """
    SELECT a.rule, coalesce(a.subject, ''), max(h."at") FROM alert_history h JOIN alert a USING (alert_id)
    WHERE h.kind IN ('opened', 'reminded') GROUP BY ALL
"""
_SILENT = """
    SELECT alert_id FROM alert_history WHERE kind IN ('opened', 'reopened', 'reminded')
    GROUP BY alert_id HAVING arg_max(kind, "at") = 'reopened'
"""

Measured = Mapping[str, Sequence[Reading] | None]
"""Readings by the name of the rule; None where they could not be taken."""


@dataclass(slots=True)
class _Books:
    """What the store knows before an evaluation, by (rule, subject), and what is to be written."""

    now: datetime
    broken_since: dict[tuple[str, str], datetime]
    open_alerts: dict[tuple[str, str], dict[str, Any]]
    last_alerts: dict[tuple[str, str], dict[str, Any]]
    last_told: dict[tuple[str, str], datetime]
    silent: set[str]
    """Alerts that opened again within the cool-down, of which people do not know."""
    alerts: list[dict[str, Any]]
    history: list[dict[str, Any]]

    def note(self, alert: dict[str, Any], kind: str, detail: str) -> None:
        self.history.append(
            {
                "event_id": uuid.uuid4().hex,
                "alert_id": alert["alert_id"],
                "at": self.now,
                "kind": kind,
                "by": "contimg",
                "detail": detail,
            }
        )


def record_evaluation(
    store: Store, rules: Sequence[AlertRule], measured: Measured, at: datetime
) -> list[dict[str, Any]]:
    """Open, remind of, and resolve alerts after one evaluation of rules.

    Parameters
    ----------
    store : Store
    rules : sequence of AlertRule
    measured : mapping
        Readings by rule name. A rule whose value is None is left as it is.
    at : datetime
        Time of the evaluation, UTC.

    Returns
    -------
    list of dict
        Rows added to ``alert_history``.
    """
    now = at.astimezone(UTC).replace(tzinfo=None)
    with store.transaction() as connection:
        books = _open_books(connection, now)
        known = {rule.name for rule in rules}
        for rule in rules:
            readings = measured.get(rule.name)
            if readings is not None:
                _judge(books, rule, readings)
        for key, alert in books.open_alerts.items():
            if key[0] not in known:
                _close(books, alert, None, "the rule is switched off")
        _write(connection, books)
    return books.history


def _open_books(connection: duckdb.DuckDBPyConnection, now: datetime) -> _Books:
    def by_key(sql: str) -> dict[tuple[str, str], dict[str, Any]]:
        rows = connection.sql(sql).pl().iter_rows(named=True)
        return {(row["rule"], row["subject"] or ""): row for row in rows}

    since = connection.execute("SELECT rule, subject, since FROM alert_condition").fetchall()
    told = connection.execute(_LAST_TOLD).fetchall()
    return _Books(
        now=now,
        broken_since={(rule, subject): at for rule, subject, at in since},
        open_alerts=by_key(_OPEN),
        last_alerts=by_key("SELECT * FROM alert ORDER BY last_at"),
        last_told={(rule, subject): at for rule, subject, at in told},
        silent={alert_id for (alert_id,) in connection.execute(_SILENT).fetchall()},
        alerts=[],
        history=[],
    )


def _judge(books: _Books, rule: AlertRule, readings: Sequence[Reading]) -> None:
    """Compare the readings of one rule with its threshold, and with what was open."""
    broken = {(rule.name, reading.subject): reading for reading in readings if rule.is_broken(reading.value)}
    holding = {(rule.name, reading.subject): reading for reading in readings}
    for key in [key for key in books.broken_since if key[0] == rule.name and key not in broken]:
        del books.broken_since[key]
    for key, reading in broken.items():
        since = books.broken_since.setdefault(key, books.now)
        if key in books.open_alerts:
            _go_on(books, rule, books.open_alerts[key], reading)
        elif books.now - since >= timedelta(seconds=rule.duration_s):
            _fire(books, rule, key, reading)
    for key, alert in books.open_alerts.items():
        if key[0] == rule.name and key not in broken:
            _close(books, alert, holding.get(key), "")


def _message(rule: AlertRule, reading: Reading) -> str:
    of = f" ({reading.subject})" if reading.subject else ""
    return f"{rule.summary}{of}: {reading.detail or f'{reading.value:g}'}."


def _is_cool(books: _Books, rule: AlertRule, key: tuple[str, str]) -> bool:
    last = books.last_told.get(key)
    return last is None or books.now - last >= timedelta(seconds=rule.cool_down_s)


def _fire(books: _Books, rule: AlertRule, key: tuple[str, str], reading: Reading) -> None:
    """A new alert; within the cool-down of the last one, that one again and in silence."""
    message, last = _message(rule, reading), books.last_alerts.get(key)
    changed = {
        "severity": rule.severity,
        "message": message,
        "last_at": books.now,
        "value": reading.value,
        "limit_value": rule.threshold,
        "status": "open",
    }
    if last is not None and not _is_cool(books, rule, key):
        reopened = {"n_occurrences": last["n_occurrences"] + 1, "resolved_at": None}
        alert = last | changed | reopened | {"acknowledged_at": None, "acknowledged_by": None}
        books.note(alert, "reopened", message)
    else:
        alert = {"alert_id": uuid.uuid4().hex[:12], "rule": key[0], "subject": key[1], "first_at": books.now}
        alert |= changed | {"n_occurrences": 1}
        books.note(alert, "opened", message)
    books.alerts.append(alert)


def _go_on(books: _Books, rule: AlertRule, alert: dict[str, Any], reading: Reading) -> None:
    message = _message(rule, reading)
    newer = {"last_at": books.now, "value": reading.value, "limit_value": rule.threshold, "message": message}
    books.alerts.append(alert | newer | {"severity": rule.severity})
    if alert["status"] == "open" and _is_cool(books, rule, (alert["rule"], alert["subject"] or "")):
        books.note(alert, "reminded", message)


def _close(books: _Books, alert: dict[str, Any], reading: Reading | None, why: str) -> None:
    now_reads = why or (reading.detail if reading is not None else "") or "nothing of the kind"
    value = {"value": reading.value} if reading is not None else {}
    books.alerts.append(alert | value | {"status": "resolved", "resolved_at": books.now, "last_at": books.now})
    kind = "settled" if alert["alert_id"] in books.silent else "resolved"
    books.note(alert, kind, f"{alert['message']} Now: {now_reads}.")


def _write(connection: duckdb.DuckDBPyConnection, books: _Books) -> None:
    if books.alerts:
        frame = pl.DataFrame(books.alerts, infer_schema_length=None)
        insert(connection, TABLES["alert"], fit_frame(TABLES["alert"], frame), on_conflict="update")
    if books.history:
        insert(connection, TABLES["alert_history"], fit_frame(TABLES["alert_history"], pl.DataFrame(books.history)))
    connection.execute("DELETE FROM alert_condition")
    rows = [{"rule": r, "subject": s, "since": at} for (r, s), at in books.broken_since.items()]
    if rows:
        insert(connection, TABLES["alert_condition"], fit_frame(TABLES["alert_condition"], pl.DataFrame(rows)))


def acknowledge_alert(store: Store, alert_id: str, *, by: str, at: datetime, reason: str = "") -> dict[str, Any]:
    """Take an alert on: no more reminders until it is resolved, of which people are told.

    Parameters
    ----------
    store : Store
    alert_id : str
    by : str
        Who takes it on.
    at : datetime
        UTC.
    reason : str
        What is being done about it.

    Returns
    -------
    dict
        The alert's row.

    Raises
    ------
    StoreError
        If there is no such alert (reason code ``unknown_alert``), it is resolved (``resolved_alert``), or nobody is
        named (``wrong_acknowledgement``).
    """
    now = at.astimezone(UTC).replace(tzinfo=None)
    if not by.strip():
        raise _refusal("An alert is acknowledged by somebody", "nobody", "a name", "wrong_acknowledgement")
    with store.transaction() as connection:
        found = connection.sql("SELECT * FROM alert WHERE alert_id = ?", params=[alert_id]).pl().to_dicts()
        if not found:
            raise _refusal("There is no such alert", alert_id, "the id of an alert in the store", "unknown_alert")
        if found[0]["status"] == "resolved":
            raise _refusal(f"Alert {alert_id} is over", "resolved", "an open alert", "resolved_alert")
        connection.execute(
            "UPDATE alert SET status = 'acknowledged', acknowledged_at = ?, acknowledged_by = ? WHERE alert_id = ?",
            [now, by.strip(), alert_id],
        )
        keep_rows(connection, "alert", [found[0]["first_at"].isoformat()])
        event = {"event_id": uuid.uuid4().hex, "alert_id": alert_id, "at": now, "kind": "acknowledged"}
        event |= {"by": by.strip(), "detail": reason.strip() or None}
        frame = fit_frame(TABLES["alert_history"], pl.DataFrame([event], schema_overrides={"detail": pl.String}))
        insert(connection, TABLES["alert_history"], frame)
        (row,) = connection.sql("SELECT * FROM alert WHERE alert_id = ?", params=[alert_id]).pl().to_dicts()
        return dict(row)


def _refusal(what: str, got: str, expected: str, reason_code: str) -> StoreError:
    remedy = "`contimg alerts list` shows the open ones."
    return StoreError(what, got=got, expected=expected, remedy=remedy, reason_code=reason_code)


def list_alerts(store: Store, *, is_open: bool = True, limit: int = 200) -> pl.DataFrame:
    """Alerts, the most severe and newest first: open and acknowledged ones, or all of them."""
    where = "WHERE status <> 'resolved'" if is_open else ""
    return store.query(
        f"""SELECT * FROM alert {where}
        ORDER BY list_position(['critical', 'error', 'warning', 'info'], severity), last_at DESC LIMIT ?""",  # noqa: S608 (ours)
        [limit],
    )
