"""Forced photometry of 10,000 sources on 4800 x 4800 pixels: in memory, from files to rows, and Aegean's priorized fit.

The field is that of ``tests/science/synthetic_field.py`` (kept in ``.contimg/bench/measure``). Three processes take
turns: ours in memory (``measure_forced``, one thread), ours from three FITS files and a Parquet catalogue to rows in a
DuckDB store, and Aegean's priorized fit (stage 1, ``docov``, one core) of the same positions on the same files. Ours
runs before and after Aegean. All are single-threaded, so ``ours_s`` and ``peer_s`` are processor seconds, which other
work on the machine does not stretch: the slower of our two medians, and Aegean's one run, its reading of files included.

Aegean is needed for the comparison only: ``pip install -e '.[bench]'``, or ``--aegean-python`` with the interpreter of an
environment that has it. Without it the columns of the peer stay empty.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from record import write_result

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".contimg" / "bench" / "measure"
RUNS = 7
PARTITION = "2026-01-25-22:00"


def make_field() -> None:
    """Write image, maps, catalogue and truth unless they are there."""
    if (DATA / "catalogue.parquet").exists():
        return
    sys.path.insert(0, str(ROOT))
    from contimg_resources.fits_images import header_cards, write_image
    from tests.science.synthetic_field import synthetic_field

    DATA.mkdir(parents=True, exist_ok=True)
    field = synthetic_field(np.random.default_rng(20260125))
    cards = header_cards(
        beam_major_arcsec=12.0, beam_minor_arcsec=9.0, beam_pa_deg=30.0, frequency_hz=1.4e9, bandwidth_hz=1e8
    )
    for name, plane in (("image", field.image.data), ("rms", field.rms), ("background", field.background)):
        write_image(DATA / f"{name}.fits", plane, field.image.wcs, cards)
    pl.DataFrame(
        {
            "source_id": [f"s{k:05d}" for k in range(field.flux_jy.size)],
            "ra_deg": field.ra_deg,
            "dec_deg": field.dec_deg,
            "flux_jy": field.flux_jy,
            "nearest_beams": field.nearest_beams,
        }
    ).write_parquet(DATA / "catalogue.parquet")


def load() -> tuple[Any, Any, Any, pl.DataFrame]:
    """Image, rms, background and catalogue from the files."""
    from contimg_assets.science.images import SkyImage
    from contimg_resources.fits_images import read_image, read_plane
    from contimg_resources.reference_catalogues import read_catalogue

    image = SkyImage(**read_image(DATA / "image.fits"))
    maps = [read_plane(DATA / f"{name}.fits") for name in ("rms", "background")]
    return image, *maps, read_catalogue(DATA / "catalogue.parquet")


def measure(image: Any, rms: Any, background: Any, catalogue: pl.DataFrame) -> pl.DataFrame:
    """All sources, deblended."""
    from contimg_assets.science.photometry.forced import measure_forced

    return measure_forced(image, rms, background, catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy())


def time_in_memory() -> dict[str, Any]:
    """Seconds of each run, wall and processor, images in memory; writes the fluxes."""
    inputs = load()
    table = measure(*inputs)
    table.write_parquet(DATA / "ours.parquet")
    wall_s, thread_s = [], []
    for _ in range(RUNS):
        began, began_thread = time.perf_counter(), time.thread_time()
        measure(*inputs)
        wall_s.append(time.perf_counter() - began)
        thread_s.append(time.thread_time() - began_thread)
    return {"wall_s": wall_s, "thread_s": thread_s, "n_sources": table.height}


def time_files_to_rows() -> dict[str, Any]:
    """Seconds from FITS files to committed rows, in a process that has done it once."""
    from contimg_resources.store.connection import Store

    folder = Path(tempfile.mkdtemp(prefix="bench_measure_"))
    store = Store(folder / "store.duckdb")
    store.initialise()
    wall_s, cpu_s = [], []
    for _ in range(RUNS + 1):
        began, began_cpu = time.perf_counter(), time.process_time()
        image, rms, background, catalogue = load()
        table = measure(image, rms, background, catalogue)
        rows = table.drop("source_index", "x_pixel", "y_pixel", "used_fraction").with_columns(
            source_id=catalogue["source_id"][table["source_index"]],
            observation_id=pl.lit("2026-01-25T22:00:05"),
            band=pl.lit("full"),
            mjd=pl.lit(61065.9),
            frequency_hz=pl.lit(1.4e9),
            run_id=pl.lit("bench"),
            code_version=pl.lit("1"),
        )
        n_rows = store.replace("forced_photometry", rows, partition_key=PARTITION)
        wall_s.append(time.perf_counter() - began)
        cpu_s.append(time.process_time() - began_cpu)
    shutil.rmtree(folder)
    return {"wall_s": wall_s[1:], "cpu_s": cpu_s[1:], "n_rows": n_rows}


def time_aegean() -> dict[str, Any]:
    """Seconds of one priorized fit; the catalogue is made before the clock starts, files are read by Aegean itself."""
    from AegeanTools.models import ComponentSource
    from AegeanTools.source_finder import SourceFinder

    catalogue = pl.read_parquet(DATA / "catalogue.parquet")
    sources = []
    for k, (ra, dec, flux) in enumerate(catalogue.select("ra_deg", "dec_deg", "flux_jy").iter_rows()):
        source = ComponentSource()
        source.island, source.source, source.uuid = k, 0, str(k)
        source.ra, source.dec, source.peak_flux, source.int_flux = ra, dec, flux, flux
        source.a, source.b, source.pa = 12.0, 9.0, 30.0
        source.psf_a, source.psf_b, source.psf_pa = 12.0, 9.0, 30.0
        sources.append(source)
    finder = SourceFinder()
    began, began_thread = time.perf_counter(), time.thread_time()
    fitted = finder.priorized_fit_islands(
        str(DATA / "image.fits"), catalogue=sources, rmsin=str(DATA / "rms.fits"),
        bkgin=str(DATA / "background.fits"), cores=1, stage=1, docov=True, progress=False,
    )  # fmt: skip
    wall_s, thread_s = time.perf_counter() - began, time.thread_time() - began_thread
    rows = [(int(source.uuid), source.peak_flux, source.err_peak_flux) for source in fitted]
    pl.DataFrame(rows, schema=["source_index", "flux", "err"], orient="row").write_parquet(DATA / "aegean.parquet")
    return {"wall_s": [wall_s], "thread_s": [thread_s], "n_sources": len(fitted)}


STAGES = {"memory": time_in_memory, "rows": time_files_to_rows, "aegean": time_aegean}


def run_stage(name: str, python: str = sys.executable) -> dict[str, Any] | None:
    """Run one stage in a process of its own; None where the peer is not installed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    if name == "aegean" and subprocess.run([python, "-c", "import AegeanTools, polars"], check=False).returncode:
        return None
    command = [python, __file__, "--stage", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def agreement_with_aegean() -> dict[str, float]:
    """How ours and Aegean's fluxes compare with each other and with the truth, isolated sources."""
    truth = pl.read_parquet(DATA / "catalogue.parquet").with_row_index("source_index")
    both = (
        truth.with_columns(pl.col("source_index").cast(pl.Int64))
        .join(pl.read_parquet(DATA / "ours.parquet"), on="source_index")
        .join(pl.read_parquet(DATA / "aegean.parquet"), on="source_index")
        .filter(pl.col("nearest_beams") > 3.5)
    )
    ours = ((both["peak_flux_jy_beam"] - both["flux_jy"]) / both["peak_flux_err_jy_beam"]).to_numpy()
    bright = both.filter(pl.col("flux_jy") > 50 * pl.col("local_rms_jy_beam"))
    return {
        "n_isolated": both.height,
        "median_ratio_above_50_sigma": float(np.median(bright["peak_flux_jy_beam"] / bright["flux"])),
        "median_difference_sigma": float(
            np.median((both["peak_flux_jy_beam"] - both["flux"]) / both["peak_flux_err_jy_beam"])
        ),
        "ours_pull_std": float(ours.std()),
        "aegean_pull_std": float(((both["flux"] - both["flux_jy"]) / both["err"]).std() or np.nan),
    }


def main() -> int:
    """Run the stages in turn, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=sorted(STAGES))
    parser.add_argument("--aegean-python", default=sys.executable)
    chosen = parser.parse_args()
    if chosen.stage:
        measured = STAGES[chosen.stage]()
        measured["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(measured))
        return 0
    make_field()
    before = run_stage("memory")
    rows = run_stage("rows")
    peer = run_stage("aegean", chosen.aegean_python)
    after = run_stage("memory")
    if before is None or after is None or rows is None:
        raise SystemExit("a stage of ours did not run")
    ours_s = max(float(np.median(before["thread_s"])), float(np.median(after["thread_s"])))
    peer_s = peer["thread_s"][0] if peer else None
    entry = {
        "name": "measure",
        "peer": "Aegean priorized (stage 1, docov, 1 core)",
        "ours_s": ours_s,
        "peer_s": peer_s,
        "ratio": None if peer_s is None else peer_s / ours_s,
        "ours_peak_mb": before["peak_mb"],
        "peer_peak_mb": peer["peak_mb"] if peer else None,
        "agreement": agreement_with_aegean() if peer else None,
        "runs": RUNS,
        "ours_best_s": min(before["thread_s"] + after["thread_s"]),
        "ours_wall_s": float(np.median(before["wall_s"] + after["wall_s"])),
        "peer_wall_s": peer["wall_s"][0] if peer else None,
        "sources_per_s_per_thread": before["n_sources"] / min(before["thread_s"] + after["thread_s"]),
        "files_to_rows_s": float(np.median(rows["wall_s"])),
        "files_to_rows_slowest_s": max(rows["wall_s"]),
        "files_to_rows_processor_s": float(np.median(rows["cpu_s"])),
        "n_rows": rows["n_rows"],
    }
    print("| what | value |\n|---|---|")
    for name, value in entry.items():
        print(f"| {name} | {value} |")
    write_result(entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
