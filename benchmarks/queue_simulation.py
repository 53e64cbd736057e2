"""A platform in virtual time around Dagster's own queue: what arrives, the gate, the queue, broker, workers and days.

What is real: a Dagster instance with queue and limits of ``deploy/dagster.yaml``, its runs with the tags and priorities that the
platform's gate gives them (``contimg_sensors.gates``, told the virtual time), and the daemon that takes runs from the queue. What
is virtual: the clock, the broker (highest priority first, as Redis hands messages out) and the workers, where a run holds a slot
for its measured cost. Sensors look every 5 s, the daemon every second, automation every 15 s; looks that can change nothing are
left out. Every strip is a code location with a gate of its own; the queue is everybody's. Steps do not run, so the pool of the
store is not contended for; nor are mosaics made, for which nothing waits.
"""

from __future__ import annotations

import heapq
import math
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from capacity import CADENCE_S, COST_CORE_S
from dagster._core.events import DagsterEventType
from real_queue import RealQueue, instance_of_cluster

from contimg_assets.jobs import bandpass_job, daily_job, observation_job
from contimg_resources.cluster.queues import broker_priority
from contimg_resources.settings import Settings
from contimg_resources.settings_recovery import QueueSettings
from contimg_resources.store.connection import Store
from contimg_sensors import gates
from contimg_sensors.arrivals import PRIORITIES
from contimg_sensors.automation import day_automation

BANDPASS_CORE_S = 8.2
"""Of 96 antennas, without its run, s."""
DAY_CORE_S = 18.6
"""Statistics and candidates of a day with their run, 10 million source-epochs, s; the same for any array."""
SENSOR_S, AUTOMATION_S, DEQUEUE_S = 5.0, 15.0, 1.0
_START = datetime(2026, 3, 1)  # noqa: DTZ001 (UTC without zone, as in the store)
_START_MJD = 61_100.0
_DAY_S = 86_400.0


@dataclass(frozen=True)
class Scenario:
    """What arrives, and what works."""

    name: str
    n_strips: int
    n_slots: int
    cost_s: float
    """Of one observation on one core, s."""
    cadence_s: float = CADENCE_S
    down_h: float = 0.0
    """So long the platform stands still at first while files arrive, h."""
    hours: float = 26.0
    """Of arrivals, h; after a standstill at most, for they end when it has been caught up with."""
    live_age_h: float = QueueSettings().live_age_h
    most_waiting: int = QueueSettings().most_waiting
    has_transits: bool = True
    """Whether each strip has a calibrator's transit every day; if not, all calibration is at hand."""
    has_days: bool = True
    """Whether days follow the observations."""
    together_s: float = 20.0
    """Within which the files of all strips are complete: beams of one telescope end at the same moment."""
    seed: int = 1


@dataclass(eq=False)
class Observation:
    """One observation and where it stands."""

    strip: int
    start_s: float
    arrived_s: float
    steps: list[str]
    """Runs that it still needs, the next first."""
    has_calibrator: bool
    has_run: bool = False
    """Whether the next of them is requested."""
    done_s: float = math.inf

    @property
    def is_waited_for(self) -> bool:
        """Whether a calibrator is in the beam and its bandpass is not there."""
        return "bandpass" in self.steps

    @property
    def name(self) -> str:
        """In the store."""
        return f"{_START + timedelta(seconds=self.start_s):%Y-%m-%dT%H:%M:%S}.{self.start_s % 1:.3f}/{self.strip}"

    @property
    def day(self) -> tuple[int, int]:
        """Strip and number of the day."""
        return self.strip, int(self.start_s // _DAY_S)


@dataclass
class Outcome:
    """What the simulation saw."""

    observations: list[Observation] = field(default_factory=list)
    """In the order of their arrival."""
    caught_up_s: float | None = None
    """When nothing waited longer than usual any more; None if never, or if the platform never stood still."""
    most_at_once: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Runs in progress with a tag, at most; those of tag ("", "") are all."""
    n_requested: Counter[str] = field(default_factory=Counter)
    n_ended: Counter[str] = field(default_factory=Counter)
    """Runs by kind."""
    ended: Counter[str] = field(default_factory=Counter)
    """How often each run ended."""
    days_late_s: list[float] = field(default_factory=list)
    """From the end of an observation to the end of the day's run that saw it, s."""
    n_dequeued: int = 0
    dequeue_wall_s: float = 0.0
    dequeue_cpu_s: float = 0.0

    def latencies(self, first_s: float = 0.0, last_s: float = math.inf) -> list[float]:
        """Seconds from arrival to fluxes, sorted, of what arrived between two times."""
        return sorted(one.done_s - one.arrived_s for one in self.observations if first_s <= one.arrived_s < last_s)


def observations_of(scenario: Scenario) -> list[Observation]:
    """All observations that may arrive."""
    rng = random.Random(scenario.seed)  # noqa: S311 (a simulation)
    per_day = round(_DAY_S / scenario.cadence_s)
    transits = [rng.randrange(per_day) for _ in range(scenario.n_strips)]
    found = []
    for number in range(int(scenario.hours * 3600.0 / scenario.cadence_s)):
        for strip, transit in enumerate(transits):
            is_transit = scenario.has_transits and number % per_day == transit
            start_s = number * scenario.cadence_s
            arrived_s = start_s + rng.uniform(0.0, scenario.together_s)
            steps = ["transit", "bandpass", "rest"] if is_transit else ["observation"]
            found.append(Observation(strip, start_s, arrived_s, steps, is_transit))
    return found


def simulated(scenario: Scenario) -> Outcome:
    """A scenario on an instance and a store of its own."""
    with (
        instance_of_cluster() as instance,
        RealQueue(instance) as queue,
        tempfile.TemporaryDirectory(prefix="capacity-queue-") as folder,
    ):
        return Simulation(scenario, queue, Store(Path(folder) / "contimg.duckdb")).run()


class Simulation:
    """A scenario in virtual time, with the queue of an empty instance and an empty store."""

    def __init__(self, scenario: Scenario, queue: RealQueue, store: Store) -> None:
        self._scenario = scenario
        self._queue = queue
        self._store = store
        self._rules = QueueSettings(live_age_h=scenario.live_age_h, most_waiting=scenario.most_waiting)
        self._wait_s = float(Settings.model_fields["calibration_wait_s"].default)
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._n_events = 0
        self._planned: set[tuple[Callable[..., None], tuple[int, ...]]] = set()
        self._ready: dict[int, dict[str, Observation]] = defaultdict(dict)
        self._unfinished: dict[str, Observation] = {}
        self._of_run: dict[str, tuple[str, Any]] = {}
        self._in_progress: dict[str, dg.DagsterRun] = {}
        self._broker: list[tuple[int, int, dg.DagsterRun]] = []
        self._n_working = 0
        self._fresh: dict[tuple[int, int], list[float]] = defaultdict(list)
        self._days: set[tuple[int, int]] = set()
        self._outcome = Outcome()
        scale = scenario.cost_s / sum(COST_CORE_S.values())
        run_s, first_s = COST_CORE_S["run and registers"], COST_CORE_S["measurement set"]
        self._cost_s = {
            "observation": scenario.cost_s,
            "transit": scale * (first_s + run_s),
            "bandpass": scale * (BANDPASS_CORE_S + run_s),
            "rest": scenario.cost_s - scale * first_s,
            "day": DAY_CORE_S,
        }

    def run(self) -> Outcome:
        """Let everything arrive and end."""
        coming = observations_of(self._scenario)
        self._store.initialise()
        self._store.upsert("observation", pl.DataFrame([self._row(one) for one in coming], infer_schema_length=None))
        for one in coming:
            self._at(one.arrived_s, self._arrive, one)
        while self._events:
            self._now_s, _, action, arguments = heapq.heappop(self._events)
            action(*arguments)
        found, queue = self._outcome, self._queue
        found.n_dequeued, found.dequeue_wall_s, found.dequeue_cpu_s = queue.n_dequeued, queue.wall_s, queue.cpu_s
        return found

    def _row(self, one: Observation) -> dict[str, Any]:
        start, complete = (_START + timedelta(seconds=seconds) for seconds in (one.start_s, one.arrived_s))
        return {
            "observation_id": one.name,
            "partition_key": f"{start.replace(minute=start.minute - start.minute % 5):%Y-%m-%dT%H:%M}",
            "start_mjd": _START_MJD + one.start_s / _DAY_S,
            "calibrator": "3C138" if one.has_calibrator else None,
            "status": "ready",
            "complete_at": complete,
        }

    def _at(self, when_s: float, action: Callable[..., None], *arguments: Any) -> None:
        self._n_events += 1
        heapq.heappush(self._events, (when_s, self._n_events, action, arguments))

    def _plan(self, every_s: float, action: Callable[..., None], strip: int | None = None) -> None:
        """Let a daemon look the next time that it does, which is the only look that can change anything."""
        arguments: tuple[int, ...] = () if strip is None else (strip,)
        if (action, arguments) in self._planned:
            return
        self._planned.add((action, arguments))
        phase_s = every_s * (strip or 0) / self._scenario.n_strips
        from_s = max(self._now_s, self._scenario.down_h * 3600.0)
        n_looks = math.floor((from_s - phase_s) / every_s) + 1
        self._at(phase_s + every_s * n_looks, self._planned_look, action, arguments)

    def _planned_look(self, action: Callable[..., None], arguments: tuple[int, ...]) -> None:
        self._planned.discard((action, arguments))
        action(*arguments)

    def _arrive(self, one: Observation) -> None:
        if self._outcome.caught_up_s is not None:
            return
        self._outcome.observations.append(one)
        self._unfinished[one.name] = self._ready[one.strip][one.name] = one
        self._plan(SENSOR_S, self._look, one.strip)
        self._at(self._now_s + self._wait_s, self._plan, SENSOR_S, self._look, one.strip)

    def _look(self, strip: int) -> None:
        """The arrival sensor of a strip: what is wanted goes through the platform's gate."""
        wanted = {f"{one.steps[0]}:{one.name}": one for one in self._ready[strip].values() if self._is_wanted(one)}
        is_full = self._outcome.n_requested.total() - self._queue.n_dequeued >= self._rules.most_waiting
        if not wanted or (is_full and not any(one.has_calibrator for one in wanted.values())):
            return  # when there is room again, it looks again
        now = _START + timedelta(seconds=self._now_s)
        requests = [_request(key, one) for key, one in wanted.items()]
        ordered = gates.in_order_of_priority(self._store, requests, self._rules, now)
        passed = gates._admit(self._queue.instance, self._store, ordered, self._rules, now)  # noqa: SLF001 (the real one)
        for request in passed.requests:
            key = str(request.run_key)
            one = wanted[key]
            one.has_run = True
            tags = {**request.tags, "dagster/run_key": key}
            self._submit(strip, str(request.job_name), tags, one.steps[0], one)
        if len(passed.requests) == gates.MOST_RUNS_PER_TICK:
            self._plan(SENSOR_S, self._look, strip)

    def _is_wanted(self, one: Observation) -> bool:
        """Whether the next run of an observation can be requested: all but transits wait for their bandpass."""
        if one.has_run:
            return False
        if one.is_waited_for or not any(
            other.is_waited_for and other.start_s <= one.start_s for other in self._ready[one.strip].values()
        ):
            return True
        return self._now_s - one.arrived_s >= self._wait_s

    def _submit(self, strip: int, job_name: str, tags: dict[str, str], kind: str, subject: Any) -> None:
        run = self._queue.submit(job_name, tags, f"strip{strip}")
        self._of_run[run.run_id] = (kind, subject)
        self._outcome.n_requested[kind] += 1
        self._plan(DEQUEUE_S, self._dequeue)

    def _dequeue(self) -> None:
        launched = self._queue.dequeue(self._now_s)
        for run in launched:
            self._in_progress[run.run_id] = run
            self._n_events += 1
            heapq.heappush(self._broker, (broker_priority(run.tags.get("dagster/priority")), self._n_events, run))
        found = Counter(tag for run in self._in_progress.values() for tag in run.tags.items())
        found["", ""] = len(self._in_progress)
        self._outcome.most_at_once |= found
        if launched:
            self._plan(DEQUEUE_S, self._dequeue)
            for strip in self._ready:
                self._plan(SENSOR_S, self._look, strip)  # there is room in the queue again
        self._work()

    def _work(self) -> None:
        """Free slots take what is first in the broker."""
        while self._broker and self._n_working < self._scenario.n_slots:
            _, _, run = heapq.heappop(self._broker)
            self._n_working += 1
            self._queue.note(run, DagsterEventType.PIPELINE_START)
            self._at(self._now_s + self._cost_s[self._of_run[run.run_id][0]], self._end, run)

    def _end(self, run: dg.DagsterRun) -> None:
        self._queue.note(run, DagsterEventType.PIPELINE_SUCCESS)
        self._n_working -= 1
        del self._in_progress[run.run_id]
        kind, subject = self._of_run[run.run_id]
        self._outcome.n_ended[kind] += 1
        self._outcome.ended[run.run_id] += 1
        if kind == "day":
            day, seen = subject
            self._days.discard(day)
            self._outcome.days_late_s += [self._now_s - end_s for end_s in seen]
            self._plan(AUTOMATION_S, self._automate, day[0])
        else:
            self._end_step(subject)
        self._plan(DEQUEUE_S, self._dequeue)
        self._work()

    def _end_step(self, one: Observation) -> None:
        one.has_run = False
        one.steps = one.steps[1:]
        self._plan(SENSOR_S, self._look, one.strip)
        if one.steps:
            return
        one.done_s = self._now_s
        del self._ready[one.strip][one.name], self._unfinished[one.name]
        if self._scenario.has_days:
            self._fresh[one.day].append(self._now_s)
            self._plan(AUTOMATION_S, self._automate, one.strip)
        oldest_s = next((other.arrived_s for other in self._unfinished.values()), self._now_s)
        is_usual = self._now_s - oldest_s <= self._scenario.cadence_s + self._scenario.cost_s
        if is_usual and self._scenario.down_h and self._outcome.caught_up_s is None:
            self._outcome.caught_up_s = self._now_s

    def _automate(self, strip: int) -> None:
        """Days with new fluxes of which no observation is under way, as their automation condition has it."""
        under_way = {one.day for one in self._ready[strip].values() if one.has_run} | self._days
        for day in [day for day in self._fresh if day[0] == strip and day not in under_way]:
            self._days.add(day)
            self._submit(strip, daily_job.name, dict(day_automation.run_tags or {}), "day", (day, self._fresh.pop(day)))


def _request(key: str, one: Observation) -> dg.RunRequest:
    """What the arrival sensor asks for."""
    step = one.steps[0]
    job = bandpass_job if step == "bandpass" else observation_job
    priority = PRIORITIES.get(step, PRIORITIES["observation"])
    return dg.RunRequest(
        run_key=key, job_name=job.name, tags={"contimg/observation": one.name, "dagster/priority": priority}
    )
