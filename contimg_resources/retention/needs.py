"""What must stay whatever the policies say: needed by candidates, dead letters, alerts, runs, unfinished observations, or in use.

What belongs here: pure rules from facts of the store to needs, errors on the side of keeping. Reading the facts is
``inventory.py``.

A candidate, whatever its review says, needs every observation of its source from some days before the event to some days after it;
one whose times or measurements are unknown needs more, never less. An open dead letter needs the observations of its partition, a
day also those of the day before (gains and blind detections reach back); one without a partition needs everything. An open alert
needs what arrived since a day before it was raised. An unfinished observation, unless it is quarantined, needs its day and the day
before. A calibration table is needed while it is valid or a fallback, while an observation that used it has anything on disk, while
an observation that is needed or unfinished could choose it, and while needed gains are relative to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

FALLBACK_D = 7.0
"""Within so many days of an observation a table may serve it as a fallback, d."""
_BEFORE_ALERT = timedelta(days=1)
_MJD_EPOCH = datetime(1858, 11, 17)  # noqa: DTZ001  (the store's times are UTC without zone)
_KEY = re.compile(r"(\d{4}-\d{2}-\d{2})(?:([T-])(\d{2}):(\d{2}))?")


@dataclass(frozen=True, slots=True)
class Observation:
    """What the rules know of the observations of one window."""

    partition_key: str
    start_mjd: float
    status: str
    """``processed``, or that of the least finished observation of the window."""
    first_seen_at: datetime | None = None
    waits_for: str = ""
    """Product of its hour or day that has not been made yet; empty when all have been."""
    has_raw: bool = True
    """Whether each raw file lies there or has a verified copy."""
    has_products: bool = True
    """Whether anything of it is on disk."""
    tables: tuple[str, ...] = ()
    """Paths of the calibration tables that it used."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate and when its source was observed."""

    candidate_id: str
    start_mjd: float | None
    end_mjd: float | None
    measured: tuple[tuple[float, str], ...]
    """Time (MJD) and partition of each observation of the source."""


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """A calibration table that is on disk."""

    path: str
    status: str
    solved_at_mjd: float
    valid_from_mjd: float
    valid_to_mjd: float
    bandpass_path: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the store and Dagster say now."""

    observations: tuple[Observation, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    letters: tuple[tuple[str, str], ...] = ()
    """Asset and partition of each open dead letter."""
    alerts: tuple[tuple[str, datetime], ...] = ()
    """Rule and first time of each open alert."""
    running: tuple[str, ...] = ()
    """Partition of each run that waits or is under way."""
    tables: tuple[CalibrationTable, ...] = ()


@dataclass(frozen=True, slots=True)
class Needs:
    """What must stay, with the reason."""

    everything: str = ""
    unfinished: Mapping[str, str] | None = None
    """Observations that are not even copied."""
    by_observation: Mapping[str, str] | None = None
    by_path: Mapping[str, str] | None = None
    known: frozenset[str] = frozenset()
    """Observations there are; what belongs to another is not touched."""
    remakeable: frozenset[str] = frozenset()
    """Observations whose raw files are there or archived."""

    def why_unfinished(self, observations: Iterable[str]) -> str:
        """Why a product of these observations may still change; empty if it will not."""
        for key in sorted(observations):
            if key not in self.known:
                return f"the store does not know the observation {key}"
            if reason := (self.unfinished or {}).get(key):
                return reason
        return ""

    def why(self, path: str, observations: Iterable[str]) -> str:
        """Why a product must stay; empty if it need not."""
        if self.everything:
            return self.everything
        of_observations = ((self.by_observation or {}).get(key, "") for key in sorted(observations))
        return (self.by_path or {}).get(path, "") or next(filter(None, of_observations), "")


def needs_of(facts: Facts, now: datetime, *, candidate_margin_d: float) -> Needs:
    """Apply the rules of the module.

    Parameters
    ----------
    facts : Facts
    now : datetime
        UTC without zone.
    candidate_margin_d : float
        Days before and after an event whose observations belong to the evidence.
    """
    unfinished = {o.partition_key: reason for o in facts.observations if (reason := _why_unfinished(o))}
    unfinished |= dict(_wanted(facts.running, facts.observations, "a run of {} is under way"))
    needed = dict(_of_unfinished_days(facts.observations, unfinished))
    for candidate in facts.candidates:
        needed |= dict.fromkeys(_evidence(candidate, facts, candidate_margin_d), f"candidate {candidate.candidate_id}")
    needed |= dict(_wanted((key for _, key in facts.letters), facts.observations, "open dead letter of {}"))
    for rule, since in facts.alerts:
        seen = [o for o in facts.observations if o.first_seen_at is None or o.first_seen_at >= since - _BEFORE_ALERT]
        needed |= {o.partition_key: f"open alert {rule}" for o in seen}
    lost = [asset for asset, key in facts.letters if _KEY.fullmatch(key) is None]
    lost += ["a run" for key in facts.running if _KEY.fullmatch(key) is None]
    held = unfinished | needed
    return Needs(
        everything=f"{lost[0]} without a partition is open or under way" if lost else "",
        unfinished=unfinished,
        by_observation=needed,
        by_path=_tables_in_use(facts, held, (now - _MJD_EPOCH) / timedelta(days=1)),
        known=frozenset(o.partition_key for o in facts.observations),
        remakeable=frozenset(o.partition_key for o in facts.observations if o.has_raw),
    )


def _why_unfinished(observation: Observation) -> str:
    if observation.status != "processed":
        return f"observation {observation.partition_key} is {observation.status}"
    return f"{observation.waits_for} has not been made" if observation.waits_for else ""


def _of_unfinished_days(
    observations: Iterable[Observation], unfinished: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Observations of days that are not finished and of the days before; what is quarantined keeps no day open."""
    still_open = {o.partition_key for o in observations if o.partition_key in unfinished and o.status != "quarantined"}
    yield from _wanted({key[:10] for key in still_open}, observations, "day {} is not finished")


def _evidence(candidate: Candidate, facts: Facts, margin_d: float) -> Iterator[str]:
    """Observations that a candidate needs: of its source, or of everything when its source was measured nowhere."""
    first = -float("inf") if candidate.start_mjd is None else candidate.start_mjd - margin_d
    last = float("inf") if candidate.end_mjd is None else candidate.end_mjd + margin_d
    measured = candidate.measured or tuple((o.start_mjd, o.partition_key) for o in facts.observations)
    return (key for mjd, key in measured if first <= mjd <= last)


def _wanted(keys: Iterable[str], observations: Iterable[Observation], reason: str) -> Iterator[tuple[str, str]]:
    """Observations of partitions (observation, hour, day with the day before), with the reason that names the partition."""
    wanted = sorted(set(keys))
    starts = [(start, key) for key in wanted for start in _starts(key)]
    for observation in observations if starts else ():
        for start, key in starts:
            if observation.partition_key.startswith(start):
                yield observation.partition_key, reason.format(key)
                break


def _starts(key: str) -> list[str]:
    """What keys of the observations of a partition begin with."""
    matched = _KEY.fullmatch(key)
    if matched is None:
        return []
    day, sign, hour, _ = matched.groups()
    if sign is None:
        before = datetime.fromisoformat(day) - timedelta(days=1)
        return [day, before.date().isoformat()]
    return [key] if sign == "T" else [f"{day}T{hour}"]


def _tables_in_use(facts: Facts, held: Mapping[str, str], now_mjd: float) -> dict[str, str]:
    """Calibration tables that must stay, by path."""
    needed: dict[str, str] = {}
    for observation in facts.observations:
        if observation.has_products or observation.partition_key in held:
            needed |= dict.fromkeys(observation.tables, f"in use by observation {observation.partition_key}")
    waiting = [o for o in facts.observations if o.partition_key in held]
    for table in facts.tables:
        if table.status == "active" and table.path not in needed:
            if max(table.valid_to_mjd, table.solved_at_mjd + FALLBACK_D) >= now_mjd:
                needed[table.path] = "still valid, or a fallback"
            elif served := next((o for o in waiting if _may_serve(table, o)), None):
                needed[table.path] = f"observation {served.partition_key} may need it"
    relative = {t.bandpass_path: t.path for t in facts.tables if t.bandpass_path and t.path in needed}
    return {path: f"needed gains are relative to it: {gains}" for path, gains in relative.items()} | needed


def _may_serve(table: CalibrationTable, observation: Observation) -> bool:
    near = abs(table.solved_at_mjd - observation.start_mjd) <= FALLBACK_D
    return near or table.valid_from_mjd <= observation.start_mjd <= table.valid_to_mjd
