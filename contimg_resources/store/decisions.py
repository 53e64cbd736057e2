"""What people decide about what failed: a dead letter is to be retried or is resolved, an alert is somebody's business.

What belongs here: the change of state and the line in the history, in one transaction. Who may decide is the portal's
business; what failures and alerts are, and what happens next, is that of the sensors.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb

from contimg_resources.errors import StoreError
from contimg_resources.store.connection import Store


@dataclass(frozen=True, slots=True)
class Decided:
    """Who decided, why and when."""

    by: str
    reason: str
    at: datetime

    @property
    def naive_at(self) -> datetime:
        """UTC without zone, as the store keeps it."""
        return self.at.astimezone(UTC).replace(tzinfo=None)


def retry_letter(store: Store, letter_id: str, decided: Decided) -> str:
    """Ask for a retry of a dead letter, which the failure sensor starts at its next tick; return its status.

    Raises
    ------
    StoreError
        Reason code ``unknown_letter``, or ``letter_is_resolved`` or ``letter_is_retrying``.
    """
    with store.transaction() as connection:
        status = _status(connection, "dead_letter", "letter_id", letter_id, "unknown_letter")
        if status in {"resolved", "retrying"}:
            raise _refused("Dead letter", letter_id, status, f"letter_is_{status}")
        connection.execute(
            "UPDATE dead_letter SET status = 'retrying', next_retry_at = ?, retry_run_id = NULL WHERE letter_id = ?",
            [decided.naive_at, letter_id],
        )
        _note_letter(connection, letter_id, "retry_requested", decided)
    return "retrying"


def resolve_letter(store: Store, letter_id: str, decided: Decided) -> str:
    """Close a dead letter by hand; return its status.

    Raises
    ------
    StoreError
        Reason code ``unknown_letter`` or ``letter_is_resolved``.
    """
    with store.transaction() as connection:
        status = _status(connection, "dead_letter", "letter_id", letter_id, "unknown_letter")
        if status == "resolved":
            raise _refused("Dead letter", letter_id, status, "letter_is_resolved")
        connection.execute(
            "UPDATE dead_letter SET status = 'resolved', next_retry_at = NULL, resolved_at = ?, resolved_by = ?,"
            " resolution = ? WHERE letter_id = ?",
            [decided.naive_at, decided.by.strip(), decided.reason.strip(), letter_id],
        )
        _note_letter(connection, letter_id, "resolved", decided)
    return "resolved"


def acknowledge_alert(store: Store, alert_id: str, decided: Decided) -> str:
    """Take an alert on, after which nobody is reminded of it; return its status.

    Raises
    ------
    StoreError
        Reason code ``unknown_alert`` or ``alert_is_resolved``.
    """
    with store.transaction() as connection:
        status = _status(connection, "alert", "alert_id", alert_id, "unknown_alert")
        if status == "resolved":
            raise _refused("Alert", alert_id, status, "alert_is_resolved")
        connection.execute(
            "UPDATE alert SET status = 'acknowledged', acknowledged_at = ?, acknowledged_by = ? WHERE alert_id = ?",
            [decided.naive_at, decided.by.strip(), alert_id],
        )
        connection.execute(
            'INSERT INTO alert_history (event_id, alert_id, "at", kind, "by", detail) VALUES (?, ?, ?, ?, ?, ?)',
            [uuid.uuid4().hex, alert_id, decided.naive_at, "acknowledged", decided.by.strip(), decided.reason.strip()],
        )
    return "acknowledged"


def _status(connection: duckdb.DuckDBPyConnection, table: str, key: str, name: str, reason_code: str) -> str:
    found = connection.execute(f"SELECT status FROM {table} WHERE {key} = ?", [name]).fetchall()  # noqa: S608 (constants)
    if not found:
        raise StoreError(
            f"Table {table} has no such row",
            got=name,
            expected=f"a {key} of the list",
            remedy="The portal's page /operations lists them.",
            reason_code=reason_code,
        )
    return str(found[0][0])


def _refused(kind: str, name: str, status: str, reason_code: str) -> StoreError:
    return StoreError(
        f"{kind} {name} is {status}",
        got=status,
        expected="one that is open",
        remedy="Nothing is to be done.",
        reason_code=reason_code,
    )


def _note_letter(connection: duckdb.DuckDBPyConnection, letter_id: str, kind: str, decided: Decided) -> None:
    connection.execute(
        'INSERT INTO dead_letter_event (event_id, letter_id, "at", kind, "by", detail) VALUES (?, ?, ?, ?, ?, ?)',
        [uuid.uuid4().hex, letter_id, decided.naive_at, kind, decided.by.strip(), decided.reason.strip()],
    )
