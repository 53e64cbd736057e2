"""A look at a folder costs what is new, misses nothing, and takes nothing that is still written."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from contimg_resources.folder_watch import FileState, FolderWatch

NOW_S = 1_772_000_000.0


def put(folder: Path, subband: int, *, n_bytes: int = 10, at_s: float = NOW_S) -> Path:
    """Write a file as of a time."""
    path = folder / f"2026-02-25T06:00:00_sb{subband:02d}.hdf5"
    path.write_bytes(b"x" * n_bytes)
    os.utime(path, (at_s, at_s))
    return path


def take(watch: FolderWatch, now_s: float, *, suspect: bool = False) -> list[str]:
    """Look, and record all that is quiet."""
    quiet = watch.look(now_s).quiet
    names = [path.name for path in quiet]
    watch.acknowledge({path.name: watch.state(path) for path in quiet}, names if suspect else [], now_s)
    return [name[-9:-5] for name in names]


@pytest.fixture
def watch(tmp_path: Path) -> FolderWatch:
    """A watch of the test's folder."""
    return FolderWatch(tmp_path, settle_s=2.0)


def test_a_file_is_taken_once_it_is_quiet(watch: FolderWatch, tmp_path: Path):
    """Not while it grows, not in the moment after, then once and never again."""
    put(tmp_path, 0, n_bytes=10, at_s=NOW_S)
    assert take(watch, NOW_S + 1.0) == []
    put(tmp_path, 0, n_bytes=20, at_s=NOW_S + 2.0)
    assert take(watch, NOW_S + 3.0) == []
    assert take(watch, NOW_S + 4.0) == ["sb00"]
    assert take(watch, NOW_S + 9.0) == []


def test_a_file_with_a_time_of_the_future_is_quiet_when_it_stays_the_same(watch: FolderWatch, tmp_path: Path):
    """A file server's clock may be ahead."""
    put(tmp_path, 0, at_s=NOW_S + 3600.0)
    assert take(watch, NOW_S) == []
    assert take(watch, NOW_S + 2.0) == ["sb00"]


def test_unfinished_names_are_not_there(watch: FolderWatch, tmp_path: Path):
    """Neither what the correlator still writes nor what rsync still transfers."""
    for name in ("2026-02-25T06:00:00_sb00_incomplete.hdf5", ".2026-02-25T06:00:00_sb00.hdf5.x7Y"):
        (tmp_path / name).touch()
    assert take(watch, NOW_S + 1e6) == []


def test_names_are_not_missed_when_a_folder_keeps_its_time(watch: FolderWatch, tmp_path: Path):
    """A file that comes in the same moment as the look before is found by the next one."""
    put(tmp_path, 0, at_s=NOW_S - 60.0)
    os.utime(tmp_path, (NOW_S, NOW_S))
    assert take(watch, NOW_S) == ["sb00"]
    put(tmp_path, 1, at_s=NOW_S - 60.0)
    os.utime(tmp_path, (NOW_S, NOW_S))
    assert take(watch, NOW_S + 1.0) == ["sb01"]


def test_a_file_replaced_in_its_place_is_seen(watch: FolderWatch, tmp_path: Path):
    """Of the same size but a newer time: at once if it could not be used or is recent, else within the hour."""
    put(tmp_path, 0, at_s=NOW_S - 60.0)
    assert take(watch, NOW_S, suspect=True) == ["sb00"]
    put(tmp_path, 1, at_s=NOW_S - 60.0)
    assert take(watch, NOW_S + 5.0) == ["sb01"]
    later = NOW_S + 3000.0
    put(tmp_path, 0, at_s=later - 10.0)
    put(tmp_path, 1, at_s=later - 10.0)
    assert take(watch, later) == ["sb00", "sb01"]

    later += 3700.0
    assert take(watch, later) == []  # a full look
    put(tmp_path, 1, at_s=later + 10.0)
    assert take(watch, later + 20.0) == []
    assert take(watch, later + 3600.0) == ["sb01"]


def test_what_is_gone_is_said_until_it_is_forgotten(watch: FolderWatch, tmp_path: Path):
    """And a folder that is not there at all has lost nothing."""
    path = put(tmp_path, 0, at_s=NOW_S - 60.0)
    take(watch, NOW_S)
    path.unlink()
    assert watch.look(NOW_S + 5.0).gone == [path]
    watch.forget([path])
    assert watch.look(NOW_S + 10.0).gone == []
    other = FolderWatch(tmp_path / "unmounted", settle_s=2.0)
    other.remember({path.name: FileState(10, None)}, [])
    assert other.look(NOW_S).gone == []


def test_what_the_store_knows_is_not_new(watch: FolderWatch, tmp_path: Path):
    """With or without the time in its row; another size is news."""
    paths = [put(tmp_path, subband, at_s=NOW_S - 60.0) for subband in range(3)]
    time_us = int((NOW_S - 60.0) * 1e6)
    known = [FileState(10, None), FileState(10, time_us), FileState(11, None)]
    watch.remember(dict(zip((path.name for path in paths), known, strict=True)), [])
    assert take(watch, NOW_S) == ["sb02"]


def test_memory_does_not_grow(watch: FolderWatch, tmp_path: Path):
    """Ten thousand looks, five seconds apart, leave no more behind than the first thousand."""
    for subband in range(16):
        put(tmp_path, subband, at_s=NOW_S - 60.0)
    tracemalloc.start()
    try:
        for number in range(1_000):
            take(watch, NOW_S + 5.0 * number)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1_000, 10_000):
            take(watch, NOW_S + 5.0 * number)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000
