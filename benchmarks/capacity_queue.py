"""The plan of ``capacity.py`` put through Dagster's own queue (``queue_simulation``), and how fast that queue is.

``python benchmarks/capacity_queue.py`` prints the tables of ``docs/capacity.md``: strips in their usual state, after half a day of
standing still, and batches of photometry for DSA-2000. ``--only throughput`` measures the queue alone with 1,000 and 10,000
waiting runs, ``--postgres`` on a PostgreSQL of its own in place of SQLite. Seconds of the daemon are of the clock and of this
process's processor; on a busy machine the former says little, and PostgreSQL's own work is in the former only.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import dagster as dg
from capacity import COST_CORE_S, cost_core_s
from dagster._core.events import DagsterEventType
from queue_simulation import Outcome, Scenario, simulated
from real_queue import RealQueue, instance_of_cluster

from contimg_sensors.gates import WORK_TAG

N_WAITING = (1_000, 10_000)
N_LOOKS = 5
SOURCE_EPOCHS_PER_DAY = 1e9 * 16 / (5 * 365.25)
"""Of DSA-2000: an assumed 1e9 sources seen 16 times in 5 years."""
RUN_CORE_S, SOURCE_EPOCH_CORE_S = COST_CORE_S["run and registers"], 160e-6
"""A run without its stages, and photometry with flux scale of a source, s (``docs/capacity.md``)."""


def usual() -> list[Scenario]:
    """One strip today, and ten with more and more slots."""
    cost_s = cost_core_s(110)
    one = [Scenario("1 strip", 1, n_slots, cost_s, hours=4.0) for n_slots in (1, 2)]
    ten = [Scenario("10 strips", 10, n_slots, cost_s, hours=1.5) for n_slots in (3, 4, 5, 6, 8)]
    even = Scenario("10 strips, one after the other", 10, 5, cost_s, hours=1.5, together_s=300.0)
    return [*one, *ten, even]


def after_standstill() -> list[Scenario]:
    """The same after hours down: as shipped, where all that waited is live; and what is older than 1 h as backlog."""
    found = []
    for n_strips, n_slots, down_h in ((1, 1, 12.0), (1, 2, 12.0), (10, 8, 3.0)):
        name = f"{n_strips} strip{'s' if n_strips > 1 else ''}, {down_h:g} h down"
        usual = Scenario(name, n_strips, n_slots, cost_core_s(110), hours=48.0, down_h=down_h)
        backlog = replace(usual, live_age_h=1.0)
        at_hand = replace(backlog, name=f"{name}, calibration at hand", has_transits=False)
        found += [usual, backlog, at_hand]
    return [*found, replace(found[-1], name=f"{found[-1].name}, 2,000 may wait", most_waiting=2_000)]


def batches() -> list[Scenario]:
    """Photometry of DSA-2000's images, so many sources a run."""
    found = []
    for n_sources, n_slots, hours in ((10_000, 1, 3.0), (1_000, 2, 0.5), (100, 8, 0.1)):
        cadence_s = n_sources / SOURCE_EPOCHS_PER_DAY * 86_400.0
        cost_s = RUN_CORE_S + n_sources * SOURCE_EPOCH_CORE_S
        found.append(
            Scenario(
                f"{n_sources} sources a run",
                1,
                n_slots,
                cost_s,
                cadence_s,
                hours=hours,
                has_transits=False,
                has_days=False,
                together_s=0.0,
            )
        )
    return found


def row_of(scenario: Scenario, found: Outcome) -> str:
    """One line of a table."""
    down_s = scenario.down_h * 3600.0
    end_s = found.caught_up_s if scenario.down_h and found.caught_up_s is not None else float("inf")
    live, days = found.latencies(down_s, end_s), sorted(found.days_late_s)
    cells = [
        scenario.name,
        f"{86_400 / scenario.cadence_s * scenario.n_strips:.0f}",
        f"{scenario.cost_s:.1f}",
        str(scenario.n_slots),
        f"{scenario.live_age_h:g} h",
        f"{median(live):.0f} s",
        f"{live[int(0.95 * len(live))]:.0f} s",
        f"{median(days):.0f} s" if days else "",
        f"{(found.caught_up_s - down_s) / 3600:.1f} h" if found.caught_up_s is not None else "",
        str(sum(found.n_ended.values())),
        f"{1e3 * found.dequeue_wall_s / found.n_dequeued:.0f}",
        f"{1e3 * found.dequeue_cpu_s / found.n_dequeued:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def print_table(scenarios: list[Scenario]) -> None:
    """Simulate, and print a line for each as it is done."""
    names = [
        "what",
        "a day",
        "core s",
        "slots",
        "live for",
        "median",
        "95 %",
        "to candidates",
        "caught up after",
        "runs",
    ]
    print(f"| {' | '.join([*names, 'queue, ms a run', 'its CPU, ms'])} |\n|{'---|' * (len(names) + 2)}")
    for scenario in scenarios:
        print(row_of(scenario, simulated(scenario)), flush=True)


def print_throughput(*, postgres: bool) -> None:
    """Seconds of a look of the daemon that hands out as many runs as may be in progress, and runs an hour of that."""
    print("| runs waiting | runs a look | look, s | its CPU, s | ms a run | runs an hour |\n|---|---|---|---|---|---|")
    for n_waiting in N_WAITING:
        with instance_of_cluster(postgres=postgres) as instance, RealQueue(instance) as queue:
            for number in range(n_waiting):
                work, priority = (("live", "35"), ("backlog", "20"))[number % 2]
                tags = {WORK_TAG: work, "dagster/priority": priority, "dagster/run_key": f"observation:{number}"}
                queue.record("observation_job", tags, f"strip{number % 10}", dg.DagsterRunStatus.QUEUED)
            looks = []
            for _ in range(N_LOOKS):
                before_s, before_cpu_s = queue.wall_s, queue.cpu_s
                launched = queue.dequeue(time.time())
                looks.append((queue.wall_s - before_s, queue.cpu_s - before_cpu_s, len(launched)))
                for run in launched:
                    queue.note(run, DagsterEventType.PIPELINE_START)
                    queue.note(run, DagsterEventType.PIPELINE_SUCCESS)
        wall_s, cpu_s, n_runs = (median(column) for column in zip(*looks, strict=True))
        per_hour = 3600.0 * n_runs / (1.0 + wall_s)
        print(
            f"| {n_waiting} | {n_runs} | {wall_s:.2f} | {cpu_s:.2f} | {1e3 * wall_s / n_runs:.0f} | {per_hour:,.0f} |",
            flush=True,
        )


@contextmanager
def postgres_of_cluster() -> Iterator[None]:
    """PostgreSQL as `contimg cluster up` starts it, named by the environment."""
    from contimg_resources.cluster.one_machine import OneMachine, Ports
    from contimg_resources.cluster.services import Supervisor
    from tests.deployment.one_machine_cluster import folder_of_postgres, free_ports

    first = free_ports(4)
    with tempfile.TemporaryDirectory() as root, folder_of_postgres() as folder:
        machine = OneMachine(Path(root), folder, Ports(*range(first, first + 4)))
        supervisor = Supervisor(Path(root), restart_after_s=0.0)
        os.environ["CONTIMG_CLUSTER__POSTGRES_URL_FILE"] = str(Path(root) / "secrets" / "postgres_url")
        try:
            supervisor.start(machine.services()[:1])
            yield
        finally:
            supervisor.stop()


PARTS = {"usual": usual, "standstill": after_standstill, "batches": batches}


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*PARTS, "throughput"])
    parser.add_argument("--postgres", action="store_true", help="for the throughput")
    chosen = parser.parse_args()
    logging.disable(logging.INFO)
    for name, part in PARTS.items():
        if chosen.only in (None, name):
            print_table(part())
    if chosen.only in (None, "throughput"):
        if chosen.postgres:
            with postgres_of_cluster():
                print_throughput(postgres=True)
        else:
            print_throughput(postgres=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
