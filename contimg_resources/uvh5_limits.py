"""What an HDF5 file may not do to whoever opens it: lead to other files, or promise arrays that do not fit into memory.

What belongs here: limits on links, storage and sizes, judged before anything is read. Whether a file is a good raw file is judged
in ``uvh5_header.py``. HDF5 follows a link into any file that the process may read, takes the bytes of a dataset from anywhere, and
a few kilobytes can promise terabytes (fill values, compression). Attributes are not read at all, and h5py unpickles nothing.
"""

from __future__ import annotations

import h5py

MOST_ENTRIES = 10_000
"""Entries of a file; UVH5 has about fifty, and a few for each phase centre."""
LARGEST_HEADER_BYTES = 2**30
"""Largest array outside of ``Data``: two numbers for each of 2 million baselines and 30 times."""
LARGEST_ARRAY_BYTES = 2**36
"""Largest array in ``Data``: 64 GiB; a sub-band of 110 antennas has 0.3 GiB, one of 2,000 antennas 60 GiB."""
_GROUPS_DEEP = 4


def find_danger(file: h5py.File) -> str:
    """Return what is wrong with the links and sizes of a file; an empty string if nothing is."""
    waiting: list[tuple[h5py.Group, int]] = [(file, 0)]
    n_entries = 0
    while waiting:
        group, depth = waiting.pop()
        n_entries += len(group)
        if n_entries > MOST_ENTRIES or depth > _GROUPS_DEEP:
            return f"more than {MOST_ENTRIES} entries, or groups more than {_GROUPS_DEEP} deep"
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                return f"{where} is a link to another place"
            entry = group[name]
            if isinstance(entry, h5py.Group):
                waiting.append((entry, depth + 1))
            elif isinstance(entry, h5py.Dataset) and (danger := _danger_of(entry)):
                return f"{where} {danger}"
    return ""


def _danger_of(array: h5py.Dataset) -> str:
    kept = array.id.get_create_plist()
    if kept.get_layout() == h5py.h5d.VIRTUAL or kept.get_external_count():
        return "takes its bytes from other files"
    limit = LARGEST_ARRAY_BYTES if array.name.startswith("/Data/") else LARGEST_HEADER_BYTES
    n_bytes = array.size * array.dtype.itemsize if array.size else 0
    return f"promises {n_bytes} bytes, at most {limit} are read" if n_bytes > limit else ""
