"""Where the antennas of a calibration table stand, and which of the telescope's slots have data.

What belongs here: reading the antenna table that calibration tables carry, and the antennas that occur in a measurement
set. Solutions themselves are ``calibration_tables``; axes on the ground are the caller's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from casacore import tables
from numpy.typing import NDArray

from contimg_resources.measurement_set_rows import open_measurement_set
from contimg_resources.products import require
from contimg_resources.table_folders import casacore_errors


def read_antenna_positions(table_path: Path) -> NDArray[np.float64]:
    """ITRF positions (m) of the antennas of a calibration table, shape (n_ant, 3), in the order of their numbers."""
    require(table_path)
    with casacore_errors(table_path, "read"), tables.table(f"{table_path}/ANTENNA", ack=False) as sub:
        return np.asarray(sub.getcol("POSITION"), dtype=np.float64)


def antennas_with_data(ms_path: Path) -> NDArray[np.intp]:
    """Numbers of the antennas that occur in a measurement set."""
    with open_measurement_set(ms_path) as ms:
        return np.union1d(np.unique(ms.getcol("ANTENNA1")), np.unique(ms.getcol("ANTENNA2"))).astype(np.intp)
