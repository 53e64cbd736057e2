"""Headers of UVH5 files: what a sub-band file says about itself, and why one cannot be used.

What belongs here: opening a raw file, its header in our units, and the checks a header allows. Visibilities are read in
``uvh5``, written in ``uvh5_writer``; which files belong together is decided by ``science.grouping``.

Two dialects are understood: what the DSA-110 correlator writes (``phase_type`` "drift", four-dimensional arrays, a
(1, n_chan) frequency array, no phase-centre catalogue) and what pyuvdata writes (versions 1.0 to 1.2 of its format).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from contimg_resources.errors import ProductMissingError, RawFileError
from contimg_resources.uvh5_limits import find_danger

JD_OF_MJD_ZERO = 2_400_000.5

_FILE_NAME = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)_sb(\d\d)\.hdf5$")

_MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)

_FALLBACK_CLOCK_MJD = 55_000.0
"""The correlator starts counting here when it cannot reach its clock."""

_CLOCK_TOLERANCE_D = 1.0 / 24.0
"""Header and file name may differ by buffering and jitter, never by an hour."""

_NONSENSE = (ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError, MemoryError)
"""What h5py and numpy raise where bytes, types or shapes of a file are not what they should be (found by fuzzing)."""

_PARALLEL_HANDS = {-5: "XX", -6: "YY", -1: "RR", -2: "LL"}
"""AIPS codes of the correlations we keep."""


@dataclass(frozen=True, slots=True, eq=False)
class SubbandHeader:
    """What one raw file holds, without its visibilities."""

    path: Path
    subband: int | None
    """Number in the file name; None if the name carries none."""
    name_mjd: float
    """Time in the file name (a node's own clock), UTC MJD; NaN if the name carries none."""
    start_mjd: float
    """Start of the first integration, UTC MJD."""
    integration_s: float
    n_time: int
    frequency_hz: NDArray[np.float64]
    """Channel centres in the order of the file."""
    channel_width_hz: float
    correlations: tuple[str, ...]
    """Parallel-hand correlations in the file, by name."""
    correlation_index: tuple[int, ...]
    """Their places on the file's polarisation axis."""
    telescope_name: str
    dish_diameter_m: float
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    pointing_dec_deg: float
    """Apparent declination of a drift scan; NaN if the data are phased."""
    phase_centre_ra_deg: float
    """ICRS phase centre; NaN for a drift scan."""
    phase_centre_dec_deg: float
    n_bytes: int


def parse_file_name(name: str) -> tuple[float, int] | None:
    """Time (UTC MJD) and sub-band of a finished raw file's name, or None if it is not one.

    Examples
    --------
    >>> parse_file_name("2026-01-25T22:26:05_sb03.hdf5")[1]
    3
    >>> parse_file_name("2026-01-25T22:26:05_sb03_incomplete.hdf5") is None
    True
    """
    match = _FILE_NAME.match(name)
    if match is None:
        return None
    stamp = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    return (stamp - _MJD_EPOCH).total_seconds() / 86_400.0, int(match[2])


@contextmanager
def open_raw(path: Path) -> Iterator[h5py.File]:
    """Open a raw file for reading, turning what HDF5 says into named errors.

    Raises
    ------
    ProductMissingError
        If the file does not exist.
    RawFileError
        ``zero_byte_file``, ``not_hdf5``, ``truncated_file`` or ``malformed_header``.
    """
    again = "Transfer the file again, or leave it out: the observation can do without a few sub-bands."
    if not path.is_file():
        raise ProductMissingError(f"raw file {path} does not exist", remedy="Check the path.")
    n_bytes = path.stat().st_size
    if n_bytes == 0:
        raise RawFileError(
            f"raw file {path}", got="0 bytes", expected="an HDF5 file", remedy=again, reason_code="zero_byte_file"
        )
    if not h5py.is_hdf5(path):
        raise RawFileError(
            f"raw file {path}", got="other content", expected="an HDF5 file", remedy=again, reason_code="not_hdf5"
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise RawFileError(
            f"raw file {path}",
            got=f"{n_bytes} bytes, {error}",
            expected="a complete HDF5 file",
            remedy=again,
            reason_code="truncated_file",
        ) from error
    with file:
        try:
            if danger := find_danger(file):
                raise _malformed(path, danger, "arrays of a bounded size in the file itself")
            yield file
        except KeyError as error:
            raise RawFileError(
                f"raw file {path}",
                got=f"no such entry: {error}",
                expected="the groups Header and Data of UVH5",
                remedy="Look at the file with h5dump -H; its writer left something out.",
                reason_code="malformed_header",
            ) from error
        except OSError as error:
            raise RawFileError(
                f"raw file {path}",
                got=str(error),
                expected="readable data",
                remedy=again,
                reason_code="truncated_file",
            ) from error
        except _NONSENSE as error:
            raise _malformed(path, f"{type(error).__name__}: {error}", "entries of UVH5's types and shapes") from error


def read_subband_header(path: Path, *, telescope_name: str | None = None) -> SubbandHeader:
    """Read what a raw file says about itself; takes about a millisecond.

    Parameters
    ----------
    path : Path
        A UVH5 file of the correlator or of pyuvdata.
    telescope_name : str, optional
        Refuse files of any other telescope.

    Raises
    ------
    RawFileError
        As ``open_raw``, and ``other_telescope``, ``wrong_clock``, ``malformed_header``.
    """
    with open_raw(path) as file:
        found = _describe(path, file["Header"])
        _check_structure(path, file, found)
    if telescope_name is not None and found.telescope_name != telescope_name:
        raise RawFileError(
            f"raw file {path} is of another telescope",
            got=repr(found.telescope_name),
            expected=repr(telescope_name),
            remedy="Move the file away, or set the telescope's name in the telescope description.",
            reason_code="other_telescope",
        )
    _check_clock(found)
    return found


def _describe(path: Path, header: h5py.Group) -> SubbandHeader:
    named = parse_file_name(path.name)
    name_mjd, subband = named if named is not None else (math.nan, None)
    integration_s = float(np.atleast_1d(header["integration_time"])[0])
    codes = [int(code) for code in np.atleast_1d(header["polarization_array"][()])]
    kept = sorted((place for place, code in enumerate(codes) if code in _PARALLEL_HANDS), key=lambda p: -codes[p])
    if not kept:
        raise _malformed(path, f"polarisations {codes}", "XX and YY, or RR and LL")
    times = header["time_array"]
    if times.ndim != 1 or times.shape[0] == 0:
        raise _malformed(path, f"times of shape {times.shape}", "one time for each row")
    frequency_hz = np.asarray(header["freq_array"][()], dtype=np.float64).ravel()
    if not (frequency_hz.size and np.all(np.isfinite(frequency_hz)) and np.all(frequency_hz > 0.0)):
        raise _malformed(path, f"frequencies {frequency_hz[:3]}", "positive channel frequencies (Hz)")
    pointing_dec_deg, ra_deg, dec_deg = _direction(path, header)
    return SubbandHeader(
        path=path,
        subband=subband,
        name_mjd=name_mjd,
        start_mjd=float(times[0]) - JD_OF_MJD_ZERO - 0.5 * integration_s / 86_400.0,
        integration_s=integration_s,
        n_time=int(header["Ntimes"][()]),
        frequency_hz=frequency_hz,
        channel_width_hz=abs(float(np.atleast_1d(header["channel_width"][()]).ravel()[0])),
        correlations=tuple(_PARALLEL_HANDS[codes[place]] for place in kept),
        correlation_index=tuple(kept),
        telescope_name=_text(header["telescope_name"][()]),
        dish_diameter_m=_diameter(header),
        latitude_deg=float(header["latitude"][()]),
        longitude_deg=float(header["longitude"][()]),
        altitude_m=float(header["altitude"][()]),
        pointing_dec_deg=pointing_dec_deg,
        phase_centre_ra_deg=ra_deg,
        phase_centre_dec_deg=dec_deg,
        n_bytes=path.stat().st_size,
    )


def _check_structure(path: Path, file: h5py.File, found: SubbandHeader) -> None:
    """A file whose writer stopped half-way may open well: its arrays then lack rows, or were never written."""
    n_rows, n_channels = file["Header/time_array"].shape[0], found.frequency_hz.size
    for name in ("visdata", "flags", "nsamples"):
        array = file["Data"][name]
        shape = (array.shape[0], *array.shape[-2:])
        expected = (n_rows, n_channels, file["Header/polarization_array"].shape[0])
        if shape != expected or array.id.get_storage_size() == 0:
            unwritten = "" if shape != expected else ", nothing written"
            raise RawFileError(
                f"raw file {path}: Data/{name} is incomplete",
                got=f"{shape}{unwritten}",
                expected=f"{expected} as its header says",
                remedy="Transfer the file again: its writer had not finished.",
                reason_code="truncated_file",
            )


def _direction(path: Path, header: h5py.Group) -> tuple[float, float, float]:
    """Pointing declination of a drift scan, or ICRS phase centre, in degrees; the other is NaN."""
    extra = header.get("extra_keywords", {})
    if "phase_center_catalog" in header:
        used = {int(entry) for entry in np.unique(header["phase_center_id_array"][()])}
        if len(used) != 1:
            raise _malformed(path, f"{len(used)} phase centres in one file", "a single phase centre")
        entry = header["phase_center_catalog"][str(used.pop())]
        if _text(entry["cat_type"][()]) == "sidereal":
            return math.nan, math.degrees(float(entry["cat_lon"][()])), math.degrees(float(entry["cat_lat"][()]))
    elif _text(header["phase_type"][()]) == "phased":
        return (
            math.nan,
            math.degrees(float(header["phase_center_ra"][()])),
            math.degrees(float(header["phase_center_dec"][()])),
        )
    elif "phase_center_dec" not in extra:
        return math.degrees(float(np.atleast_1d(header["phase_center_app_dec"][()])[0])), math.nan, math.nan
    if "phase_center_dec" not in extra:
        raise _malformed(path, "unphased data without pointing", "extra_keywords/phase_center_dec (rad)")
    return math.degrees(float(extra["phase_center_dec"][()])), math.nan, math.nan


def _check_clock(found: SubbandHeader) -> None:
    drifted = abs(found.start_mjd - found.name_mjd) > _CLOCK_TOLERANCE_D  # False where the name has no time
    if drifted or 0.0 <= found.start_mjd - _FALLBACK_CLOCK_MJD < 1.0:
        named = f"about MJD {found.name_mjd:.3f} as its name says" if drifted else "the time of the observation"
        raise RawFileError(
            f"raw file {found.path} has a wrong clock",
            got=f"start MJD {found.start_mjd:.3f} in the header",
            expected=named,
            remedy="The correlator lost its clock (it then counts from MJD 55000); the data cannot be placed in time.",
            reason_code="wrong_clock",
        )


def _diameter(header: h5py.Group) -> float:
    """Median dish diameter, m; NaN where the file does not say."""
    return float(np.median(header["antenna_diameters"][()])) if "antenna_diameters" in header else math.nan


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _malformed(path: Path, got: str, expected: str) -> RawFileError:
    return RawFileError(
        f"raw file {path} has a header we cannot use",
        got=got,
        expected=expected,
        remedy="Look at the file with h5dump -H; its writer left something out.",
        reason_code="malformed_header",
    )
