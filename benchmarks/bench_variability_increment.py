"""A thousand new light-curve points among ten million: statistics of the touched sources against all statistics anew.

Fills a store (kept in ``.contimg/bench-variability``) with 100,000 sources of 100 epochs in order of time, as the
telescope writes them, then measures: rows of a new day in, statistics of its sources (chosen at random) out and in the
store, against the statistics of every source from the same store. Both go through the functions that the assets call;
the agreement is the largest relative difference of any statistic of a touched source. The first call, which is not
measured, puts the days into blocks in the order of sources; recomputation reads the same blocks.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from astropy.time import Time
from record import write_result

from contimg_assets.science.variability import VARIABILITY_SCHEMA, variability_statistics
from contimg_resources.store.connection import Store
from contimg_resources.store.light_curves import points_of_sources, points_until

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".contimg" / "bench-variability"
N_SOURCE, N_EPOCH, N_NEW = 100_000, 100, 1_000
START_MJD = 61_000.0
RUNS = 3


def day_of_points(epoch: int, sources: np.ndarray) -> pl.DataFrame:
    """Points of some sources on one day: 5 per cent errors, seeded by the day."""
    rng = np.random.default_rng(epoch)
    return pl.DataFrame(
        {
            "source_id": pl.Series(np.char.mod("s%06d", sources)),
            "epoch_mjd": START_MJD + epoch + 0.5,
            "band": "full",
            "mjd": START_MJD + epoch + rng.uniform(0.0, 0.9, sources.size),
            "frequency_hz": 1.4e9,
            "flux_jy": 0.1 * (1.0 + 0.05 * rng.standard_normal(sources.size)),
            "flux_err_jy": 0.005,
            "flux_sys_err_jy": 0.001,
            "n_observations": pl.Series(np.full(sources.size, 3), dtype=pl.Int32),
            "flags": pl.Series(np.zeros(sources.size), dtype=pl.Int32),
        }
    )


def day_name(epoch: int) -> str:
    """Partition of a day, as the assets name it."""
    return str(Time(START_MJD + epoch, format="mjd").to_value("iso", subfmt="date"))


def filled_store() -> Store:
    """The ten million points, written once."""
    store = Store(DATA / "contimg.duckdb")
    if not store.path.exists():
        for epoch in range(N_EPOCH):
            store.replace("light_curve", day_of_points(epoch, np.arange(N_SOURCE)), partition_key=day_name(epoch))
    return store


def increment(store: Store, run: int) -> tuple[float, pl.DataFrame]:
    """Seconds from new rows to their sources' statistics in the store, and the statistics."""
    new = day_of_points(N_EPOCH, np.random.default_rng(run).choice(N_SOURCE, N_NEW, replace=False))
    until = START_MJD + N_EPOCH + 1.0
    store.delete("light_curve", partition_key=day_name(N_EPOCH))
    began = time.perf_counter()
    store.replace("light_curve", new, partition_key=day_name(N_EPOCH))
    found = variability_statistics(points_of_sources(store, new["source_id"].to_list(), until), until)
    store.replace("variability_statistics", found, partition_key=day_name(N_EPOCH))
    return time.perf_counter() - began, found


def recompute(store: Store) -> tuple[float, pl.DataFrame]:
    """Seconds for the statistics of every source, and the statistics."""
    until = START_MJD + N_EPOCH + 1.0
    began = time.perf_counter()
    found = variability_statistics(points_until(store, until), until)
    return time.perf_counter() - began, found


def largest_difference(some: pl.DataFrame, every: pl.DataFrame) -> float:
    """Largest relative difference of any number of the rows both have."""
    numbers = [name for name, kind in VARIABILITY_SCHEMA.items() if kind == pl.Float64]
    both = some.join(every, on=["source_id", "band"], suffix="_again")
    gaps = [(pl.col(n) - pl.col(f"{n}_again")).abs() / pl.col(n).abs().clip(1e-300) for n in numbers]
    return float(both.select(pl.max_horizontal(*gaps).max()).item())


def main() -> int:
    """Run, print, and write the result."""
    store = filled_store()
    increment(store, 0)
    ours = [increment(store, run + 1) for run in range(RUNS)]
    peer_s, every = recompute(store)
    ours_s = float(np.median([seconds for seconds, _ in ours]))
    agreement = largest_difference(ours[-1][1], every)
    print("| job | seconds |\n|---|---|")
    print(f"| {N_NEW} new rows in, statistics of their sources out | {ours_s:.3f} |")
    print(f"| statistics of all {N_SOURCE} sources, {N_SOURCE * N_EPOCH} rows | {peer_s:.2f} |")
    print(f"\n{peer_s / ours_s:.0f} times faster; largest relative difference {agreement:.1e}")
    entry = {
        "name": "variability_increment",
        "peer": "recomputation of every source",
        "ours_s": ours_s,
        "peer_s": peer_s,
        "ratio": peer_s / ours_s,
        "ours_peak_mb": None,
        "peer_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "agreement": agreement,
        "runs": RUNS,
    }
    write_result(entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
