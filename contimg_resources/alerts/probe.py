"""What measurements of alert rules are given, what they answer, and the register of them by name.

A measurement answers with readings, one per subject; none means that there is nothing to say (an empty platform is
healthy), and None that it cannot be seen from here: a process without Dagster's instance says nothing about runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import duckdb
from dagster._core.errors import DagsterHomeNotSetError

from contimg_resources.settings import Settings


@dataclass(frozen=True, slots=True)
class Reading:
    """One measured value."""

    value: float
    subject: str = ""
    """What it was measured of, where there are several: a stage, a host, a candidate."""
    detail: str = ""
    """What a person wants to read beside the number."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The platform as measurements see it, at one moment."""

    settings: Settings
    now: datetime
    """UTC, with zone."""
    connection: duckdb.DuckDBPyConnection | None
    """Read-only connection to the store; None when it could not be opened."""
    store_wait_s: float
    """How long opening the store took, s."""
    store_problem: str
    """Why the store could not be opened; empty when it could."""
    instance: dg.DagsterInstance | None
    """Dagster's instance; None where there is none."""

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Answer of a question to the store; nothing when there is no store."""
        return [] if self.connection is None else self.connection.execute(sql, list(parameters)).fetchall()

    def age_s(self, at: datetime) -> float:
        """Seconds since a time of the store (UTC without zone)."""
        return (self.now - at.replace(tzinfo=UTC)).total_seconds()


Measurement = Callable[[Probe], Sequence[Reading] | None]

MEASUREMENTS: dict[str, Measurement] = {}
"""Every measurement by the name that rules use; filled by the modules that define them."""


def measurement(function: Measurement) -> Measurement:
    """Register a function under its own name."""
    MEASUREMENTS[function.__name__] = function
    return function


def open_instance() -> dg.DagsterInstance | None:
    """Dagster's instance of this installation (``DAGSTER_HOME``), or None where none is named."""
    try:
        return dg.DagsterInstance.get()
    except DagsterHomeNotSetError:
        return None
