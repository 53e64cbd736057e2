"""The store under pressure: eight processes write, two read, one of the writers is killed."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from contimg_resources.store.connection import Store
from contimg_resources.table_folders import replaced_folder

N_WRITERS, N_READERS, N_PARTITIONS, N_ROWS = 8, 2, 5, 40
WAIT_S = 60.0
SEED = 20260125


def rows(writer: int, partition: int) -> pl.DataFrame:
    """Light-curve points of one writer's partition."""
    names = [f"w{writer}-{index}" for index in range(N_ROWS)]
    epoch = float(partition)
    return pl.DataFrame(
        {"source_id": names, "epoch_mjd": epoch, "band": "full", "mjd": epoch, "flux_jy": 1.0, "flags": 0}
    )


def write(path: Path, writer: int, waits: Queue[float]) -> None:
    """Replace every partition twice: the second time must neither double nor lose a row."""
    store = Store(path, wait_s=WAIT_S)
    for partition in [*range(N_PARTITIONS)] * 2:
        began = time.monotonic()
        store.replace("light_curve", rows(writer, partition), partition_key=f"w{writer}-{partition}")
        waits.put(time.monotonic() - began)


def read(path: Path, waits: Queue[float], stop: Any) -> None:
    """Count until told to stop; a partition is whole or absent at every moment."""
    store = Store(path, wait_s=WAIT_S)
    while not stop.is_set():
        began = time.monotonic()
        counted = store.query("SELECT partition_key, count(*) AS n FROM light_curve GROUP BY 1")
        waits.put(time.monotonic() - began)
        assert set(counted["n"]) <= {N_ROWS}
        time.sleep(0.05)


@pytest.mark.timeout(300)
def test_eight_writers_two_readers_and_one_killed(tmp_path: Path) -> None:
    """Waits are bounded, readers see whole partitions only, and every row of the survivors is there once."""
    path = tmp_path / "contimg.duckdb"
    Store(path).initialise()
    context = multiprocessing.get_context("spawn")
    waits: Queue[float] = context.Queue()
    stop = context.Event()
    writers = [context.Process(target=write, args=(path, writer, waits)) for writer in range(N_WRITERS)]
    readers = [context.Process(target=read, args=(path, waits, stop)) for _ in range(N_READERS)]
    for process in [*writers, *readers]:
        process.start()
    waits.get(timeout=120)  # somebody works
    time.sleep(float(np.random.default_rng(SEED).uniform(0.2, 1.0)))
    writers[0].kill()
    longest = 0.0
    while any(writer.is_alive() for writer in writers):
        while not waits.empty():
            longest = max(longest, waits.get())
        time.sleep(0.02)
    stop.set()
    for process in readers:
        process.join(WAIT_S)
    assert [process.exitcode for process in [*writers[1:], *readers]] == [0] * (N_WRITERS - 1 + N_READERS)
    assert longest < WAIT_S
    store = Store(path)
    store.replace("light_curve", rows(0, 0), partition_key="w0-0")  # the file is sound and may be written
    found = store.query(
        "SELECT partition_key, count(*) AS n, count(DISTINCT source_id) AS n_names FROM light_curve GROUP BY ALL"
    )
    assert set(found["n"]) == set(found["n_names"]) == {N_ROWS}
    expected = {f"w{writer}-{partition}" for writer in range(1, N_WRITERS) for partition in range(N_PARTITIONS)}
    assert expected <= set(found["partition_key"])


def replace_often(target: Path, mark: str) -> None:
    """Make a product again and again, as a run that solves a table would."""
    for _ in range(60):
        with replaced_folder(target) as temporary:
            temporary.mkdir()
            (temporary / "first").write_text(mark)
            (temporary / "second").write_text(mark)


def test_two_runs_that_make_one_product_leave_one_whole_product(tmp_path: Path) -> None:
    """Two processes replace the same folder at once: none fails, and what stands is whole and of one of them."""
    target = tmp_path / "0300.abc.gcal"
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=replace_often, args=(target, mark)) for mark in "ab"]
    for run in runs:
        run.start()
    seen = set()
    while any(run.is_alive() for run in runs):
        seen.add(target.is_dir())
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    assert {path.name for path in tmp_path.iterdir()} == {target.name}
    assert (target / "first").read_text() == (target / "second").read_text()
    assert True in seen
