"""Health of the platform by component: healthy, degraded, unhealthy, or unknown when looking takes too long.

The looking is ``diagnosis`` and ``platform_diagnosis``, the same as ``contimg doctor``; each component is looked at in a thread
of its own (``kept_answers``), so a hung disk or a locked store makes its component unknown and never the answer late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from contimg_portal.diagnosis import examine_catalogue, examine_folders, examine_store
from contimg_portal.findings import Finding
from contimg_portal.kept_answers import Answer, KeptAnswer, answers_within
from contimg_portal.platform_diagnosis import (
    examine_calibration,
    examine_daemons,
    examine_engines,
    examine_heartbeats,
    examine_instance,
    examine_memory,
    examine_queue,
    examine_sensors,
    instance_view,
)
from contimg_resources.settings import Settings
from contimg_resources.store.connection import open_store

ComponentState = Literal["healthy", "degraded", "unhealthy", "unknown"]
Examine = Callable[[], Iterator[Finding]]

DEADLINE_S = 0.7
"""Of one answer, all components together."""
KEEP_S = 2.0
PATIENCE_S = 5.0
"""A component known from before keeps its state this long while a new look is slow."""
NEEDED = ("store", "disk")
"""Without these the portal has nothing to serve."""
_STORE_WAIT_S = 10.0
_STATES: dict[str, ComponentState] = {"ok": "healthy", "warn": "degraded", "error": "unhealthy"}
_WORST_FIRST: tuple[ComponentState, ...] = ("unhealthy", "unknown", "degraded", "healthy")


@dataclass(frozen=True, slots=True)
class Component:
    """One component as it was found."""

    name: str
    status: ComponentState
    checked_at: str | None
    """When it was last looked at, UTC."""

    detail: str
    remedy: str
    findings: list[dict[str, Any]]


def components(settings: Settings) -> dict[str, Examine]:
    """What is looked at, by name."""
    store, view = open_store(settings, wait_s=_STORE_WAIT_S), instance_view()
    return {
        "store": partial(examine_store, store),
        "disk": partial(examine_folders, settings),
        "instance": partial(examine_instance, view),
        "daemon": partial(examine_daemons, view),
        "sensors": partial(examine_sensors, view),
        "heartbeats": partial(examine_heartbeats, store),
        "queue": partial(examine_queue, view),
        "catalogue": partial(examine_catalogue, settings),
        "calibration": partial(examine_calibration, settings, store),
        "memory": examine_memory,
        "engines": partial(examine_engines, settings),
    }


class Health:
    """Components of one installation.

    Parameters
    ----------
    settings : Settings
    examined : mapping of str to callable, optional
        What is looked at; `components` by default.
    """

    def __init__(self, settings: Settings, examined: Mapping[str, Examine] | None = None) -> None:
        looks = components(settings) if examined is None else examined
        self._kept = {name: KeptAnswer(partial(_listed, look), keep_s=KEEP_S) for name, look in looks.items()}

    def look(self, *names: str) -> list[Component]:
        """State of these components, or of all, before the deadline."""
        chosen = {name: kept for name, kept in self._kept.items() if not names or name in names}
        answers = answers_within(chosen.values(), DEADLINE_S)
        return [_component(name, answer) for name, answer in zip(chosen, answers, strict=True)]


def worst(found: list[Component]) -> ComponentState:
    """State of the whole: that of the worst component."""
    return next(state for state in _WORST_FIRST if state == "healthy" or any(c.status == state for c in found))


def _listed(look: Examine) -> list[Finding]:
    return list(look())


def _component(name: str, answer: Answer[list[Finding]]) -> Component:
    checked_at = None if answer.at is None else datetime.fromtimestamp(answer.at, UTC).isoformat(timespec="seconds")
    if answer.value is None or answer.looking_s > PATIENCE_S:
        detail = answer.problem or f"no answer for {answer.looking_s:.1f} s"
        return Component(name, "unknown", checked_at, detail, "Look at the portal's log and at what it waits for.", [])
    states = [_STATES[finding.state] for finding in answer.value]
    status: ComponentState = next((state for state in _WORST_FIRST if state in states), "healthy")
    shown = [finding for finding in answer.value if _STATES[finding.state] == status]
    detail = "; ".join(f"{finding.name}: {finding.detail}" for finding in shown) or "nothing to watch"
    remedy = " ".join(dict.fromkeys(finding.remedy for finding in shown if finding.remedy))
    return Component(name, status, checked_at, detail, remedy, [asdict(finding) for finding in answer.value])
