"""Write raw sub-band files exactly as the telescope's own writer does.

What belongs here: the layout of the correlator's HDF5 files, oddities included, so that whatever reads our simulated
files reads the real ones. Reading is ``uvh5``.

Kept oddities: frequencies descend and have shape (1, n_chan); arrays have a spectral-window axis; uvw is float32 and
constant through the file (hour angle 0); baselines of some antennas are stored the other way round; names count from 1
and numbers from 0; slots without antenna stay in the telescope's arrays; the header is that of a drift scan without
``lst_array`` and without a phase-centre catalogue; nothing is compressed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import h5py
import numpy as np
from astropy.coordinates import EarthLocation
from numpy.typing import NDArray

from contimg_resources.errors import RawFileError
from contimg_resources.uvh5_header import JD_OF_MJD_ZERO

_POLARISATION_CODES = {"XX": -5, "YY": -6}

_REVERSED_SLOTS = (100, 114)
"""Antennas 101 and 115, whose baselines the correlator stores as (higher, lower)."""

_BLOCK_BYTES = 16_000_000
"""Visibilities rearranged at a time."""


def write_subband(path: Path, columns: Mapping[str, Any], *, reversed_slots: Sequence[int] = _REVERSED_SLOTS) -> None:
    """Write one sub-band of a drift scan under its final name, which appears only when the file is whole.

    Parameters
    ----------
    path : Path
        ``{timestamp}_sbNN.hdf5``; while it is written the file is called ``..._incomplete.hdf5``.
    columns : mapping
        Fields of a ``RawObservation`` that holds this sub-band alone.
    reversed_slots : sequence of int
        Antenna slots whose baselines are stored the other way round.

    Raises
    ------
    RawFileError
        If the data are phased: the telescope has no such files.
    """
    if math.isnan(columns["pointing_dec_deg"]):
        raise RawFileError(
            f"cannot write {path}",
            got="phased data",
            expected="a drift scan with pointing_dec_deg",
            remedy="Only drift-scan data exist in the telescope's raw format.",
            reason_code="not_a_drift_scan",
        )
    incomplete = path.with_name(f"{path.stem}_incomplete.hdf5")
    first, second, source_row, is_auto = _row_order(columns, reversed_slots)
    with h5py.File(incomplete, "w") as file:
        _write_header(file.create_group("Header"), columns, first, second)
        _write_data(file.create_group("Data"), columns, first > second, source_row, is_auto)
    with incomplete.open("rb") as written:
        os.fsync(written.fileno())
    incomplete.rename(path)


def _row_order(
    columns: Mapping[str, Any], reversed_slots: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Antenna pairs of one integration's rows and where their data are: baseline or active-antenna index."""
    active = np.asarray(columns["active_antennas"], dtype=np.int64)
    first = np.concatenate([columns["antenna1"], active]).astype(np.int64)
    second = np.concatenate([columns["antenna2"], active]).astype(np.int64)
    source_row = np.concatenate([np.arange(len(columns["antenna1"])), np.arange(len(active))])
    is_auto = first == second
    order = np.lexsort((second, first))
    first, second, source_row, is_auto = first[order], second[order], source_row[order], is_auto[order]
    turned = np.isin(first, reversed_slots) | np.isin(second, reversed_slots)
    return np.where(turned, second, first), np.where(turned, first, second), source_row, is_auto


def _write_header(
    header: h5py.Group, columns: Mapping[str, Any], first: NDArray[np.int64], second: NDArray[np.int64]
) -> None:
    site = EarthLocation.from_geocentric(*columns["site_itrf_m"], unit=u.m).geodetic
    n_slot, n_row, n_time = len(columns["antenna_names"]), len(first), len(columns["time_mjd"])
    dec_rad = math.radians(columns["pointing_dec_deg"])
    codes = [_POLARISATION_CODES[name] for name in columns["correlations"]]
    uvw_m = (columns["antenna_positions_m"][second] - columns["antenna_positions_m"][first]) @ _meridian_axes(
        site.lon.rad, dec_rad
    )
    contents: dict[str, Any] = {
        "latitude": site.lat.deg,
        "longitude": site.lon.deg,
        "altitude": site.height.to_value(u.m),
        "telescope_name": np.bytes_(columns["telescope_name"]),
        "instrument": np.bytes_("DSA"),
        "object_name": np.bytes_("search"),
        "history": np.bytes_("simulated by contimg in the format of the telescope's writer"),
        "phase_type": np.bytes_("drift"),
        "phase_center_app_dec": dec_rad,
        "Nants_data": len(columns["active_antennas"]),
        "Nants_telescope": n_slot,
        "antenna_diameters": np.full(n_slot, columns["dish_diameter_m"]),
        "antenna_names": np.array(columns["antenna_names"], dtype="S4"),
        "antenna_numbers": np.arange(n_slot),
        "antenna_positions": columns["antenna_positions_m"] - columns["site_itrf_m"],
        "ant_1_array": np.tile(first, n_time),
        "ant_2_array": np.tile(second, n_time),
        "uvw_array": np.tile(uvw_m.astype(np.float32), (n_time, 1)),
        "time_array": np.repeat(np.asarray(columns["time_mjd"]) + JD_OF_MJD_ZERO, n_row),
        "integration_time": np.full(n_row * n_time, columns["integration_s"]),
        "freq_array": np.asarray(columns["frequency_hz"])[None, ::-1],
        "channel_width": columns["channel_width_hz"],
        "spw_array": np.array([1]),
        "polarization_array": np.array(codes),
        "Nbls": n_row,
        "Nblts": n_row * n_time,
        "Nfreqs": len(columns["frequency_hz"]),
        "Npols": len(codes),
        "Ntimes": n_time,
        "Nspws": 1,
    }
    for name, value in contents.items():
        header[name] = value
    extra = header.create_group("extra_keywords")
    extra["phase_center_dec"] = dec_rad
    extra["ha_phase_center"] = 0.0
    extra["phase_center_epoch"] = np.bytes_("HADEC")
    extra["fs_table"] = np.bytes_("simulated")
    extra["applied_delays_ns"] = np.bytes_(" ".join(["0"] * (2 * len(columns["active_antennas"]))))


def _meridian_axes(longitude_rad: float, dec_rad: float) -> NDArray[np.float64]:
    """Axes u, v, w of hour angle 0 at a declination as columns, in ITRF."""
    sin_lon, cos_lon, sin_dec, cos_dec = (
        math.sin(longitude_rad),
        math.cos(longitude_rad),
        math.sin(dec_rad),
        math.cos(dec_rad),
    )
    return np.array(
        [
            [-sin_lon, -sin_dec * cos_lon, cos_dec * cos_lon],
            [cos_lon, -sin_dec * sin_lon, cos_dec * sin_lon],
            [0.0, cos_dec, sin_dec],
        ]
    )


def _write_data(
    data: h5py.Group,
    columns: Mapping[str, Any],
    turned: NDArray[np.bool_],
    source_row: NDArray[np.int64],
    is_auto: NDArray[np.bool_],
) -> None:
    """Write a few integrations at a time, so that no second copy of the sub-band is held."""
    n_time, _, n_chan, n_corr = columns["vis"].shape
    n_row = len(turned)
    chunk = (n_row, 1, n_chan, n_corr)
    visdata, flags, nsamples = (
        data.create_dataset(
            name, (n_time * n_row, 1, n_chan, n_corr), dtype, chunks=chunk, maxshape=(None, 1, None, None)
        )
        for name, dtype in (("visdata", np.complex64), ("flags", np.bool_), ("nsamples", np.float32))
    )
    cross = source_row[~is_auto]
    n_step = max(1, _BLOCK_BYTES // (8 * n_row * n_chan * n_corr))
    for begin in range(0, n_time, n_step):
        block = slice(begin, min(begin + n_step, n_time))
        shape = (block.stop - begin, n_row, n_chan, n_corr)
        vis, bad, samples = np.empty(shape, np.complex64), np.zeros(shape, np.bool_), np.ones(shape, np.float32)
        crosses = columns["vis"][block][:, cross, ::-1]
        np.conjugate(crosses, out=crosses, where=turned[~is_auto][:, None, None])
        vis[:, ~is_auto] = crosses
        vis[:, is_auto] = columns["autos"][block][:, source_row[is_auto], ::-1]
        bad[:, ~is_auto] = columns["flags"][block][:, cross, ::-1]
        samples[:, ~is_auto] = columns["weights"][block][:, cross, None]
        rows = slice(begin * n_row, block.stop * n_row)
        for dataset, values in ((visdata, vis), (flags, bad), (nsamples, samples)):
            dataset[rows] = values.reshape(-1, 1, n_chan, n_corr)
