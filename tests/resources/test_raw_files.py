"""Raw files are found by their finished names, described by their headers, and listed in inventories."""

from __future__ import annotations

from pathlib import Path

import pytest

from contimg_resources.errors import ProductMissingError, RawFileError
from contimg_resources.raw_files import describe_raw_file, list_raw_files, read_inventory


def test_only_finished_files_are_listed(tmp_path: Path) -> None:
    """Files that are still written or transferred, and other files, are not there yet."""
    for name in (
        "2026-01-10T07:52:39_sb01.hdf5",
        "2026-01-10T07:52:38_sb00.hdf5",
        "2026-01-10T07:52:38_sb02_incomplete.hdf5",
        ".2026-01-10T07:52:38_sb03.hdf5.Xy12",
        "notes.txt",
    ):
        (tmp_path / name).touch()
    assert [path.name[-9:] for path in list_raw_files(tmp_path)] == ["sb00.hdf5", "sb01.hdf5"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The error names the folder."""
    with pytest.raises(ProductMissingError, match="nowhere"):
        list_raw_files(tmp_path / "nowhere")


def test_an_unusable_file_is_described_by_name_and_reason(tmp_path: Path) -> None:
    """A zero-byte file keeps its place in the grouping through its name."""
    path = tmp_path / "2026-01-10T07:52:39_sb01.hdf5"
    path.touch()
    record = describe_raw_file(path)
    assert record["reason_code"] == "zero_byte_file"
    assert record["subband"] == 1
    assert record["name_mjd"] == pytest.approx(61050.328229, abs=1e-5)


def test_inventories_of_both_kinds_are_read(tmp_path: Path) -> None:
    """One row per file, or one row per time stamp with a count, become one record per file."""
    by_file, by_stamp = tmp_path / "files.csv", tmp_path / "stamps.csv"
    by_file.write_text("timestamp,subband,bytes\n2026-01-10T07:52:39,3,10\n2026-01-10T07:52:40,4,10\n")
    by_stamp.write_text("date,timestamp,n_subbands_found\n2026-01-10,2026-01-10T07:52:39,3\n")
    assert [record["subband"] for record in read_inventory(by_file)] == [3, 4]
    assert [record["subband"] for record in read_inventory(by_stamp)] == [None, None, None]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "timestamp,subband\nyesterday,3\n", ""])
def test_other_tables_are_refused(tmp_path: Path, text: str) -> None:
    """A CSV without the columns, or with other time stamps, is an error that says what is expected."""
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(RawFileError, match="timestamp"):
        read_inventory(path)
