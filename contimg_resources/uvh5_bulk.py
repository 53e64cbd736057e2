"""Visibilities of all sub-band files of one observation, sorted into arrays that were allocated once.

What belongs here: the bulk of the files. Which rows go where, headers and their agreement are ``uvh5``.

Method: blocks of rows that stay in the processor's cache are read past HDF5's own cache and sorted by compiled loops, several
blocks at a time. Visibilities come piece by piece in time, all channels of it, so that nobody has to hold all of them.
Rejected: memory-mapped files, where a file that is cut short ends the process; whole sub-bands at a time, which go
through memory twice more (7 s for one full observation, now 3.5 s on two cores).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import h5py
import numba
import numpy as np
from numpy.typing import NDArray

from contimg_resources.errors import RawFileError
from contimg_resources.uvh5_header import SubbandHeader, open_raw

_MAX_NOT_FINITE = 0.5
"""A sub-band with more non-finite visibilities than this is refused; below, they are flagged."""

_BULK: dict[str, Any] = {"visdata": np.complex64, "flags": np.bool_, "nsamples": np.float32}
"""Datasets of group ``Data`` and the types they are read as."""

_PIECE_BYTES = 32_000_000
"""Visibilities of one piece in time: no less than one integration, 56 MB of the full array."""

_BLOCK_ROWS = 4096
"""Rows read at a time, if chunks are not longer: 5 MB with 48 channels."""


@dataclass(frozen=True, slots=True, eq=False)
class RowOrder:
    """Where each row of the files goes."""

    target: NDArray[np.int64]
    """Row of the output, time-major over baselines (cross) or active antennas (auto), shape (n_blt,)."""
    time_index: NDArray[np.int64]
    """Integration of each row, shape (n_blt,)."""
    is_auto: NDArray[np.bool_]
    is_turned: NDArray[np.bool_]
    """Stored as (higher, lower): to be conjugated."""
    antenna1: NDArray[np.int32]
    antenna2: NDArray[np.int32]
    active: NDArray[np.int32]
    time_jd: NDArray[np.float64]
    stored: dict[str, NDArray[Any]]
    """Antennas and times of the rows as the file has them, by the names of the datasets."""

    def integrations_apart(self, bytes_each: float) -> list[tuple[slice, slice]]:
        """Integrations, and rows of the files that hold them, in pieces of about 32 MB; one piece if rows are not in order."""
        n_time = len(self.time_jd)
        step = max(1, int(_PIECE_BYTES / max(bytes_each, 1.0)))
        if np.any(np.diff(self.time_index) < 0):
            step = n_time
        edges = [*range(0, n_time, step), n_time]
        rows = np.searchsorted(self.time_index, edges) if step < n_time else [0, self.time_index.size]
        return [
            (slice(first, last), slice(int(low), int(high)))
            for (first, last), (low, high) in zip(pairwise(edges), pairwise(rows), strict=True)
        ]


def scatter_files(
    headers: dict[int, SubbandHeader],
    reference: SubbandHeader,
    rows: RowOrder,
    columns: dict[str, Any],
    n_threads: int,
) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
    """Read all files piece by piece in time, and give each piece's integrations and visibilities.

    Flags, weights and autocorrelations go to ``columns``, which are complete when the iterator has ended. The array of
    visibilities is used again two pieces later: it may be changed, not kept. The next piece is read meanwhile.
    """
    n_time, n_line, n_chan, n_corr = columns["flags"].shape
    pieces = rows.integrations_apart(8.0 * n_line * n_chan * n_corr)
    longest = max(times.stop - times.start for times, _ in pieces)
    buffers = [np.zeros((longest, n_line, n_chan, n_corr), dtype=np.complex64) for _ in pieces[:2]]
    has_gaps = int(np.count_nonzero(~rows.is_auto)) < n_time * n_line
    samples = np.zeros((len(headers), *columns["weights"].shape), dtype=np.float32)
    with ExitStack() as stack:
        files = []
        for index, (number, header) in enumerate(headers.items()):
            file = stack.enter_context(open_raw(header.path))
            if header is not reference:
                _check_rows(file["Header"], header, rows, reference)
            datasets = [file["Data"][name] for name in _BULK]
            _check_shapes(datasets, header, len(rows.target))
            n_subbands = n_chan // len(header.frequency_hz)
            low = (n_subbands - 1 - number) * len(header.frequency_hz)
            files.append((_Part.of(columns, samples[index], low, datasets[0].shape[-1], header), datasets))
        pool = stack.enter_context(ThreadPoolExecutor(n_threads))
        shared = threading.local()

        def sort(part: _Part, datasets: list[h5py.Dataset], block: slice, vis: NDArray[np.uint64], first: int) -> None:
            loadeds: dict[str, NDArray[Any]] = shared.__dict__
            loaded = tuple(_load(dataset, name, block, loadeds) for name, dataset in zip(_BULK, datasets, strict=True))
            part.not_finite.append(_scatter(loaded, rows, block, part, vis, first))

        def begin(k: int) -> list[Future[None]]:
            # Every row of a file goes to a row of its own, so that threads share nothing.
            times, span = pieces[k]
            vis = buffers[k % 2][: times.stop - times.start]
            if has_gaps:
                vis[...] = 0.0
            bits = vis.reshape(-1, n_chan * n_corr).view(np.uint64)
            return [
                pool.submit(sort, part, datasets, block, bits[:, part.channels], times.start * n_line)
                for part, datasets in files
                for block in _row_blocks(datasets[0], span)
            ]

        working = begin(0)
        for k, (times, _) in enumerate(pieces):
            for done in working:
                done.result()
            working = begin(k + 1) if k + 1 < len(pieces) else []
            yield times, buffers[k % 2][: times.stop - times.start]
    columns["weights"] += samples.sum(axis=0) / len(headers)
    for part, _ in files:
        _check_finite(part, int(np.count_nonzero(~rows.is_auto)))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Where one sub-band goes: views of the arrays with axes (row, channel and correlation)."""

    header: SubbandHeader
    channels: slice
    """Its channels and correlations among all."""
    source: NDArray[np.uintp]
    """Channel and polarisation of the file, as one index, for each of ours."""
    flags: NDArray[np.bool_]
    autos: NDArray[np.float32]
    samples: NDArray[np.float32]
    """Mean of nsamples over channels, shape (n_row, n_corr)."""
    not_finite: list[int]
    """Number of visibilities that are not finite, by block."""

    @classmethod
    def of(
        cls, columns: dict[str, Any], samples: NDArray[np.float32], low: int, n_pol: int, header: SubbandHeader
    ) -> _Part:
        """The part of the arrays that begins at channel ``low``."""
        n_chan, n_corr = len(header.frequency_hz), samples.shape[-1]
        here = slice(low * n_corr, (low + n_chan) * n_corr)
        flags, autos = (
            columns[name].reshape(columns[name].shape[0] * columns[name].shape[1], -1)[:, here]
            for name in ("flags", "autos")
        )
        source = np.argsort(header.frequency_hz)[:, None] * n_pol + np.array(header.correlation_index)
        return cls(header, here, source.ravel().astype(np.uintp), flags, autos, samples.reshape(-1, n_corr), [])


def _check_rows(group: h5py.Group, header: SubbandHeader, rows: RowOrder, reference: SubbandHeader) -> None:
    for name, expected in rows.stored.items():
        if not np.array_equal(group[name][()], expected):
            raise disagree(str(header.path), f"another {name}", f"that of {reference.path.name}")


def _check_shapes(datasets: list[h5py.Dataset], header: SubbandHeader, n_row: int) -> None:
    """The compiled loops below do not look whether a row is as long as the header says: it is made sure of here."""
    n_chan, n_pol = len(header.frequency_hz), max(header.correlation_index) + 1
    for dataset in datasets:
        shape = dataset.shape
        is_right = len(shape) in (3, 4) and shape[0] == n_row and shape[-2] == n_chan and shape[-1] >= n_pol
        if not is_right or (len(shape) == 4 and shape[1] != 1) or shape[-1] != datasets[0].shape[-1]:
            raise disagree(
                str(header.path),
                f"{dataset.name} of shape {shape}",
                f"({n_row}, {n_chan}, {n_pol}) or more polarisations",
            )


def _check_finite(part: _Part, n_cross: int) -> None:
    fraction = sum(part.not_finite) / max(1, n_cross * part.source.size)
    if fraction > _MAX_NOT_FINITE:
        raise RawFileError(
            f"raw file {part.header.path}",
            got=f"{100 * fraction:.0f} % of the visibilities are not finite",
            expected=f"at most {100 * _MAX_NOT_FINITE:.0f} %",
            remedy="The node's buffer was disconnected; leave the file out, the observation can do without it.",
            reason_code="not_finite",
        )


def _row_blocks(dataset: h5py.Dataset, span: slice) -> list[slice]:
    """Rows of a span in blocks of whole chunks, but for its ends, about as many as fit the processor's cache."""
    chunk = (dataset.chunks or (1,))[0]
    step = chunk * max(1, _BLOCK_ROWS // chunk)
    edges = [span.start, *range(span.start - span.start % step + step, span.stop, step), span.stop]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _load(dataset: h5py.Dataset, name: str, block: slice, buffers: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Some rows, shape (n_row, n_chan * n_pol), read into a buffer that the next block uses again."""
    dtype = _BULK[name]
    if dataset.dtype.names is not None:  # integer correlators store pairs "r", "i"
        pairs = dataset[block]
        loaded = (pairs["r"] + 1j * pairs["i"]).astype(dtype)
    elif dataset.dtype == dtype:
        n_row, rest = block.stop - block.start, dataset.shape[1:]
        buffer = buffers.get(name)
        if buffer is None or buffer.shape[0] < n_row or buffer.shape[1:] != rest:
            buffer = buffers[name] = np.empty((max(n_row, (dataset.chunks or (1,))[0]), *rest), dtype=dtype)
        _read_rows(dataset, block, buffer)
        loaded = buffer[:n_row]
    else:
        loaded = dataset[block].astype(dtype)
    return np.asarray(loaded.reshape(loaded.shape[0], -1))


def _read_rows(dataset: h5py.Dataset, block: slice, buffer: NDArray[Any]) -> None:
    """Rows of a dataset into the first rows of ``buffer``, which holds at least one chunk."""
    chunks = dataset.chunks
    is_one_chunk = (
        chunks is not None
        and chunks[1:] == dataset.shape[1:]
        and block.start % chunks[0] == 0
        and block.stop - block.start <= chunks[0]
    )
    if is_one_chunk and not (dataset.id.get_create_plist().get_nfilters() or buffer.shape[0] != chunks[0]):
        # Past HDF5's chunk cache, which would copy everything once more.
        try:
            dataset.id.read_direct_chunk((block.start, *(0 for _ in chunks[1:])), out=buffer.reshape(-1).view(np.uint8))
        except OSError:  # a chunk that was never written
            buffer[: block.stop - block.start] = dataset[block]
    else:
        dataset.read_direct(buffer, block, np.s_[: block.stop - block.start])


def _scatter(
    loaded: tuple[NDArray[Any], ...],
    rows: RowOrder,
    block: slice,
    part: _Part,
    piece: NDArray[np.uint64],
    first: int,
) -> int:
    """Put every row of a block where it belongs; the number of cross-correlations that are not finite is returned.

    ``loaded`` has axes (row, channel and polarisation), of which ``part.source`` names those that are ours, in our order.
    Visibilities go to ``piece``, as the bits they are; its first row is row ``first`` of the whole.
    """
    vis, flags, samples = loaded
    auto = np.flatnonzero(rows.is_auto[block])
    cross = np.flatnonzero(~rows.is_auto[block])
    target = rows.target[block]
    _put_powers(vis.view(np.float32), auto, target, part.source, part.autos)
    _put_samples(samples, cross, target, part.source, part.samples)
    _put_flags(flags, cross, target, part.source, part.flags)
    bits, is_turned = vis.view(np.uint64), rows.is_turned[block]
    return int(_put_cross(bits, cross, target, is_turned, part.source, piece, first, part.flags))


# One loop per kernel: together in one they take three times as long, since nothing in it is vectorised any more.


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_cross(
    loaded: NDArray[np.uint64],
    rows: NDArray[np.int64],
    target: NDArray[np.int64],
    is_turned: NDArray[np.bool_],
    source: NDArray[np.uintp],
    vis: NDArray[np.uint64],
    first: int,
    flags: NDArray[np.bool_],
) -> int:
    """Visibilities as the 64 bits they are, of which the upper half is the imaginary part; the others are flagged zeros."""
    n_not_finite = 0
    for row in rows:
        to = target[row] - first
        conjugate = np.uint64(0x8000000000000000) if is_turned[row] else np.uint64(0)
        special = np.uint64(0)
        for k in range(source.size):
            value = loaded[row, source[k]]
            vis[to, k] = value ^ conjugate
            # One more in the exponent of infinity or NaN, and only there, runs over into the sign.
            special |= (value & np.uint64(0x7FFFFFFF7FFFFFFF)) + np.uint64(0x0080000000800000)
        if special & np.uint64(0x8000000080000000):
            n_not_finite += _blank(vis[to], flags[target[row]])
    return n_not_finite


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _blank(cross: NDArray[np.uint64], bad: NDArray[np.bool_]) -> int:
    """Replace what is not finite by a flagged zero; how many there were."""
    n_blanked = 0
    values = cross.view(np.float32)
    for k in range(cross.size):
        if not (abs(values[2 * k]) < np.inf and abs(values[2 * k + 1]) < np.inf):
            cross[k] = 0
            bad[k] = True
            n_blanked += 1
    return n_blanked


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_flags(
    loaded: NDArray[np.bool_],
    rows: NDArray[np.int64],
    target: NDArray[np.int64],
    source: NDArray[np.uintp],
    flags: NDArray[np.bool_],
) -> None:
    for row in rows:
        to = target[row]
        for k in range(source.size):
            flags[to, k] = loaded[row, source[k]]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_powers(
    loaded: NDArray[np.float32],
    rows: NDArray[np.int64],
    target: NDArray[np.int64],
    source: NDArray[np.uintp],
    autos: NDArray[np.float32],
) -> None:
    for row in rows:
        for k in range(source.size):
            real = loaded[row, np.uintp(2) * source[k]]
            autos[target[row], k] = real if abs(real) < np.inf else np.float32(0.0)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc"})  # type: ignore[untyped-decorator]
def _put_samples(
    loaded: NDArray[np.float32],
    rows: NDArray[np.int64],
    target: NDArray[np.int64],
    source: NDArray[np.uintp],
    samples: NDArray[np.float32],
) -> None:
    """Mean of nsamples over the channels, by correlation."""
    n_corr = samples.shape[1]
    per_channel = np.float32(n_corr / source.size)
    for row in rows:
        for corr in range(n_corr):
            total = np.float32(0.0)
            for k in range(corr, source.size, n_corr):
                total += abs(loaded[row, source[k]])
            samples[target[row], corr] = per_channel * total


def disagree(name: str, got: str, expected: str) -> RawFileError:
    """The error for a file that is not of the same observation as the others."""
    return RawFileError(
        f"{name} does not fit the other sub-bands of its observation",
        got=got,
        expected=expected,
        remedy="Group the files with `contimg group`; leave out the one that differs.",
        reason_code="subbands_disagree",
    )
