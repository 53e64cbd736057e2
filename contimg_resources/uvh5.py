"""Read all sub-band files of one observation into one set of arrays, in a fixed order.

What belongs here: UVH5 files as arrays: which sub-band and which row goes where. Moving the bulk is ``uvh5_bulk``, headers and
their errors are in ``uvh5_header``, writing is ``uvh5_writer``; phasing and flagging are science.

Method. Channels ascend over all sub-bands, baselines are turned to antenna1 < antenna2, autocorrelations kept apart, values
that are not finite replaced by a flagged zero. pyuvdata, the rejected alternative, needs 24 s and 4.6 GB for one full
observation, since it copies while it joins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import astropy.units as u
import h5py
import numpy as np
from astropy.coordinates import EarthLocation
from numpy.typing import NDArray

from contimg_resources.process_memory import keep_freed_memory
from contimg_resources.tracing import traced
from contimg_resources.uvh5_bulk import RowOrder, disagree, scatter_files
from contimg_resources.uvh5_header import (
    JD_OF_MJD_ZERO,
    SubbandHeader,
    open_raw,
    parse_file_name,
    read_subband_header,
)
from contimg_resources.uvh5_writer import write_subband

__all__ = ["SubbandHeader", "parse_file_name", "read_observation", "read_subband_header", "write_subband"]


_LARGEST_GRID = 2
"""Times and baselines may have this many places for each row; gaps are flagged."""


class VisibilityStream(Protocol):
    """Takes visibilities while they are read, so that they need not be held in memory."""

    def begin(self, header: Mapping[str, Any]) -> None:
        """All fields of the observation but ``vis``, ``flags``, ``weights`` and ``autos``, before anything is read."""

    def put(self, times: slice, vis: NDArray[np.complex64]) -> None:
        """The next integrations, axes (time, baseline, chan, corr), in an array that is used again afterwards."""

    def finish(self) -> NDArray[np.complex64]:
        """All of them as one array, wherever it lies."""


class _Memory:
    """The stream that keeps everything in memory."""

    def begin(self, header: Mapping[str, Any]) -> None:
        shape = (header["time_mjd"], header["antenna1"], header["frequency_hz"], header["correlations"])
        self._vis = np.empty([len(axis) for axis in shape], dtype=np.complex64)

    def put(self, times: slice, vis: NDArray[np.complex64]) -> None:
        self._vis[times] = vis

    def finish(self) -> NDArray[np.complex64]:
        return self._vis


@traced("io.read_raw_files")
def read_observation(
    paths: Sequence[Path],
    *,
    n_subbands: int = 16,
    telescope_name: str | None = None,
    n_threads: int = 1,
    stream: VisibilityStream | None = None,
) -> dict[str, Any]:
    """Read the sub-band files of one observation.

    Parameters
    ----------
    paths : sequence of Path
        Files in any order. Their sub-band numbers come from names ``..._sbNN.hdf5``, or else from the order of their
        frequencies (0 is the highest).
    n_subbands : int
        Sub-bands of a complete observation. Missing ones become flagged channels if the files are numbered.
    telescope_name : str, optional
        Refuse files of any other telescope.
    n_threads : int
        Threads that sort what was read into the arrays.
    stream : VisibilityStream, optional
        Where the visibilities go; memory by default.

    Returns
    -------
    dict
        The fields of ``contimg_assets.science.raw_observation.RawObservation``; ``vis`` is what the stream has made of it.

    Raises
    ------
    RawFileError
        As ``read_subband_header``, and ``subbands_disagree`` or ``not_finite``.
    """
    keep_freed_memory()
    headers = _numbered([read_subband_header(Path(path), telescope_name=telescope_name) for path in paths], n_subbands)
    first_number, reference = next(iter(headers.items()))
    with open_raw(reference.path) as file:
        rows, antennas = _rows(reference, file["Header"]), _antennas(reference, file["Header"])
    n_chan, n_corr = len(reference.frequency_hz), len(reference.correlations)
    shape = (len(rows.time_jd), len(rows.antenna1), n_chan * n_subbands, n_corr)
    is_whole = len(headers) == n_subbands and int(np.count_nonzero(~rows.is_auto)) == shape[0] * shape[1]
    bulk: dict[str, Any] = {
        "flags": np.empty(shape, dtype=np.bool_) if is_whole else np.ones(shape, dtype=np.bool_),
        "weights": np.zeros((shape[0], shape[1], n_corr), dtype=np.float32),
        "autos": np.zeros((shape[0], len(rows.active), *shape[2:]), dtype=np.float32),
    }
    start = datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=reference.start_mjd, seconds=0.5)
    header = antennas | {
        "active_antennas": rows.active,
        "antenna1": rows.antenna1,
        "antenna2": rows.antenna2,
        "time_mjd": rows.time_jd - JD_OF_MJD_ZERO,
        "integration_s": reference.integration_s,
        "frequency_hz": _frequencies(headers, first_number, n_subbands),
        "channel_width_hz": reference.channel_width_hz,
        "correlations": reference.correlations,
        "dish_diameter_m": reference.dish_diameter_m,
        "telescope_name": reference.telescope_name,
        "pointing_dec_deg": reference.pointing_dec_deg,
        "phase_centre_ra_deg": reference.phase_centre_ra_deg,
        "phase_centre_dec_deg": reference.phase_centre_dec_deg,
        "subband_of_channel": np.repeat(np.arange(n_subbands - 1, -1, -1, dtype=np.int32), n_chan),
        "missing_subbands": tuple(sorted(set(range(n_subbands)) - set(headers))),
        "observation_id": f"{start:%Y-%m-%dT%H:%M:%S}",
        "source_name": reference.path.name,
    }
    stream = stream or _Memory()
    stream.begin(header)
    for times, vis in scatter_files(headers, reference, rows, bulk, n_threads):
        stream.put(times, vis)
    return header | bulk | {"vis": stream.finish()}


def _numbered(headers: list[SubbandHeader], n_subbands: int) -> dict[int, SubbandHeader]:
    """Sort headers by sub-band number and check that they belong together."""
    if not headers or len(headers) > n_subbands:
        raise disagree("an observation", f"{len(headers)} files", f"1 to {n_subbands} sub-band files")
    by_frequency = sorted(headers, key=lambda header: -float(header.frequency_hz.mean()))
    if all(header.subband is not None for header in headers):
        numbered = {int(header.subband or 0): header for header in by_frequency}
    elif len(headers) == n_subbands:
        numbered = dict(enumerate(by_frequency))
    else:
        got = f"{len(headers)} files whose names do not end in _sbNN.hdf5"
        raise disagree(str(headers[0].path.parent), got, f"all {n_subbands} sub-bands, or numbered files")
    for number, header in numbered.items():
        if number >= n_subbands:
            raise disagree(str(header.path), f"sub-band number {number}", f"0 to {n_subbands - 1}")
    if len(numbered) < len(headers):
        got = f"{len(headers)} files for sub-bands {sorted(numbered)}"
        raise disagree(str(headers[0].path.parent), got, "one file per sub-band")
    reference = by_frequency[0]
    for header in by_frequency[1:]:
        _check_agreement(header, reference)
    return numbered


def _check_agreement(header: SubbandHeader, reference: SubbandHeader) -> None:
    for what, got, expected, tolerance in (
        ("start MJD", header.start_mjd, reference.start_mjd, 0.0),
        ("integrations", header.n_time, reference.n_time, 0),
        ("integration time (s)", header.integration_s, reference.integration_s, 1e-6),
        ("channels", len(header.frequency_hz), len(reference.frequency_hz), 0),
        ("channel width (Hz)", header.channel_width_hz, reference.channel_width_hz, 1.0),
        ("pointing declination (deg)", header.pointing_dec_deg, reference.pointing_dec_deg, 1e-6),
        ("phase centre RA (deg)", header.phase_centre_ra_deg, reference.phase_centre_ra_deg, 1e-6),
        ("phase centre Dec (deg)", header.phase_centre_dec_deg, reference.phase_centre_dec_deg, 1e-6),
    ):
        if abs(got - expected) > tolerance or np.isnan(got) != np.isnan(expected):
            raise disagree(str(header.path), f"{what} {got}", f"{expected} as in {reference.path.name}")
    if header.correlations != reference.correlations:
        raise disagree(str(header.path), f"correlations {header.correlations}", f"{reference.correlations}")


def _rows(header: SubbandHeader, group: h5py.Group) -> RowOrder:
    numbers = np.asarray(group["antenna_numbers"][()], dtype=np.int64)
    order = np.argsort(numbers)
    stored = {name: np.asarray(group[name][()]) for name in ("ant_1_array", "ant_2_array", "time_array")}
    stored1, stored2 = stored["ant_1_array"], stored["ant_2_array"]
    if not np.all(np.isin(stored1, numbers) & np.isin(stored2, numbers)):
        raise disagree(str(header.path), "antenna numbers that are not in antenna_numbers", "known antennas")
    one = order[np.searchsorted(numbers, stored1, sorter=order)]
    two = order[np.searchsorted(numbers, stored2, sorter=order)]
    if len({array.shape for array in stored.values()}) != 1 or stored1.ndim != 1:
        raise disagree(
            str(header.path), f"shapes {[array.shape for array in stored.values()]}", "one entry for each row"
        )
    time_jd, time_index = np.unique(stored["time_array"], return_inverse=True)
    low, high, is_auto = np.minimum(one, two), np.maximum(one, two), one == two
    pairs, pair_index = np.unique((low * len(numbers) + high)[~is_auto], return_inverse=True)
    # Damaged times or antennas make a grid that is mostly holes, and memory for it may be all there is.
    if len(time_jd) * len(pairs) > _LARGEST_GRID * max(1, len(low) - int(np.count_nonzero(is_auto))):
        got = f"{len(time_jd)} times and {len(pairs)} baselines in {len(low)} rows"
        raise disagree(str(header.path), got, "a row for most baselines at most times")
    active = np.union1d(one, two)
    target = np.empty(len(one), dtype=np.int64)
    target[~is_auto] = time_index[~is_auto] * len(pairs) + pair_index
    target[is_auto] = time_index[is_auto] * len(active) + np.searchsorted(active, one[is_auto])
    return RowOrder(
        target=target,
        time_index=time_index,
        is_auto=is_auto,
        is_turned=one > two,
        antenna1=(pairs // len(numbers)).astype(np.int32),
        antenna2=(pairs % len(numbers)).astype(np.int32),
        active=active.astype(np.int32),
        time_jd=time_jd,
        stored=stored,
    )


def _antennas(header: SubbandHeader, group: h5py.Group) -> dict[str, Any]:
    site = EarthLocation.from_geodetic(
        header.longitude_deg * u.deg, header.latitude_deg * u.deg, header.altitude_m * u.m
    )
    site_itrf_m = np.array([site.x.to_value(u.m), site.y.to_value(u.m), site.z.to_value(u.m)])
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in group["antenna_names"][()]]
    return {
        "antenna_names": tuple(names),
        "antenna_positions_m": site_itrf_m + np.asarray(group["antenna_positions"][()], dtype=np.float64),
        "site_itrf_m": site_itrf_m,
    }


def _frequencies(headers: dict[int, SubbandHeader], reference_number: int, n_subbands: int) -> NDArray[np.float64]:
    """Frequencies of all channels, ascending, Hz; missing sub-bands get those that their number implies."""
    reference = headers[reference_number]
    n_chan = len(reference.frequency_hz)
    frequency_hz = np.full(n_chan * n_subbands, np.nan)
    for number, header in headers.items():
        low = (n_subbands - 1 - number) * n_chan
        frequency_hz[low : low + n_chan] = np.sort(header.frequency_hz)
    if len(headers) == n_subbands and np.all(np.diff(frequency_hz) > 0.0):
        return frequency_hz
    width_hz = n_chan * reference.channel_width_hz
    numbers = np.repeat(np.arange(n_subbands - 1, -1, -1), n_chan)
    expected_hz = np.tile(np.sort(reference.frequency_hz), n_subbands) - (numbers - reference_number) * width_hz
    off_hz = np.abs(frequency_hz - expected_hz)
    if np.any(off_hz > 0.5 * reference.channel_width_hz):
        worst = int(numbers[np.nanargmax(off_hz)])
        raise disagree(
            str(headers[worst].path),
            f"frequencies {np.nanmax(off_hz):.0f} Hz off",
            f"those of sub-band {worst}, counting from {reference.path.name}",
        )
    return np.where(np.isnan(frequency_hz), expected_hz, frequency_hz)
