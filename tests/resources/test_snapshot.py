"""The store read from its copy: the same answers, also while somebody writes, and how old they are."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from contimg_resources.errors import StoreBusyError, StoreError
from contimg_resources.store import listings, queries
from contimg_resources.store.connection import Store
from contimg_resources.store.mirror import CopySizes
from contimg_resources.store.snapshot import SnapshotStore

SMALL = CopySizes()
LARGE = CopySizes(small_file_bytes=0, largest_table=50, rows_at_once=60)
"""A store of a few rows treated as one of millions."""
_HOLD = """
import sys, time
from pathlib import Path
from contimg_resources.store.connection import Store
with Store(Path(sys.argv[1])).transaction():
    print("held", flush=True)
    sys.stdin.read()
"""


def _points(day, n_sources=20, seed=0):
    noise = np.random.default_rng([seed, day])
    return pl.DataFrame(
        {
            "source_id": [f"J{k:04d}" for k in range(n_sources)],
            "epoch_mjd": 61_000.5 + day,
            "band": "full",
            "mjd": 61_000.5 + day,
            "flux_jy": noise.random(n_sources),
            "flux_err_jy": 0.01,
            "flags": 0,
        }
    )


def _statistics(day, n_sources=20):
    points = _points(day, n_sources).select("source_id", "band", eta=pl.col("flux_jy"))
    return points.with_columns(as_of_mjd=61_001.0 + day, n_epochs=day + 1)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store with ten days of points and statistics, and sources; not to be written."""
    made = Store(tmp_path_factory.mktemp("filled") / "contimg.duckdb", wait_s=60)
    names = [f"J{k:04d}" for k in range(20)]
    made.upsert("source", pl.DataFrame({"source_id": names, "ra_deg": 1.0, "dec_deg": 2.0}))
    for day in range(10):
        made.replace("light_curve", _points(day), partition_key=f"d{day}")
        made.replace("variability_statistics", _statistics(day), partition_key=f"d{day}")
    photometry = _points(0, 60).select("source_id", "band", "mjd", "flags", observation_id=pl.lit("o"))
    made.replace("forced_photometry", photometry, partition_key="o")
    return made


@pytest.fixture
def store(filled, tmp_path):
    """A store of its own with the same rows."""
    return Store(Path(shutil.copy(filled.path, tmp_path)), wait_s=60)


@pytest.fixture(params=[SMALL, LARGE], ids=["small", "large"])
def copied(request, store):
    """The store read from a complete copy."""
    made = SnapshotStore(store.path, wait_s=60, sizes=request.param)
    _wait_for_copy(made)
    yield made
    made.close()


def _wait_for_copy(made, generation=0):
    deadline = time.monotonic() + 30
    while made.age_s != 0.0 or (made.generation() or 0) <= generation:
        queries.counts(made)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _answers(asked):
    return [
        queries.ranked_sources(asked, limit=100),
        queries.statistics_of(asked, "J0003"),
        *(queries.light_curve(asked, f"J{k:04d}") for k in range(20)),
        listings.rows(asked, "forced_photometry", limit=100),
        asked.query("SELECT count(*), sum(flux_jy) FROM light_curve").select("count_star()"),
    ]


def test_copy_answers_as_the_file(store, copied):
    """Every question has the same answer, whether a table was copied whole, by partition, or not at all."""
    for from_copy, from_file in zip(_answers(copied), _answers(store), strict=True):
        assert from_copy.equals(from_file)


@pytest.mark.parametrize("days", [[3], [10, 11], [3, 10]], ids=["replaced", "added", "both"])
def test_copy_follows_the_file(store, copied, days):
    """Partitions made again, added and deleted are so in the copy; a change is a new generation."""
    generation = copied.generation()
    for day in days:
        store.replace("light_curve", _points(day, seed=1), partition_key=f"d{day}")
        store.replace("variability_statistics", _statistics(day + 20), partition_key=f"d{day}")
    store.delete("light_curve", partition_key="d7")
    store.upsert("source", pl.DataFrame({"source_id": ["J0003"], "ra_deg": [9.0], "dec_deg": [2.0]}))
    _wait_for_copy(copied, generation)
    for from_copy, from_file in zip(_answers(copied), _answers(store), strict=True):
        assert from_copy.equals(from_file)


def test_an_answer_is_the_same_however_often_it_is_asked(store, copied):
    """Few rows leave DuckDB in another way from the second time on; names, types and values stay, many rows or few."""
    for sql in (
        "SELECT * FROM light_curve ORDER BY ALL LIMIT $n",
        "SELECT *, [1] AS l FROM source ORDER BY ALL LIMIT $n",
    ):
        expected = store.query(sql, {"n": 7})
        for _ in range(3):
            assert copied.query(sql, {"n": 7}).equals(expected)
            assert copied.query(sql, {"n": 7}).schema == expected.schema
    many = "SELECT a.source_id, a.mjd FROM light_curve a, light_curve b ORDER BY ALL LIMIT $n"
    assert [copied.query(many, {"n": n}).height for n in (3, 3, 900, 900, 3, 0)] == [3, 3, 900, 900, 3, 0]


def test_rows_changed_by_hand_are_copied(store, copied):
    """A table whose noted content is not what it holds is not trusted to be what was noted."""
    generation = copied.generation()
    with store.transaction() as connection:
        connection.execute("DELETE FROM light_curve WHERE source_id = 'J0003' AND partition_key = 'd2'")
    _wait_for_copy(copied, generation)
    assert queries.light_curve(copied, "J0003").height == queries.light_curve(store, "J0003").height == 9


def test_pages_are_answered_while_a_writer_holds_the_file(copied):
    """With the file locked by another process, answers come from the copy at once and their age is known."""
    command = [sys.executable, "-c", _HOLD, str(copied.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert "held\n" in iter(holder.stdout.readline, "")  # after what it may say about waiting
        copied.path.touch()  # as if it had been written, so that the copy wants to be renewed
        started = time.monotonic()
        assert queries.light_curve(copied, "J0003").height == 10
        assert queries.ranked_sources(copied, limit=5).height == 5
        assert time.monotonic() - started < 20.0  # the file is waited for 60 s
        assert copied.age_s > 0.0
        with pytest.raises(StoreBusyError):
            Store(copied.path, wait_s=0.1).query("SELECT 1")
        holder.communicate("")


def test_own_writing_is_seen_at_once(copied):
    """Whoever writes through the portal reads what was written."""
    copied.upsert("source", pl.DataFrame({"source_id": ["X"], "ra_deg": [1.0], "dec_deg": [2.0]}))
    assert queries.source(copied, "X") is not None


def test_one_moment_stays_one_moment(store, copied):
    """Answers in a block are of one moment although the file is written meanwhile; the file is asked for what is not copied."""
    with copied.reading() as connection:
        (before,) = connection.execute("SELECT count(*) FROM source").fetchall()
        copied.upsert("source", pl.DataFrame({"source_id": ["X"], "ra_deg": [1.0], "dec_deg": [2.0]}))
        assert connection.execute("SELECT count(*) FROM source").fetchall() == [before]
        assert connection.sql("SELECT count(*) FROM forced_photometry").fetchall() == [(60,)]
    assert store.query("SELECT count(*) FROM source").item() == before[0] + 1


def test_store_that_is_gone_is_said_to_be(copied):
    """A copy does not hide that there is no store any more."""
    copied.path.unlink()
    with pytest.raises(StoreError, match="There is no store"):
        queries.counts(copied)
