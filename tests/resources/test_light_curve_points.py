"""Points of sources out of the store: always what the table holds, whatever was written, in which order, and kept where."""

import shutil

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contimg_assets.science.variability import variability_statistics
from contimg_resources.store.connection import Store
from contimg_resources.store.light_curves import marks_of_sources, points_of_sources, points_until
from contimg_resources.store.source_order import VALUES, BlockSizes, open_blocks, table_marks

SMALL = BlockSizes(smallest=20, largest=200)
"""Blocks of some days of the tables below."""

SOURCES = [f"J{k:04d}+1600" for k in range(12)]
WANTED = [SOURCES[3], SOURCES[7], "J9999+9999"]
START_MJD = 61100.0


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    made = Store(tmp_path / "contimg.duckdb", wait_s=30)
    made.initialise()
    return made


def day_of_points(day, *, made=0, sources=SOURCES):
    """Two bands of some sources on a day; ``made`` counts the contents the day has had; every seventh flux is missing."""
    rng = np.random.default_rng([day, made])
    frame = pl.DataFrame({"source_id": sources}).join(pl.DataFrame({"band": ["full", "sb00"]}), how="cross")
    flux = [None if k % 7 == day % 7 else value for k, value in enumerate(rng.uniform(0.1, 1.0, frame.height))]
    return frame.with_columns(
        epoch_mjd=pl.lit(START_MJD + day + 0.5),
        mjd=START_MJD + day + pl.Series(rng.uniform(0.4, 0.6, frame.height)),
        frequency_hz=pl.lit(1.4e9),
        flux_jy=pl.Series(flux, dtype=pl.Float64),
        flux_err_jy=pl.lit(0.05),
        flux_sys_err_jy=pl.lit(0.01),
        n_observations=pl.lit(3),
        flags=pl.lit(0),
    ).sample(fraction=1.0, shuffle=True, seed=day)


def write(store, day, **content):
    """Replace a day."""
    store.replace("light_curve", day_of_points(day, **content), partition_key=f"2026-03-{day + 1:02d}")


def in_the_table(store, before_mjd, source_ids=None):
    """What the table says, asked in plain SQL."""
    columns = ", ".join(("source_id", "band", *VALUES))
    rows = store.query(
        f"SELECT {columns} FROM light_curve WHERE mjd < {before_mjd} ORDER BY source_id, band, epoch_mjd"
    )
    return rows if source_ids is None else rows.filter(pl.col("source_id").is_in(source_ids))


def assert_true(store):
    """All questions are answered as the table answers them, now and at an earlier time."""
    for before_mjd in (START_MJD + 4.5, START_MJD + 40.0):
        assert points_of_sources(store, WANTED, before_mjd, SMALL).equals(in_the_table(store, before_mjd, WANTED))
        every = in_the_table(store, before_mjd)
        assert points_until(store, before_mjd, SMALL).equals(every)
        marks = marks_of_sources(store, before_mjd, SMALL)
        assert marks.equals(table_marks(every).select(marks.columns))
        times = every.group_by("source_id").agg(first=pl.col("mjd").min(), newest=pl.col("mjd").max())
        assert marks.select("source_id", first="first_mjd", newest="newest_mjd").equals(times.sort("source_id"))


def blocks_of(store):
    """The blocks kept beside a store."""
    return open_blocks(store.path.parent / "light_curves_by_source")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["first", "second", "fewer", "none", "delete"]), st.booleans()),
        min_size=1,
        max_size=14,
    )
)
def test_points_are_those_of_the_table_after_any_history(tmp_path_factory, steps):
    """Days written in any order, again, with another content, with fewer sources, emptied or deleted: no point is old."""
    store = Store(tmp_path_factory.mktemp("store") / "contimg.duckdb", wait_s=30)
    store.initialise()
    for day, content, looks in steps:
        if content == "delete":
            store.delete("light_curve", partition_key=f"2026-03-{day + 1:02d}")
        else:
            sources = {"fewer": SOURCES[::2], "none": []}.get(content, SOURCES)
            write(store, day, made=int(content == "second"), sources=sources)
        if looks:
            assert_true(store)
    assert_true(store)


def test_a_day_made_again_is_read_anew_and_the_same_day_is_not(store):
    """A re-run leaves the blocks as they are; another content takes the day out of its block, the first one puts it back."""
    for day in range(6):
        write(store, day)
    assert_true(store)
    (block,) = blocks_of(store)
    assert sorted(block.partitions) == [f"2026-03-{day:02d}" for day in range(1, 6)]  # not the newest
    write(store, 2)
    assert_true(store)
    assert [again.name for again in blocks_of(store)] == [block.name]
    write(store, 2, made=1)
    assert_true(store)
    write(store, 2)
    assert_true(store)


def test_blocks_stay_few(store):
    """Small blocks become larger ones: their number grows with the logarithm of the days up to the largest size."""
    sizes = BlockSizes(smallest=20, largest=100_000)
    for day in range(28):
        write(store, day)
        points_of_sources(store, WANTED, START_MJD + 40.0, sizes)
    blocks = blocks_of(store)
    assert len(blocks) <= 5
    assert sum(block.rows.size for block in blocks) == 27 * 24
    assert len(list((store.path.parent / "light_curves_by_source").glob("*.npy"))) == 3 * len(blocks)


def test_blocks_are_no_larger_than_they_may_be(store):
    """A store that had no blocks gets several, each of about the largest size."""
    for day in range(28):
        write(store, day)
    assert_true(store)
    assert {block.rows.size for block in blocks_of(store)} <= {216}  # nine days of 24 rows reach 200
    assert len(blocks_of(store)) == 3


@pytest.mark.parametrize("loss", ["folder", "rows", "sources", "starts"])
def test_lost_blocks_are_made_again(store, loss):
    """The files are a copy: without them the same points come out of the table."""
    for day in range(6):
        write(store, day)
    assert_true(store)
    folder = store.path.parent / "light_curves_by_source"
    if loss == "folder":
        shutil.rmtree(folder)
    else:
        next(folder.glob(f"*.{loss}.npy")).unlink()
    assert_true(store)
    assert len(blocks_of(store)) == 1


def test_statistics_do_not_depend_on_the_order_of_days(tmp_path):
    """Days in order, backwards, and in order but made twice give the same statistics to the last bit, at any time."""
    found = []
    for name, days in {
        "forwards": [*range(12)],
        "backwards": [*range(11, -1, -1)],
        "twice": [*range(12), 3, 7, 3],
    }.items():
        store = Store(tmp_path / name / "contimg.duckdb", wait_s=30)
        for day in days:
            write(store, day)
            points_of_sources(store, WANTED, START_MJD + 40.0, SMALL)
        until = START_MJD + 9.0
        touched = variability_statistics(points_of_sources(store, SOURCES[:4], until, SMALL), until)
        whole = variability_statistics(in_the_table(store, until), until)
        assert touched.equals(whole.filter(pl.col("source_id").is_in(SOURCES[:4])))
        found.append(touched)
    assert found[0].height == 8
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_rows_changed_by_hand_are_seen(store):
    """After rows were deleted with SQL, past everything that is noted, blocks are not believed."""
    for day in range(10):
        write(store, day)
    assert points_until(store, START_MJD + 100.0, SMALL).height == 240
    with store.transaction() as connection:
        connection.execute("DELETE FROM light_curve WHERE partition_key = '2026-03-02' AND band = 'full'")
    assert points_until(store, START_MJD + 100.0, SMALL).equals(in_the_table(store, START_MJD + 100.0))
    assert points_of_sources(store, WANTED, START_MJD + 100.0, SMALL).height == 2 * (20 - 1)


@pytest.mark.parametrize("name", VALUES)
def test_a_mark_changes_with_any_number_of_any_point(name, store):
    """One number of one point a little larger, or missing, is another mark for its source, and for no other."""
    for day in range(3):
        write(store, day)
    table = in_the_table(store, 1e9)
    before = table_marks(table)
    place = table.with_row_index().filter(pl.col("flux_jy").is_not_null(), source_id=SOURCES[4])["index"][0]
    for value in (table[name][place] * (1.0 + 1e-15) + 1e-300, None):
        changed = pl.when(pl.int_range(pl.len()) == place).then(pl.lit(value, pl.Float64)).otherwise(pl.col(name))
        after = table_marks(table.with_columns(changed.alias(name)))
        differ = before.filter(before["mark"] != after["mark"])["source_id"]
        assert differ.to_list() == [SOURCES[4]]


def test_a_point_moved_to_another_band_or_day_is_another_mark(store):
    """The band's name is part of the point; which partition holds it is not."""
    write(store, 0)
    table = in_the_table(store, 1e9)
    renamed = table.with_columns(band=pl.col("band").replace("sb00", "sb01"))
    assert not set(table_marks(table)["mark"]) & set(table_marks(renamed)["mark"])
    store.delete("light_curve", partition_key="2026-03-01")
    store.replace("light_curve", day_of_points(0), partition_key="2026-03-31")
    assert marks_of_sources(store, 1e9, SMALL).equals(
        table_marks(table).select("source_id", "mark", "first_mjd", "newest_mjd")
    )
