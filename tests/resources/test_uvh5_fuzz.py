"""Damaged raw files: two hundred seeded kinds of damage, each read in a process of its own that may die or hang."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from contimg_assets.science.simulation.array import small_array
from contimg_assets.science.simulation.instrument import InstrumentSettings
from contimg_assets.science.simulation.observe import ObservingSetup, prepare_observation, simulate_subband
from contimg_assets.science.simulation.sky import Source
from contimg_assets.science.simulation.variability import Constant
from contimg_resources.errors import RawFileError
from contimg_resources.uvh5 import read_observation, write_subband

N_CASES = 200
SEED = 20260127
TIMEOUT_S = 20.0
STAMP = "2026-01-10T07:52:39"
WRONG_VALUES = (
    np.array([], dtype=np.float64),
    np.float64(np.nan),
    np.array([[1.0, 2.0], [3.0, 4.0]]),
    np.bytes_(b"text"),
    np.int64(-1),
    np.int64(2**40),
    np.zeros((2, 2, 2), dtype=np.int8),
    np.full(7, np.inf),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Two sub-bands of a small observation as the telescope writes them."""
    folder = tmp_path_factory.mktemp("sound")
    setup = ObservingSetup(small_array(6), 16.66, 3, 4, InstrumentSettings(), seed=11)
    prepared = prepare_observation(setup, 61050.328229, 0, 0, ((Source("A", 110.1, 16.8, 3.0, -0.7), Constant()),))
    contents = []
    for number in (0, 1):
        path = folder / f"{STAMP}_sb{number:02d}.hdf5"
        write_subband(path, simulate_subband(prepared, number).columns(), reversed_slots=(5,))
        contents.append(path.read_bytes())
    return contents


def truncate(path: Path, rng: np.random.Generator) -> None:
    """Cut the file anywhere, its first bytes included."""
    os.truncate(path, int(rng.integers(0, path.stat().st_size)))


def flip_bytes(path: Path, rng: np.random.Generator) -> None:
    """Change up to 64 bytes anywhere; half of the time near the start, where HDF5 keeps its structure."""
    content = bytearray(path.read_bytes())
    last = len(content) if rng.random() < 0.5 else min(len(content), 4096)
    for place in rng.integers(0, last, size=int(rng.integers(1, 65))):
        content[place] = int(rng.integers(0, 256))
    path.write_bytes(content)


def blank_range(path: Path, rng: np.random.Generator) -> None:
    """Zeros where a block was never transferred."""
    content = bytearray(path.read_bytes())
    start = int(rng.integers(0, len(content)))
    end = min(len(content), start + int(rng.integers(1, 1 << 14)))
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def entries(file: h5py.File) -> list[str]:
    """Names of all datasets."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return sorted(names)


def replace_entry(path: Path, rng: np.random.Generator) -> None:
    """Give a dataset another type, shape or value."""
    with h5py.File(path, "r+") as file:
        names = entries(file)
        name = names[int(rng.integers(len(names)))]
        value = WRONG_VALUES[int(rng.integers(len(WRONG_VALUES)))]
        del file[name]
        file[name] = value


def remove_entry(path: Path, rng: np.random.Generator) -> None:
    """Leave a dataset or a group out, or put a group in the place of a dataset."""
    with h5py.File(path, "r+") as file:
        names = [*entries(file), "Header", "Data"]
        name = names[int(rng.integers(len(names)))]
        del file[name]
        if rng.random() < 0.3:
            file.create_group(name)


def reshape_bulk(path: Path, rng: np.random.Generator) -> None:
    """Visibilities, flags or weights with an axis cut, doubled or moved."""
    with h5py.File(path, "r+") as file:
        name = ("Data/visdata", "Data/flags", "Data/nsamples")[int(rng.integers(3))]
        bulk = file[name][()]
        axis = int(rng.integers(bulk.ndim))
        changed = (
            np.take(bulk, range(bulk.shape[axis] // 2), axis=axis),
            np.concatenate([bulk, bulk], axis=axis),
            np.moveaxis(bulk, axis, 0),
            bulk.ravel(),
        )[int(rng.integers(4))]
        del file[name]
        file[name] = changed


DAMAGES = (truncate, flip_bytes, flip_bytes, blank_range, replace_entry, replace_entry, remove_entry, reshape_bulk)


def sound_files(folder: Path, contents: list[bytes]) -> list[Path]:
    """Copies of the sound files in a folder of their own."""
    folder.mkdir()
    paths = [folder / f"{STAMP}_sb{number:02d}.hdf5" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def _read(paths: list[Path], answer: Path) -> None:
    """Read in the child: what came of it is written to a file, which a process that dies does not get to."""
    try:
        read_observation(paths)
    except RawFileError as error:
        answer.write_text(error.reason_code)
    else:
        answer.write_text("read")


@pytest.mark.timeout(300)
def test_damaged_files_are_errors_with_a_reason_never_a_crash_or_a_hang(sound: list[bytes], tmp_path: Path) -> None:
    """Of 200 damaged files each is refused with a reason code or read (damage in numbers), within seconds, by a living process."""
    context = multiprocessing.get_context("fork")
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    read_observation(sound_files(tmp_path / "sound", sound))  # kernels are loaded once, here, and not in each child
    for case in range(N_CASES):
        rng = np.random.default_rng([SEED, case])
        folder = tmp_path / str(case)
        paths = sound_files(folder, sound)
        damage = DAMAGES[case % len(DAMAGES)]
        damage(paths[int(rng.integers(len(paths)))], rng)
        worker = context.Process(target=_read, args=(paths, folder / "answer"))
        started = time.monotonic()
        worker.start()
        worker.join(TIMEOUT_S)
        if worker.exitcode is None:
            worker.kill()
            worker.join()
        took_s = time.monotonic() - started
        outcome = (folder / "answer").read_text() if (folder / "answer").exists() else "no answer"
        outcomes[outcome] += 1
        if worker.exitcode != 0 or outcome == "no answer":
            died = signal.Signals(-worker.exitcode).name if (worker.exitcode or 0) < 0 else f"exit {worker.exitcode}"
            wrong.append(f"case {case} ({damage.__name__}): {died} after {took_s:.1f} s")
    assert not wrong, "\n".join(wrong)
    assert sum(outcomes.values()) == N_CASES
    assert sum(count for outcome, count in outcomes.items() if outcome != "read") > N_CASES // 3
    assert "" not in outcomes
