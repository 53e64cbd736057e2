"""What pages show of calibration tables: the array with the state of its antennas, gains and bandpass of an observation.

What belongs here: from a noted path to figures, one table at a time, and what is said when a table cannot be read. Drawing
is ``array_figures.py``. Tables are named after their content, so their figures never become wrong.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from contimg_assets.science.calibration.antenna_states import AntennaStates, judge_antennas
from contimg_portal.array_figures import plot_antenna_map, plot_bandpass, plot_gains
from contimg_resources.array_layout import antennas_with_data, read_antenna_positions
from contimg_resources.calibration_tables import read_calibration_table
from contimg_resources.errors import ResourceError
from contimg_resources.products import Products

_ONE_AT_A_TIME = threading.Lock()
"""casacore must not be used by two threads at once."""


def antenna_overview(products: Products, table: dict[str, Any]) -> dict[str, Any]:
    """Map of the array and how many antennas are good, weak and dead, from one row of ``calibration_table``.

    Returns
    -------
    dict
        ``figure``, ``counts`` (by state), ``names`` (of the weak and the dead), ``bad_fraction``; or ``trouble``: why there
        is no map.
    """
    try:
        path = products.present(table["path"])
        with _ONE_AT_A_TIME:
            solutions = read_calibration_table(path)
            positions = read_antenna_positions(path)
            exists = _existing(products.measurement_set(table["partition_key"]), solutions["flags"].shape[1])
    except ResourceError as error:
        return {"trouble": error.what}
    states = judge_antennas(*(solutions[name][:, exists] for name in ("gains", "flags", "snr")))
    names = tuple(solutions["antenna_names"][index] for index in exists)
    counts = {state: states.state.count(state) for state in ("good", "weak", "dead")}
    return {
        "figure": plot_antenna_map(positions[exists], names, states),
        "counts": counts,
        "names": _named(names, states),
        "bad_fraction": (counts["weak"] + counts["dead"]) / max(len(names), 1),
    }


def _existing(ms_path: Path, n_ant: int) -> Any:
    """Antennas that have data: slots of the telescope without an antenna are not dead."""
    return antennas_with_data(ms_path) if ms_path.exists() else np.arange(n_ant)


def _named(names: tuple[str, ...], states: AntennaStates) -> dict[str, list[str]]:
    return {
        state: [name for name, of_one in zip(names, states.state, strict=True) if of_one == state]
        for state in ("weak", "dead")
    }


def calibration_figures(products: Products, kind: str, noted_path: str) -> dict[str, Any]:
    """Figures of a table by name, or ``trouble``: why there are none."""
    try:
        with _ONE_AT_A_TIME:
            solutions = read_calibration_table(products.present(noted_path))
    except ResourceError as error:
        return {"trouble": error.what}
    return {"figures": plot_gains(solutions) if kind == "G" else plot_bandpass(solutions)}
