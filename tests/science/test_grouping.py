"""Sub-band files become observations by header time, and by name only as a fallback."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_assets.science.grouping import SubbandFile, group_subbands, observation_id

START_MJD = 61050.25
SECOND_D = 1.0 / 86_400.0


def _file(
    subband: int, *, name_s: float = 0.0, start_s: float = 0.0, header: bool = True, bad: str = ""
) -> SubbandFile:
    name_mjd = START_MJD + (start_s + name_s) * SECOND_D
    start_mjd = START_MJD + start_s * SECOND_D if header else math.nan
    return SubbandFile(f"{name_mjd:.6f}_sb{subband:02d}.hdf5", name_mjd, subband, start_mjd, bad)


def test_files_of_one_header_time_are_one_observation_however_their_names_are_spread() -> None:
    """After a correlator restart the names spread over half a minute; the header decides."""
    groups = group_subbands([_file(n, name_s=5.0 * n) for n in range(16)])
    assert [(g.status, g.n_subbands, g.reason_code) for g in groups] == [("complete", 16, "")]
    assert groups[0].observation_id == "2026-01-10T06:00:00"


def test_neighbouring_observations_stay_apart() -> None:
    """Two observations 309 s apart are two groups in the order of time."""
    files = [_file(n, start_s=s) for s in (309.24, 0.0) for n in range(16)]
    groups = group_subbands(files)
    assert [g.status for g in groups] == ["complete", "complete"]
    assert groups[0].start_mjd < groups[1].start_mjd


@pytest.mark.parametrize(
    ("present", "status", "reason", "usable"),
    [
        (16, "complete", "", True),
        (15, "incomplete", "semi_complete", True),
        (12, "incomplete", "semi_complete", True),
        (11, "incomplete", "too_few_subbands", False),
        (1, "incomplete", "too_few_subbands", False),
    ],
)
def test_completeness_has_a_reason_code(present: int, status: str, reason: str, *, usable: bool) -> None:
    """12 to 15 sub-bands can be processed, fewer cannot."""
    (found,) = group_subbands([_file(n) for n in range(present)])
    assert (found.status, found.reason_code, found.is_usable) == (status, reason, usable)
    assert found.missing == tuple(range(present, 16))


def test_the_same_subband_twice_is_a_duplicate() -> None:
    """A misconfigured node writes a second sub-band 0."""
    (found,) = group_subbands([*(_file(n) for n in range(16)), _file(0, name_s=1.0)])
    assert (found.status, found.reason_code, found.is_usable) == ("duplicate", "duplicate_subband", False)


def test_a_corrupt_file_joins_by_name_and_names_its_reason() -> None:
    """A truncated file has no header time; its name puts it into the right observation."""
    files = [_file(n, start_s=s) for s in (0.0, 309.24) for n in range(16) if (n, s) != (7, 0.0)]
    broken = _file(7, name_s=25.0, header=False, bad="truncated_file")
    first, second = group_subbands([broken, *files])
    assert (first.status, first.reason_code, first.n_subbands) == ("corrupt", "truncated_file", 15)
    assert broken in first.files
    assert second.status == "complete"


def test_names_alone_group_within_the_window() -> None:
    """Without headers 60 s join and 10 s split a group whose names spread over 22 s."""
    files = [_file(n, name_s=1.5 * n, header=False) for n in range(16)]
    assert [g.n_subbands for g in group_subbands(files)] == [16]
    assert [g.n_subbands for g in group_subbands(files, name_window_s=10.0)] == [7, 7, 2]


def test_a_file_without_name_or_header_stands_alone() -> None:
    """What cannot be placed is reported, not lost."""
    stray = SubbandFile("stray.hdf5", math.nan, None, math.nan, "not_hdf5")
    groups = group_subbands([stray, _file(0)])
    assert [g.status for g in groups] == ["incomplete", "corrupt"]
    assert groups[1].files == (stray,)


@given(st.lists(st.tuples(st.integers(0, 15), st.floats(0.0, 2000.0), st.booleans()), max_size=40))
def test_every_file_is_in_exactly_one_group(entries: list[tuple[int, float, bool]]) -> None:
    """Grouping neither loses nor repeats files, whatever arrives."""
    files = [
        SubbandFile(f"{i}", START_MJD + s * SECOND_D, n, START_MJD + s * SECOND_D if header else math.nan)
        for i, (n, s, header) in enumerate(entries)
    ]
    grouped = [file.name for found in group_subbands(files) for file in found.files]
    assert sorted(grouped) == sorted(file.name for file in files)


def test_real_arrivals_group_as_published(shared_data: Path) -> None:
    """Five days of real names: with 60 s no group exceeds 16 files and nearly all are complete; 10 s is too tight."""
    files = []
    with (shared_data / "dsa110" / "inventory.csv").open() as stream:
        for row in csv.DictReader(stream):
            day, clock = row["timestamp"].split("T")
            hour, minute, second = (int(part) for part in clock.split(":"))
            name_mjd = 61082.0 + int(day[-2:]) - 11 + (3600 * hour + 60 * minute + second) * SECOND_D
            files += [
                SubbandFile(f"{row['timestamp']}_{k}", name_mjd, None) for k in range(int(row["n_subbands_found"]))
            ]
    groups = group_subbands(files)
    complete = sum(g.status == "complete" for g in groups)
    assert len(groups) == 1040
    assert max(g.n_subbands for g in groups) == 16
    assert complete > 0.97 * len(groups)
    tight = group_subbands(files, name_window_s=10.0)
    assert sum(g.status == "complete" for g in tight) < 0.95 * complete


def test_observation_id_rounds_to_the_second() -> None:
    """A start 0.4 s after the second and one 0.4 s before it have the same name."""
    assert observation_id(START_MJD + 0.4 * SECOND_D) == observation_id(START_MJD - 0.4 * SECOND_D)
