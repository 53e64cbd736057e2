"""How the cost of an observation grows: 24, 48 and 96 antennas on one core and on two, through the assets.

Observations of the same sky and band as ``bench_observation``; baselines, and so data, grow with the square of the antennas.
Prints and keeps a table of seconds per stage; there is no peer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from bench_observation import stages_of_child
from full_observation import CONTIMG, DATA, ROOT, settle_environment
from record import RESULTS

N_ANTENNAS = (24, 48, 96)
N_THREADS = (1, 2)
STAGES = ("measurement_set", "bandpass_table", "gain_table", "continuum_image", "forced_photometry", "observation_job")


def simulate(n_antennas: int) -> None:
    """Simulate the observation for a part of the array, once, and let the environment name it."""
    folder = DATA / "scaling" / str(n_antennas)
    folder.mkdir(parents=True, exist_ok=True)
    campaign = (ROOT / "demo" / "full.toml").read_text()
    if n_antennas < max(N_ANTENNAS):
        kept = [line for line in campaign.splitlines() if not line.startswith("dead_antennas")]
        campaign = "\n".join(kept).replace('n_antennas = "full"', f"n_antennas = {n_antennas}")
    (folder / "campaign.toml").write_text(campaign)
    paths = {"DATA": folder, "INCOMING": folder / "incoming", "CATALOGUE": folder / "truth" / "catalogue.parquet"}
    os.environ |= {f"CONTIMG_{name}": str(path) for name, path in paths.items()}
    output = ["--out", str(paths["INCOMING"]), "--truth", str(folder / "truth")]
    subprocess.run([*CONTIMG, "simulate", str(folder / "campaign.toml"), *output], check=True)


def main() -> int:
    """Run every size on every number of cores."""
    settle_environment()
    rows = []
    for n_antennas in N_ANTENNAS:
        simulate(n_antennas)
        for n_threads in N_THREADS:
            measured = stages_of_child(n_threads)
            stages = {name: measured["stages_s"].get(name) for name in STAGES}
            rows.append({"antennas": n_antennas, "threads": n_threads, **stages, "peak_mb": measured["peak_mb"]})
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.with_name("scaling.json").write_text(json.dumps(rows, indent=1) + "\n")
    RESULTS.with_name("scaling.md").write_text(table)
    sys.stdout.write(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
