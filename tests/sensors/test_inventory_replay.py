"""Five days of real arrivals through the code that decides, by a clock of the test's own."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from contimg_assets.arrival_records import ExaminedFile, record_arrivals
from contimg_portal.commands.group import replayed_decisions
from contimg_resources.configurable import Observatory
from contimg_resources.raw_files import read_inventory

TICK_S = 1800.0
"""Of the telescope's time."""
ZERO_BYTE_ROWS = {"2026-01-25T01:00:00": 240, "2026-01-25T09:00:00": 80}
"""Rows of the whole inventory (telescope.md 1.4) that the copy cut to 11-15 February does not hold."""
MJD_ZERO = datetime(1858, 11, 17)  # noqa: DTZ001  (UTC without zone, as in the store)


def arrivals(shared_data: Path, rng: np.random.Generator) -> pl.DataFrame:
    """Every file of the inventory with the time it is there: after the observation, and up to 30 s later, in any order."""
    records = read_inventory(shared_data / "dsa110" / "inventory.csv")
    frame = pl.DataFrame({"name": [r["name"] for r in records], "name_mjd": [r["name_mjd"] for r in records]})
    first = frame["name_mjd"].min()
    zero = pl.DataFrame(
        [
            {
                "name": f"node{place // 16}/{stamp}_sb{place % 16:02d}.hdf5",
                "name_mjd": (datetime.fromisoformat(stamp) - MJD_ZERO).total_seconds() / 86400,
            }
            for stamp, n_files in ZERO_BYTE_ROWS.items()
            for place in range(n_files)
        ]
    )
    frame = pl.concat([frame.with_columns(is_zero=pl.lit(value=False)), zero.with_columns(is_zero=pl.lit(value=True))])
    late_s = 309.24 + rng.uniform(0.0, 30.0, frame.height)
    return frame.with_columns(at_s=(frame["name_mjd"] - first) * 86_400.0 + late_s).sort("at_s")


def test_real_arrivals_become_one_partition_each_and_nothing_is_lost(settings, shared_data, rng, monkeypatch):
    """Every observation with 16 sub-bands inside 60 s becomes one partition; every other file ends with its reason."""
    monkeypatch.setenv("CONTIMG_SEASON_END", "2026-02-28")
    del settings
    observatory = Observatory()
    observatory.store.initialise()
    files = arrivals(shared_data, rng)
    epoch = datetime(2026, 2, 11)  # noqa: DTZ001  (UTC without zone)
    ready: Counter[str] = Counter()
    started = time.monotonic()
    first_s, last_s = files["at_s"].min(), files["at_s"].max()
    for tick_s in np.arange(first_s, last_s + 3 * TICK_S, TICK_S):
        fresh = files.filter(pl.col("at_s") > tick_s - TICK_S, pl.col("at_s") <= tick_s)
        if fresh.is_empty() and first_s + 3 * TICK_S < tick_s < files.filter(~pl.col("is_zero"))["at_s"].min():
            continue  # between the empty files of January and February nothing arrives
        examined = [
            ExaminedFile(
                Path(row["name"]), 0 if row["is_zero"] else 145_348_600, row["name_mjd"], None,
                reason_code="zero_byte_file" if row["is_zero"] else "",
            )
            for row in fresh.iter_rows(named=True)
        ]  # fmt: skip
        made = record_arrivals(observatory, examined, now=epoch + timedelta(seconds=float(tick_s)))
        ready.update(str(event.partition) for event in made)
    took_s = time.monotonic() - started

    observations = observatory.store.query("SELECT * FROM observation ORDER BY start_mjd")
    reasons = Counter(observations.select("status", "reason_code").rows())
    assert reasons == {
        ("ready", None): 1019,
        ("ready", "missing_subbands"): 10,
        ("quarantined", "straggler"): 10,
        ("quarantined", "too_few_subbands"): 1,
        ("quarantined", "zero_byte_file"): 2,
    }
    complete = observations.filter(pl.col("status") == "ready", pl.col("n_subbands") == 16)
    assert complete["partition_key"].n_unique() == complete.height == 1019
    processable = observations.filter(pl.col("status") == "ready")
    assert processable["partition_key"].n_unique() == processable.height
    assert set(ready) == set(processable["partition_key"])

    by_observation = observatory.store.query(
        "SELECT o.status, o.reason_code, count(*) AS n FROM raw_file JOIN observation o USING (observation_id) GROUP BY ALL"
    )
    counts = {(status, reason): n for status, reason, n in by_observation.rows()}
    assert counts["quarantined", "zero_byte_file"] == 240 + 80
    in_file = pl.read_csv(shared_data / "dsa110" / "inventory.csv")["n_subbands_found"].sum()
    assert sum(counts.values()) == in_file + 320
    assert counts["ready", None] == 16 * 1019

    replayed = replayed_decisions()
    assert replayed["n_different"] == 0
    assert replayed["n_replayed"] >= observations.height
    span_s = (files.filter(~pl.col("is_zero"))["name_mjd"].max() - 61_082.0) * 86_400.0
    print(f"{span_s:.0f} s of arrivals in {took_s:.1f} s, {replayed['n_replayed']} decisions")  # noqa: T201  (shown by -s)
