"""``flag``: interference of four known kinds found by our flagger and by AOFlagger's generic strategy.

The data are those of ``tests/science/contaminated_sky.py``: 24 antennas, 24 integrations, 768 channels and 2
correlations, noise and drifting sources with interference of one kind or of all four, from one seed. Both flag the same
arrays in memory, in turn, each in a process of its own with one thread; ``ours_s`` and ``peer_s`` are processor seconds of
flagging alone, which other work on the machine does not stretch. AOFlagger sees real and imaginary parts of both correlations of
one baseline at a time, as its strategy expects, and flags both together.

Agreement: recall of samples with interference above 5 sigma, share of clean samples lost and F1, of both; and ours where
only some of the antennas receive an interferer.

AOFlagger runs as the platform's engine of that name; without it (extra ``flag``) the benchmark ends with that advice.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from full_observation import DATA, ROOT, Run, entry, in_turn, run_child
from record import write_result

FOLDER = DATA / "flag"
SEED = 110
SIZE = {"n_antennas": 24, "n_time": 24, "n_chan": 768}
PARTLY_HEARD = (0.3, 0.6)


def _sky() -> Any:
    sys.path.insert(0, str(ROOT))
    from tests.science import contaminated_sky

    return contaminated_sky


def data_sets() -> dict[str, dict[str, Any]]:
    """Names of the data sets and what makes them."""
    kinds = _sky().KINDS
    sets: dict[str, dict[str, Any]] = {kind.replace(" ", "-"): {"kinds": (kind,)} for kind in kinds}
    return sets | {"all": {}} | {f"all-{share}": {"hearing": share} for share in PARTLY_HEARD}


def make_data(options: dict[str, Any]) -> tuple[Any, Any]:
    """Visibilities and the amplitude of their interference."""
    made: tuple[Any, Any] = _sky().contaminated_sky(np.random.default_rng(SEED), **SIZE, **options)
    return made


def run_ours() -> None:
    """Flag every data set; flags and processor seconds go to the folder."""
    from contimg_assets.science.flagging import FlagSettings, flag_visibilities

    settings = FlagSettings(n_threads=1)
    sky = _sky()
    flag_visibilities(sky.contaminated_sky(np.random.default_rng(0))[0], settings=settings)  # compiles
    seconds = 0.0
    for name, options in data_sets().items():
        vis, _ = make_data(options)
        began = time.process_time()
        flag_visibilities(vis, settings=settings)
        seconds += time.process_time() - began if "hearing" not in options else 0.0
        np.save(FOLDER / f"{name}-ours.npy", np.packbits(vis.flags))
    (FOLDER / "ours.json").write_text(json.dumps(seconds))


def run_peer() -> None:
    """The platform's engine ``aoflagger`` on every data set that was written for it."""
    sys.path.insert(0, str(ROOT))
    from contimg_resources.aoflagger import AoflaggerSearch

    engine = AoflaggerSearch()
    first, second = np.triu_indices(SIZE["n_antennas"], 1)
    seconds = 0.0
    for file in sorted(FOLDER.glob("*-vis.npy")):
        vis = np.load(file)
        n_time, n_baseline = vis.shape[:2]
        columns = {
            "vis": vis.reshape(n_time * n_baseline, *vis.shape[2:]),
            "flags": np.zeros((n_time * n_baseline, *vis.shape[2:]), dtype=bool),
            "time_mjd": np.repeat(np.arange(n_time, dtype=float), n_baseline),
            "antenna1": np.tile(first, n_time),
            "antenna2": np.tile(second, n_time),
        }
        began = time.process_time()
        flags = engine.search(columns)
        seconds += time.process_time() - began
        np.save(file.with_name(file.name.replace("-vis", "-peer")), np.packbits(flags))
    (FOLDER / "peer.json").write_text(json.dumps(seconds))


def write_peer_data() -> None:
    """Arrays with axes (time, baseline, chan, corr) for the peer, whose environment lacks what makes them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, options in data_sets().items():
        if "hearing" not in options:
            vis, _ = make_data(options)
            np.save(FOLDER / f"{name}-vis.npy", vis.vis.reshape(SIZE["n_time"], -1, *vis.vis.shape[1:]))


def compare() -> dict[str, Any]:
    """Scores of both for every data set."""
    found: dict[str, Any] = {}
    for name, options in data_sets().items():
        _, amplitude = make_data(options)
        for who in ("ours", "peer"):
            file = FOLDER / f"{name}-{who}.npy"
            if file.exists():
                flags = np.unpackbits(np.load(file))[: amplitude.size].reshape(amplitude.shape).astype(bool)
                scored = _sky().scores(flags, amplitude)
                found[f"{name}_{who}"] = {key: round(float(value), 4) for key, value in scored.items()}
    return found


def _timed(who: str) -> Run:
    run = run_child([sys.executable, Path(__file__), f"--{who}"])
    seconds = float(json.loads((FOLDER / f"{who}.json").read_text()))
    return Run(seconds, seconds, run.peak_mb)


def main() -> int:
    """Run one contestant (``--ours``, ``--peer``) or all of it in turn, as many times as the argument says."""
    chosen = sys.argv[1] if len(sys.argv) > 1 else "3"
    if chosen == "--ours":
        run_ours()
    elif chosen == "--peer":
        run_peer()
    else:
        if importlib.util.find_spec("aoflagger") is None:
            raise SystemExit("AOFlagger is not installed: pip install -c constraints.txt aoflagger")
        write_peer_data()
        pairs = in_turn(lambda: _timed("ours"), lambda: _timed("peer"), n_pairs=int(chosen))
        write_result(entry("flag", "AOFlagger generic strategy", pairs, compare()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
