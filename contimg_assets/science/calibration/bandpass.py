"""Bandpass: one complex number per antenna, channel and correlation, constant in time.

What belongs here: the order of solves that gives a bandpass. What does not: fitting smooth curves or delays, which stay
in the phases of the channels.

Method: (1) a first bandpass on a comb of channels from all integrations; (2) with it, one phase per antenna and
integration, which follows the atmosphere and the clocks; (3) the bandpass again with those phases taken out, so that
averaging in time does not lose coherence. Amplitudes are not normalised by default: the bandpass is solved against a
model in Jy and carries the flux scale, and gains solved after it are near 1. Rejected: phases from a few channels at
the band centre before any bandpass (usual in CASA), which wastes signal and fails for large delays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from contimg_assets.science.calibration.assembly import assemble
from contimg_assets.science.calibration.gain import solve_gains_on
from contimg_assets.science.calibration.solutions import Solutions, SolveSettings
from contimg_assets.science.calibration.solver import solve_problems
from contimg_assets.science.calibration.statistics import accumulate_statistics
from contimg_assets.science.constants import SECONDS_PER_DAY
from contimg_assets.science.sky_model import SkyModel, require_flux_in_view
from contimg_assets.science.visibilities import Visibilities

_COMB_CHANNELS = 192
"""Channels, at least, that the phases of single integrations are solved from."""


def solve_bandpass(vis: Visibilities, model: SkyModel, settings: SolveSettings) -> Solutions:
    """Solve for the bandpass of one field, all of its time together.

    Parameters
    ----------
    vis : Visibilities
        Uncalibrated data of a field with a strong source; not changed.
    model : SkyModel
        What is in the field, in Jy.
    settings : SolveSettings

    Returns
    -------
    Solutions
        Kind "B" with one time; channels or antennas that could not be solved for are flagged.

    Raises
    ------
    NotEnoughDataError
        If nothing is left to solve on, or the model has no flux within the primary beam.
    SolutionError
        If no solution converged to something significant.
    """
    require_flux_in_view(model, vis, primary_beam=settings.primary_beam)
    n_chan = len(vis.frequency_hz)
    phases: tuple[Solutions, ...] = ()
    if settings.align_phases and len(np.unique(vis.time_mjd)) > 1:
        # A comb of channels spans the whole band and is enough for phases; outliers need not be hunted to the end.
        comb = max(1, n_chan // _COMB_CHANNELS)
        quick = replace(settings, robust_iterations=min(settings.robust_iterations, 1))
        first = _solve_channels(vis, model, quick, (), comb)
        each = replace(settings, interval_s=0.0, phase_only=True)
        phases = (solve_gains_on(vis, model, each, (first,), comb),)
    bandpass = _solve_channels(vis, model, settings, phases, 1)
    return _normalised(bandpass) if settings.normalise else bandpass


def _solve_channels(
    vis: Visibilities,
    model: SkyModel,
    settings: SolveSettings,
    prior: Sequence[Solutions],
    channel_step: int,
) -> Solutions:
    times = np.unique(vis.time_mjd)
    frequency_hz = vis.frequency_hz[::channel_step]
    statistics = accumulate_statistics(
        vis,
        model,
        settings,
        cell_of_time=np.zeros(len(times), dtype=np.int64),
        channel_step=channel_step,
        block_of_channel=np.arange(len(frequency_hz)),
        prior=prior,
    )
    problems = [(0, 1, k, k + 1, p) for k in range(len(frequency_hz)) for p in range(len(statistics.correlations))]
    solved = solve_problems(statistics, problems, vis.n_antennas, settings, phase_only=False)
    length_s = float(np.ptp(times)) * SECONDS_PER_DAY + float(np.max(vis.exposure_s))
    return assemble(
        vis,
        statistics,
        solved,
        settings,
        kind="B",
        times=(np.array([vis.time_mjd.mean()]), np.array([length_s])),
        frequency_hz=frequency_hz,
    )


def _normalised(bandpass: Solutions) -> Solutions:
    """Amplitudes scaled to a mean of 1 over the unflagged channels of each antenna and correlation."""
    good = ~bandpass.flags
    total = np.sum(np.abs(bandpass.gains) * good, axis=2, keepdims=True)
    count = good.sum(axis=2, keepdims=True)
    mean = np.where(count > 0, total / np.maximum(count, 1), 1.0)
    return replace(bandpass, gains=np.where(good, bandpass.gains / mean, 1.0))
