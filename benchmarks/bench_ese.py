"""What the search for extreme scattering events finds, what it invents, and how fast: seeded simulations, printed.

Power and false alarms per light curve at a nominal 1e-3 (white noise, and red noise of 5 per cent and 30 d; 180 and 60
days), false candidates among 10,000 constant, scintillating and flaring sources with 100 lensed ones, confusion of
chromatic and achromatic events, pulls and coverage of lens parameters, and seconds for 100,000 light curves of 180
points. The populations are those of the tests (``tests/science/light_curve_tables.py``). ``--small`` divides the
numbers by five, ``--only NAME`` runs one part (speed, powers, confusion, lens_parameters, false_candidates), ``--seed N``
draws other populations.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from record import write_result

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from contimg_assets.science.ese.candidates import find_candidates  # noqa: E402 (after the path)
from contimg_assets.science.ese.score import score_series  # noqa: E402
from contimg_assets.science.ese.series import Series  # noqa: E402
from contimg_assets.science.ese.settings import SearchSettings  # noqa: E402
from tests.science import light_curve_tables as tables  # noqa: E402

LIMIT_S = 60.0


def powers(share: int, seed: int) -> None:
    """Power and false alarms of the score: 3 to 5 per cent of the sources are lensed."""
    for n_days, n_null, n_event in ((180, 10_000, 300), (60, 20_000, 1000)):
        for red_rms in (0.0, 0.05):
            rng = np.random.default_rng(n_days + 1000 * seed)
            power, quoted, false_alarms = tables.power_of_the_score(
                n_days, red_rms, n_null // share, n_event // share, rng
            )
            kind = "red" if red_rms else "white"
            print(
                f"| power, {n_days} d, {kind} | {power:.3f} +- {_binomial_error(power, n_event // share):.3f} at a"
                f" false-alarm rate of 1e-3; {quoted:.3f} at the quoted 1e-3, rate {false_alarms:.4f} +- "
                f"{_binomial_error(false_alarms, n_null // share):.4f} |",
                flush=True,
            )


def _binomial_error(rate: float, n: int) -> float:
    return float(np.sqrt(rate * (1.0 - rate) / n))


def lens_parameters(share: int, seed: int) -> None:
    """Pulls of strength and crossing time, and how often the 68 and 95 per cent intervals hold the truth."""
    for kind, like_the_prior in (("of the literature", False), ("drawn from the prior", True)):
        rng = np.random.default_rng(29 + 1000 * seed)
        pulls, inside = tables.lens_parameter_pulls(400 // share, rng, like_the_prior=like_the_prior)
        n = len(pulls)
        for k, name in enumerate(("strength", "crossing time")):
            print(
                f"| {n} lenses {kind}, {name} | pulls {np.std(pulls[:, k]):.2f} about {np.mean(pulls[:, k]):.2f}, farthest"
                f" {np.max(np.abs(pulls[:, k])):.1f} | 68 and 95 % intervals hold {np.mean(inside[:, k, 0]):.3f} and"
                f" {np.mean(inside[:, k, 1]):.3f} |",
                flush=True,
            )


def false_candidates(share: int, seed: int) -> None:
    """Candidates among sources that are not lensed."""
    rng = np.random.default_rng(7 + 1000 * seed)
    n_source = 10_000 // share
    table = pl.concat(
        [
            tables.ordinary_population(n_source, 180, rng),
            tables.events_with_colours(100 // share, 180, rng, chromatic=True),
        ]
    )
    began = time.process_time()
    found = find_candidates(table, np.inf, np.random.default_rng(1))
    seconds = time.process_time() - began
    false = found.filter(~pl.col("source_id").str.starts_with("lens"))
    wrong = false.filter(pl.col("verdict").is_null() | (pl.col("verdict") == "ese"))
    print(
        f"| {n_source} ordinary sources, {100 // share} lensed | {found.height} candidates, {wrong.height} of ordinary"
        f" sources `ese` or without verdict, {false.height} with any | {seconds:.0f} s CPU |",
        flush=True,
    )
    print(false.select("source_id", "verdict", "significance", "depth", "duration_d"), flush=True)


def confusion(share: int, seed: int) -> None:
    """Achromatic events called ``ese`` and chromatic ones called ``achromatic``."""
    for chromatic, wrong in ((True, "achromatic"), (False, "ese")):
        rng = np.random.default_rng(11 + 1000 * seed)
        n = 400 // share
        table = pl.concat(
            [tables.events_with_colours(n, 60, rng, chromatic=chromatic), tables.ordinary_population(2 * n, 60, rng)]
        )
        found = find_candidates(table, np.inf, np.random.default_rng(1))
        own = found.filter(pl.col("source_id").str.contains("^(lens|dip)"))
        counts = dict(own["verdict"].fill_null("none").value_counts().iter_rows())
        print(
            f"| {n} {'lenses' if chromatic else 'achromatic dips'} | {counts} | called `{wrong}`: "
            f"{counts.get(wrong, 0) / n:.3f} |",
            flush=True,
        )


def speed(share: int, seed: int) -> float:
    """Seconds for the scores of all light curves of 180 points, one in a hundred of which varies."""
    rng = np.random.default_rng(3 + 1000 * seed)
    n = 100_000 // share
    time_mjd = tables.START_MJD + np.arange(180.0)
    value = 1.0 + 0.05 * rng.standard_normal((n, 180))
    value[: n // 100] += np.tile(tables.lens_population(180, 100, rng) - 1.0, (n // 10_000 + 1, 1))[: n // 100]
    level = np.median(value, axis=1)
    series = [
        Series(str(k), "full", 1.4e9, time_mjd, v / m, np.full(180, 0.05) / m, m)
        for k, (v, m) in enumerate(zip(value, level, strict=True))
    ]
    score_series(series[:50], SearchSettings(), rng)
    began, cpu = time.perf_counter(), time.process_time()
    score_series(series, SearchSettings(), rng)
    seconds = time.perf_counter() - began
    print(f"| {n} light curves scored | {seconds:.1f} s | {time.process_time() - cpu:.1f} s CPU |", flush=True)
    return seconds * share


PARTS = {
    "powers": powers,
    "confusion": confusion,
    "lens_parameters": lens_parameters,
    "false_candidates": false_candidates,
}


def main() -> int:
    """Run, print, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", choices=["speed", *PARTS])
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    share = 5 if chosen.small else 1
    print("| what | measured | |\n|---|---|---|")
    ours_s = speed(share, chosen.seed) if chosen.only in (None, "speed") else None
    for name, part in PARTS.items():
        if chosen.only in (None, name):
            part(share, chosen.seed)
    if share > 1 or ours_s is None:
        return 0
    entry = {
        "name": "ese",
        "peer": "limit for 100,000 light curves",
        "ours_s": ours_s,
        "peer_s": LIMIT_S,
        "ratio": LIMIT_S / ours_s,
        "ours_peak_mb": None,
        "peer_peak_mb": None,
        "agreement": None,
        "runs": 1,
    }
    write_result(entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
