"""CASA's bandpass, gaincal and applycal as a calibration engine.

What belongs here: how these tasks are called, and their tables as plain arrays. What does not: starting CASA (``casa``), the
prediction of the sky and the judgement of solutions (``contimg_assets.science.calibration``), the format of tables
(``calibration_tables``).

Every job runs on a measurement set of its own, written from the visibilities with the predicted sky in MODEL_DATA into a
folder that is removed afterwards: a product is never changed, and nothing half-solved is left. The bandpass is solved in our
own order: once for itself, then phases of every integration after it, then again with those taken out. Rejected: phases on
the middle of the band first, as people often do it, which fails for delays of some 20 ns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables
from numpy.typing import NDArray

from contimg_resources.calibration_tables import read_calibration_table, write_calibration_table
from contimg_resources.casa import require_installed, run_task, task_failed
from contimg_resources.measurement_set_writer import write_measurement_set
from contimg_resources.measurement_sets import read_measurement_set, write_column
from contimg_resources.table_folders import casacore_errors, scratch_folder

_INTERPOLATION = {"B": "nearest", "G": "linear"}


@dataclass(frozen=True, slots=True)
class CasaCalibrator:
    """CASA as a calibration engine, see ``engine_solutions.CalibrationEngine``."""

    scratch: Path
    """Folder for one job; made for it and removed after it."""
    name: str = "casa"

    def bandpass(
        self, columns: Mapping[str, Any], predicted: NDArray[np.complex64], task: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Bandpass against a predicted sky: ``bandpass`` and ``phases`` (None without alignment), fields of ``Solutions``.

        Raises
        ------
        CasaError
            If CASA is not installed, or a task fails or solves for nothing.
        """
        with self._measurement_set(columns, predicted, task["scan_of_row"]) as ms_path:
            phases = None
            if task["align_phases"]:
                first, phases = (ms_path.with_name(f"{name}.cal") for name in ("first", "phases"))
                solve_bandpass(ms_path, first, task, [])
                solve_phases(ms_path, phases, task, [first])
            solved = ms_path.with_name("bandpass.cal")
            solve_bandpass(ms_path, solved, task, [] if phases is None else [phases])
            return {
                "bandpass": read_calibration_table(solved, ms_path),
                "phases": None if phases is None else read_calibration_table(phases, ms_path),
            }

    def gains(
        self,
        columns: Mapping[str, Any],
        predicted: NDArray[np.complex64],
        task: Mapping[str, Any],
        prior: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Gains against a predicted sky after the tables of ``prior``, fields of ``Solutions``; errors as ``bandpass``."""
        with self._measurement_set(columns, predicted, task["scan_of_row"]) as ms_path:
            solved = ms_path.with_name("gains.cal")
            solve_gains(ms_path, solved, task, _write_tables(ms_path, prior))
            return read_calibration_table(solved, ms_path)

    def apply(self, columns: Mapping[str, Any], solutions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Visibilities (``vis``, ``flags``, ``weights``) after ``applycal`` of tables; errors as ``bandpass``."""
        with self._measurement_set(columns) as ms_path:
            paths = _write_tables(ms_path, solutions)
            run_task(
                "applycal", vis=ms_path, gaintable=list(paths), calwt=True, flagbackup=False,
                interp=[_INTERPOLATION[table["kind"]] for table in solutions],
            )  # fmt: skip
            calibrated = read_measurement_set(ms_path, column="CORRECTED_DATA")
            return {name: calibrated[name] for name in ("vis", "flags", "weights")}

    @contextmanager
    def _measurement_set(
        self,
        columns: Mapping[str, Any],
        predicted: NDArray[np.complex64] | None = None,
        scan_of_row: NDArray[np.int64] | None = None,
    ) -> Iterator[Path]:
        """Write the visibilities, with model and scans, for as long as a job takes."""
        require_installed()
        with scratch_folder(self.scratch) as folder:
            ms_path = folder / "visibilities.ms"
            write_measurement_set(ms_path, columns)
            if predicted is not None:
                write_column(ms_path, "MODEL_DATA", np.repeat(predicted[..., None], columns["vis"].shape[2], axis=2))
            if scan_of_row is not None:
                with (
                    casacore_errors(ms_path, "write scans to"),
                    tables.table(str(ms_path), readonly=False, ack=False) as main,
                ):
                    main.putcol("SCAN_NUMBER", (scan_of_row + 1).astype(np.int32))
            yield ms_path


def solve_phases(
    ms_path: Path, table: Path, task: Mapping[str, Any], prior: Sequence[Path], *, channels: str = ""
) -> None:
    """Phase of every integration after the tables of ``prior``, against MODEL_DATA.

    ``task`` holds ``refant`` (name), ``min_snr``, ``min_baselines`` and ``min_baseline_m``; ``channels`` is CASA's selection,
    e.g. "0:288~480", all by default.
    """
    _solve(
        "gaincal", ms_path, table, task, spw=channels, solint="int", calmode="p",
        gaintable=list(prior),
    )  # fmt: skip


def solve_bandpass(ms_path: Path, table: Path, task: Mapping[str, Any], prior: Sequence[Path]) -> None:
    """Bandpass of all time together after the tables of ``prior``; ``task`` as for phases, and ``normalise``."""
    _solve(
        "bandpass", ms_path, table, task, solint="inf", combine="scan", solnorm=bool(task["normalise"]),
        gaintable=list(prior),
    )  # fmt: skip


def solve_gains(ms_path: Path, table: Path, task: Mapping[str, Any], prior: Sequence[Path]) -> None:
    """Gains of every scan or interval after the tables of ``prior``.

    ``task`` as for phases, with ``phase_only``, ``interval_s`` (None: one per scan) and ``integration_s``.
    """
    interval = "inf"
    if task["interval_s"] is not None:
        # CASA cuts at multiples of solint from the first time: a little less than n integrations holds n of them.
        n_integrations = max(1, int(1.001 * task["interval_s"] / task["integration_s"]))
        interval = f"{(n_integrations - 1e-3) * task['integration_s']:.6f}s"
    _solve(
        "gaincal", ms_path, table, task, solint=interval, calmode="p" if task["phase_only"] else "ap",
        gaintable=list(prior),
    )  # fmt: skip


def _solve(name: str, ms_path: Path, table: Path, task: Mapping[str, Any], **parameters: Any) -> None:
    if task["min_baseline_m"] > 0:
        parameters["uvrange"] = f">{task['min_baseline_m']:g}m"
    run_task(
        name, vis=ms_path, caltable=table, refant=task["refant"], minsnr=float(task["min_snr"]),
        minblperant=int(task["min_baselines"]), **parameters,
    )  # fmt: skip
    if not (table / "table.dat").is_file():
        raise task_failed(name, "no solution at all: its table was not written")


def _write_tables(ms_path: Path, solutions: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Solutions as CASA tables beside the measurement set, as of its own field whatever field they were solved on."""
    with tables.table(f"{ms_path}/FIELD", ack=False) as sub:
        field = str(sub.getcell("NAME", 0))
    paths = [ms_path.with_name(f"given{index}.cal") for index in range(len(solutions))]
    for path, table in zip(paths, solutions, strict=True):
        write_calibration_table(path, {**table, "field_name": field}, ms_path)
    return paths
