"""From the rows of a new observation in the store to updated candidates: 100,000 sources of 180 points, through Dagster.

Fills a store (kept in ``.contimg/bench-latency``) with 179 days of 100,000 sources, one in a thousand of them lensed, and
half of the sources of the 180th day. Then measures, each in a process of its own as a run of the queue would be: the day
made from nothing, and the day made again after an observation has brought the points of 1,000 more sources. Both make
``variability_statistics`` and ``ese_candidates`` with their checks; the time includes starting Python, loading the
definitions, and Dagster. The agreement is whether the candidates are those of a search that carries nothing over.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from astropy.time import Time
from record import write_result

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from contimg_resources.products import Products  # noqa: E402 (after the path)
from contimg_resources.store.connection import Store  # noqa: E402
from tests.science import light_curve_tables as tables  # noqa: E402

DATA = ROOT / ".contimg" / "bench-latency"
N_SOURCE, N_EPOCH, N_NEW = 100_000, 180, 1_000
N_LENSED = 100
START_MJD = 61_000.0
LIMIT_S = 30.0

_RUN = """
import sys
import dagster as dg
from contimg_assets.definitions import defs

with dg.DagsterInstance.local_temp(sys.argv[2]) as instance:
    ran = defs.resolve_job_def("daily_job").execute_in_process(
        partition_key=sys.argv[1],
        instance=instance,
        asset_selection=[dg.AssetKey("variability_statistics"), dg.AssetKey("ese_candidates")],
    )
    made = {event.asset_key.to_user_string(): event.materialization for event in ran.get_asset_materialization_events()}
    for event in ran.all_events:
        if event.event_type_value == "STEP_SUCCESS":
            print(event.step_key, round(event.event_specific_data.duration_ms / 1e3, 1), "s")
    print("searched", made["ese_candidates"].metadata["n_searched"].value, flush=True)
"""


def fluxes() -> tuple[np.ndarray, np.ndarray]:
    """Relative flux densities, shape (n_source, n_epoch), and errors of 2 to 10 per cent, shape (n_source,)."""
    rng = np.random.default_rng(5)
    error = np.exp(rng.uniform(*np.log((0.02, 0.1)), N_SOURCE)).astype(np.float32)
    flux = 1.0 + error[:, None] * rng.standard_normal((N_SOURCE, N_EPOCH), dtype=np.float32)
    flux[:: N_SOURCE // N_LENSED] += tables.lens_population(N_EPOCH, N_LENSED, rng) - 1.0
    return flux, error


def day_name(epoch: int) -> str:
    """Partition of a day, as the assets name it."""
    return str(Time(START_MJD + epoch, format="mjd").to_value("iso", subfmt="date"))


def observe(store: Store, epoch: int, flux: np.ndarray, error: np.ndarray, n_source: int) -> None:
    """Write a day's points of the first sources."""
    points = pl.DataFrame(
        {
            "source_id": pl.Series(np.char.mod("s%06d", np.arange(n_source))),
            "epoch_mjd": START_MJD + epoch + 0.5,
            "band": "full",
            "mjd": START_MJD + epoch + np.linspace(0.0, 0.9, N_SOURCE)[:n_source],
            "frequency_hz": 1.4e9,
            "flux_jy": 0.1 * flux[:n_source, epoch].astype(float),
            "flux_err_jy": 0.1 * error[:n_source].astype(float),
            "flux_sys_err_jy": 0.0,
            "n_observations": pl.Series(np.full(n_source, 3), dtype=pl.Int32),
            "flags": pl.Series(np.zeros(n_source), dtype=pl.Int32),
        }
    )
    store.replace("light_curve", points, partition_key=day_name(epoch))


def made(day: str) -> tuple[float, pl.DataFrame]:
    """Seconds of a run that makes statistics and candidates of a day, and the candidates."""
    instance = DATA / "dagster"
    instance.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CONTIMG_DATA": str(DATA),
        "CONTIMG_SEASON_START": day_name(0),
    }
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _RUN, day, str(instance)], check=True, env=environment)
    return time.perf_counter() - began, Products(DATA).read_parquet("ese_candidates", day)


def main() -> int:
    """Run, print, and write the result."""
    store = Store(Products(DATA).store_path)
    flux, error = fluxes()
    if not store.path.exists():
        for epoch in range(N_EPOCH - 1):
            observe(store, epoch, flux, error, N_SOURCE)
    day, half = N_EPOCH - 1, N_SOURCE // 2
    shutil.rmtree(DATA / "products", ignore_errors=True)
    observe(store, day, flux, error, half)
    print(f"load of the machine: {os.getloadavg()}\n\n| job | seconds |\n|---|---|", flush=True)
    whole_s, _ = made(day_name(day))
    print(f"| the day from nothing, {N_SOURCE} light curves searched | {whole_s:.1f} |", flush=True)
    began = time.perf_counter()
    observe(store, day, flux, error, half + N_NEW)
    written_s = time.perf_counter() - began
    print(f"| rows of {N_NEW} sources written with their day | {written_s:.1f} |", flush=True)
    ours_s, found = made(day_name(day))
    print(f"| the day again, nothing but these searched | {ours_s:.1f} |", flush=True)
    shutil.rmtree(DATA / "products")
    peer_s, again = made(day_name(day))
    print(f"| the same from nothing | {peer_s:.1f} |", flush=True)
    lensed = found.filter(pl.col("source_id").str.slice(1).cast(pl.Int64) % (N_SOURCE // N_LENSED) == 0)
    print(f"\n{found.height} candidates, {lensed['source_id'].n_unique()} of {N_LENSED} lensed sources")
    entry = {
        "name": "latency",
        "peer": "everything searched again",
        "ours_s": written_s + ours_s,
        "peer_s": peer_s,
        "ratio": peer_s / (written_s + ours_s),
        "ours_peak_mb": None,
        "peer_peak_mb": None,
        "agreement": {"same_candidates": found.equals(again), "limit_s": LIMIT_S},
        "runs": 1,
    }
    write_result(entry)
    return 0 if found.equals(again) and written_s + ours_s <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
