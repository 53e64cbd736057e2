"""Delivery of notices: every channel gets every notice once; what fails is tried again, later and later, and is visible.

The state is the history in the store, so a restart forgets nothing and several processes share the work: an attempt is
claimed by a row with a key of its own (``notice/channel/attempt``), and whoever wrote it sends. Delays double from 30 s
to an hour; after a day the notice is given up. A channel that fails once in a round is left alone for the rest of it.
Not a breaker in memory: it would be closed again in the next process, and there is one for each evaluation from a
terminal.

Kinds of history: ``delivery_started`` (claimed), ``delivered``, ``delivery_failed`` (detail: why), ``delivery_abandoned``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from contimg_resources.alerts.channels import Channel, send
from contimg_resources.alerts.ledger import TOLD
from contimg_resources.alerts.rules import AlertRule
from contimg_resources.store.connection import Store

FIRST_DELAY_S = 30.0
LONGEST_DELAY_S = 3600.0
GIVEN_UP_AFTER = timedelta(days=1)
CLAIM_S = 120.0
"""An attempt that says nothing for so long was cut off and counts as failed."""

_NOTICES = """
    SELECT h.event_id, h.alert_id, h."at", h.kind, h.detail, a.rule, a.subject, a.severity
    FROM alert_history h JOIN alert a USING (alert_id)
    WHERE h.kind IN (SELECT unnest($1)) AND h."at" > $2 ORDER BY h."at", h.event_id
"""
_ATTEMPTS = """
    SELECT split_part(event_id, '/', 1) AS notice, channel, count(*) FILTER (kind = 'delivery_started') AS n_attempts,
        max("at") AS last_at, bool_or(kind IN ('delivered', 'delivery_abandoned')) AS is_over,
        n_attempts > count(*) FILTER (kind IN ('delivered', 'delivery_failed')) AS is_pending
    FROM alert_history WHERE channel IS NOT NULL AND "at" > $1 GROUP BY ALL
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to tell one channel of one notice."""

    notice: dict[str, Any]
    channel: Channel
    attempt: int

    @property
    def event_id(self) -> str:
        """Key of this attempt in the history."""
        return f"{self.notice['event_id']}/{self.channel.name}/{self.attempt}"

    def row(self, kind: str, at: datetime, detail: str = "") -> dict[str, Any]:
        """Row of the history."""
        return {
            "event_id": self.event_id + ("" if kind == "delivery_started" else f"/{kind}"),
            "alert_id": self.notice["alert_id"],
            "at": at,
            "kind": kind,
            "channel": self.channel.name,
            "by": "contimg",
            "detail": detail,
        }


def deliver_notices(
    store: Store, rules: Sequence[AlertRule], channels: Sequence[Channel], at: datetime
) -> dict[str, int]:
    """Send what has not arrived and is due.

    Parameters
    ----------
    store : Store
    rules : sequence of AlertRule
        Say which channels hear of what; an alert of a rule that is gone goes to all.
    channels : sequence of Channel
    at : datetime
        Now, UTC.

    Returns
    -------
    dict
        ``n_delivered`` and ``n_failed`` notices of this round.
    """
    now = at.astimezone(UTC).replace(tzinfo=None)
    chosen = {rule.name: rule.channels for rule in rules}
    counts = {"n_delivered": 0, "n_failed": 0}
    for channel in channels:
        claimed = _claim(store, _due(store, channel, chosen, now), now)
        if not claimed:
            continue
        title, body, severity = compose([delivery.notice for delivery in claimed])
        reason = send(channel, title, body, severity)
        kind = "delivery_failed" if reason else "delivered"
        store.append("alert_history", pl.DataFrame([delivery.row(kind, now, reason) for delivery in claimed]))
        counts["n_failed" if reason else "n_delivered"] += len(claimed)
    return counts


def _due(store: Store, channel: Channel, chosen: dict[str, tuple[str, ...]], now: datetime) -> list[Delivery]:
    """Attempts that should be made now; notices too old for another one are given up."""
    oldest = now - GIVEN_UP_AFTER
    # Looked at a little longer than tried, so that giving up is written down.
    since = oldest - GIVEN_UP_AFTER
    with store.reading() as connection:
        notices = connection.sql(_NOTICES, params=[list(TOLD), since]).pl().to_dicts()
        attempts = connection.sql(_ATTEMPTS, params=[since]).pl().filter(channel=channel.name).to_dicts()
    tried = {attempt["notice"]: attempt for attempt in attempts}
    due, abandoned = [], []
    for notice in notices:
        wanted = chosen.get(notice["rule"], ())
        earlier = tried.get(notice["event_id"])
        if (wanted and channel.name not in wanted) or (earlier is not None and earlier["is_over"]):
            continue
        n_attempts = 0 if earlier is None else int(earlier["n_attempts"])
        delivery = Delivery(notice, channel, n_attempts + 1)
        if notice["at"] <= oldest:
            abandoned += [delivery] if n_attempts else []
        elif earlier is None or now - earlier["last_at"] >= _delay(n_attempts, is_pending=earlier["is_pending"]):
            due.append(delivery)
    if abandoned:
        reason = f"given up after {GIVEN_UP_AFTER.total_seconds() / 3600:.0f} h"
        store.append("alert_history", pl.DataFrame([d.row("delivery_abandoned", now, reason) for d in abandoned]))
    return due


def _delay(n_attempts: int, *, is_pending: bool) -> timedelta:
    """How long after the last attempt the next one is due."""
    delay_s = min(FIRST_DELAY_S * 2.0 ** (n_attempts - 1), LONGEST_DELAY_S)
    return timedelta(seconds=max(delay_s, CLAIM_S) if is_pending else delay_s)


def _claim(store: Store, due: Sequence[Delivery], now: datetime) -> list[Delivery]:
    """Those attempts that no other process has claimed."""
    claimed = []
    for delivery in due:
        if store.append("alert_history", pl.DataFrame([delivery.row("delivery_started", now)])):
            claimed.append(delivery)  # noqa: PERF401  (each is a transaction of its own)
    return claimed


def compose(notices: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    """Title, text and severity of one message for some notices."""
    loudest = min(notices, key=_loudness)
    severity = "resolved" if loudest["kind"] == "resolved" else str(loudest["severity"])
    if len(notices) == 1:
        title = f"contimg {severity}: {_name(loudest)}"
    else:
        title = f"contimg {severity}: {_name(loudest)} and {len(notices) - 1} more"
    lines = [
        f"{'resolved' if n['kind'] == 'resolved' else n['severity']}"
        f"{' (still)' if n['kind'] == 'reminded' else ''}: {n['detail']} [{n['alert_id']}, {n['at']:%Y-%m-%d %H:%M:%S} UTC]"
        for n in sorted(notices, key=_loudness)
    ]
    return title, "\n".join(lines), severity


def _name(notice: dict[str, Any]) -> str:
    return f"{notice['rule']}{' ' + notice['subject'] if notice['subject'] else ''}"


def _loudness(notice: dict[str, Any]) -> tuple[int, datetime]:
    order = ["critical", "error", "warning", "info"]
    rank = len(order) if notice["kind"] == "resolved" else order.index(notice["severity"])
    return rank, notice["at"]
