"""One full-size observation from files to photometry rows through the assets, in seconds per stage.

Simulates (once, kept in ``.contimg/bench``) the calibrator transit and one field of the full array: 96 antennas, 768
channels, 2.3 GB of files each; makes the transit's measurement set and bandpass, then runs ``observation_job`` on the
field in a fresh process and prints the seconds of each stage and the peak memory of that process.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from against_truth import measured_sources
from full_observation import settle_environment, simulate
from record import write_result

CADENCE_S = 309.24
BRIGHT_SNR, VERY_BRIGHT_SNR = 20.0, 100.0


def run_stages() -> dict[str, float]:
    """Materialize everything in this process; return seconds by asset of the field observation and of the bandpass."""
    import dagster as dg

    from contimg_assets.arrivals import observe_arrivals
    from contimg_assets.definitions import defs
    from contimg_resources.configurable import Observatory

    observatory = Observatory()
    shutil.rmtree(observatory.settings.data / "products", ignore_errors=True)
    observatory.store.path.unlink(missing_ok=True)
    observe_arrivals(observatory)
    observations = observatory.store.query("SELECT partition_key, calibrator FROM observation ORDER BY start_mjd")
    transit = observations.filter(observations["calibrator"].is_not_null())["partition_key"][0]
    field = observations.filter(observations["calibrator"].is_null())["partition_key"][0]
    with dg.DagsterInstance.ephemeral() as instance:

        def execute(job: str, partition_key: str | None, assets: list[str] | None = None) -> None:
            chosen = None if assets is None else [dg.AssetKey(name) for name in assets]
            result = defs.resolve_job_def(job).execute_in_process(
                partition_key=partition_key, instance=instance, asset_selection=chosen
            )
            if not result.success:
                raise SystemExit(f"{job} failed")

        execute("catalogue_job", None)
        execute("observation_job", transit, ["measurement_set"])
        execute("bandpass_job", transit[:10])
        began = time.perf_counter()
        execute("observation_job", field)
        whole_s = time.perf_counter() - began
    rows = observatory.store.query(
        "SELECT asset, duration_s FROM stage_timing WHERE partition_key IN (?, ?) ORDER BY started_at",
        [field, transit[:10]],
    )
    return {**dict(rows.iter_rows()), "observation_job": whole_s}


def stages_of_child(n_threads: int | None = None) -> dict[str, Any]:
    """Seconds of each stage and peak memory of a process of its own, on the data that the environment names."""
    cores = "" if n_threads is None else ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:n_threads])
    on_cores = ["taskset", "--cpu-list", cores] if cores else []
    finished = subprocess.run(
        [*on_cores, sys.executable, __file__, "--stages"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    measured: dict[str, Any] = json.loads(
        next(line for line in finished.stdout.splitlines() if line.startswith("RESULT "))[7:]
    )
    return measured


def compare() -> dict[str, float | int]:
    """The image and photometry of the field against what was simulated: noise, fluxes and positions above 20 sigma.

    A flux within 2 per cent of the truth is asked for, and a position within 5 per cent of the beam; at 20 sigma noise alone is 5
    and 3 per cent, so what is counted lies farther than that and three standard errors.
    """
    import polars as pl

    from contimg_resources.configurable import Observatory

    image = (
        Observatory()
        .store.query("SELECT * FROM image WHERE band = 'full' ORDER BY observation_id DESC")
        .row(0, named=True)
    )
    folder = Path(image["path"]).parent
    sources = measured_sources(folder / "full_image.fits", folder / "full_primary_beam.fits").with_columns(
        ratio=pl.col("measured_jy") / pl.col("expected_jy"), error=pl.col("err_jy") / pl.col("expected_jy")
    )
    bright, brightest = (sources.filter(pl.col("error") < 1.0 / snr) for snr in (BRIGHT_SNR, VERY_BRIGHT_SNR))
    return {
        "rms_over_thermal": image["rms_jy_beam"] / image["thermal_rms_jy_beam"],
        "n_above_20_sigma": bright.height,
        "median_flux_ratio": bright["ratio"].median(),
        "n_beyond": bright.filter((pl.col("ratio") - 1.0).abs() > 0.02 + 3.0 * pl.col("error")).height,
        "n_above_100_sigma": brightest.height,
        "largest_difference_above_100_sigma": (brightest["ratio"] - 1.0).abs().max(),
        "largest_offset_beams": bright["offset_beams"].max(),
        "n_misplaced": bright.filter(pl.col("offset_beams") > 0.05 + 3.0 * pl.col("offset_err_beams")).height,
        "largest_offset_above_100_sigma_beams": brightest["offset_beams"].max(),
    }


def main() -> int:
    """Run, print, and write the result."""
    if len(sys.argv) > 1 and sys.argv[1] == "--stages":
        seconds = run_stages()
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sys.stdout.write("RESULT " + json.dumps({"stages_s": seconds, "peak_mb": peak_mb}) + "\n")
        return 0
    settle_environment()
    simulate()
    measured = stages_of_child()
    stages, ours_s = measured["stages_s"], measured["stages_s"]["observation_job"]
    print("| stage | seconds |\n|---|---|")
    for name, seconds in stages.items():
        print(f"| {name} | {seconds:.1f} |")
    print(f"\npeak memory {measured['peak_mb']:.0f} MB; {CADENCE_S / ours_s:.2f} x real time")
    write_result(
        {
            "name": "observation",
            "peer": "telescope cadence",
            "ours_s": ours_s,
            "peer_s": CADENCE_S,
            "ratio": CADENCE_S / ours_s,
            "ours_peak_mb": measured["peak_mb"],
            "peer_peak_mb": None,
            "agreement": compare(),
            "runs": 1,
            "stages_s": stages,
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
