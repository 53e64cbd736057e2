"""How our measurement sets are laid out: storage managers, tiles and the sub-tables that CASA expects.

What belongs here: creating an empty MSv2 of the right shape and filling its sub-tables. What does not: the rows of the
main table (``measurement_sets``) and the choice of rows of a foreign measurement set (``measurement_set_rows``).

Method: bulk columns go to tiled storage, one tile holding all channels of a few dozen rows, because every step of ours
reads whole rows and because 0.5 MB tiles keep casacore's cache small; scalars that repeat go to the incremental manager.
Directions are labelled ICRS, which is what they are. Reference: MeasurementSet definition version 2.0 (Kemball & Wieringa,
CASA note 229). Rejected: hypercolumns narrow in frequency (faster for one channel, 1.7 times slower for whole rows).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables
from numpy.typing import NDArray

from contimg_resources.errors import CasaError

SECONDS_PER_DAY = 86_400.0

CORRELATION_CODES = {"I": 1, "RR": 5, "RL": 6, "LR": 7, "LL": 8, "XX": 9, "XY": 10, "YX": 11, "YY": 12}
"""Stokes enumeration of casacore."""

POINTING_NAME = "contimg"
"""``POINTING.NAME`` of rows written here: their directions are ICRS, one per integration and antenna."""

TILE_BYTES = 524_288

_CUBE_FILES = {"TiledColumnStMan": "TSM0", "TiledShapeStMan": "TSM1"}
"""Ends of the names of the files that hold the first cube of cells; TiledShapeStMan's number 0 is of rows without cells."""

_CASA_TELESCOPE_NAMES = {"DSA-110": "OVRO_MMA", "DSA_110": "OVRO_MMA", "DSA110": "OVRO_MMA"}
"""Names CASA's observatory table lacks, and the site it knows at the same place."""

_INCREMENTAL = (
    "ARRAY_ID", "DATA_DESC_ID", "EXPOSURE", "FEED1", "FEED2", "FIELD_ID", "FLAG_ROW", "INTERVAL", "OBSERVATION_ID",
    "PROCESSOR_ID", "SCAN_NUMBER", "STATE_ID", "TIME", "TIME_CENTROID",
)  # fmt: skip


def tile_rows(bytes_per_row: float) -> int:
    """Rows of one tile so that it takes about half a megabyte."""
    return max(1, int(TILE_BYTES / max(bytes_per_row, 1.0)))


def data_column(name: str, comment: str, cell: tuple[int, int] | None = None) -> dict[str, Any]:
    """Column description of a complex (row, chan, corr) column in its own tiled storage manager.

    With the shape of its cells, (n_chan, n_corr), storage has a place for every row before anything is written.
    """
    described: dict[str, Any] = tables.makearrcoldesc(
        name,
        0j,
        2,
        shape=list(cell or ()),
        datamanagertype="TiledColumnStMan" if cell else "TiledShapeStMan",
        datamanagergroup=f"Tiled{name}",
        valuetype="complex",
        comment=comment,
    )
    return described


def tiled_manager(name: str, tile: tuple[int, ...]) -> dict[str, Any]:
    """Data-manager record of the tiled storage of one column; ``tile`` in casacore's order (corr, chan, row)."""
    return {
        "TYPE": "TiledShapeStMan",
        "NAME": f"Tiled{name}",
        "SEQNR": 0,
        "COLUMNS": [name],
        "SPEC": {"DEFAULTTILESHAPE": np.array(tile, dtype=np.int32)},
    }


def column_file(main: Any, name: str) -> Path | None:
    """File that is a complex column as an array, axes (row, chan, corr), in the table's byte order; None where there is none.

    There is one where all rows have cells of one shape and a tile holds all channels and correlations of its rows.
    """
    own = [info for info in main.getdminfo().values() if info["COLUMNS"] == [name] and info["TYPE"] in _CUBE_FILES]
    cubes = list(own[0]["SPEC"]["HYPERCUBES"].values()) if own else []
    if len(cubes) != 1:
        return None
    shape, tile = cubes[0]["CubeShape"], cubes[0]["TileShape"]
    file = Path(main.name()) / f"table.f{own[0]['SEQNR']}_{_CUBE_FILES[own[0]['TYPE']]}"
    is_the_array = len(shape) == 3 and np.array_equal(shape[:2], tile[:2]) and shape[2] == main.nrows()
    is_whole = is_the_array and file.is_file() and file.stat().st_size >= 8 * int(np.prod(shape, dtype=np.int64))
    return file if is_whole else None


def map_column(main: Any, name: str) -> NDArray[np.complex64] | None:
    """A complex column as its file holds it, axes (row, chan, corr), or None where it cannot be mapped.

    Changes of the array stay in memory; the table's own, made later, may or may not show.
    """
    file = column_file(main, name)
    if file is None or main.endianformat() != sys.byteorder:
        return None
    shape = (main.nrows(), *main.getcell(name, 0).shape)
    return np.asarray(np.memmap(file, dtype=np.complex64, mode="c", shape=shape))


def create_tables(path: str, n_row: int, n_chan: int, n_corr: int) -> None:
    """Create an empty measurement set of ``n_row`` rows (all sub-tables exist, without rows)."""
    description = tables.required_ms_desc()
    description["UVW"]["keywords"]["MEASINFO"]["Ref"] = "ICRS"
    bulk = tables.maketabdesc([data_column("DATA", "visibilities", (n_chan, n_corr))])
    description["DATA"] = bulk["DATA"]
    tiles = {
        "DATA": (n_corr, n_chan, tile_rows(8.0 * n_corr * n_chan)),
        "FLAG": (n_corr, n_chan, tile_rows(n_corr * n_chan / 8.0)),
        "UVW": (3, tile_rows(24.0)),
        "WEIGHT": (n_corr, tile_rows(4.0 * n_corr)),
        "SIGMA": (n_corr, tile_rows(4.0 * n_corr)),
    }
    managers = {}
    for index, (name, tile) in enumerate(tiles.items(), start=1):
        kind = "TiledColumnStMan" if name in ("DATA", "UVW") else "TiledShapeStMan"
        description[name].update(dataManagerType=kind, dataManagerGroup=f"Tiled{name}")
        managers[f"*{index}"] = tiled_manager(name, tile) | {"TYPE": kind}
    for name in _INCREMENTAL:
        description[name].update(dataManagerType="IncrementalStMan", dataManagerGroup="Incremental")
    with tables.default_ms(path, description, managers) as main:
        main.addrows(n_row)


def write_subtables(path: str, columns: Mapping[str, Any]) -> None:
    """Fill every sub-table from the fields of a ``Visibilities`` (see ``write_measurement_set``)."""
    _write_antennas(path, columns)
    _write_spectral_setup(path, columns)
    _write_field(path, columns)
    _write_pointing(path, columns)
    _write_observation(path, columns)


def _fill(path: str, name: str, n_row: int, values: Mapping[str, Any], icrs: tuple[str, ...] = ()) -> None:
    with tables.table(f"{path}/{name}", readonly=False, ack=False) as sub:
        sub.addrows(n_row)
        for column in icrs:
            sub.putcolkeyword(column, "MEASINFO", {"type": "direction", "Ref": "ICRS"})
        for column, value in values.items():
            sub.putcol(column, value)


def _write_antennas(path: str, columns: Mapping[str, Any]) -> None:
    names = list(columns["antenna_names"])
    n_ant = len(names)
    positions = np.asarray(columns["antenna_positions_m"], dtype=np.float64)
    _fill(path, "ANTENNA", n_ant, {
        "NAME": names,
        "STATION": [f"pad{name}" for name in names],
        "TYPE": ["GROUND-BASED"] * n_ant,
        "MOUNT": ["ALT-AZ"] * n_ant,
        "POSITION": positions,
        "OFFSET": np.zeros((n_ant, 3)),
        "DISH_DIAMETER": np.full(n_ant, float(columns["dish_diameter_m"])),
        "FLAG_ROW": np.zeros(n_ant, dtype=bool),
    })  # fmt: skip
    receptors = _receptors(tuple(columns["correlations"]))
    n_rec = len(receptors)
    _fill(path, "FEED", n_ant, {
        "ANTENNA_ID": np.arange(n_ant, dtype=np.int32),
        "FEED_ID": np.zeros(n_ant, dtype=np.int32),
        "BEAM_ID": np.full(n_ant, -1, dtype=np.int32),
        "SPECTRAL_WINDOW_ID": np.full(n_ant, -1, dtype=np.int32),
        "TIME": np.zeros(n_ant),
        "INTERVAL": np.zeros(n_ant),
        "NUM_RECEPTORS": np.full(n_ant, n_rec, dtype=np.int32),
        "BEAM_OFFSET": np.zeros((n_ant, n_rec, 2)),
        "POLARIZATION_TYPE": {"shape": [n_ant, n_rec], "array": list(receptors) * n_ant},
        "POL_RESPONSE": np.tile(np.eye(n_rec, dtype=np.complex64), (n_ant, 1, 1)),
        "RECEPTOR_ANGLE": np.zeros((n_ant, n_rec)),
        "POSITION": np.zeros((n_ant, 3)),
    })  # fmt: skip


def _receptors(correlations: tuple[str, ...]) -> tuple[str, ...]:
    """Receptor types of parallel-hand correlations, e.g. ("XX", "YY") -> ("X", "Y"); Stokes I counts as linear."""
    if correlations == ("I",):
        return ("X", "Y")
    return tuple(dict.fromkeys(hand for name in correlations for hand in name))


def _write_spectral_setup(path: str, columns: Mapping[str, Any]) -> None:
    frequency_hz = np.asarray(columns["frequency_hz"], dtype=np.float64)
    n_chan, width_hz = frequency_hz.size, float(columns["channel_width_hz"])
    widths = np.full((1, n_chan), width_hz)
    _fill(path, "SPECTRAL_WINDOW", 1, {
        "NAME": ["band"],
        "NUM_CHAN": np.array([n_chan], dtype=np.int32),
        "CHAN_FREQ": frequency_hz[None],
        "CHAN_WIDTH": widths,
        "EFFECTIVE_BW": widths,
        "RESOLUTION": widths,
        "REF_FREQUENCY": np.array([frequency_hz[0]]),
        "TOTAL_BANDWIDTH": np.array([n_chan * width_hz]),
        "MEAS_FREQ_REF": np.array([5], dtype=np.int32),  # TOPO
        "NET_SIDEBAND": np.array([1], dtype=np.int32),
        "IF_CONV_CHAIN": np.array([0], dtype=np.int32),
        "FREQ_GROUP": np.array([0], dtype=np.int32),
        "FREQ_GROUP_NAME": ["none"],
        "FLAG_ROW": np.array([False]),
    })  # fmt: skip
    correlations = tuple(columns["correlations"])
    unknown = [name for name in correlations if name not in CORRELATION_CODES]
    if unknown:
        raise CasaError(
            "correlations cannot be written to a measurement set",
            got=", ".join(unknown),
            expected=", ".join(CORRELATION_CODES),
            remedy="Correct the correlation names of the input.",
        )
    receptors = "XY" if correlations == ("I",) else "".join(_receptors(correlations))
    products = [
        [receptors.index(name[0]), receptors.index(name[-1])] if name != "I" else [0, 0] for name in correlations
    ]
    _fill(path, "POLARIZATION", 1, {
        "NUM_CORR": np.array([len(correlations)], dtype=np.int32),
        "CORR_TYPE": np.array([[CORRELATION_CODES[name] for name in correlations]], dtype=np.int32),
        "CORR_PRODUCT": np.array([products], dtype=np.int32),
        "FLAG_ROW": np.array([False]),
    })  # fmt: skip
    zero = np.zeros(1, dtype=np.int32)
    _fill(path, "DATA_DESCRIPTION", 1, {
        "SPECTRAL_WINDOW_ID": zero, "POLARIZATION_ID": zero, "FLAG_ROW": np.array([False]),
    })  # fmt: skip


def _write_field(path: str, columns: Mapping[str, Any]) -> None:
    centre = np.deg2rad([[[columns["phase_centre_ra_deg"], columns["phase_centre_dec_deg"]]]])
    start_s, _ = time_range_s(columns)
    directions = ("DELAY_DIR", "PHASE_DIR", "REFERENCE_DIR")
    _fill(path, "FIELD", 1, {
        "NAME": [str(columns["field_name"])],
        "CODE": [""],
        "TIME": np.array([start_s]),
        "NUM_POLY": np.zeros(1, dtype=np.int32),
        "SOURCE_ID": np.full(1, -1, dtype=np.int32),
        "FLAG_ROW": np.array([False]),
        **dict.fromkeys(directions, centre),
    }, icrs=directions)  # fmt: skip


def _write_pointing(path: str, columns: Mapping[str, Any]) -> None:
    """One row per integration and antenna, since CASA looks directions up by antenna and time."""
    time_s, first = np.unique(columns["time_mjd"] * SECONDS_PER_DAY, return_index=True)
    n_ant, n_time = len(columns["antenna_names"]), time_s.size
    directions = np.deg2rad(np.stack([columns["pointing_ra_deg"][first], columns["pointing_dec_deg"][first]], axis=-1))
    is_tracking = bool(np.ptp(directions, axis=0).max() < 1e-9)
    directions = np.repeat(directions, n_ant, axis=0)[:, None, :]
    n_row = n_ant * n_time
    _fill(path, "POINTING", n_row, {
        "ANTENNA_ID": np.tile(np.arange(n_ant, dtype=np.int32), n_time),
        "TIME": np.repeat(time_s, n_ant),
        "INTERVAL": np.repeat(columns["exposure_s"][first], n_ant),
        "NAME": [POINTING_NAME] * n_row,
        "NUM_POLY": np.zeros(n_row, dtype=np.int32),
        "TIME_ORIGIN": np.repeat(time_s, n_ant),
        "DIRECTION": directions,
        "TARGET": directions,
        "TRACKING": np.full(n_row, is_tracking),
    }, icrs=("DIRECTION", "TARGET"))  # fmt: skip


def time_range_s(columns: Mapping[str, Any]) -> tuple[float, float]:
    """Start and end of the observation, s (MJD times 86400), edges of the outermost integrations."""
    time_s = np.asarray(columns["time_mjd"]) * SECONDS_PER_DAY
    half = 0.5 * np.asarray(columns["exposure_s"])
    return float((time_s - half).min()), float((time_s + half).max())


def _write_observation(path: str, columns: Mapping[str, Any]) -> None:
    start_s, end_s = time_range_s(columns)
    telescope = str(columns["telescope_name"])
    _fill(path, "OBSERVATION", 1, {
        "TELESCOPE_NAME": [_CASA_TELESCOPE_NAMES.get(telescope, telescope)],
        "TIME_RANGE": np.array([[start_s, end_s]]),
        "OBSERVER": ["unknown"],
        "PROJECT": ["contimg"],
        "SCHEDULE_TYPE": [""],
        "RELEASE_DATE": np.array([end_s]),
        "FLAG_ROW": np.array([False]),
    })  # fmt: skip
    _fill(path, "STATE", 1, {
        "SIG": np.array([True]), "REF": np.array([False]), "CAL": np.zeros(1), "LOAD": np.zeros(1),
        "SUB_SCAN": np.zeros(1, dtype=np.int32), "OBS_MODE": ["OBSERVE_TARGET.ON_SOURCE"], "FLAG_ROW": np.array([False]),
    })  # fmt: skip
    _fill(path, "PROCESSOR", 1, {
        "TYPE": ["CORRELATOR"], "SUB_TYPE": [""], "TYPE_ID": np.full(1, -1, dtype=np.int32),
        "MODE_ID": np.full(1, -1, dtype=np.int32), "FLAG_ROW": np.array([False]),
    })  # fmt: skip
    _fill(path, "HISTORY", 1, {
        "TIME": np.array([end_s]), "OBSERVATION_ID": np.zeros(1, dtype=np.int32), "OBJECT_ID": np.zeros(1, dtype=np.int32),
        "PRIORITY": ["INFO"], "ORIGIN": ["contimg"], "APPLICATION": ["contimg"],
        "MESSAGE": [f"written from {columns['source_name']}"],
    })  # fmt: skip
