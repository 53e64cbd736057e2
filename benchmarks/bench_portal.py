"""Benchmark ``portal``: 50 clients for a minute on 1e5 sources and 1e7 light-curve points, while a writer replaces partitions.

A real uvicorn in a process of its own, clients in another, the writer in a third. Each client asks for one thing after
another, without a pause unless ``--pause-s`` says so: seven in ten are pages and JSON of lists (often the same ones, as
people do), a quarter are about a source chosen at random among all, the rest about one of 200 candidates. There is no
peer; the limit is p95 <= 0.3 s and no error. Before that each kind of request is made alone, past the answers that are
kept: the limit is 0.2 s. ``--days 1000`` makes 1e8 points (some 2 GB, and as much for the portal's copy in ``TMPDIR``).
The store is kept in ``--folder``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
from record import ROOT, write_result

from contimg_resources.store.connection import Store, insert
from contimg_resources.store.frames import fit_frame
from contimg_resources.store.partitions import note_content
from contimg_resources.store.schema import TABLES

N_SOURCES, N_DAYS, N_CLIENTS, DURATION_S = 100_000, 100, 50, 60.0
FIRST_MJD = 61_000.5
N_CANDIDATES = 200
LIMIT_S, LIMIT_ALONE_S = 0.3, 0.2
N_ALONE = 20
_DAYS_AT_ONCE = 20
_SERVE = """
import sys, uvicorn
from pathlib import Path
from contimg_portal.app import create_app
from contimg_resources.settings import Settings
settings = Settings(data=Path(sys.argv[1]))
uvicorn.Server(uvicorn.Config(create_app(settings), port=int(sys.argv[2]), log_level="warning")).run()
"""
LISTS = (
    "/",
    "/sources",
    "/candidates",
    "/api/v1/sources",
    "/api/v1/sources?limit=50&offset=50",
    "/api/v1/sources?min_eta=3",
    "/api/v1/candidates",
    "/api/v1/observations",
)


OF_SOURCE = ("/sources/<source>", "/api/v1/sources/<source>", "/api/v1/sources/<source>/light-curve")
OF_CANDIDATE = ("/candidates/<candidate>", "/api/v1/candidates/<candidate>")


def source_names(n_sources: int) -> list[str]:
    """Names like those of a catalogue, in order of position."""
    return [f"J{k * 2400 // n_sources:04d}{k % 60:02d}+{k % 9000:04d}" for k in range(n_sources)]


def points_of_day(names: list[str], day: int, seed: int) -> pl.DataFrame:
    """One point of every source."""
    noise = np.random.default_rng([seed, day])
    n = len(names)
    return pl.DataFrame(
        {
            "source_id": names,
            "epoch_mjd": FIRST_MJD + day,
            "band": "full",
            "mjd": FIRST_MJD + day + 0.1 * noise.random(n),
            "frequency_hz": 1.405e9,
            "flux_jy": 0.1 + 0.003 * noise.standard_normal(n),
            "flux_err_jy": 0.003,
            "flux_sys_err_jy": 0.001,
            "n_observations": 3,
            "flags": 0,
        }
    )


def candidates(names: list[str], n_days: int) -> pl.DataFrame:
    """Candidates of sources all over the list, with the evidence that their pages draw."""
    middle, mjd = FIRST_MJD + n_days / 2, (FIRST_MJD + np.arange(n_days)).tolist()
    flat = {"mjd": mjd, "flux_jy": [0.1] * n_days, "flux_err_jy": [0.003] * n_days}
    bands = {"full": 1.405e9, "band0": 1.33e9, "band1": 1.38e9, "band2": 1.43e9, "band3": 1.48e9}
    evidence = {
        "searched_frequency_hz": 1.405e9,
        "lens_fit": {
            "alpha": 2.0,
            "lens_width_d": 8.0,
            "source_fwhm": 0.5,
            "compact_fraction": 0.8,
            "peak_mjd": middle,
        },
        "points": [{"band": band, "frequency_hz": frequency_hz} | flat for band, frequency_hz in bands.items()],
    }
    chosen = names[:: max(1, len(names) // N_CANDIDATES)][:N_CANDIDATES]
    return pl.DataFrame(
        {
            "candidate_id": [f"{name}-{int(middle)}" for name in chosen],
            "source_id": chosen,
            "partition_key": f"day-{n_days - 1:03d}",
            "status": "detected",
            "start_mjd": middle - 10,
            "end_mjd": middle + 10,
            "peak_mjd": middle,
            "significance": np.linspace(5, 15, len(chosen)),
            "tier": "high",
            "verdict": "ese",
            "depth": 0.3,
            "duration_d": 20.0,
            "evidence": json.dumps(evidence),
        }
    )


def fill(store: Store, n_sources: int, n_days: int) -> None:
    """Sources, a point a day of each, candidates, and statistics of the last day."""
    names = source_names(n_sources)
    noise = np.random.default_rng(7)
    store.upsert(
        "source",
        pl.DataFrame(
            {
                "source_id": names,
                "ra_deg": np.linspace(0, 359.99, n_sources),
                "dec_deg": 16 + noise.random(n_sources),
                "catalogue_flux_jy": 0.1,
            }
        ),
    )
    table = TABLES["light_curve"]
    for first in range(0, n_days, _DAYS_AT_ONCE):
        with store.transaction() as connection:  # many days at once: what each replacement costs is not measured here
            for day in range(first, min(first + _DAYS_AT_ONCE, n_days)):
                partition_key = f"day-{day:03d}"
                rows = fit_frame(table, points_of_day(names, day, 0).with_columns(partition_key=pl.lit(partition_key)))
                insert(connection, table, rows)
                note_content(connection, table, rows, partition_key)
    store.upsert("ese_candidate", candidates(names, n_days))
    statistics = pl.DataFrame(
        {
            "source_id": names,
            "band": "full",
            "as_of_mjd": FIRST_MJD + n_days,
            "n_epochs": n_days,
            "weighted_mean_flux_jy": 0.1,
            "modulation_index": 0.03 * noise.random(n_sources),
            "eta": noise.chisquare(4, n_sources),
            "last_mjd": FIRST_MJD + n_days - 1,
        }
    )
    store.replace("variability_statistics", statistics, partition_key=f"day-{n_days - 1:03d}")


def write_until(stop: Event, path: Path, n_sources: int, n_days: int, written: Any) -> None:
    """Replace one day after another, as fast as a busy instrument does: one partition a second at most."""
    store, names, day, durations = Store(path), source_names(n_sources), 0, []
    while not stop.is_set():
        started = time.monotonic()
        store.replace("light_curve", points_of_day(names, day % n_days, 1), partition_key=f"day-{day % n_days:03d}")
        durations.append(time.monotonic() - started)
        day += 1
        stop.wait(max(0.0, 1.0 - durations[-1]))
    written.put(durations)


class Visitor:
    """A client, which chooses what it asks for next."""

    def __init__(self, seed: int, names: list[str], candidate_ids: list[str]) -> None:
        self._chosen, self._names, self._candidate_ids = random.Random(seed), names, candidate_ids  # noqa: S311 (no secret)

    def next(self) -> str:
        """Kind of the next request."""
        share = self._chosen.random()
        return self._chosen.choice(LISTS if share < 0.7 else OF_SOURCE if share < 0.95 else OF_CANDIDATE)

    def address(self, kind: str) -> str:
        """Address of a request of this kind."""
        source, candidate = self._chosen.choice(self._names), self._chosen.choice(self._candidate_ids)
        return kind.replace("<source>", source).replace("<candidate>", candidate)

    def pause_s(self, mean_s: float) -> float:
        """How long a person looks at what is there."""
        return self._chosen.expovariate(1 / mean_s) if mean_s else 0.0


async def _ask(port: int, path: str, streams: list[Any], headers: str = "") -> int:
    """One request over a connection that stays open; the status."""
    if not streams:
        streams.extend(await asyncio.open_connection("127.0.0.1", port))
    reader, writer = streams
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    named = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if b"content-length" in named:
        await reader.readexactly(int(named[b"content-length"]))
    else:
        while size := int((await reader.readline()).strip() or b"0", 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head.split(b" ", 2)[1])


async def ask_alone(port: int, visitor: Visitor) -> dict[str, list[float]]:
    """Median and 95th percentile (s) of each kind of request when nobody else asks; a token in it passes kept answers by."""
    found, streams = {}, []
    for kind in (*LISTS, *OF_SOURCE, *OF_CANDIDATE):
        durations = []
        for _ in range(N_ALONE):
            started = time.monotonic()
            status = await _ask(port, visitor.address(kind), streams, "Authorization: Bearer none\r\n")
            durations.append(time.monotonic() - started)
            if status != 200:
                raise SystemExit(f"{kind} was answered with {status}")
        found[kind] = [round(float(np.quantile(durations, q)), 4) for q in (0.5, 0.95)]
    return found


async def _visit(port: int, visitor: Visitor, until: float, pause_s: float, times: list[Any]) -> None:
    streams: list[Any] = []
    while time.monotonic() < until:
        kind = visitor.next()
        started = time.monotonic()
        try:
            status = await _ask(port, visitor.address(kind), streams)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            status = 0
            streams.clear()
        times.append((kind, status, time.monotonic() - started))
        await asyncio.sleep(visitor.pause_s(pause_s))


async def visit_all(port: int, visitors: list[Visitor], duration_s: float, pause_s: float) -> list[Any]:
    """Kind, status and duration of every request of all clients."""
    times: list[Any] = []
    until = time.monotonic() + duration_s
    await asyncio.gather(*(_visit(port, visitor, until, pause_s, times) for visitor in visitors))
    return times


def start_portal(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A portal that answers from its copy of the store."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    portal = subprocess.Popen([sys.executable, "-c", _SERVE, str(folder), str(port)])
    for _ in range(600):
        try:
            if asyncio.run(_ask(port, "/api/v1/sources", [])) == 200:
                break
        except OSError:
            time.sleep(0.5)
    return portal, port


def wait_for_copy(port: int) -> float:
    """Wait until the portal has its first copy of the store; how long that took, s."""
    started = time.monotonic()
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/disk", timeout=60) as answer:
            if json.load(answer)["copy_age_s"] is not None:
                return time.monotonic() - started
        time.sleep(0.5)


def main() -> None:
    """Fill the store if it is not there, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=int, default=N_SOURCES)
    parser.add_argument("--days", type=int, default=N_DAYS)
    parser.add_argument("--clients", type=int, default=N_CLIENTS)
    parser.add_argument("--duration-s", type=float, default=DURATION_S)
    parser.add_argument("--pause-s", type=float, default=0.0, help="mean pause of a client between requests")
    parser.add_argument("--folder", type=Path, default=ROOT / ".contimg" / "bench" / "portal")
    options = parser.parse_args()
    names = source_names(options.sources)
    store = Store(options.folder / "contimg.duckdb")
    if not store.path.exists():
        started = time.monotonic()
        fill(store, options.sources, options.days)
        print(f"filled in {time.monotonic() - started:.0f} s, {store.path.stat().st_size / 1e6:.0f} MB", flush=True)
    portal, port = start_portal(options.folder)
    candidate_ids = candidates(names, options.days)["candidate_id"].to_list()
    visitors = [Visitor(seed, names, candidate_ids) for seed in range(options.clients)]
    others = multiprocessing.get_context("spawn")
    stop, durations = others.Event(), others.Queue()
    writer = others.Process(target=write_until, args=(stop, store.path, options.sources, options.days, durations))
    try:
        copy_s = wait_for_copy(port)
        alone = asyncio.run(ask_alone(port, visitors[0]))
        writer.start()
        before = psutil.Process(portal.pid).cpu_times()
        times = asyncio.run(visit_all(port, visitors, options.duration_s, options.pause_s))
        after = psutil.Process(portal.pid).cpu_times()
        peak_mb = psutil.Process(portal.pid).memory_info().rss / 1e6
        stop.set()
        written = durations.get(timeout=120)
    finally:
        stop.set()
        if writer.is_alive():
            writer.join()
        portal.terminate()
        portal.wait()
    cpu_s = after.user + after.system - before.user - before.system
    _report(
        times, written, peak_mb, {"first_copy_s": round(copy_s, 1), "alone_s": alone, "cpu_s": round(cpu_s, 1)}, options
    )


def _report(
    times: list[Any], written: list[float], peak_mb: float, more: dict[str, Any], options: argparse.Namespace
) -> None:
    seconds = np.array([second for *_, second in times])
    errors = Counter(f"{status} {kind}" for kind, status, _ in times if status != 200)
    p95_s = float(np.quantile(seconds, 0.95))
    by_kind = {
        kind: [round(float(np.quantile([s for k, _, s in times if k == kind], q)), 4) for q in (0.5, 0.95)]
        for kind in sorted({kind for kind, *_ in times})
    }
    agreement = {
        "n_requests": len(times),
        "requests_per_s": round(len(times) / options.duration_s, 1),
        "errors": dict(errors),
        "p50_s": round(float(np.quantile(seconds, 0.5)), 4),
        "p95_s": round(p95_s, 4),
        "p99_s": round(float(np.quantile(seconds, 0.99)), 4),
        "max_s": round(float(seconds.max()), 3),
        "p50_and_p95_s": by_kind,
        "pause_s": options.pause_s,
        **more,
        "load_average_at_end": [round(load, 1) for load in os.getloadavg()],
        "partitions_replaced": len(written),
        "replacement_median_s": round(float(np.median(written)), 3),
        "replacement_max_s": round(max(written), 3),
        "holds": p95_s <= LIMIT_S and not errors,
        "holds_alone": all(slow_s <= LIMIT_ALONE_S for _, slow_s in more["alone_s"].values()),
    }
    write_result(
        {
            "name": "portal",
            "peer": f"limit {LIMIT_S} s",
            "ours_s": p95_s,
            "peer_s": LIMIT_S,
            "ratio": LIMIT_S / p95_s,
            "ours_peak_mb": peak_mb,
            "peer_peak_mb": 0.0,
            "agreement": agreement,
            "runs": len(times),
        }
    )


if __name__ == "__main__":
    main()
