"""Calibration tables as CASA keeps them: G Jones and B Jones, written for and read from ``applycal``'s format.

What belongs here: the rows of such a table and the hash of its content. What does not: its sub-tables
(``calibration_table_layout``), solving and applying (``contimg_assets.science.calibration``).

Format: CASA's "new" calibration table (CASA 3.4 and later): one row per solution interval and antenna, ``CPARAM``
(chan, receptor), with ``ANTENNA``, ``FIELD``, ``SPECTRAL_WINDOW``, ``OBSERVATION`` and ``HISTORY`` copied from the
measurement set. Rows exist for every antenna slot; antennas without solution are flagged. ``TIME`` holds the
measurement set's own time scale whatever the column claims, as CASA does. What CASA has no column for stands in the
keyword ``CONTIMG``. Rejected: tables made by gaincal and filled with our numbers, which need CASA at run time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables
from numpy.typing import NDArray

from contimg_resources.calibration_table_layout import create_main, write_subtables
from contimg_resources.errors import CasaError, ProductMissingError
from contimg_resources.measurement_set_rows import open_measurement_set, open_subtable, utc_mjd
from contimg_resources.table_folders import casacore_errors, replaced_folder
from contimg_resources.tracing import traced

SECONDS_PER_DAY = 86_400.0
_SUBTYPES = {"G": "G Jones", "B": "B Jones"}
_CORRELATION_NAMES = {1: "I", 5: "RR", 8: "LL", 9: "XX", 12: "YY"}
"""Stokes enumeration of casacore, parallel hands only."""


@traced("io.write_calibration_table")
def write_calibration_table(
    path: Path | str, columns: Mapping[str, Any] | Sequence[Mapping[str, Any]], ms_path: Path | str | None = None
) -> None:
    """Write solutions as a CASA calibration table, replacing one of the same name.

    Parameters
    ----------
    path : path
        Folder of the table; it appears only when it is complete.
    columns : mapping or sequence of mappings
        The fields of ``Solutions``; several for fields that share a table (same kind, antennas and channels).
    ms_path : path, optional
        Measurement set the solutions belong to. Without it the sub-tables hold names and frequencies only, enough for
        our own reader but not for CASA's ``applycal``.

    Raises
    ------
    CasaError
        If casacore cannot write it, or the measurement set has other antennas or frequencies.
    """
    target = Path(path)
    parts = [columns] if isinstance(columns, Mapping) else list(columns)
    first = parts[0]
    n_row = sum(part["gains"].shape[0] * part["gains"].shape[1] for part in parts)
    with (
        casacore_errors(target, "write"),
        replaced_folder(target) as temporary,
        create_main(str(temporary), _SUBTYPES[first["kind"]], n_row) as main,
    ):
        place = write_subtables(main, first, Path(ms_path) if ms_path is not None else None)
        start = 0
        for part in parts:
            _put_rows(main, part, place, start)
            start += part["gains"].shape[0] * part["gains"].shape[1]
        main.putkeyword("CONTIMG", _extra(parts, place))


@traced("io.read_calibration_table")
def read_calibration_table(path: Path | str, ms_path: Path | str | None = None) -> dict[str, Any]:
    """Read a G Jones or B Jones table, ours or CASA's, of one spectral window.

    Parameters
    ----------
    path : path
    ms_path : path, optional
        Needed for tables that CASA made: it says which correlations they belong to and in which scale times are.

    Returns
    -------
    dict
        The fields of ``Solutions``; all fields of the sky that share the table, in order of time.

    Raises
    ------
    ProductMissingError
        If there is nothing at the path.
    CasaError
        If it is not a calibration table that can be read here.
    """
    location = Path(path)
    if not (location / "table.dat").is_file():
        raise ProductMissingError(
            f"calibration table {location} does not exist", remedy="Correct the path, or solve for it first."
        )
    with casacore_errors(location, "read"), tables.table(str(location), ack=False, lockoptions="autonoread") as main:
        kind = _kind_of(main, location)
        extra = main.getkeyword("CONTIMG") if "CONTIMG" in main.keywordnames() else _extra_of_casa(main, ms_path)
        return _collect(main, kind, extra, location)


def content_hash(path: Path | str) -> str:
    """SHA-256 of what a table says (gains, flags, times, antennas, channels), whenever and however it was written."""
    return columns_hash(read_calibration_table(path))


def columns_hash(content: Mapping[str, Any]) -> str:
    """Return the content hash that solutions, given as the fields of ``Solutions``, have once they are written."""
    digest = hashlib.sha256()
    gains = np.where(content["flags"], 0.0, content["gains"]).astype(np.complex64)
    # Times to the millisecond, so that a change of time scale and back leaves the hash.
    milliseconds = np.round(content["time_mjd"] * SECONDS_PER_DAY * 1e3).astype(np.int64)
    for array in (gains, content["flags"], milliseconds, np.round(content["frequency_hz"]).astype(np.int64)):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("|".join((content["kind"], *content["antenna_names"], *content["correlations"])).encode())
    return digest.hexdigest()


def _put_rows(main: Any, part: Mapping[str, Any], place: Mapping[str, Any], start: int) -> None:
    """Write one field's solutions from row ``start``."""
    n_time, n_ant, n_chan, n_corr = part["gains"].shape
    n_row = n_time * n_ant
    hands = _hand_order(part["correlations"])
    step = -1 if place["is_descending"] else 1

    def cells(values: NDArray[Any], empty: Any) -> NDArray[Any]:
        """Both receptors in CASA's order, shape (n_row, n_chan, 2); one that we lack is ``empty``."""
        ours = values.reshape(n_row, n_chan, n_corr)[:, ::step][:, :, hands]
        if n_corr == 1:
            ours = np.concatenate([ours, np.full_like(ours, empty)], axis=2)
        return np.ascontiguousarray(ours)

    flags = np.asarray(part["flags"])
    gains = np.where(flags, 1.0, part["gains"]).astype(np.complex64)
    snr = np.asarray(part["snr"], dtype=np.float32)
    error = np.divide(np.abs(gains), snr, out=np.zeros_like(snr), where=snr > 0)
    columns: dict[str, Any] = {
        "TIME": np.repeat(part["time_mjd"] * SECONDS_PER_DAY + place["time_offset_s"], n_ant),
        "INTERVAL": np.repeat(part["interval_s"], n_ant),
        "FIELD_ID": np.full(n_row, place["field_ids"].get(part["field_name"], -1), dtype=np.int32),
        "SPECTRAL_WINDOW_ID": np.full(n_row, place["spectral_window"], dtype=np.int32),
        "ANTENNA1": np.tile(place["antenna_ids"], n_time).astype(np.int32),
        "ANTENNA2": np.full(n_row, place["antenna_ids"][part["refant"]], dtype=np.int32),
        "SCAN_NUMBER": np.full(n_row, 1, dtype=np.int32),
        "OBSERVATION_ID": np.zeros(n_row, dtype=np.int32),
        "CPARAM": cells(gains, 1.0),
        "PARAMERR": cells(error, 0.0),
        "FLAG": cells(flags, empty=True),
        "SNR": cells(snr, 0.0),
    }
    for name, values in columns.items():
        main.putcol(name, values, start, n_row)


def _extra(parts: Sequence[Mapping[str, Any]], place: Mapping[str, Any]) -> dict[str, Any]:
    order = np.argsort(np.concatenate([part["time_mjd"] for part in parts]), kind="stable")
    names = parts[0]["correlations"]
    converged = [np.asarray(part["converged"])[:, :, _hand_order(part["correlations"])] for part in parts]
    residuals = [part.get("antenna_residual") for part in parts]
    known = [np.asarray(r)[:, _hand_order(part["correlations"])] for r, part in zip(residuals, parts, strict=True)
             if r is not None]  # fmt: skip
    return {
        **({"antenna_residual": np.fmax.reduce(known)} if len(known) == len(parts) else {}),
        "correlations": [names[i] for i in _hand_order(names)],
        "time_offset_s": float(place["time_offset_s"]),
        "field_name": ",".join(dict.fromkeys(part["field_name"] for part in parts)),
        "residual": float(max(part["residual"] for part in parts)),
        "n_iterations": int(max(part["n_iterations"] for part in parts)),
        "converged": np.concatenate(converged)[order],
    }


def _hand_order(correlations: Sequence[str]) -> list[int]:
    """Positions of the parallel hands in CASA's order of receptors: R before L, X before Y."""
    return sorted(range(len(correlations)), key=lambda i: list(_CORRELATION_NAMES.values()).index(correlations[i]))


def _kind_of(main: Any, path: Path) -> str:
    subtype = str(main.info().get("subType", ""))
    for kind, name in _SUBTYPES.items():
        if subtype == name:
            return kind
    raise CasaError(
        f"{path} is not a calibration table that can be used here", got=repr(subtype),
        expected=" or ".join(_SUBTYPES.values()), remedy="Give a gain or bandpass table.",
        reason_code="not_a_calibration_table",
    )  # fmt: skip


def _extra_of_casa(main: Any, ms_path: Path | str | None) -> dict[str, Any]:
    if ms_path is None:
        raise CasaError(
            f"{main.name()} was made by CASA and does not say which correlations it belongs to",
            remedy="Give the measurement set it was solved on as well.", reason_code="unknown_correlations",
        )  # fmt: skip
    with open_measurement_set(ms_path) as ms:
        time_s = ms.getcell("TIME", 0)
        with open_subtable(ms, "POLARIZATION") as sub:
            codes = sub.getcell("CORR_TYPE", 0)
        offset_s = time_s - float(utc_mjd(ms, np.array([time_s]))[0]) * SECONDS_PER_DAY
    with tables.table(f"{main.name()}/FIELD", ack=False) as sub:
        names = sub.getcol("NAME")
    return {
        "correlations": [_CORRELATION_NAMES[int(code)] for code in codes if int(code) in _CORRELATION_NAMES],
        "time_offset_s": offset_s,
        "field_name": ",".join(str(names[i]) for i in np.unique(main.getcol("FIELD_ID")) if i >= 0),
        "residual": float("nan"),
        "n_iterations": 0,
    }


def _collect(main: Any, kind: str, extra: Mapping[str, Any], path: Path) -> dict[str, Any]:
    windows = np.unique(main.getcol("SPECTRAL_WINDOW_ID"))
    if len(windows) != 1:
        raise CasaError(
            f"{path} holds several spectral windows", got=f"{len(windows)}", expected="1",
            remedy="Split the table by spectral window.", reason_code="several_spectral_windows",
        )  # fmt: skip
    with tables.table(f"{main.name()}/SPECTRAL_WINDOW", ack=False) as sub:
        frequency_hz = np.asarray(sub.getcell("CHAN_FREQ", int(windows[0])), dtype=np.float64)
    with tables.table(f"{main.name()}/ANTENNA", ack=False) as sub:
        names = tuple(str(name) for name in sub.getcol("NAME"))
    time_s, antenna = main.getcol("TIME"), main.getcol("ANTENNA1")
    times_s, slot = np.unique(time_s, return_inverse=True)
    correlations = tuple(str(name) for name in extra["correlations"])
    channels = np.argsort(frequency_hz)
    shape = (len(times_s), len(names), len(channels), len(correlations))

    def spread(column: str, empty: Any, dtype: Any) -> NDArray[Any]:
        values = np.full(shape, empty, dtype=dtype)
        values[slot, antenna] = main.getcol(column)[:, channels, : len(correlations)]
        return values

    flags = spread("FLAG", empty=True, dtype=np.bool_)
    interval_s = np.zeros(len(times_s))
    interval_s[slot] = main.getcol("INTERVAL")
    converged = np.asarray(extra["converged"], dtype=np.bool_) if "converged" in extra else ~flags.all(axis=1)
    return {
        "kind": kind,
        "gains": np.where(flags, 1.0, spread("CPARAM", 1.0, np.complex128)),
        "flags": flags,
        "snr": spread("SNR", 0.0, np.float32),
        "time_mjd": (times_s - extra["time_offset_s"]) / SECONDS_PER_DAY,
        "interval_s": interval_s,
        "frequency_hz": frequency_hz[channels],
        "refant": int(np.bincount(np.maximum(main.getcol("ANTENNA2"), 0)).argmax()),
        "antenna_names": names,
        "correlations": correlations,
        "field_name": str(extra["field_name"]),
        "residual": float(extra["residual"]),
        "n_iterations": int(extra["n_iterations"]),
        "converged": converged,
        "antenna_residual": np.asarray(extra["antenna_residual"]) if "antenna_residual" in extra else None,
    }
