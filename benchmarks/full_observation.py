"""What the benchmarks share: one full-size observation, child processes that are timed, and the file of results.

The observation is simulated once into ``.contimg/bench``: the calibrator transit and one field of the full array, 96
antennas, 768 channels, 2.3 GB of files each. Contestants run as processes of their own, in turn, so that seconds and peak
memory are those of a person's command line, start-up and imports included, and drift of the machine meets both.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".contimg" / "bench"
RAW = DATA / "incoming"
TRUTH = DATA / "truth"
_INSIDE = "seconds inside: "
CONTIMG = [sys.executable, "-m", "contimg_portal.cli"]


@dataclass(frozen=True)
class Run:
    """One process: wall-clock and processor seconds, peak resident memory, and seconds of the work it timed itself."""

    seconds: float
    cpu_s: float
    peak_mb: float
    inside_s: float | None = None

    def inside(self) -> Run:
        """The run with the seconds that it timed itself."""
        if self.inside_s is None:
            raise SystemExit("the process printed no seconds of its own")
        return Run(self.inside_s, self.cpu_s, self.peak_mb)


def settle_environment() -> None:
    """Settings of the benchmarks: their own data folder, all cores."""
    os.environ |= {
        "CONTIMG_DATA": str(DATA),
        "CONTIMG_INCOMING": str(RAW),
        "CONTIMG_CATALOGUE": str(TRUTH / "catalogue.parquet"),
        "CONTIMG_SEASON_START": "2026-01-08",
        "CONTIMG_SEASON_END": "2026-02-12",
        "PYTHONWARNINGS": "ignore",
    }


def simulate() -> None:
    """Write the raw files unless they are there."""
    subprocess.run(
        [*CONTIMG, "simulate", str(ROOT / "demo" / "full.toml"), "--out", str(RAW), "--truth", str(TRUTH)], check=True
    )


def field_files() -> list[Path]:
    """The sub-band files of the field: the later of the two observations."""
    files = sorted(RAW.glob("*_sb*.hdf5"))
    hour = files[-1].name[:13]
    return [file for file in files if file.name.startswith(hour)]


def transit_files() -> list[Path]:
    """The sub-band files of the calibrator's transit: the earlier of the two observations."""
    field = set(field_files())
    return [file for file in sorted(RAW.glob("*_sb*.hdf5")) if file not in field]


def run_child(command: Sequence[str | Path], log: Path | None = None) -> Run:
    """Run a process to its end; SystemExit with the end of its output if it fails."""
    sink = log or DATA / "child.log"
    with sink.open("wb") as stream:
        began = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], stdout=stream, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = "\n".join(sink.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{' '.join(map(str, command[:4]))} ... ended with code {process.returncode}:\n{tail}")
    own = [line for line in sink.read_text(errors="replace").splitlines() if line.startswith(_INSIDE)]
    inside_s = float(own[-1].removeprefix(_INSIDE)) if own else None
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, inside_s)


def timed(work: Callable[[], object]) -> None:
    """Do the work of a child process and print its seconds for ``run_child``."""
    began = time.perf_counter()
    work()
    print(f"{_INSIDE}{time.perf_counter() - began}", flush=True)


def in_turn(ours: Callable[[], Run], peer: Callable[[], Run], n_pairs: int) -> list[tuple[Run, Run]]:
    """Run both in turn; of several pairs the first is not counted: it compiles ours and brings the files of both into memory.

    A single pair counts, whatever it costs ours: there are peers that take an hour.
    """
    pairs = []
    is_warmed_up = n_pairs > 1
    for k in range(n_pairs + is_warmed_up):
        pair = ours(), peer()
        name = "warm-up" if is_warmed_up and k == 0 else f"pair {len(pairs) + 1 - is_warmed_up}"
        print(f"{name}: ours {pair[0].seconds:.1f} s, peer {pair[1].seconds:.1f} s", flush=True)
        pairs.append(pair)
    return pairs[is_warmed_up:]


def entry(name: str, peer: str, pairs: Sequence[tuple[Run, Run]], agreement: Mapping[str, Any]) -> dict[str, Any]:
    """One result: medians of seconds and of the ratios of the pairs, largest memory, and how far the results agree.

    Processor seconds stand beside wall-clock ones: on a machine that others use they show what the wall clock hides.
    """
    return {
        "name": name,
        "peer": peer,
        "ours_s": statistics.median(ours.seconds for ours, _ in pairs),
        "peer_s": statistics.median(theirs.seconds for _, theirs in pairs),
        "ratio": statistics.median(theirs.seconds / ours.seconds for ours, theirs in pairs),
        "ours_cpu_s": statistics.median(ours.cpu_s for ours, _ in pairs),
        "peer_cpu_s": statistics.median(theirs.cpu_s for _, theirs in pairs),
        "ours_peak_mb": max(ours.peak_mb for ours, _ in pairs),
        "peer_peak_mb": max(theirs.peak_mb for _, theirs in pairs),
        "agreement": dict(agreement),
        "runs": len(pairs),
    }


def make_measurement_set(path: Path, files: Sequence[Path]) -> None:
    """The calls of asset ``measurement_set`` on one observation's files: read, phase, flag, write."""
    from concurrent.futures import ThreadPoolExecutor

    from contimg_assets.science.conversion import begin_turning, to_visibilities
    from contimg_assets.science.coordinates import load_earth_orientation
    from contimg_assets.science.flagging import FlagSettings, flag_visibilities
    from contimg_assets.science.raw_observation import RawObservation
    from contimg_resources.measurement_set_writer import measurement_set_draft
    from contimg_resources.uvh5 import read_observation

    n_threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(1) as beside, measurement_set_draft(path) as draft:
        beside.submit(load_earth_orientation)
        stream = draft.stream(begin_turning)
        raw = RawObservation(**read_observation(files, n_subbands=16, n_threads=n_threads, stream=stream))
        visibilities = to_visibilities(raw)
        limits = FlagSettings(n_subbands=16)
        draft.finish(
            visibilities.columns(), lambda: flag_visibilities(visibilities, raw.autos, raw.active_antennas, limits)
        )


def calibrated_measurement_set() -> Path:
    """The field, flagged and calibrated against its own catalogue, with CORRECTED_DATA; made once."""
    path = DATA / "field.ms"
    if not path.exists():
        simulate()
        partial = DATA / "field-in-progress.ms"
        shutil.rmtree(partial, ignore_errors=True)
        make_measurement_set(partial, field_files())
        model = ["--model", TRUTH / "catalogue.parquet", "--field", "0", "--apply"]
        run_child(
            [*CONTIMG, "calibrate", partial, *model, "--bandpass", DATA / "field.bcal", "--gain", DATA / "field.gcal"]
        )
        partial.rename(path)
    return path
