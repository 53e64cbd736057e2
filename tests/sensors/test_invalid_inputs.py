"""Bad raw files end in quarantine with a reason, and the observation runs by itself when good ones take their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import dagster as dg
import h5py
import numpy as np
import pytest

from contimg_portal.commands.group import replayed_decisions
from contimg_sensors.arrivals import observation_requests
from tests.sensors.raw_folder import START, RawFolder, raw_bytes

N_EACH = 10
CADENCE = timedelta(seconds=309)


def changed(content: bytes, scratch: Path, change: Callable[[h5py.File], None]) -> bytes:
    """The same file with something else in it."""
    path = scratch / "changed"
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        change(file)
    return path.read_bytes()


def cut_data(file: h5py.File) -> None:
    """Fewer rows than the header says."""
    del file["Data/visdata"]
    file["Data/visdata"] = np.ones((2, 1, 2, 2), dtype=complex)


def unwritten_data(file: h5py.File) -> None:
    """An array that was announced and never written."""
    del file["Data/visdata"]
    file["Data"].create_dataset("visdata", (4, 1, 2, 2), dtype=complex)


def lose_a_header_entry(file: h5py.File) -> None:
    """No polarisations."""
    del file["Header/polarization_array"]


def lose_the_clock(file: h5py.File) -> None:
    """What the correlator writes without its clock."""
    file["Header/time_array"][...] += 2_455_000.5 - file["Header/time_array"][0]


def rename_telescope(file: h5py.File) -> None:
    """Of somebody else."""
    del file["Header/telescope_name"]
    file["Header/telescope_name"] = np.bytes_("VLA")


BROKEN: dict[str, tuple[str, Callable[[bytes, Path], bytes]]] = {
    "zero bytes": ("zero_byte_file", lambda _content, _scratch: b""),
    "text": ("not_hdf5", lambda _content, _scratch: b"no such file or directory\n"),
    "cut": ("truncated_file", lambda content, _scratch: content[: len(content) // 2]),
    "rows missing": ("truncated_file", lambda content, scratch: changed(content, scratch, cut_data)),
    "never written": ("truncated_file", lambda content, scratch: changed(content, scratch, unwritten_data)),
    "header entry": ("malformed_header", lambda content, scratch: changed(content, scratch, lose_a_header_entry)),
    "clock": ("wrong_clock", lambda content, scratch: changed(content, scratch, lose_the_clock)),
    "telescope": ("other_telescope", lambda content, scratch: changed(content, scratch, rename_telescope)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_ten_broken_observations_of_a_kind_are_quarantined_and_run_when_replaced(
    raw_folder: RawFolder, kind, monkeypatch
):
    """Five broken sub-bands of sixteen: quarantined after the wait, with the reason; whole files then make it run."""
    reason, spoil = BROKEN[kind]
    monkeypatch.setenv("CONTIMG_SEASON_END", "2026-02-28")
    good, broken = [], []
    for number in range(N_EACH):
        start = START + number * CADENCE
        content = raw_bytes(raw_folder.root, start)
        good.append(content)
        bad = spoil(content, raw_folder.root)
        for subband in range(16):
            path = raw_folder.put(start, subband, bad if subband < 5 else content)
            if subband < 5:
                broken.append((path, content))
    assert raw_folder.tick() == 0
    assert raw_folder.rows("SELECT count(*) FROM raw_file WHERE status = 'usable'") == [(11 * N_EACH,)]
    raw_folder.tick(after_s=61.0)  # quiet long enough to be believed broken
    assert raw_folder.states() == [("collecting", None)] * N_EACH
    raw_folder.tick(after_s=600.0)
    assert raw_folder.states() == [("quarantined", reason)] * N_EACH
    files = raw_folder.rows("SELECT status, reason_code FROM raw_file")
    assert Counter(files) == {("usable", None): 11 * N_EACH, ("corrupt", reason): 5 * N_EACH}
    assert list(wanted(raw_folder)) == []

    for path, content in broken:
        path.write_bytes(content)
        raw_folder.touch(path)
    assert raw_folder.tick() == N_EACH
    assert raw_folder.states() == [("ready", None)] * N_EACH
    assert len(list(wanted(raw_folder))) == N_EACH
    replayed = replayed_decisions()
    assert replayed["n_replayed"] == replayed["n_decisions"] == 3 * N_EACH
    assert replayed["n_different"] == 0


def test_ten_doubled_subbands_are_quarantined_until_the_second_file_goes(raw_folder: RawFolder, monkeypatch):
    """Two files of one sub-band: refused at once; without the second one the observation runs."""
    monkeypatch.setenv("CONTIMG_SEASON_END", "2026-02-28")
    second = []
    for number in range(N_EACH):
        start = START + number * CADENCE
        content = raw_bytes(raw_folder.root, start)
        for subband in range(16):
            raw_folder.put(start, subband, content)
        second.append(raw_folder.put(start, 0, content, name_s=1.0))
    raw_folder.tick()
    assert raw_folder.states() == [("quarantined", "duplicate_subband")] * N_EACH
    for path in second:
        path.unlink()
    assert raw_folder.tick() == N_EACH
    assert raw_folder.states() == [("ready", None)] * N_EACH
    assert len(list(wanted(raw_folder))) == N_EACH
    assert raw_folder.rows("SELECT count(*) FROM raw_file WHERE status = 'removed'") == [(N_EACH,)]


def test_ten_observations_of_eleven_files_wait_in_quarantine_for_the_others(raw_folder: RawFolder, monkeypatch):
    """Fewer than twelve sub-bands after the wait; the late ones open the observation again."""
    monkeypatch.setenv("CONTIMG_SEASON_END", "2026-02-28")
    contents = [raw_bytes(raw_folder.root, START + number * CADENCE) for number in range(N_EACH)]
    for number, content in enumerate(contents):
        for subband in range(11):
            raw_folder.put(START + number * CADENCE, subband, content)
    raw_folder.tick()
    raw_folder.tick(after_s=601.0)
    assert raw_folder.states() == [("quarantined", "too_few_subbands")] * N_EACH
    for number, content in enumerate(contents):
        raw_folder.put(START + number * CADENCE, 15, content)
    assert raw_folder.tick() == N_EACH
    assert raw_folder.states() == [("ready", "missing_subbands")] * N_EACH


def test_observations_before_the_season_have_a_reason(raw_folder: RawFolder, monkeypatch):
    """Nothing is asked of Dagster for a window that is no partition."""
    monkeypatch.setenv("CONTIMG_SEASON_START", "2026-03-01")
    content = raw_bytes(raw_folder.root, START)
    for subband in range(16):
        raw_folder.put(START, subband, content)
    assert raw_folder.tick() == 0
    assert raw_folder.states() == [("quarantined", "outside_season")]


def wanted(raw_folder: RawFolder) -> list[dg.RunRequest]:
    """Runs of observations that the sensor would ask for, once the catalogue and a waiting time are behind them."""
    import os

    catalogue = raw_folder.observatory.products.reference_catalogue()
    catalogue.parent.mkdir(parents=True, exist_ok=True)
    catalogue.touch()
    os.environ["CONTIMG_CALIBRATION_WAIT_S"] = "0"
    return list(observation_requests(raw_folder.observatory))
