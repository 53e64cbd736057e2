"""The empty CASA calibration table: columns, keywords and sub-tables.

What belongs here: what every table of a kind has in common. What does not: the rows (``calibration_tables``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables
from numpy.typing import NDArray

from contimg_resources.errors import CasaError
from contimg_resources.measurement_set_rows import open_measurement_set, open_subtable, utc_mjd

SECONDS_PER_DAY = 86_400.0
_SUBTABLES = ("OBSERVATION", "ANTENNA", "FIELD", "SPECTRAL_WINDOW", "HISTORY")
_SCALARS = {
    "TIME": "double",
    "FIELD_ID": "int",
    "SPECTRAL_WINDOW_ID": "int",
    "ANTENNA1": "int",
    "ANTENNA2": "int",
    "INTERVAL": "double",
    "SCAN_NUMBER": "int",
    "OBSERVATION_ID": "int",
}
_ARRAYS = {"CPARAM": "complex", "PARAMERR": "float", "FLAG": "boolean", "SNR": "float", "WEIGHT": "float"}
_FREQUENCY_TOLERANCE_HZ = 1.0


def create_main(path: str, subtype: str, n_row: int) -> Any:
    """Create the main table with ``n_row`` rows; ``subtype`` is "G Jones" or "B Jones"."""
    description: dict[str, Any] = {}
    for name, value_type in {**_SCALARS, **_ARRAYS}.items():
        described: dict[str, Any] = {
            "valueType": value_type,
            "dataManagerType": "StandardStMan",
            "dataManagerGroup": "MSMTAB",
            "option": 5 if name in _SCALARS else 0,
            "maxlen": 0,
            "comment": "",
            "keywords": {},
        }
        if name in _ARRAYS:
            described["ndim"] = -1
        if name in ("TIME", "INTERVAL"):
            described["keywords"] = {"QuantumUnits": ["s"]}
        description[name] = described
    description["TIME"]["keywords"]["MEASINFO"] = {"type": "epoch", "Ref": "UTC"}
    main = tables.table(path, description, nrow=n_row, ack=False)
    main.putinfo({"type": "Calibration", "subType": subtype, "readme": ""})
    main.putkeywords({"ParType": "Complex", "MSName": "", "VisCal": subtype, "PolBasis": "unknown"})
    return main


def write_subtables(main: Any, columns: Mapping[str, Any], ms_path: Path | None) -> dict[str, Any]:
    """Write the sub-tables of a new table.

    Returns
    -------
    dict
        Where solutions go: ``spectral_window``, ``antenna_ids`` (of each of our antennas), ``field_ids`` (by name),
        ``time_offset_s`` (to the measurement set's time scale) and ``is_descending`` (order of its channels).
    """
    if ms_path is None:
        return _write_bare(main, columns)
    main.putkeyword("MSName", ms_path.name)
    with open_measurement_set(ms_path) as ms:
        for name in _SUBTABLES:
            if name == "HISTORY":
                tables.default_ms_subtable(name, f"{main.name()}/{name}").close()
            else:
                with open_subtable(ms, name) as sub:
                    sub.copy(f"{main.name()}/{name}", deep=True, valuecopy=True).close()
            main.putkeyword(name, f"Table: {main.name()}/{name}")
        time_s = float(ms.getcell("TIME", 0)) if ms.nrows() else 0.0
        offset_s = time_s - float(utc_mjd(ms, np.array([time_s]))[0]) * SECONDS_PER_DAY
    with tables.table(f"{main.name()}/ANTENNA", ack=False) as sub:
        names = [str(name) for name in sub.getcol("NAME")]
    missing = [name for name in columns["antenna_names"] if name not in names]
    if missing:
        raise CasaError(
            f"solutions do not belong to {ms_path}", got=f"antennas {', '.join(missing[:5])}",
            expected=f"antennas among {', '.join(names[:5])}, ...", remedy="Give the measurement set solved on.",
            reason_code="solutions_do_not_match",
        )  # fmt: skip
    with tables.table(f"{main.name()}/FIELD", ack=False) as sub:
        fields = {str(name): i for i, name in reversed(list(enumerate(sub.getcol("NAME"))))}
    window, is_descending = _place_window(main, columns, ms_path)
    return {
        "spectral_window": window,
        "antenna_ids": np.array([names.index(name) for name in columns["antenna_names"]]),
        "field_ids": fields,
        "time_offset_s": round(offset_s, 6),
        "is_descending": is_descending,
    }


def _place_window(main: Any, columns: Mapping[str, Any], ms_path: Path) -> tuple[int, bool]:
    """Find the spectral window of the solutions; gains get one channel, as CASA gives them."""
    solved_hz = np.asarray(columns["frequency_hz"], dtype=np.float64)
    with tables.table(f"{main.name()}/SPECTRAL_WINDOW", readonly=False, ack=False) as sub:
        for window in range(sub.nrows()):
            frequency_hz = np.asarray(sub.getcell("CHAN_FREQ", window), dtype=np.float64)
            width_hz = float(np.abs(sub.getcell("CHAN_WIDTH", window)).sum())
            ascending = np.sort(frequency_hz)
            same = len(ascending) == len(solved_hz) and np.allclose(
                ascending, solved_hz, rtol=0, atol=_FREQUENCY_TOLERANCE_HZ
            )
            if columns["kind"] == "B" and same:
                return window, bool(len(frequency_hz) > 1 and frequency_hz[0] > frequency_hz[-1])
            if columns["kind"] == "G" and abs(solved_hz[0] - ascending.mean()) <= 0.5 * width_hz:
                _put_channels(sub, window, solved_hz, np.array([width_hz]))
                return window, False
    raise CasaError(
        f"solutions do not belong to {ms_path}", got=f"{len(solved_hz)} channels about {solved_hz.mean():.6g} Hz",
        expected="the channels of one of its spectral windows", remedy="Give the measurement set they were solved on.",
        reason_code="solutions_do_not_match",
    )  # fmt: skip


def _put_channels(sub: Any, row: int, frequency_hz: NDArray[np.float64], width_hz: NDArray[np.float64]) -> None:
    sub.putcell("CHAN_FREQ", row, frequency_hz)
    for name in ("CHAN_WIDTH", "EFFECTIVE_BW", "RESOLUTION"):
        sub.putcell(name, row, width_hz)
    sub.putcell("NUM_CHAN", row, len(frequency_hz))


def _write_bare(main: Any, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Sub-tables from the solutions alone: names and frequencies."""
    names = list(columns["antenna_names"])
    frequency_hz = np.asarray(columns["frequency_hz"], dtype=np.float64)
    rows = {"OBSERVATION": 1, "ANTENNA": len(names), "FIELD": 1, "SPECTRAL_WINDOW": 1, "HISTORY": 0}
    for name in _SUBTABLES:
        with tables.default_ms_subtable(name, f"{main.name()}/{name}") as sub:
            sub.addrows(rows[name])
            if name == "ANTENNA":
                sub.putcol("NAME", names)
            elif name == "FIELD":
                sub.putcell("NAME", 0, columns["field_name"])
            elif name == "SPECTRAL_WINDOW":
                width_hz = np.full(len(frequency_hz), np.diff(frequency_hz).mean() if len(frequency_hz) > 1 else 0.0)
                _put_channels(sub, 0, frequency_hz, width_hz)
        main.putkeyword(name, f"Table: {main.name()}/{name}")
    return {
        "spectral_window": 0,
        "antenna_ids": np.arange(len(names)),
        "field_ids": {columns["field_name"]: 0},
        "time_offset_s": 0.0,
        "is_descending": False,
    }
