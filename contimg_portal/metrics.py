"""``/metrics``: numbers for Prometheus, derived from the store and Dagster's event log, so that every process counts.

What belongs here: names and types of the exposition. The numbers are asked for in ``store.measures`` and
``instance_view``. Nothing is counted in this process: after a restart, and in every portal, counters are the same.
Rejected: a push gateway, and counters in the runs, which are forks that end.

Sources are looked at in the background and kept for some seconds (``kept_answers``); a source that is late or down is missing
from the answer or as old as ``contimg_metrics_source_age_seconds`` says, and ``contimg_metrics_source_up`` is 0.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from contimg_portal.kept_answers import KeptAnswer, answers_within
from contimg_portal.platform_diagnosis import instance_view
from contimg_resources.instance_view import STEP_OUTCOMES, InstanceView
from contimg_resources.machine import available_memory_bytes
from contimg_resources.setting_changes import code_version
from contimg_resources.settings import Settings
from contimg_resources.store.connection import open_store
from contimg_resources.store.measures import measure_store, stage_durations

PREFIX = "contimg_"
DEADLINE_S = 0.8
KEEP_S = 5.0
STAGE_BUCKETS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 309.0, 600.0, 1800.0)
"""From a flux scale (0.3 s) over images (36 s) to beyond the telescope's cadence (309 s), which must not be reached."""
_STORE_WAIT_S = 5.0


class StageTally:
    """Runs and durations of stages, counted once from the beginning of the event log and then on."""

    def __init__(self) -> None:
        self._after_id = 0
        self._began: dict[tuple[str, str], float] = {}
        self._runs: Counter[tuple[str, str]] = Counter()
        self._durations: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(STAGE_BUCKETS_S) + 1))
        self._total_s: Counter[str] = Counter()

    def follow(self, view: InstanceView) -> None:
        """Count what came since the last time."""
        for event in view.step_events(self._after_id):
            self._after_id, key = event.event_id, (event.run_id, event.step)
            if event.outcome == "start":
                self._began[key] = event.at
                continue
            self._runs[event.step, event.outcome] += 1
            began = self._began.pop(key, None)
            if event.outcome == "success" and began is not None:
                self.add_duration(event.step, event.at - began)

    def add_duration(self, stage: str, duration_s: float) -> None:
        """Count one success."""
        place = next((n for n, limit in enumerate(STAGE_BUCKETS_S) if duration_s <= limit), len(STAGE_BUCKETS_S))
        self._durations[stage][place] += 1
        self._total_s[stage] += duration_s  # type: ignore[assignment]  # Counter of float

    def add_run(self, stage: str, outcome: str) -> None:
        """Count one end of a stage."""
        self._runs[stage, outcome] += 1

    def families(self) -> Iterator[Metric]:
        """Counters and histograms; every stage has every outcome, for a rate needs a beginning."""
        runs = CounterMetricFamily(PREFIX + "stage_runs", "Ends of stages by outcome.", labels=["stage", "outcome"])
        for stage in sorted({stage for stage, _ in self._runs}):
            for outcome in STEP_OUTCOMES.values():
                runs.add_metric([stage, outcome], self._runs[stage, outcome])
        durations = HistogramMetricFamily(
            PREFIX + "stage_duration_seconds", "Duration of successful stages.", labels=["stage"]
        )
        for stage, counts in sorted(self._durations.items()):
            durations.add_metric([stage], _buckets(STAGE_BUCKETS_S, accumulate(counts)), self._total_s[stage])
        yield runs
        yield durations


class Metrics(Collector):
    """The collector of one installation, with a registry of its own.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = open_store(settings, wait_s=_STORE_WAIT_S)
        self._view = instance_view()
        self._tally = StageTally()
        looks = {"store": self._of_store, "machine": self._of_machine}
        looks |= {"dagster": self._of_dagster} if self._view is not None else {}
        self._kept = {name: KeptAnswer(look, keep_s=KEEP_S) for name, look in looks.items()}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """The exposition as text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All metrics there are by the deadline."""
        up = GaugeMetricFamily(
            PREFIX + "metrics_source_up", "1 if what these metrics come from answers.", labels=["source"]
        )
        age = GaugeMetricFamily(
            PREFIX + "metrics_source_age_seconds", "Time since the numbers were looked up.", labels=["source"]
        )
        for name, answer in zip(self._kept, answers_within(self._kept.values(), DEADLINE_S), strict=True):
            up.add_metric([name], float(answer.value is not None))
            if answer.at is not None:
                age.add_metric([name], time.time() - answer.at)
            yield from answer.value or []
        yield up
        yield age
        yield GaugeMetricFamily(PREFIX + "start_time_seconds", "When this portal began.", value=self._started_at)
        version = GaugeMetricFamily(PREFIX + "build_info", "Version of contimg.", labels=["version"])
        version.add_metric([code_version()], 1)
        yield version

    _started_at = time.time()

    def _of_store(self) -> list[Metric]:
        """Everything in ``store.measures``; runs and durations too where there is no event log."""
        measured, distributed = measure_store(self._store)
        families: list[Metric] = []
        for found in measured:
            gauge = GaugeMetricFamily(PREFIX + found.measure.name, found.measure.documentation, labels=found.labels)
            for labels, value in found.rows:
                gauge.add_metric(labels, value)
            families.append(gauge)
        for shape in distributed:
            histogram = HistogramMetricFamily(PREFIX + shape.distribution.name, shape.distribution.documentation)
            histogram.add_metric([], _buckets(shape.distribution.buckets, shape.cumulative), shape.total)
            families.append(histogram)
        if self._view is None:
            tally = StageTally()
            for stage, duration_s in stage_durations(self._store):
                tally.add_run(stage, "success")
                tally.add_duration(stage, duration_s)
            families += tally.families()
        return families

    def _of_dagster(self) -> list[Metric]:
        """Stages from the event log, the queue, daemons and sensors."""
        if self._view is None:
            return []
        self._tally.follow(self._view)
        now = time.time()
        runs = GaugeMetricFamily(PREFIX + "runs", "Runs that are not over, by state.", labels=["state"])
        for state, number in self._view.active_runs().items():
            runs.add_metric([state], number)
        oldest = self._view.oldest_queued_at()
        waited = GaugeMetricFamily(
            PREFIX + "queue_oldest_seconds",
            "How long the oldest queued run has waited.",
            value=0.0 if oldest is None else now - oldest,
        )
        daemons = GaugeMetricFamily(
            PREFIX + "daemon_heartbeat_age_seconds",
            "Time since a Dagster daemon said that it lives.",
            labels=["daemon"],
        )
        for name, at in self._view.daemon_heartbeats().items():
            if at is not None:
                daemons.add_metric([name], now - at)
        ticks = GaugeMetricFamily(
            PREFIX + "sensor_tick_age_seconds", "Time since a sensor last ticked.", labels=["sensor"]
        )
        for tick in self._view.sensor_ticks():
            ticks.add_metric([tick.name], now - tick.at)
        return [*self._tally.families(), runs, waited, daemons, ticks]

    def _of_machine(self) -> list[Metric]:
        """Disk, memory, size of the store."""
        free = GaugeMetricFamily(PREFIX + "disk_free_bytes", "Space left on the disk of a folder.", labels=["folder"])
        size = GaugeMetricFamily(PREFIX + "disk_size_bytes", "Size of the disk of a folder.", labels=["folder"])
        for name, folder in (("data", self._settings.data), ("incoming", self._settings.incoming)):
            disk = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir()))
            free.add_metric([name], disk.free)
            size.add_metric([name], disk.total)
        families: list[Metric] = [free, size]
        memory = available_memory_bytes()
        if memory is not None:
            families.append(
                GaugeMetricFamily(PREFIX + "memory_available_bytes", "Memory that can be had.", value=memory)
            )
        if self._store.path.exists():
            n_bytes = self._store.path.stat().st_size
            families.append(GaugeMetricFamily(PREFIX + "store_size_bytes", "Size of the store.", value=n_bytes))
        return families


def _buckets(limits: Iterable[float], cumulative: Iterable[int]) -> list[tuple[str, float]]:
    return [(str(limit), float(count)) for limit, count in zip([*limits, "+Inf"], cumulative, strict=True)]
