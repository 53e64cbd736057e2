"""Reading measurement sets with casacore, ours and any other with parallel-hand visibilities, and changing their columns.

What belongs here: bulk rows to and from plain arrays whose names and meaning are those of
``contimg_assets.science.visibilities.Visibilities``. What does not: making new ones (``measurement_set_writer``), layout and
sub-tables (``measurement_set_layout``), choice of rows (``measurement_set_rows``), anything computed from the data.

Method: visibilities that a file holds as the array we want are mapped into memory, for copying costs more than reading (1.34 GB
in the page cache: with its flags 0.6 s, by casacore 1.4 s, or 4.4 s in a virtual machine that must first be given the memory).
Other bulk columns move in chunks of rows straight into, or out of, the caller's arrays, so that nothing is held twice.
Rejected: casatools, which widens to complex128 (44 s and 10.6 GB).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables
from numpy.typing import NDArray

from contimg_resources.errors import CasaError
from contimg_resources.measurement_set_layout import (
    POINTING_NAME,
    data_column,
    map_column,
    tile_rows,
    tiled_manager,
)
from contimg_resources.measurement_set_rows import (
    Selection,
    field_centre_deg,
    field_names,
    open_measurement_set,
    open_subtable,
    select_rows,
    utc_mjd,
)
from contimg_resources.process_memory import keep_freed_memory
from contimg_resources.table_folders import casacore_errors, require_space
from contimg_resources.tracing import traced


@traced("io.read_measurement_set")
def read_measurement_set(
    path: Path | str, *, field: str | int | None = None, spectral_window: int = 0, column: str = "DATA"
) -> dict[str, Any]:
    """Read one field and spectral window of any measurement set.

    Parameters
    ----------
    path : path
        Measurement set.
    field : str or int, optional
        Name or number; the first field with rows by default.
    spectral_window : int
        Number of the spectral window.
    column : str
        ``DATA``, ``CORRECTED_DATA`` or ``MODEL_DATA``.

    Returns
    -------
    dict
        The fields of ``Visibilities``. Autocorrelations and cross-hand correlations are dropped, channels ascend, rows
        are in order of time, ``FLAG_ROW`` and non-finite values are merged into the flags (the latter set to 0), J2000
        directions are taken as ICRS. Times are UTC MJD.

    Raises
    ------
    ProductMissingError
        If there is nothing at the path.
    CasaError
        If it is not a measurement set, or lacks the field, spectral window, column or rows.
    """
    keep_freed_memory()
    with open_measurement_set(path) as main, casacore_errors(Path(path), "read"):
        selection = select_rows(main, field, spectral_window)
        _require_column(main, column, path)
        rows = selection.rows
        time_s = main.getcol("TIME")[rows]
        vis, flags = _read_bulk(main, selection, column)
        pointing_ra_deg, pointing_dec_deg = _pointing(main, selection, time_s)
        with open_subtable(main, "ANTENNA") as sub:
            names = tuple(str(name) for name in sub.getcol("NAME"))
            positions_m = np.asarray(sub.getcol("POSITION"), dtype=np.float64)
            diameters_m = sub.getcol("DISH_DIAMETER")
        with open_subtable(main, "OBSERVATION") as sub:
            telescopes = sub.getcol("TELESCOPE_NAME") if sub.nrows() else ["unknown"]
        used_m = diameters_m[diameters_m > 0]
        return {
            "vis": vis,
            "flags": flags,
            "weights": _read_weights(main, selection),
            "uvw_m": np.ascontiguousarray(main.getcol("UVW")[rows], dtype=np.float64),
            "time_mjd": utc_mjd(main, time_s),
            "exposure_s": main.getcol("EXPOSURE")[rows],
            "antenna1": main.getcol("ANTENNA1")[rows].astype(np.int32),
            "antenna2": main.getcol("ANTENNA2")[rows].astype(np.int32),
            "frequency_hz": selection.frequency_hz,
            "channel_width_hz": selection.channel_width_hz,
            "correlations": selection.correlations,
            "phase_centre_ra_deg": selection.phase_centre_deg[0],
            "phase_centre_dec_deg": selection.phase_centre_deg[1],
            "pointing_ra_deg": pointing_ra_deg,
            "pointing_dec_deg": pointing_dec_deg,
            "antenna_names": names,
            "antenna_positions_m": positions_m,
            "dish_diameter_m": float(np.median(used_m)) if used_m.size else float("nan"),
            "telescope_name": str(telescopes[0]),
            "field_name": selection.field_name,
            "source_name": str(path),
        }


def list_fields(path: Path | str) -> list[dict[str, Any]]:
    """Fields of a measurement set: ``field_id``, ``name``, ``ra_deg``, ``dec_deg``, ``n_rows`` (autos included)."""
    with open_measurement_set(path) as main, casacore_errors(Path(path), "read"):
        names = field_names(main)
        counts = np.bincount(main.getcol("FIELD_ID"), minlength=len(names)) if main.nrows() else np.zeros(len(names))
        listed = []
        for field_id, name in enumerate(names):
            ra_deg, dec_deg = field_centre_deg(main, field_id)
            row = {"field_id": field_id, "name": name, "ra_deg": ra_deg, "dec_deg": dec_deg}
            listed.append({**row, "n_rows": int(counts[field_id])})
        return listed


def write_flags(
    path: Path | str, flags: NDArray[np.bool_], *, field: str | int | None = None, spectral_window: int = 0
) -> None:
    """Replace FLAG and FLAG_ROW of the rows that ``read_measurement_set`` gave with the same arguments.

    Parameters
    ----------
    path : path
        Measurement set.
    flags : array of bool, shape (n_row, n_chan, n_corr)
        True = bad, in the order ``read_measurement_set`` returns. Cross-hand correlations of the file are flagged where
        any parallel hand is.
    field, spectral_window
        As in ``read_measurement_set``.
    """
    with open_measurement_set(path, writable=True) as main, casacore_errors(Path(path), "write flags to"):
        selection = select_rows(main, field, spectral_window)
        _require_shape(path, flags, selection)
        row_flags = main.getcol("FLAG_ROW")
        row_flags[selection.rows] = flags.all(axis=(1, 2))
        for chunk in selection.chunks():
            if selection.is_whole_table:
                cells = flags[chunk.start_row : chunk.start_row + chunk.n_row]
            else:
                cells = main.getcol("FLAG", chunk.start_row, chunk.n_row)
                union = flags[chunk.target].any(axis=2, keepdims=True)
                others = np.setdiff1d(np.arange(selection.n_table_corr), selection.correlation_order)
                cells[np.ix_(chunk.inside, selection.channel_order, others)] = union
                selection.into_table(flags, cells, chunk)
            main.putcol("FLAG", cells, chunk.start_row, chunk.n_row)
        main.putcol("FLAG_ROW", row_flags)


def write_column(
    path: Path | str,
    name: str,
    vis: NDArray[np.complex64],
    *,
    field: str | int | None = None,
    spectral_window: int = 0,
) -> None:
    """Write visibilities into a data column, made first where it is missing.

    A new ``CORRECTED_DATA`` starts as a copy of ``DATA`` and a new ``MODEL_DATA`` as unit parallel hands, CASA's own
    starting values, so that rows outside the selection mean what CASA expects.

    Parameters
    ----------
    path : path
        Measurement set.
    name : str
        ``DATA``, ``CORRECTED_DATA`` or ``MODEL_DATA``.
    vis : array of complex, shape (n_row, n_chan, n_corr)
        In the order ``read_measurement_set`` returns.
    field, spectral_window
        As in ``read_measurement_set``.
    """
    if name not in ("DATA", "CORRECTED_DATA", "MODEL_DATA"):
        raise CasaError(
            f"{path}: not a data column", got=name, expected="DATA, CORRECTED_DATA or MODEL_DATA",
            remedy="Choose one of these columns.", reason_code="unknown_column",
        )  # fmt: skip
    with open_measurement_set(path, writable=True) as main, casacore_errors(Path(path), f"write {name} to"):
        selection = select_rows(main, field, spectral_window)
        _require_shape(path, vis, selection)
        if name not in main.colnames():
            require_space(Path(path), 8.0 * main.nrows() * selection.frequency_hz.size * selection.n_table_corr)
            tile = (selection.n_table_corr, selection.frequency_hz.size)
            rows = tile_rows(8.0 * tile[0] * tile[1])
            comment = "calibrated visibilities" if name == "CORRECTED_DATA" else "model visibilities"
            main.addcols(tables.maketabdesc([data_column(name, comment)]), tiled_manager(name, (*tile, rows)))
            if not selection.is_whole_table:
                _initialise_column(main, name)
        for chunk in selection.chunks():
            if selection.is_whole_table:
                cells = vis[chunk.start_row : chunk.start_row + chunk.n_row]
            else:
                cells = main.getcol(name, chunk.start_row, chunk.n_row)
                selection.into_table(vis, cells, chunk)
            main.putcol(name, cells, chunk.start_row, chunk.n_row)


def _initialise_column(main: Any, name: str) -> None:
    """Starting values row by row, since cells of a foreign measurement set may differ in shape."""
    for row in range(main.nrows()):
        cell = main.getcell("DATA", row)
        if name == "MODEL_DATA":
            n_corr = cell.shape[1]
            cell = np.zeros_like(cell)
            cell[:, [0, n_corr - 1]] = 1.0
        main.putcell(name, row, cell)


def _read_bulk(main: Any, selection: Selection, column: str) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    mapped = map_column(main, column)
    is_whole_table = selection.is_whole_table
    vis = mapped if mapped is not None and is_whole_table else np.empty(selection.shape, dtype=np.complex64)
    flags = np.empty(selection.shape, dtype=np.bool_)
    for chunk in selection.chunks():
        rows = slice(chunk.start_row, chunk.start_row + chunk.n_row)
        if is_whole_table:
            if mapped is None:
                main.getcolnp(column, vis[rows], chunk.start_row, chunk.n_row)
            main.getcolnp("FLAG", flags[rows], chunk.start_row, chunk.n_row)
            _flag_not_finite(vis[rows], flags[rows])
        else:
            cells = main.getcol(column, chunk.start_row, chunk.n_row) if mapped is None else mapped[rows]
            data = selection.to_ours(cells, chunk)
            bad = selection.to_ours(main.getcol("FLAG", chunk.start_row, chunk.n_row), chunk)
            _flag_not_finite(data, bad)
            vis[chunk.target] = data
            flags[chunk.target] = bad
    flags[main.getcol("FLAG_ROW")[selection.rows]] = True
    return vis, flags


def _flag_not_finite(vis: NDArray[np.complex64], flags: NDArray[np.bool_]) -> None:
    # One cheap pass settles the usual case: a sum is finite only if every term is.
    with np.errstate(over="ignore", invalid="ignore"):
        is_settled = np.isfinite(vis.sum())
    if not is_settled:
        bad = ~np.isfinite(vis)
        vis[bad] = 0.0
        flags |= bad


def weight_column(path: Path | str) -> str:
    """Column that weights are read from: WEIGHT_SPECTRUM where it is filled, else WEIGHT."""
    with open_measurement_set(path) as main, casacore_errors(Path(path), "read"):
        return "WEIGHT_SPECTRUM" if _has_weight_spectrum(main, 0) else "WEIGHT"


def _has_weight_spectrum(main: Any, row: int) -> bool:
    return "WEIGHT_SPECTRUM" in main.colnames() and bool(main.iscelldefined("WEIGHT_SPECTRUM", row))


def _read_weights(main: Any, selection: Selection) -> NDArray[np.float32]:
    """Weight of one channel, from WEIGHT_SPECTRUM's mean over channels where the column is filled, else from WEIGHT."""
    weights = np.empty((selection.rows.size, len(selection.correlations)), dtype=np.float32)
    has_spectrum = _has_weight_spectrum(main, int(selection.rows[0]))
    for chunk in selection.chunks():
        if has_spectrum:
            cells = main.getcol("WEIGHT_SPECTRUM", chunk.start_row, chunk.n_row)[chunk.inside].mean(axis=1)
        else:
            cells = main.getcol("WEIGHT", chunk.start_row, chunk.n_row)[chunk.inside]
        weights[chunk.target] = cells[:, selection.correlation_order]
    return weights


def _pointing(
    main: Any, selection: Selection, time_s: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the dishes look: the POINTING rows we wrote, by time; the phase centre for everyone else's data."""
    with open_subtable(main, "POINTING") as sub:
        is_ours = sub.nrows() > 0 and sub.getcell("NAME", 0) == POINTING_NAME
        if is_ours:
            known_s, first = np.unique(sub.getcol("TIME"), return_index=True)
            direction_deg = np.rad2deg(sub.getcol("DIRECTION")[first, 0])
    if not is_ours:
        ra_deg, dec_deg = selection.phase_centre_deg
        return np.full(time_s.size, ra_deg), np.full(time_s.size, dec_deg)
    nearest = np.clip(np.searchsorted(known_s, time_s - 1e-3), 0, known_s.size - 1)
    return direction_deg[nearest, 0] % 360.0, direction_deg[nearest, 1].copy()


def _require_column(main: Any, column: str, path: Path | str) -> None:
    present = [name for name in ("DATA", "CORRECTED_DATA", "MODEL_DATA") if name in main.colnames()]
    if column not in present:
        raise CasaError(
            f"{path} has no column {column}", got=", ".join(present) or "no data column", expected=column,
            remedy="Calibrate the measurement set first, or read the column DATA.", reason_code="no_column",
        )  # fmt: skip


def _require_shape(path: Path | str, array: NDArray[Any], selection: Selection) -> None:
    if array.shape != selection.shape:
        raise CasaError(
            f"{path}: the array does not fit the selected rows", got=str(array.shape), expected=str(selection.shape),
            remedy="Use the field and spectral window the visibilities were read with.", reason_code="wrong_shape",
        )  # fmt: skip
