"""Which rows, channels and correlations of any measurement set make up one ``Visibilities``, and in what order.

What belongs here: choosing a field and a spectral window, and the mapping between the main table and our axes, used in
both directions (``measurement_sets`` reads through it and scatters flags and columns back through it). What does not:
moving the bulk data.

Method: rows of the field and spectral window without autocorrelations, in a stable order by time; parallel-hand
correlations only; channels ascending. Rejected: TaQL selections and ``table.sort``, whose reference tables read bulk
columns row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.time import Time
from casacore import tables
from numpy.typing import NDArray

from contimg_resources.errors import CasaError, ProductMissingError
from contimg_resources.measurement_set_layout import CORRELATION_CODES, SECONDS_PER_DAY

_CHUNK_BYTES = 64_000_000
_PARALLEL_HANDS = ("XX", "YY", "RR", "LL", "I")
_TIME_SCALES = {"UTC": "utc", "TAI": "tai", "TDT": "tt", "TT": "tt", "UT1": "ut1", "UT": "ut1", "TDB": "tdb"}
_CELESTIAL_FRAMES = {"ICRS": "icrs", "J2000": "icrs", "B1950": "fk4", "B1950_VLA": "fk4", "GALACTIC": "galactic"}
"""J2000 is taken as ICRS: they differ by 0.02 arcsec, less than any beam of ours by a factor of a thousand."""


@dataclass(frozen=True, slots=True)
class RowChunk:
    """Some consecutive rows of the main table and where those that were selected go."""

    start_row: int
    n_row: int
    inside: NDArray[np.int64]
    """Selected rows relative to ``start_row``, ascending."""
    target: NDArray[np.int64]
    """Row of our arrays for each of ``inside``."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The part of a measurement set that becomes one ``Visibilities``."""

    rows: NDArray[np.int64]
    """Row numbers of the main table in our order."""
    n_table_row: int
    field_id: int
    field_name: str
    phase_centre_deg: tuple[float, float]
    frequency_hz: NDArray[np.float64]
    """Ascending, Hz."""
    channel_order: NDArray[np.int64]
    """Channel of the table for each of ours."""
    channel_width_hz: float
    correlations: tuple[str, ...]
    correlation_order: NDArray[np.int64]
    """Correlation of the table for each of ours."""
    n_table_corr: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of our arrays, (n_row, n_chan, n_corr)."""
        return self.rows.size, self.frequency_hz.size, len(self.correlations)

    @property
    def is_whole_table(self) -> bool:
        """Whether our arrays are the table's own, so that nothing needs copying."""
        return bool(
            self.rows.size == self.n_table_row
            and np.array_equal(self.rows, np.arange(self.n_table_row))
            and self.keeps_cells
        )

    @property
    def keeps_cells(self) -> bool:
        """Whether channels and correlations of a cell are already in our order."""
        return bool(
            np.array_equal(self.channel_order, np.arange(self.frequency_hz.size))
            and np.array_equal(self.correlation_order, np.arange(self.n_table_corr))
        )

    def chunks(self) -> Iterator[RowChunk]:
        """Walk through the table in row order, in pieces of about 64 MB that contain selected rows."""
        step = max(1, _CHUNK_BYTES // (8 * self.n_table_corr * self.frequency_hz.size))
        order = np.argsort(self.rows, kind="stable")
        ascending = self.rows[order]
        position = 0
        while position < ascending.size:
            start = int(ascending[position])
            stop = int(np.searchsorted(ascending, start + step))
            inside = ascending[position:stop] - start
            yield RowChunk(start, int(inside[-1]) + 1, inside, order[position:stop])
            position = stop

    def to_ours(self, cells: NDArray[Any], chunk: RowChunk) -> NDArray[Any]:
        """Rows, channels and correlations of a table chunk in our order."""
        picked = cells if chunk.inside.size == chunk.n_row else cells[chunk.inside]
        if self.keeps_cells:
            return picked
        return picked[:, self.channel_order][:, :, self.correlation_order]

    def into_table(self, ours: NDArray[Any], cells: NDArray[Any], chunk: RowChunk) -> None:
        """Scatter our rows (all of them, shape (n_row, n_chan, n_corr)) into a table chunk in place."""
        index = np.ix_(chunk.inside, self.channel_order, self.correlation_order)
        cells[index] = ours[chunk.target]


def open_measurement_set(path: Path | str, *, writable: bool = False) -> Any:
    """Open the main table, or say what is wrong with the path."""
    location = Path(path)
    if not location.exists():
        raise ProductMissingError(
            f"measurement set {location} does not exist", remedy="Correct the path, or convert the observation first."
        )
    if not (location / "table.dat").is_file():
        raise CasaError(
            f"{location} is not a measurement set",
            got="a file" if location.is_file() else "a folder without table.dat",
            expected="a CASA table folder",
            remedy="Give the path of a measurement set; raw sub-band files go through contimg convert.",
            reason_code="not_a_measurement_set",
        )
    try:
        opened = tables.table(
            str(location), readonly=not writable, ack=False, lockoptions="auto" if writable else "autonoread"
        )
    except RuntimeError as error:
        raise CasaError(
            f"casacore cannot open {location}", got=str(error).strip(), expected="a measurement set",
            remedy="The product is damaged; convert the observation again.", reason_code="not_a_measurement_set",
        ) from error  # fmt: skip
    needed = {"UVW", "ANTENNA1", "ANTENNA2", "TIME", "FIELD_ID", "DATA_DESC_ID", "FLAG"}
    missing = sorted(needed - set(opened.colnames())) + sorted(
        {"FIELD", "SPECTRAL_WINDOW"} - set(opened.keywordnames())
    )
    if missing:
        opened.close()
        raise CasaError(
            f"{location} is not a measurement set", got=f"a CASA table without {', '.join(missing)}",
            expected="the columns of MSv2", remedy="Give the path of a measurement set, not of another CASA table.",
            reason_code="not_a_measurement_set",
        )  # fmt: skip
    return opened


def open_subtable(main: Any, name: str) -> Any:
    """Open a sub-table of an opened measurement set for reading."""
    return tables.table(f"{main.name()}/{name}", ack=False, lockoptions="autonoread")


def select_rows(main: Any, field: str | int | None, spectral_window: int) -> Selection:
    """Choose the rows of a field and a spectral window of an opened measurement set."""
    field_id, field_name, centre = _choose_field(main, field)
    descriptions, polarization_id = _data_descriptions(main, spectral_window)
    wanted = (
        (main.getcol("FIELD_ID") == field_id)
        & np.isin(main.getcol("DATA_DESC_ID"), descriptions)
        & (main.getcol("ANTENNA1") != main.getcol("ANTENNA2"))
    )
    rows = np.flatnonzero(wanted)
    if rows.size == 0:
        raise CasaError(
            f"{main.name()} has no cross-correlations of field {field_name!r} in spectral window {spectral_window}",
            got=f"0 of {main.nrows()} rows", expected="at least one row",
            remedy="Choose another field or spectral window (contimg lists them), or convert the observation again.",
            reason_code="no_rows",
        )  # fmt: skip
    time = main.getcol("TIME")[rows]
    if np.any(np.diff(time) < 0):
        rows = rows[np.argsort(time, kind="stable")]
    with open_subtable(main, "SPECTRAL_WINDOW") as sub:
        frequency_hz = np.asarray(sub.getcell("CHAN_FREQ", spectral_window), dtype=np.float64)
        width_hz = float(np.median(np.abs(sub.getcell("CHAN_WIDTH", spectral_window))))
    channel_order = np.argsort(frequency_hz, kind="stable")
    with open_subtable(main, "POLARIZATION") as sub:
        codes = [int(code) for code in sub.getcell("CORR_TYPE", polarization_id)]
    names = {code: name for name, code in CORRELATION_CODES.items() if name in _PARALLEL_HANDS}
    picked = [index for index, code in enumerate(codes) if code in names]
    if not picked:
        raise CasaError(
            f"{main.name()} has no parallel-hand correlations", got=f"Stokes codes {codes}",
            expected="XX, YY, RR, LL or I", remedy="Export the data with parallel-hand correlations.",
            reason_code="no_parallel_hands",
        )  # fmt: skip
    return Selection(
        rows=rows,
        n_table_row=main.nrows(),
        field_id=field_id,
        field_name=field_name,
        phase_centre_deg=centre,
        frequency_hz=frequency_hz[channel_order],
        channel_order=channel_order,
        channel_width_hz=width_hz,
        correlations=tuple(names[codes[index]] for index in picked),
        correlation_order=np.array(picked, dtype=np.int64),
        n_table_corr=len(codes),
    )


def field_names(main: Any) -> list[str]:
    """Names of the fields in order of their id."""
    with open_subtable(main, "FIELD") as sub:
        return [str(name) for name in sub.getcol("NAME")]


def _choose_field(main: Any, field: str | int | None) -> tuple[int, str, tuple[float, float]]:
    names = field_names(main)
    if field is None:
        used = main.getcol("FIELD_ID")
        field_id = int(used[0]) if used.size else 0
    elif isinstance(field, str) and field in names:
        field_id = names.index(field)
    else:
        field_id = int(field) if str(field).isdigit() else -1
    if not 0 <= field_id < len(names):
        raise CasaError(
            f"{main.name()} has no field {field!r}", got=str(field),
            expected=", ".join(f"{index}: {name}" for index, name in enumerate(names)) or "no field at all",
            remedy="Choose one of the fields by name or number.", reason_code="unknown_field",
        )  # fmt: skip
    return field_id, names[field_id], field_centre_deg(main, field_id)


def field_centre_deg(main: Any, field_id: int) -> tuple[float, float]:
    """ICRS phase centre of a field, deg, right ascension in [0, 360)."""
    with open_subtable(main, "FIELD") as sub:
        direction = np.asarray(sub.getcell("PHASE_DIR", field_id))[0]
        reference = _direction_reference(sub, "PHASE_DIR", field_id)
    return to_icrs_deg(direction, reference, main.name())


def to_icrs_deg(direction_rad: NDArray[np.float64], reference: str, name: str) -> tuple[float, float]:
    """ICRS coordinates, deg, of a direction in a celestial frame that casacore names."""
    frame = _CELESTIAL_FRAMES.get(reference.upper())
    if frame is None:
        raise CasaError(
            f"{name}: phase centre in a frame that moves with the Earth", got=reference,
            expected=", ".join(_CELESTIAL_FRAMES), remedy="Convert the field's direction to ICRS (CASA fixvis).",
            reason_code="unsupported_frame",
        )  # fmt: skip
    icrs = SkyCoord(*direction_rad, unit=u.rad, frame=frame).icrs
    return float(icrs.ra.deg % 360.0), float(icrs.dec.deg)


def _direction_reference(sub: Any, column: str, row: int) -> str:
    """Name of the frame of a direction: fixed for the column, or varying by row through a code."""
    info = sub.getcolkeyword(column, "MEASINFO")
    if "VarRefCol" not in info:
        return str(info["Ref"])
    code = sub.getcell(info["VarRefCol"], row)
    if isinstance(code, str):
        return code
    codes = [int(known) for known in info["TabRefCodes"]]
    return str(info["TabRefTypes"][codes.index(int(code))])


def _data_descriptions(main: Any, spectral_window: int) -> tuple[NDArray[np.int64], int]:
    """Data description ids of a spectral window that share the first one's polarisation set-up, and that set-up."""
    with open_subtable(main, "DATA_DESCRIPTION") as sub:
        windows, polarizations = sub.getcol("SPECTRAL_WINDOW_ID"), sub.getcol("POLARIZATION_ID")
    ids = np.flatnonzero(windows == spectral_window)
    if ids.size == 0:
        raise CasaError(
            f"{main.name()} has no spectral window {spectral_window}", got=str(spectral_window),
            expected=f"one of {sorted(set(windows.tolist()))}", remedy="Choose an existing spectral window.",
            reason_code="unknown_spectral_window",
        )  # fmt: skip
    first = int(polarizations[ids[0]])
    return ids[polarizations[ids] == first], first


def utc_mjd(main: Any, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """UTC MJD of values of ``TIME``, in whatever scale the column declares."""
    scale = str(main.getcolkeywords("TIME").get("MEASINFO", {}).get("Ref", "UTC"))
    if scale not in _TIME_SCALES:
        raise CasaError(
            f"{main.name()}: unknown time scale", got=scale, expected=", ".join(_TIME_SCALES),
            remedy="Import the data again with UTC times.", reason_code="unsupported_time_scale",
        )  # fmt: skip
    mjd = np.asarray(time_s, dtype=np.float64) / SECONDS_PER_DAY
    if scale == "UTC":
        return mjd
    instants, inverse = np.unique(mjd, return_inverse=True)
    converted = Time(instants, format="mjd", scale=_TIME_SCALES[scale]).utc.mjd
    return np.asarray(converted, dtype=np.float64)[inverse]
