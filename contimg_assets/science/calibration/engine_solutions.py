"""Bandpass, gains and their application by another program, as the solutions ours gives.

What belongs here: the engine's task (predicted sky, reference antenna, intervals), and the residual of its solutions by our own
definition, which checks rely on. What does not: running the program (``contimg_resources.engines``), which is handed in.

Engines do not know our robust weights: outliers have to be flagged before. They do not say how often they iterated; a
solution they give counts as converged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.apply import apply_solutions
from contimg_assets.science.calibration.assembly import fullest_refant
from contimg_assets.science.calibration.bandpass import solve_bandpass
from contimg_assets.science.calibration.gain import cells_of_intervals, finer_intervals, interval_of_time, solve_gains
from contimg_assets.science.calibration.solutions import Solutions, SolveSettings
from contimg_assets.science.calibration.solver import median_residual
from contimg_assets.science.calibration.statistics import accumulate_statistics
from contimg_assets.science.constants import SECONDS_PER_DAY
from contimg_assets.science.errors import SolutionError
from contimg_assets.science.sky_model import SkyModel, brightest, predict
from contimg_assets.science.visibilities import Visibilities


class CalibrationEngine(Protocol):
    """A program outside that solves for and applies antenna gains.

    ``columns`` are ``Visibilities.columns()``, ``predicted`` the sky of shape (n_row, n_chan) in Jy, ``task`` the names that
    ``_task`` makes; what is returned are fields of ``Solutions``.
    """

    def bandpass(
        self, columns: Mapping[str, Any], predicted: NDArray[np.complex64], task: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """``bandpass``, and ``phases`` that were taken out of each integration (None if none were)."""

    def gains(
        self,
        columns: Mapping[str, Any],
        predicted: NDArray[np.complex64],
        task: Mapping[str, Any],
        prior: Sequence[Mapping[str, Any]],
    ) -> Mapping[str, Any]:
        """Gains per scan or interval after the tables of ``prior``."""

    def apply(self, columns: Mapping[str, Any], solutions: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """``vis``, ``flags`` and ``weights`` after applying tables."""


def solve_bandpass_with(
    engine: CalibrationEngine | None, vis: Visibilities, model: SkyModel, settings: SolveSettings
) -> Solutions:
    """Bandpass by an engine, by ``bandpass.solve_bandpass`` if it is None; see there."""
    if engine is None:
        return solve_bandpass(vis, model, settings)
    is_aligned = settings.align_phases and len(np.unique(vis.time_mjd)) > 1
    task = _task(vis, settings) | {"align_phases": is_aligned}
    made = engine.bandpass(vis.columns(), _predicted(vis, model, settings), task)
    solved = _checked(Solutions(**made["bandpass"]), vis, settings)
    prior = () if made["phases"] is None else (_checked(Solutions(**made["phases"]), vis, settings),)
    channels = np.arange(vis.frequency_hz.size)
    statistics = accumulate_statistics(
        vis, model, settings, prior=prior, channel_step=1, block_of_channel=channels,
        cell_of_time=np.zeros(len(np.unique(vis.time_mjd)), dtype=np.int64),
    )  # fmt: skip
    problems = [(0, 1, k, k + 1, p) for k in range(channels.size) for p in range(len(solved.correlations))]
    return replace(solved, residual=median_residual(statistics, problems, *_per_problem(solved)))


def solve_gains_with(
    engine: CalibrationEngine | None,
    vis: Visibilities,
    model: SkyModel,
    settings: SolveSettings,
    bandpass: Solutions | None = None,
) -> Solutions:
    """Gains by an engine, by ``gain.solve_gains`` if it is None; see there.

    With ``interval_snr`` the engine solves twice: once per scan, and again over intervals that keep that ratio.
    """
    if engine is None:
        return solve_gains(vis, model, settings, bandpass)
    prior = [] if bandpass is None else [bandpass]
    predicted, task = _predicted(vis, model, settings), _task(vis, settings)

    def solve(interval_s: float | None) -> Solutions:
        made = engine.gains(
            vis.columns(), predicted, task | {"interval_s": interval_s}, [table.columns() for table in prior]
        )
        return _checked(Solutions(**made), vis, settings)

    solved = solve(settings.interval_s)
    if settings.interval_snr is not None and settings.interval_s is None:
        interval_s = _interval_s(vis, solved, settings)
        solved = solved if interval_s is None else solve(interval_s)
    interval = _nearest_solution(np.unique(vis.time_mjd), solved.time_mjd)
    cells, channels = cells_of_intervals(interval), np.arange(vis.frequency_hz.size)
    blocks = channels // max(1, settings.channels_per_block)
    statistics = accumulate_statistics(
        vis, model, settings, cell_of_time=cells, channel_step=1, block_of_channel=blocks, prior=prior
    )
    spans = [cells[interval == k] for k in range(int(interval.max()) + 1)]
    problems = [
        (int(own.min()), int(own.max()) + 1, 0, int(blocks[-1]) + 1, p)
        for own in spans
        for p in range(len(solved.correlations))
    ]
    return replace(solved, residual=median_residual(statistics, problems, *_per_problem(solved)))


def apply_solutions_with(
    engine: CalibrationEngine | None, vis: Visibilities, solutions: Sequence[Solutions], *, n_threads: int = 0
) -> Visibilities:
    """Calibrate visibilities in place by an engine, by ``apply.apply_solutions`` if it is None; see there."""
    if engine is None:
        return apply_solutions(vis, solutions, n_threads=n_threads)
    made = engine.apply(vis.columns(), [table.columns() for table in solutions])
    vis.flags[...] |= made["flags"]
    vis.vis[...] = made["vis"]
    vis.weights[...] = made["weights"]
    return vis


def _task(vis: Visibilities, settings: SolveSettings) -> dict[str, Any]:
    times, slot = np.unique(vis.time_mjd, return_inverse=True)
    exposure_s = float(np.median(vis.exposure_s))
    scans = interval_of_time(times, exposure_s, replace(settings, interval_s=None))
    return {
        "refant": vis.antenna_names[fullest_refant(vis, settings.refants, required=settings.is_refant_required)],
        "scan_of_row": scans[slot],
        "integration_s": float(np.median(np.diff(times))) * SECONDS_PER_DAY if times.size > 1 else exposure_s,
        **{
            name: getattr(settings, name)
            for name in ("min_snr", "min_baselines", "min_baseline_m", "normalise", "phase_only")
        },
    }


def _predicted(vis: Visibilities, model: SkyModel, settings: SolveSettings) -> NDArray[np.complex64]:
    if settings.flux_fraction < 1.0:
        model = brightest(model, vis, fraction=settings.flux_fraction)
    return predict(model, vis, primary_beam=settings.primary_beam, n_threads=settings.n_threads)


def _checked(solved: Solutions, vis: Visibilities, settings: SolveSettings) -> Solutions:
    """Solutions as ours are: in our order of correlations, and at least one of them usable."""
    order = [solved.correlations.index(name) for name in vis.correlations]
    if solved.flags.all():
        raise SolutionError(
            f"no usable {solved.kind} solution for {vis.source_name or vis.field_name}",
            got="every solution flagged",
            expected=f"solutions with signal-to-noise above {settings.min_snr:g}",
            remedy="Check that the model is what was observed, solve over longer intervals, look at the flags.",
            reason_code="solve_failed",
        )
    cubes = {name: getattr(solved, name)[..., order] for name in ("gains", "flags", "snr", "converged")}
    return replace(solved, correlations=vis.correlations, field_name=vis.field_name, **cubes)


def _per_problem(solved: Solutions) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    """Gains and usability, shape (n_problem, n_ant), problems in order of time, channel, correlation."""
    gains, usable = (np.moveaxis(cube, 1, 3) for cube in (solved.gains, ~solved.flags))
    n_ant = gains.shape[3]
    return np.ascontiguousarray(gains.reshape(-1, n_ant)), np.ascontiguousarray(usable.reshape(-1, n_ant))


def _interval_s(vis: Visibilities, solved: Solutions, settings: SolveSettings) -> float | None:
    """Length (s) of intervals that keep the wanted signal-to-noise ratio, None if scans cannot be cut."""
    times = np.unique(vis.time_mjd)
    scan = _nearest_solution(times, solved.time_mjd)
    snr = np.moveaxis(solved.snr[:, :, 0], 1, 2).astype(np.float64)
    finer = finer_intervals(scan, cells_of_intervals(scan), snr, float(settings.interval_snr or 0.0))
    if finer.max() == scan.max():
        return None
    exposure_s = float(np.median(vis.exposure_s))
    longest = max(float(np.ptp(times[finer == k])) for k in range(int(finer.max()) + 1))
    return longest * SECONDS_PER_DAY + exposure_s


def _nearest_solution(times: NDArray[np.float64], solved_mjd: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of the solution nearest to each time."""
    return np.asarray(np.argmin(np.abs(times[:, None] - solved_mjd), axis=1), dtype=np.int64)
