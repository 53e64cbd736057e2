"""How many cores how many strips need: the measured cost of an observation, put through a queue.

A strip is one beam on the sky that delivers an observation every 309 s. Observations queue for slots of one core each; the
simulation tells how long one takes from its last file to its fluxes, and how long the platform needs to catch up after it was
down for half a day. Costs are those of ``docs/capacity.md`` (``bench_scaling.py``, one thread), scaled with the number of
baselines; ``python benchmarks/capacity.py`` prints the table that stands there.
"""

from __future__ import annotations

import heapq
import sys
from dataclasses import dataclass

CADENCE_S = 309.24
COST_CORE_S = {"measurement set": 11.0, "gains": 4.4, "images": 43.1, "photometry": 1.0, "run and registers": 4.2}
"""Of one observation with 96 antennas on one core, s; the last is what observation_job takes beyond its stages."""
COST_ANTENNAS = 96
DOWN_S = 12 * 3600.0
DAYS = 4


@dataclass(frozen=True)
class Answer:
    """What the queue does."""

    utilisation: float
    latency_95_s: float
    """95th percentile without trouble."""
    catch_up_h: float
    """Hours after half a day of standing still until an observation takes no longer than a cadence again; inf if never."""


def cost_core_s(n_antennas: int) -> float:
    """Core seconds of one observation, all of it scaled with the baselines."""
    return sum(COST_CORE_S.values()) * (n_antennas * (n_antennas - 1)) / (COST_ANTENNAS * (COST_ANTENNAS - 1))


def simulate(n_strips: int, n_slots: int, service_s: float) -> Answer:
    """Put days of observations through a queue of slots, first without trouble, then after half a day down."""
    arrivals = sorted(
        strip * CADENCE_S / n_strips + number * CADENCE_S
        for strip in range(n_strips)
        for number in range(int(DAYS * 86_400 / CADENCE_S))
    )
    usual = sorted(latencies(arrivals, n_slots, service_s, 0.0))
    late = latencies(arrivals, n_slots, service_s, DOWN_S)
    waiting = [at for at, latency in zip(arrivals, late, strict=True) if latency > CADENCE_S + service_s]
    is_done = not waiting or waiting[-1] < arrivals[-1] - 10 * CADENCE_S
    catch_up_h = (max(waiting[-1] - DOWN_S, 0.0) if waiting else 0.0) / 3600.0
    return Answer(
        n_strips * service_s / CADENCE_S / n_slots,
        usual[int(0.95 * len(usual))],
        catch_up_h if is_done else float("inf"),
    )


def latencies(arrivals: list[float], n_slots: int, service_s: float, first_s: float) -> list[float]:
    """Seconds from arrival to end of each observation; no slot works before ``first_s``."""
    free_at = [first_s] * n_slots
    heapq.heapify(free_at)
    found = []
    for at in arrivals:
        end = max(at, heapq.heappop(free_at)) + service_s
        heapq.heappush(free_at, end)
        found.append(end - at)
    return found


def main() -> int:
    """Print the table."""
    lines = [
        "| antennas | strips | core s | slots | busy | 95 % done within | caught up after |",
        "|---|---|---|---|---|---|---|",
    ]
    for n_antennas, n_strips, slots in ((96, 1, (1, 2)), (110, 1, (1, 2)), (110, 10, (3, 4, 5, 6, 8))):
        service_s = cost_core_s(n_antennas)
        for n_slots in slots:
            answer = simulate(n_strips, n_slots, service_s)
            within = f"{answer.latency_95_s:.0f} s" if answer.utilisation < 1 else "never"
            after = f"{answer.catch_up_h:.1f} h" if answer.catch_up_h < DAYS * 24 else f"> {DAYS - 1} days"
            lines.append(
                f"| {n_antennas} | {n_strips} | {service_s:.0f} | {n_slots} | {answer.utilisation:.0%} | {within} | {after} |"
            )
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
