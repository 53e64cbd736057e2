"""Visibilities of all sub-band files of one observation, sorted into arrays that were allocated once.

What belongs here: the bulk of the files. Which rows go where, headers and their agreement are ``uvh5``.

Method: blocks of rows that stay in the processor's cache are read past HDF5's own cache and sorted by compiled loops, several
blocks at a time. Rejected: memory-mapped files, where a file that is cut short ends the process; whole sub-bands at a
time, which go through memory twice more (7 s for one full observation, now 3.5 s on two cores).
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
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

_BLOCK_ROWS = 4096
"""Rows read at a time, if chunks are not longer: 5 MB with 48 channels."""


@dataclass(frozen=True, slots=True, eq=False)
class RowOrder:
    """Where each row of the files goes."""

    target: NDArray[np.int64]
    """Row of the output, time-major over baselines (cross) or active antennas (auto), shape (n_blt,)."""
    is_auto: NDArray[np.bool_]
    is_turned: NDArray[np.bool_]
    """Stored as (higher, lower): to be conjugated."""
    antenna1: NDArray[np.int32]
    antenna2: NDArray[np.int32]
    active: NDArray[np.int32]
    time_jd: NDArray[np.float64]
    stored: dict[str, NDArray[Any]]
    """Antennas and times of the rows as the file has them, by the names of the datasets."""


def scatter_files(
    headers: dict[int, SubbandHeader], reference: SubbandHeader, rows: RowOrder, columns: dict[str, Any], n_threads: int
) -> None:
    """Read all files in blocks of rows, several at a time, each sorted into the arrays while the cache still holds it."""
    n_subbands = columns["vis"].shape[2] // len(reference.frequency_hz)
    samples = np.zeros((len(headers), *columns["weights"].shape), dtype=np.float32)
    with ExitStack() as stack:
        blocks = []
        for index, (number, header) in enumerate(headers.items()):
            file = stack.enter_context(open_raw(header.path))
            if header is not reference:
                _check_rows(file["Header"], header, rows, reference)
            datasets = [file["Data"][name] for name in _BULK]
            _check_shapes(datasets, header, len(rows.target))
            low = (n_subbands - 1 - number) * len(header.frequency_hz)
            part = _Part.of(columns, samples[index], low, datasets[0].shape[-1], header)
            blocks += [(part, datasets, block) for block in _row_blocks(datasets)]
        shared = threading.local()

        def sort(item: tuple[_Part, list[h5py.Dataset], slice]) -> None:
            part, datasets, block = item
            buffers: dict[str, NDArray[Any]] = shared.__dict__
            loaded = tuple(_load(dataset, name, block, buffers) for name, dataset in zip(_BULK, datasets, strict=True))
            part.not_finite.append(_scatter(loaded, rows, block, part))

        # Every row of a file goes to a row of its own, so that threads share nothing; much of the time is first touch.
        with ThreadPoolExecutor(n_threads) as pool:
            for _ in pool.map(sort, blocks):
                pass
    columns["weights"] += samples.sum(axis=0) / len(headers)
    for part in {id(part): part for part, _, _ in blocks}.values():
        _check_finite(part, int(np.count_nonzero(~rows.is_auto)))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Where one sub-band goes: views of the arrays with axes (row, channel and correlation)."""

    header: SubbandHeader
    source: NDArray[np.uintp]
    """Channel and polarisation of the file, as one index, for each of ours."""
    vis: NDArray[np.uint64]
    """As the bits they are."""
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
        views = []
        for name in ("vis", "flags", "autos"):
            n_time, n_line = columns[name].shape[:2]
            views.append(columns[name].reshape(n_time * n_line, -1)[:, here])
        source = np.argsort(header.frequency_hz)[:, None] * n_pol + np.array(header.correlation_index)
        vis, flags, autos = views
        bits = source.ravel().astype(np.uintp), vis.view(np.uint64)
        return cls(header, *bits, flags, autos, samples.reshape(-1, n_corr), [])


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


def _row_blocks(datasets: list[h5py.Dataset]) -> list[slice]:
    """Rows in blocks of whole chunks, about as many as fit the processor's cache."""
    n_row, chunk = datasets[0].shape[0], (datasets[0].chunks or (1,))[0]
    step = chunk * max(1, _BLOCK_ROWS // chunk)
    return [slice(start, min(start + step, n_row)) for start in range(0, n_row, step)]


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
    is_one_chunk = chunks is not None and chunks[1:] == dataset.shape[1:] and block.stop - block.start <= chunks[0]
    if is_one_chunk and not (dataset.id.get_create_plist().get_nfilters() or buffer.shape[0] != chunks[0]):
        # Past HDF5's chunk cache, which would copy everything once more.
        try:
            dataset.id.read_direct_chunk((block.start, *(0 for _ in chunks[1:])), out=buffer.reshape(-1).view(np.uint8))
        except OSError:  # a chunk that was never written
            buffer[: block.stop - block.start] = dataset[block]
    else:
        dataset.read_direct(buffer, block, np.s_[: block.stop - block.start])


def _scatter(loaded: tuple[NDArray[Any], ...], rows: RowOrder, block: slice, part: _Part) -> int:
    """Put every row of a block where it belongs; the number of cross-correlations that are not finite is returned.

    ``loaded`` has axes (row, channel and polarisation), of which ``part.source`` names those that are ours, in our order.
    """
    vis, flags, samples = loaded
    auto = np.flatnonzero(rows.is_auto[block])
    cross = np.flatnonzero(~rows.is_auto[block])
    target = rows.target[block]
    _put_powers(vis.view(np.float32), auto, target, part.source, part.autos)
    _put_samples(samples, cross, target, part.source, part.samples)
    _put_flags(flags, cross, target, part.source, part.flags)
    return int(_put_cross(vis.view(np.uint64), cross, target, rows.is_turned[block], part.source, part.vis, part.flags))


# One loop per kernel: together in one they take three times as long, since nothing in it is vectorised any more.


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_cross(
    loaded: NDArray[np.uint64],
    rows: NDArray[np.int64],
    target: NDArray[np.int64],
    is_turned: NDArray[np.bool_],
    source: NDArray[np.uintp],
    vis: NDArray[np.uint64],
    flags: NDArray[np.bool_],
) -> int:
    """Visibilities as the 64 bits they are, of which the upper half is the imaginary part; the others are flagged zeros."""
    n_not_finite = 0
    for row in rows:
        to = target[row]
        conjugate = np.uint64(0x8000000000000000) if is_turned[row] else np.uint64(0)
        special = np.uint64(0)
        for k in range(source.size):
            value = loaded[row, source[k]]
            vis[to, k] = value ^ conjugate
            # One more in the exponent of infinity or NaN, and only there, runs over into the sign.
            special |= (value & np.uint64(0x7FFFFFFF7FFFFFFF)) + np.uint64(0x0080000000800000)
        if special & np.uint64(0x8000000080000000):
            n_not_finite += _blank(vis[to], flags[to])
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
