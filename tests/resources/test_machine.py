"""What is read of the kernel's memory accounts."""

import pytest

from contimg_resources.machine import available_memory_bytes

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"


def write(folder, **files):
    """A folder of small files."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_memory_of_this_machine_is_some():
    """On Linux the kernel says how much there is."""
    assert available_memory_bytes() > 1e6


@pytest.mark.parametrize(
    ("limit", "expected"), [("max\n", 8000000 * 1024), ("4000000000\n", 4e9 - 3e9 + 1.5e9)], ids=["free", "container"]
)
def test_the_tighter_limit_counts(tmp_path, limit, expected):
    """A container may have less than the machine; cached files are given back when needed."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    group = write(
        tmp_path / "group",
        memory__max=limit,
        memory__current="3000000000\n",
        memory__stat="anon 1500000000\ninactive_file 1000000000\nactive_file 500000000\n",
    )
    assert available_memory_bytes(tmp_path / "meminfo", group) == expected


def test_unknown_is_none(tmp_path):
    """Where the kernel says nothing, nothing is claimed."""
    assert available_memory_bytes(tmp_path / "meminfo", tmp_path / "group") is None
