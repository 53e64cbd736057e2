"""What an HDF5 file may not do to whoever opens it: lead to other files, run code, promise arrays that do not fit into memory.

What belongs here: limits on links, storage, filters and sizes, judged before anything is read. Whether a file is a good raw file is
judged in ``uvh5_header.py``. HDF5 follows a link into any file that the process may read, takes the bytes of a dataset from
anywhere, loads the plugin that a filter's number names, and a few kilobytes can promise terabytes (fill values, compression: a
chunk is unpacked to its end, however long the array says it is). Attributes are not read at all, and h5py unpickles nothing.

The correlator's files have no filters; pyuvdata writes lzf, or gzip when asked. These and shuffle and fletcher32 are in every h5py.
Rejected: bitshuffle, which is a plugin.
"""

from __future__ import annotations

import math
import zlib

import h5py
from h5py import h5z

MOST_ENTRIES = 10_000
"""Entries of a file; UVH5 has about fifty, and a few for each phase centre."""
LARGEST_HEADER_BYTES = 2**30
"""Largest array outside of ``Data``: two numbers for each of 2 million baselines and 30 times."""
LARGEST_ARRAY_BYTES = 2**36
"""Largest array in ``Data``: 64 GiB; a sub-band of 110 antennas has 0.3 GiB, one of 2,000 antennas 60 GiB."""
FILTERS = {
    h5z.FILTER_DEFLATE: "gzip",
    h5z.FILTER_SHUFFLE: "shuffle",
    h5z.FILTER_FLETCHER32: "fletcher32",
    h5z.FILTER_LZF: "lzf",
}
"""What may stand between the file and an array: code of h5py itself."""
_GROWTH = {h5z.FILTER_DEFLATE: 1032, h5z.FILTER_LZF: 88}
"""Most bytes that one stored byte can become."""
_OVERHEAD = 1.1
"""Noise grows a little when it is packed."""
_SMALL_BYTES = 1024
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
    numbers = [kept.get_filter(place)[0] for place in range(kept.get_nfilters())]
    packing = [number for number in numbers if number in _GROWTH]
    if danger := _danger_of_filters(numbers, packing):
        return danger
    limit = LARGEST_ARRAY_BYTES if array.name.startswith("/Data/") else LARGEST_HEADER_BYTES
    n_bytes = array.size * array.dtype.itemsize if array.size else 0
    if n_bytes > limit:
        return f"promises {n_bytes} bytes, at most {limit} are read"
    chunk_bytes = math.prod(array.chunks or ()) * array.dtype.itemsize
    if chunk_bytes > LARGEST_HEADER_BYTES:
        return f"has chunks of {chunk_bytes} bytes, at most {LARGEST_HEADER_BYTES} are read"
    return _danger_of_chunks(array, packing[0], chunk_bytes) if packing and array.size else ""


def _danger_of_filters(numbers: list[int], packing: list[int]) -> str:
    if unknown := sorted(set(numbers) - FILTERS.keys()):
        return f"needs the filter {unknown[0]}; read are {', '.join(FILTERS.values())}"
    return "is packed more than once" if len(packing) > 1 or len(numbers) > len(FILTERS) else ""


def _danger_of_chunks(array: h5py.Dataset, packing: int, chunk_bytes: int) -> str:
    """A packed chunk may hold more than its place in the array: those that could become too much are unpacked, but no further."""
    most_stored = chunk_bytes * _OVERHEAD + _SMALL_BYTES
    large: list[h5py.h5d.StoreInfo] = []
    array.id.chunk_iter(
        lambda chunk: large.append(chunk) if chunk.size * _GROWTH[packing] > LARGEST_HEADER_BYTES else None
    )
    for chunk in large:
        if chunk.size > most_stored:
            return f"has a chunk of {chunk.size} bytes where {chunk_bytes} belong"
        if packing != h5z.FILTER_DEFLATE:
            return f"has a chunk of {chunk.size} bytes that may become {chunk.size * _GROWTH[packing]} bytes"
        stored = array.id.read_direct_chunk(chunk.chunk_offset)[1]
        try:
            unpacked = zlib.decompressobj().decompress(stored, int(most_stored))
        except zlib.error:
            continue  # damaged: what reads it says so
        if len(unpacked) >= int(most_stored):
            return f"has a chunk that becomes more than its {chunk_bytes} bytes"
    return ""
