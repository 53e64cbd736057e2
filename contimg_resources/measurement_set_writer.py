"""Writing measurement sets: whole arrays, or visibilities piece by piece while they are still being read.

What belongs here: a measurement set in the making, which appears complete or not at all. What does not: its layout
(``measurement_set_layout``), reading (``measurement_sets``), anything computed from the data.

Method: casacore makes tables with a place for every row, and visibilities are written into the file of DATA as they come: one tile
holds all channels and correlations of its rows, so the file is the array in C order. What needs all of it afterwards, the flagger,
sees the file itself. Visibilities of a full-size observation (1.34 GB) are never in memory as a whole. Rejected: ``putcol``,
which copies twice and lets no other thread of Python begin anything meanwhile, while threads are to read the next integrations;
a copy in memory beside the file (memory that a process has not used before costs a virtual machine 2 to 4 s a GB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables
from numpy.typing import NDArray

from contimg_resources.errors import CasaError
from contimg_resources.measurement_set_layout import (
    SECONDS_PER_DAY,
    column_file,
    create_tables,
    map_column,
    write_subtables,
)
from contimg_resources.table_folders import casacore_errors, replaced_folder, require_space, sync_folder
from contimg_resources.tracing import traced

BeginTurning = Callable[[Mapping[str, Any]], Callable[[slice, NDArray[np.complex64]], None]]
"""From all fields of an observation but the bulk to a function that turns some integrations in place."""


@contextmanager
def measurement_set_draft(path: Path | str) -> Iterator[MeasurementSetDraft]:
    """A measurement set (version 2.0) in the making, which takes the place of one of the same name when the block ends.

    The block must have called ``finish``; if it raises, nothing is left at the path but what was there.
    """
    target = Path(path)
    with replaced_folder(target) as folder:
        draft = MeasurementSetDraft(folder, target)
        yield draft
        draft.require_finished()


def write_measurement_set(path: Path | str, columns: Mapping[str, Any]) -> None:
    """Write visibilities as a measurement set (version 2.0), replacing one of the same name.

    Parameters
    ----------
    path : path
        Folder to make. It appears complete or not at all.
    columns : mapping
        Fields of ``Visibilities`` (``vis.columns()``): one field, one spectral window, no autocorrelations.

    Raises
    ------
    DiskFullError
        If the disk cannot hold it.
    CasaError
        If casacore refuses, or the mapping holds no rows.
    """
    with measurement_set_draft(path) as draft:
        draft.create(*columns["vis"].shape)
        draft.put(0, columns["vis"])
        draft.finish(columns)


class MeasurementSetDraft:
    """A measurement set in the making; ``measurement_set_draft`` gives it.

    Parameters
    ----------
    folder, target : Path
        Where it is made, and what its errors call it.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder, self._target = folder, target
        self._shape = (0, 0, 0)
        self._is_finished = False

    def create(self, n_row: int, n_chan: int, n_corr: int) -> None:
        """Make the tables, without values.

        Raises
        ------
        DiskFullError
            If the disk cannot hold them.
        CasaError
            If there are no rows or channels, or casacore refuses.
        """
        if n_row == 0 or n_chan == 0:
            raise CasaError(
                f"no visibilities to write to {self._target}", got=f"{n_row} rows, {n_chan} channels",
                expected="at least one", remedy="Look at the step before: everything was removed there.",
                reason_code="no_rows",
            )  # fmt: skip
        self._shape = (n_row, n_chan, n_corr)
        with casacore_errors(self._target, "write"):
            require_space(self._target, n_row * (n_chan * n_corr * 8.2 + 200.0))
            create_tables(str(self._folder), n_row, n_chan, n_corr)
            with tables.table(str(self._folder), ack=False) as main:
                file = column_file(main, "DATA")
                self._cells = np.dtype(np.complex64).newbyteorder(main.endianformat())
        if file is None:
            raise CasaError(
                f"{self._target}: DATA has no file of its own", got="another storage option in .casarc",
                expected="table.storage.option: sepfile", remedy="Remove that line from .casarc.",
                reason_code="casacore_storage",
            )  # fmt: skip
        self._file = file

    def put(self, first_row: int, vis: NDArray[np.complex64]) -> None:
        """Write DATA of rows from ``first_row`` on; ``vis`` has axes (row, chan, corr). In order of rows."""
        cells = np.ascontiguousarray(vis, dtype=self._cells)
        with casacore_errors(self._target, "write"), self._file.open("r+b") as stream:
            stream.seek(first_row * cells[0].nbytes)
            stream.write(cells.data)

    def data(self) -> NDArray[np.complex64]:
        """DATA of all rows, axes (row, chan, corr), as the file holds it; changes of the array stay in memory."""
        with tables.table(str(self._folder), ack=False) as main:
            mapped = map_column(main, "DATA")
            return np.asarray(main.getcol("DATA")) if mapped is None else mapped

    def stream(self, begin_turning: BeginTurning) -> TurnedStream:
        """A ``VisibilityStream`` for ``read_observation`` that turns visibilities and writes them here."""
        return TurnedStream(self, begin_turning)

    @traced("io.flag_and_write_measurement_set")
    def finish(self, columns: Mapping[str, Any], flagging: Callable[[], Any] = lambda: None) -> Any:
        """Write all that ``put`` has not.

        Parameters
        ----------
        columns : mapping
            Fields of ``Visibilities``, of which ``vis`` is not looked at.
        flagging : callable
            Called, in a thread, while everything but the flags is being written; flags are written when it has returned.
            It may change ``columns["flags"]`` and nothing else.

        Returns
        -------
        object
            What ``flagging`` returned; its errors are raised.
        """
        with ThreadPoolExecutor(1) as beside:
            found = beside.submit(flagging)
            with casacore_errors(self._target, "write"):
                write_subtables(str(self._folder), columns)
                with self._open() as main:
                    _put_scalars(main, columns)
                sync_folder(self._folder)  # the disk works while the flagger still computes
            result = found.result()
        with self._open() as main:
            _put_flags(main, columns["flags"])
        self._is_finished = True
        return result

    def require_finished(self) -> None:
        """Raise if ``finish`` was not called: a measurement set without flags never exists."""
        if not self._is_finished:
            raise CasaError(
                f"{self._target} was begun and not finished", got="visibilities alone", expected="a call of finish",
                remedy="This is a fault of the program that wrote it; report it.", reason_code="not_finished",
            )  # fmt: skip

    @contextmanager
    def _open(self) -> Iterator[Any]:
        with casacore_errors(self._target, "write"), tables.table(str(self._folder), readonly=False, ack=False) as main:
            yield main


class TurnedStream:
    """Visibilities on their way from files to a measurement set; ``MeasurementSetDraft.stream`` gives it."""

    def __init__(self, draft: MeasurementSetDraft, begin_turning: BeginTurning) -> None:
        self._draft, self._begin_turning = draft, begin_turning

    def begin(self, header: Mapping[str, Any]) -> None:
        """Make the measurement set and get ready to turn."""
        axes = (header[name] for name in ("time_mjd", "antenna1", "frequency_hz", "correlations"))
        self._shape = n_time, n_baseline, n_chan, n_corr = tuple(len(axis) for axis in axes)
        self._draft.create(n_time * n_baseline, n_chan, n_corr)
        self._turn = self._begin_turning(header)

    def put(self, times: slice, vis: NDArray[np.complex64]) -> None:
        """Turn and write some integrations, axes (time, baseline, chan, corr)."""
        self._turn(times, vis)
        _, n_baseline, n_chan, n_corr = self._shape
        self._draft.put(times.start * n_baseline, vis.reshape(-1, n_chan, n_corr))

    def finish(self) -> NDArray[np.complex64]:
        """All of them, in the file."""
        return self._draft.data().reshape(self._shape)


def _row_pieces(shape: tuple[int, ...]) -> list[slice]:
    """Rows in pieces that belong to 4 MB of visibilities, so that copies of their flags are small."""
    n_row, n_chan, n_corr = shape
    step = max(1, 4_000_000 // (8 * n_chan * n_corr))
    return [slice(start, min(start + step, n_row)) for start in range(0, n_row, step)]


def _put_scalars(main: Any, columns: Mapping[str, Any]) -> None:
    """Every column but DATA and the flags."""
    n_row = len(columns["time_mjd"])
    weights = np.asarray(columns["weights"], dtype=np.float32)
    time_s = np.asarray(columns["time_mjd"], dtype=np.float64) * SECONDS_PER_DAY
    positive = np.maximum(weights, np.finfo(np.float32).tiny)
    scalars = {
        "TIME": time_s,
        "TIME_CENTROID": time_s,
        "EXPOSURE": columns["exposure_s"],
        "INTERVAL": columns["exposure_s"],
        "ANTENNA1": columns["antenna1"],
        "ANTENNA2": columns["antenna2"],
        "UVW": columns["uvw_m"],
        "WEIGHT": weights,
        "SIGMA": np.where(weights > 0, 1.0 / np.sqrt(positive), 0.0).astype(np.float32),
        "SCAN_NUMBER": np.ones(n_row, dtype=np.int32),
    }
    zeros = ("ARRAY_ID", "DATA_DESC_ID", "FEED1", "FEED2", "FIELD_ID", "OBSERVATION_ID", "PROCESSOR_ID", "STATE_ID")
    for name, value in {**dict.fromkeys(zeros, np.zeros(n_row, dtype=np.int32)), **scalars}.items():
        main.putcol(name, np.ascontiguousarray(value))


def _put_flags(main: Any, flags: NDArray[np.bool_]) -> None:
    row_flags = np.empty(flags.shape[0], dtype=np.bool_)
    for rows in _row_pieces(flags.shape):
        row_flags[rows] = flags[rows].all(axis=(1, 2))
        main.putcol("FLAG", np.ascontiguousarray(flags[rows], dtype=np.bool_), rows.start, rows.stop - rows.start)
    main.putcol("FLAG_ROW", row_flags)
