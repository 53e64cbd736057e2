"""A small campaign run through the real assets, one process per step, any of which can be killed at a chosen point.

Each step is a fork of a warm process, as ``contimg_resources.run_launcher`` starts runs, and works on a Dagster instance,
a store and products on disk. A point is the n-th file operation of Python in the process (open, rename, remove, mkdir:
where half a product could be left) or a fraction of the time that the step takes.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from contimg_resources.products import Products
from contimg_resources.store.connection import Store
from contimg_resources.store.makings import REMAKE_TAG
from contimg_resources.store.schema import TABLES

FILE_OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}
LOGS = {"stage_timing", "dead_letter", "dead_letter_event", "heartbeat", "alert", "alert_history", "arrival_decision"}
LOGS |= {"alert_condition", "breaker", "breaker_event", "setting_change"}
"""Tables that say what happened and when, which a run that was killed changes."""
ORDER_OF_WORK = "solutions_are_stable_in_time"
"""The check that compares a calibration table with those there are when it is judged: with a killed transit, others than else."""
WALL_TIME = {"run_id", "at", "first_seen_at", "complete_at", "modified_at", "requested_at", "started_at"}

_HOLDER = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1], config={"storage_compatibility_version": "v1.0.0"})
connection.execute("BEGIN; CREATE TABLE held (x INTEGER)")
print("held", flush=True)
time.sleep(2)
"""


@dataclass(frozen=True)
class Step:
    """One run of the platform."""

    name: str
    job: str
    partition_key: str | None = None
    assets: tuple[str, ...] | None = None
    remake: bool = False
    """Whether everything is made again, also from unchanged inputs."""


@dataclass(frozen=True)
class Trouble:
    """What happens to a step, and when: after so many file operations or, in the parent, so many seconds."""

    kind: str = "none"
    operations: int = 0
    seconds: float = 0.0
    spare_bytes: int = 0
    """What a disk that fills up has left at that moment."""


ARRIVALS = Step("arrivals", "arrivals")
KILLS = int(os.environ.get("KILLS", "10"))
"""SIGKILLs in all; ``make chaos`` has 100."""
DAEMON_ROUNDS = max(1, KILLS // 20)
"""Campaigns under a daemon, of ``KILLS_PER_ROUND`` each. More kills of one campaign would use up the retries of its few runs, whose
dead letters then wait for a person, as they should."""
KILLS_PER_ROUND = {"worker": 1, "daemon": 2, "everything": 4}
"""What is killed, each after so many runs that succeeded (the catalogue, the transit, its bandpass...)."""
FILLER = "filler"
"""File that takes up a disk, beside the data folder."""


def hold_store(path: Path) -> subprocess.Popen[str]:
    """A process that keeps the store for two seconds."""
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def fill_disk(filler: Path, spare_bytes: int) -> None:
    """Write to a file until the disk is full, and give a little of it back."""
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 20))
    with filler.open("ab") as stream:
        stream.truncate(max(0, filler.stat().st_size - spare_bytes))


def _count_operations(trouble: Trouble, filler: Path) -> Callable[[], int]:
    """Count file operations of this process, and let the trouble happen at its point; give what reads the count."""
    n_operations = 0

    def hook(event: str, _arguments: tuple[Any, ...]) -> None:
        nonlocal n_operations
        if event not in FILE_OPERATIONS:
            return
        n_operations += 1
        if n_operations == trouble.operations and trouble.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if n_operations == trouble.operations and trouble.kind == "disk full":
            fill_disk(filler, trouble.spare_bytes)

    sys.addaudithook(hook)
    return lambda: n_operations


def _perform(step: Step, environment: dict[str, str], home: str, counted: Path, trouble: Trouble) -> None:
    """Run a step in the forked process; the exit code says whether it succeeded."""
    import dagster as dg

    from contimg_assets.arrivals import observe_arrivals
    from contimg_assets.definitions import defs
    from contimg_resources.configurable import Observatory

    os.environ.update(environment)
    with dg.DagsterInstance.local_temp(home) as instance:
        counter = _count_operations(trouble, Path(environment["CONTIMG_DATA"]).with_name(FILLER))
        if step.job == "arrivals":
            observe_arrivals(Observatory())
            is_done = True
        else:
            is_done = (
                defs.resolve_job_def(step.job)
                .execute_in_process(
                    partition_key=step.partition_key,
                    instance=instance,
                    asset_selection=None if step.assets is None else [dg.AssetKey(name) for name in step.assets],
                    tags={REMAKE_TAG: "yes"} if step.remake else None,
                    raise_on_error=False,
                )
                .success
            )
    if trouble.kind == "none":
        counted.write_text(str(counter()))
    sys.exit(0 if is_done else 1)


class Campaign:
    """One data folder and Dagster instance, and what the steps cost there."""

    def __init__(self, root: Path, raw: Path) -> None:
        self.root, self.raw = root, raw
        self.data = root / "data"
        (root / "home").mkdir(parents=True)
        self.environment = {
            "CONTIMG_DATA": str(self.data),
            "CONTIMG_INCOMING": str(raw / "incoming"),
            "CONTIMG_CATALOGUE": str(raw / "truth" / "catalogue.parquet"),
            "CONTIMG_THREADS": "1",
            "CONTIMG_MINIMUM_FREE_GB": "0",
        }
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, int] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["contimg_assets.warm"])

    @property
    def store(self) -> Store:
        """The store of this campaign."""
        return Store(Products(self.data).store_path)

    def run(self, step: Step, trouble: Trouble = Trouble()) -> int:
        """Run a step, with trouble or without; return its exit code, negative for a signal."""
        counted = self.root / f"{step.name}.operations"
        process = self._context.Process(
            target=_perform, args=(step, self.environment, str(self.root / "home"), counted, trouble)
        )
        began = time.monotonic()
        process.start()
        if trouble.kind == "kill" and trouble.seconds:
            process.join(trouble.seconds)
            process.kill()
        process.join()
        if trouble.kind == "none":
            self.seconds[step.name] = time.monotonic() - began
            if counted.exists():
                self.operations[step.name] = int(counted.read_text())
        return int(process.exitcode or 0)

    def steps(self) -> list[Step]:
        """All runs in the order in which the sensors would ask for them; arrivals must have been seen."""
        found = self.store.query("SELECT partition_key FROM observation ORDER BY calibrator NULLS LAST")
        transit, field = found["partition_key"].to_list()
        day = transit[:10]
        hours = sorted({f"{key[:10]}-{key[11:13]}:00" for key in (transit, field)})
        return [
            Step("catalogue", "catalogue_job"),
            Step("conversion", "observation_job", transit, ("measurement_set",)),
            Step("calibration", "bandpass_job", day),
            Step("whole transit", "observation_job", transit),
            Step("whole observation", "observation_job", field),
            *(Step(f"mosaic of {hour}", "mosaic_job", hour) for hour in hours),
            Step("day", "daily_job", day),
        ]

    def content(self) -> dict[str, pl.DataFrame]:
        """Rows of every table whose rows follow from the data, without times of day, runs and the place of the folder."""
        return rows_to_compare(self.store, (self.root, self.raw))

    def products(self) -> dict[str, Any]:
        """Every visible product by its place, with what it says."""
        folder = self.data / "products"
        places = [
            path
            for path in sorted(folder.rglob("*"))
            if not any(part[0] == "." for part in path.relative_to(folder).parts)
        ]
        tables = [path for path in places if path.suffix in {".ms", ".bcal", ".gcal"}]
        files = [path for path in places if path.is_file() and not any(table in path.parents for table in tables)]
        files = [path for path in files if not LOGS & set(path.relative_to(folder).parts)]
        return {str(path.relative_to(folder)): digest(path, (self.root, self.raw)) for path in [*tables, *files]}


def rows_to_compare(store: Store, places: Sequence[Path]) -> dict[str, pl.DataFrame]:
    """Rows of every table whose rows follow from the data, without times of day, runs and the folders they name."""
    rows = {}
    for table in sorted(set(TABLES) - LOGS):
        frame = store.query(f"SELECT * FROM {table} ORDER BY {', '.join(TABLES[table].key)}")
        frame = frame.drop(name for name in frame.columns if name in WALL_TIME)
        if table == "check_result":
            frame = frame.filter(pl.col("check_name") != ORDER_OF_WORK)
        for place in places:
            frame = frame.with_columns(pl.col(pl.String).str.replace_all(str(place), "", literal=True))
        rows[table] = frame
    return rows


def digest(path: Path, places: tuple[Path, ...]) -> Any:
    """What a product says, without the folders it names, in a form to compare; the report carries the time it was made."""
    from contimg_resources.calibration_tables import content_hash
    from contimg_resources.measurement_sets import read_measurement_set

    if path.suffix == ".ms":
        columns = read_measurement_set(path)
        return {name: np.asarray(value).tobytes() for name, value in columns.items() if isinstance(value, np.ndarray)}
    if path.suffix in {".bcal", ".gcal"}:
        return content_hash(path)
    if path.suffix == ".parquet":
        rows = pl.read_parquet(path)
        rows = rows.drop(name for name in rows.columns if name in WALL_TIME)
        if "check_name" in rows.columns:
            rows = rows.filter(pl.col("check_name") != ORDER_OF_WORK)
        for place in places:
            rows = rows.with_columns(pl.col(pl.String).str.replace_all(str(place), "", literal=True))
        return rows.rows()
    if path.suffix == ".json":
        text = path.read_text()
        for place in places:
            text = text.replace(str(place), "")
        return json.loads(text)
    return "a report" if path.suffix == ".html" else path.read_bytes()


def assert_equal(disturbed: Campaign, undisturbed: Campaign) -> None:
    """Store and products are equal, row by row and file by file."""
    expected, found = undisturbed.content(), disturbed.content()
    assert expected["light_curve"].height > 0
    different = [table for table, rows in expected.items() if not rows.equals(found[table])]
    assert not different, "\n".join(f"{table}: expected {expected[table]}, found {found[table]}" for table in different)
    products, made = undisturbed.products(), disturbed.products()
    assert sorted(made) == sorted(products)
    differing = [place for place, content in products.items() if made[place] != content]
    assert not differing, (
        f"other content: {differing}, e.g. {made[differing[0]]!r:.500}, not {products[differing[0]]!r:.500}"
    )
