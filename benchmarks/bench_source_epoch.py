"""What one source-epoch costs, stage by stage: from an image's pixels to a point of a light curve that was searched for events.

A source-epoch is one source measured once in one band. Photometry is that of ``bench_measure`` (10,000 sources on 4800 x 4800
pixels, files to rows of the store, its reading of three FITS files included); flux scale and light curves are made of 12
observations of that field on one day, with the functions that the assets call; statistics are those of a day on which all 10,000
sources get their 101st point; the search scores 20,000 light curves of 180 points from the start, which is what a new point of a
source costs (some 5 s of a search do not depend on their number). Seconds are of the processor, all threads; checks, pictures and
Dagster are not in them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bench_measure
import numpy as np
import polars as pl
from bench_variability_increment import day_name, day_of_points
from record import write_result

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from contimg_assets.flux_scaling import flux_scales, reference_measurements, scale_day  # noqa: E402 (after the path)
from contimg_assets.science.ese.score import score_series  # noqa: E402
from contimg_assets.science.ese.series import Series  # noqa: E402
from contimg_assets.science.ese.settings import SearchSettings  # noqa: E402
from contimg_assets.science.flux_scale import select_references  # noqa: E402
from contimg_assets.science.light_curves import combine_transits, flag_scale_fallbacks  # noqa: E402
from contimg_assets.science.variability import variability_statistics  # noqa: E402
from contimg_resources.store.connection import Store  # noqa: E402
from contimg_resources.store.light_curves import points_of_sources  # noqa: E402

N_SOURCE, N_OBSERVATION, N_EPOCH, N_SEARCHED, N_POINT = 10_000, 12, 100, 20_000, 180
RUNS = 3
DAY, DAY_MJD, START_MJD = "2026-01-25", 61_065.0, 61_000.0
MADE_BY = {"run_id": pl.lit("bench"), "code_version": pl.lit("1")}


def measured_us(n_source_epochs: int, work: Callable[[], object]) -> float:
    """Processor time of some work per source-epoch, us: the median of three after one that is not counted."""
    work()
    found = [timed_s(work) for _ in range(RUNS)]
    return 1e6 * float(np.median(found)) / n_source_epochs


def timed_s(work: Callable[[], object]) -> float:
    """Processor time of some work, s."""
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def photometry() -> float:
    """From FITS files to committed rows, us per source-epoch."""
    rows = bench_measure.run_stage("rows")
    if rows is None:
        raise SystemExit("photometry did not run")
    return 1e6 * float(np.median(rows["cpu_s"])) / float(rows["n_rows"])


def observed_day() -> tuple[list[pl.DataFrame], pl.DataFrame]:
    """Photometry of the observations of a day, and their catalogue with its references."""
    image, rms, background, catalogue = bench_measure.load()
    once = bench_measure.measure(image, rms, background, catalogue)
    source_id = catalogue["source_id"][once["source_index"]]
    once = once.drop("source_index", "x_pixel", "y_pixel", "used_fraction").with_columns(source_id=source_id)
    rng = np.random.default_rng(1)
    observations = []
    for number in range(N_OBSERVATION):
        noise = pl.Series(rng.standard_normal(once.height))
        observations.append(
            once.with_columns(
                observation_id=pl.lit(f"{DAY}T06:{5 * number:02d}:00"),
                band=pl.lit("full"),
                mjd=pl.lit(DAY_MJD + 0.25 + number * 309.24 / 86_400.0),
                frequency_hz=pl.lit(1.4e9),
                peak_flux_jy_beam=pl.col("peak_flux_jy_beam") + noise * pl.col("peak_flux_err_jy_beam"),
            )
        )
    return observations, select_references(catalogue)


def flux_scale_and_light_curves(store: Store) -> tuple[float, float]:
    """Scale of each observation; and points of the day from them, written: us per source-epoch."""
    observations, catalogue = observed_day()
    n_rows = sum(one.height for one in observations)

    def scale() -> None:
        for one in observations:
            key = one["observation_id"][0][:16]
            rows = flux_scales(one, catalogue, 3)
            store.replace(
                "flux_reference", reference_measurements(one, catalogue).with_columns(**MADE_BY), partition_key=key
            )
            store.replace("flux_scale", rows.with_columns(**MADE_BY), partition_key=key)

    def combine() -> None:
        points = combine_transits(flag_scale_fallbacks(scale_day(store, catalogue, DAY).measurements))
        store.replace("light_curve", points.with_columns(**MADE_BY), partition_key=DAY)

    for one in observations:
        store.replace("forced_photometry", one.with_columns(**MADE_BY), partition_key=one["observation_id"][0][:16])
    return measured_us(n_rows, scale), measured_us(n_rows, combine)


def statistics(store: Store) -> float:
    """A day's rows in, statistics of their sources out and written, us per source-epoch."""
    sources, until = np.arange(N_SOURCE), START_MJD + N_EPOCH + 1.0
    for epoch in range(N_EPOCH):
        store.replace("light_curve", day_of_points(epoch, sources), partition_key=day_name(epoch))
    today = day_of_points(N_EPOCH, sources)

    def increment() -> None:
        store.replace("light_curve", today, partition_key=day_name(N_EPOCH))
        found = variability_statistics(points_of_sources(store, today["source_id"].to_list(), until), until)
        store.replace("variability_statistics", found, partition_key=day_name(N_EPOCH))

    return measured_us(N_SOURCE, increment)


def search() -> float:
    """Scores of light curves that have each got a point, us per source-epoch."""
    rng = np.random.default_rng(3)
    flux = 1.0 + 0.05 * rng.standard_normal((N_SEARCHED, N_POINT))
    time_mjd, error = START_MJD + np.arange(N_POINT, dtype=np.float64), np.full(N_POINT, 0.05, dtype=np.float64)
    series = [Series(str(k), "full", 1.4e9, time_mjd, one, error, 1.0) for k, one in enumerate(flux)]
    score_series(series[:50], SearchSettings(), rng)
    return 1e6 * timed_s(lambda: score_series(series, SearchSettings(), rng)) / N_SEARCHED


def main() -> int:
    """Measure, print, and write the result."""
    bench_measure.make_field()
    found = {"forced photometry, files to rows": photometry()}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "day.duckdb")
        store.initialise()
        found["flux scale"], found["light curves"] = flux_scale_and_light_curves(store)
        found["statistics"] = statistics(Store(Path(folder) / "history.duckdb"))
    found["search for events"] = search()
    print("| stage | us per source-epoch |\n|---|---|")
    for name, value_us in found.items():
        print(f"| {name} | {value_us:.0f} |")
    print(f"| all | {sum(found.values()):.0f} |")
    write_result(
        {
            "name": "source_epoch",
            "peer": None,
            "ours_s": 1e-6 * sum(found.values()),
            "peer_s": None,
            "ratio": None,
            "ours_peak_mb": None,
            "peer_peak_mb": None,
            "agreement": found,
            "runs": RUNS,
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
