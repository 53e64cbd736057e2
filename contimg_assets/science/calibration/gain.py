"""Gains per scan or interval: one complex number per antenna and correlation for the whole band.

What belongs here: intervals, the gain solve, and the transfer of the flux scale between fields. What does not: the
dependence on frequency (``bandpass``).

The bandpass, if given, multiplies the model rather than dividing the data, so that noisy channels weigh what they are
worth (CASA divides the data and lets noisy band edges in: its gains scatter three times as much on NGC5921). Within an
interval, data are averaged per integration and block of channels (after division by the model, see ``statistics``);
those averages are what robust reweighting judges. Rejected: solving integration by integration and averaging gains,
which biases amplitudes upwards at low signal-to-noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.assembly import assemble
from contimg_assets.science.calibration.solutions import Solutions, SolveSettings
from contimg_assets.science.calibration.solver import SolvedGains, solve_problems
from contimg_assets.science.calibration.statistics import accumulate_statistics
from contimg_assets.science.constants import MAD_TO_SIGMA, SECONDS_PER_DAY
from contimg_assets.science.errors import DataError, NotEnoughDataError
from contimg_assets.science.sky_model import SkyModel, require_flux_in_view
from contimg_assets.science.visibilities import Visibilities

_MAX_CELLS = 32
"""Time cells kept apart within one interval: enough to see outliers, few enough for the memory."""

_MAX_CUTS = 3
"""Times that intervals are cut anew."""

_MEDIAN_OVER_MEAN_ERROR = 1.2533141373155001
"""Standard error of a median over that of a mean, normal distribution, sqrt(pi / 2)."""


def interval_of_time(time_mjd: NDArray[np.float64], exposure_s: float, settings: SolveSettings) -> NDArray[np.int64]:
    """Solution interval of each distinct time: new at every scan gap and when the interval is full."""
    offset_s = (time_mjd - time_mjd[0]) * SECONDS_PER_DAY
    interval = np.zeros(len(time_mjd), dtype=np.int64)
    start_s, current = offset_s[0], 0
    for i in range(1, len(time_mjd)):
        is_full = settings.interval_s is not None and offset_s[i] + exposure_s - start_s > 1.001 * settings.interval_s
        if offset_s[i] - offset_s[i - 1] > settings.scan_gap_s + exposure_s or is_full:
            current += 1
            start_s = offset_s[i]
        interval[i] = current
    return interval


def solve_gains(
    vis: Visibilities, model: SkyModel, settings: SolveSettings, bandpass: Solutions | None = None
) -> Solutions:
    """Solve for one gain per antenna, correlation and interval.

    Parameters
    ----------
    vis : Visibilities
        Uncalibrated data of one field; not changed.
    model : SkyModel
        What is in the field.
    settings : SolveSettings
    bandpass : Solutions, optional
        Applied to the model on the fly.

    Returns
    -------
    Solutions
        Kind "G"; antennas that could not be solved for are flagged, never left out.

    Raises
    ------
    NotEnoughDataError
        If nothing is left to solve on, or the model has no flux within the primary beam.
    SolutionError
        If no solution converged to something significant.
    """
    require_flux_in_view(model, vis, primary_beam=settings.primary_beam)
    return solve_gains_on(vis, model, settings, () if bandpass is None else (bandpass,), 1)


def solve_gains_on(
    vis: Visibilities,
    model: SkyModel,
    settings: SolveSettings,
    prior: Sequence[Solutions],
    channel_step: int,
) -> Solutions:
    """As ``solve_gains`` with any number of tables applied before and on every ``channel_step``-th channel only."""
    times, first_rows, n_rows = np.unique(vis.time_mjd, return_index=True, return_counts=True)
    if len(times) == 0:
        raise NotEnoughDataError(
            f"no rows in {vis.source_name or vis.field_name}",
            got="0 rows",
            expected="at least one integration",
            remedy="Name a field that the measurement set holds.",
            reason_code="no_data_to_solve",
        )
    exposure_s = vis.exposure_s[first_rows]
    interval = interval_of_time(times, float(np.median(exposure_s)), settings)
    cells = cells_of_intervals(interval)
    blocks = np.arange(0, len(vis.frequency_hz), channel_step) // max(1, settings.channels_per_block)
    statistics = accumulate_statistics(
        vis, model, settings, cell_of_time=cells, channel_step=channel_step, block_of_channel=blocks, prior=prior
    )

    def solve(interval: NDArray[np.int64]) -> tuple[SolvedGains, list[NDArray[np.bool_]]]:
        members = [interval == k for k in range(int(interval.max()) + 1)]
        problems = [
            (int(cells[own].min()), int(cells[own].max()) + 1, 0, int(blocks[-1]) + 1, p)
            for own in members
            for p in range(len(statistics.correlations))
        ]
        return solve_problems(statistics, problems, vis.n_antennas, settings, phase_only=settings.phase_only), members

    solved, members = solve(interval)
    if settings.interval_snr is not None and settings.interval_s is None:
        # Drift within an interval counts as noise: once it is followed, the ratio may allow a finer cut.
        for _ in range(_MAX_CUTS):
            finer = finer_intervals(interval, cells, solved.snr, settings.interval_snr)
            if finer.max() == interval.max():
                break
            interval = finer
            solved, members = solve(interval)
    mean_mjd = np.array([np.average(times[own], weights=n_rows[own]) for own in members])
    length_s = np.array([np.ptp(times[own]) * SECONDS_PER_DAY + exposure_s[own].max() for own in members])
    return assemble(
        vis,
        statistics,
        solved,
        settings,
        kind="G",
        times=(mean_mjd, length_s),
        frequency_hz=np.array([vis.mean_frequency_hz]),
    )


def transfer_flux_scale(unknown: Solutions, reference: Solutions) -> tuple[Solutions, float, float]:
    """Flux density of a calibrator that was solved for as if it had 1 Jy, and its gains on the reference's scale.

    Parameters
    ----------
    unknown : Solutions
        Gains of the field of unknown flux density S, solved with a model of 1 Jy: they are sqrt(S) too large.
    reference : Solutions
        Gains of a primary calibrator with the same bandpass applied.

    Returns
    -------
    tuple of (Solutions, float, float)
        Rescaled gains; S and its standard error, Jy.

    Notes
    -----
    S is the median over antennas and correlations of the squared ratio of time-averaged amplitudes, as in CASA's
    ``fluxscale``; its error follows from their robust scatter. Assumes that gain amplitudes are constant
    between the two fields.
    """
    ratio = _mean_amplitude(unknown) / _mean_amplitude(reference)
    squares = ratio[np.isfinite(ratio)] ** 2
    if len(squares) < 3:
        raise NotEnoughDataError(
            f"flux scale cannot be transferred from {reference.field_name!r} to {unknown.field_name!r}",
            got=f"{len(squares)} antennas solved in both",
            expected="at least 3",
            remedy="Look at the flags of both fields.",
            reason_code="no_common_antennas",
        )
    flux_jy = float(np.median(squares))
    scatter_jy = MAD_TO_SIGMA * float(np.median(np.abs(squares - flux_jy)))
    error_jy = _MEDIAN_OVER_MEAN_ERROR * scatter_jy / float(np.sqrt(len(squares)))
    scaled = np.where(unknown.flags, 1.0, unknown.gains / np.sqrt(flux_jy))
    return Solutions(**(unknown.columns() | {"gains": scaled})), flux_jy, error_jy


def _mean_amplitude(solutions: Solutions) -> NDArray[np.float64]:
    """Mean amplitude in time, shape (n_ant, n_corr), NaN where never solved."""
    if solutions.kind != "G":
        raise DataError(
            f"flux scale of {solutions.field_name!r} needs gains",
            got=f"solutions of kind {solutions.kind}",
            expected="kind G",
            remedy="Solve for gains first.",
            reason_code="wrong_kind",
        )
    good = ~solutions.flags[:, :, 0]
    total = np.sum(np.abs(solutions.gains[:, :, 0]) * good, axis=0)
    count = good.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def finer_intervals(
    interval: NDArray[np.int64], cells: NDArray[np.int64], snr: NDArray[np.float64], wanted_snr: float
) -> NDArray[np.int64]:
    """Intervals cut at cell edges into parts in which the median solution keeps the wanted signal-to-noise ratio.

    ``snr`` has one row per interval and correlation. A part has at least two cells, so that outliers still show.
    """
    per_interval = snr.reshape(int(interval.max()) + 1, -1)
    finer = np.empty_like(interval)
    n_parts = 0
    for k, row in enumerate(per_interval):
        own = np.unique(cells[interval == k])
        median = float(np.median(row[row > 0.0])) if np.any(row > 0.0) else 0.0
        wanted = int(np.clip((median / wanted_snr) ** 2, 1, max(1, own.size // 2)))
        for part in np.array_split(own, wanted):
            finer[np.isin(cells, part)] = n_parts
            n_parts += 1
    return finer


def cells_of_intervals(interval: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cells of a few integrations such that no interval has more than ``_MAX_CELLS``."""
    cells = np.zeros(len(interval), dtype=np.int64)
    next_cell = 0
    for k in range(int(interval.max()) + 1):
        own = np.flatnonzero(interval == k)
        width = -(-len(own) // _MAX_CELLS)
        cells[own] = next_cell + np.arange(len(own)) // width
        next_cell = int(cells[own[-1]]) + 1
    return cells
