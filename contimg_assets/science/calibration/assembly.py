"""From solved problems to a table: reference antenna, flags, errors for solves that must not be used.

What belongs here: what bandpass and gain solves share after the iteration. What does not: the iteration (``solver``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.solutions import Solutions, SolveSettings, reference_phases
from contimg_assets.science.calibration.solver import SolvedGains
from contimg_assets.science.calibration.statistics import BaselineStatistics
from contimg_assets.science.errors import DataError, NotEnoughDataError, SolutionError
from contimg_assets.science.visibilities import Visibilities

_FULL_ENOUGH = 0.95
"""A reference antenna should have at least this fraction of the data of the fullest antenna."""


def choose_refant(
    vis: Visibilities, statistics: BaselineStatistics, refants: Sequence[str], *, required: bool = True
) -> int:
    """Index of the reference antenna.

    The first of ``refants`` that has at least half as many averages as the fullest antenna; without names, or if none of
    them has and none is ``required``, the antenna nearest to the array centre among those with nearly as many as the fullest.

    Raises
    ------
    DataError
        If a name is not an antenna of the telescope.
    NotEnoughDataError
        If one of the named antennas is required and none has data.
    """
    counts = np.sum(statistics.power > 0.0, axis=(0, 2, 3))
    averages = np.zeros(vis.n_antennas)
    np.add.at(averages, statistics.antenna1, counts)
    np.add.at(averages, statistics.antenna2, counts)
    return _refant_of(vis, averages, refants, required=required)


def fullest_refant(vis: Visibilities, refants: Sequence[str], *, required: bool = True) -> int:
    """Index of the reference antenna, as ``choose_refant`` does it, from the flags of the data alone."""
    counts = np.count_nonzero(~vis.flags, axis=(1, 2))
    averages = np.zeros(vis.n_antennas)
    for ends in (vis.antenna1, vis.antenna2):
        averages += np.bincount(ends, weights=counts, minlength=vis.n_antennas)
    return _refant_of(vis, averages, refants, required=required)


def _refant_of(vis: Visibilities, averages: NDArray[np.float64], refants: Sequence[str], *, required: bool) -> int:
    """Choose by the number of data (or averages of data) of each antenna."""
    unknown = [name for name in refants if name not in vis.antenna_names]
    if unknown:
        raise DataError(
            f"unknown reference antenna for {vis.source_name or vis.field_name}",
            got=", ".join(unknown),
            expected=f"names among {', '.join(vis.antenna_names[:5])}, ..., {vis.antenna_names[-1]}",
            remedy="Correct the name of the reference antenna.",
            reason_code="unknown_antenna",
        )
    named = [vis.antenna_names.index(name) for name in refants]
    for index in named:
        if averages[index] >= 0.5 * averages.max():
            return index
    if named and required:
        raise NotEnoughDataError(
            f"no reference antenna of {vis.source_name or vis.field_name} has enough data",
            got=", ".join(
                f"{name}: {averages[i] / averages.max():.0%}" for name, i in zip(refants, named, strict=True)
            ),
            expected="at least half the data of the fullest antenna",
            remedy="Name another reference antenna, or none to have one chosen.",
            reason_code="refant_without_data",
        )
    centre = np.median(vis.antenna_positions_m[vis.existing_antennas], axis=0)
    distance_m = np.linalg.norm(vis.antenna_positions_m - centre, axis=1)
    return int(np.argmin(np.where(averages >= _FULL_ENOUGH * averages.max(), distance_m, np.inf)))


def assemble(
    vis: Visibilities,
    statistics: BaselineStatistics,
    solved: SolvedGains,
    settings: SolveSettings,
    *,
    kind: str,
    times: tuple[NDArray[np.float64], NDArray[np.float64]],
    frequency_hz: NDArray[np.float64],
) -> Solutions:
    """Table of solved problems, which are ordered by time, channel, correlation.

    Raises
    ------
    NotEnoughDataError
        If no antenna could be solved for.
    SolutionError
        If nothing converged, or no solution is significant.
    """
    time_mjd, interval_s = times
    n_time, n_chan, n_corr = len(time_mjd), len(frequency_hz), len(statistics.correlations)

    def shaped(values: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.moveaxis(values.reshape(n_time, n_chan, n_corr, -1), 3, 1)

    _refuse_unusable(vis, solved, settings, kind)
    poor = ~solved.usable | ~solved.converged[:, None] | (solved.snr < settings.min_snr)
    flags = np.asarray(shaped(poor), dtype=np.bool_).copy()
    gains = np.where(flags, 1.0, np.asarray(shaped(solved.gains), dtype=np.complex128))
    refant = choose_refant(vis, statistics, settings.refants, required=settings.is_refant_required)
    # Neighbours along the axis that is long: time for gains, channels for a bandpass.
    for t in range(n_time if kind == "B" else 0):
        gains[t] = reference_phases(gains[t].swapaxes(0, 1), flags[t].swapaxes(0, 1), refant).swapaxes(0, 1)
    if kind == "G":
        gains[:, :, 0] = reference_phases(gains[:, :, 0], flags[:, :, 0], refant)
    return Solutions(
        kind=kind,
        gains=np.where(flags, 1.0, gains),
        flags=flags,
        snr=np.asarray(shaped(solved.snr), dtype=np.float32),
        time_mjd=time_mjd,
        interval_s=interval_s,
        frequency_hz=frequency_hz,
        refant=refant,
        antenna_names=vis.antenna_names,
        correlations=statistics.correlations,
        field_name=vis.field_name,
        residual=float(np.nanmedian(solved.residual)),
        n_iterations=int(solved.n_iterations.max()),
        converged=solved.converged.reshape(n_time, n_chan, n_corr),
        antenna_residual=_median_residual(np.asarray(shaped(solved.antenna_residual), dtype=np.float64)),
    )


def _median_residual(residual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over time and channels of (time, antenna, channel, correlation), NaN where there is none."""
    middle = np.full((residual.shape[1], residual.shape[3]), np.nan)
    for antenna, corr in np.argwhere(np.isfinite(residual).any(axis=(0, 2))):
        middle[antenna, corr] = np.nanmedian(residual[:, antenna, :, corr])
    return middle


def _refuse_unusable(vis: Visibilities, solved: SolvedGains, settings: SolveSettings, kind: str) -> None:
    name = vis.source_name or vis.field_name
    if not np.any(solved.usable):
        raise NotEnoughDataError(
            f"no antenna of {name} can be solved for ({kind})",
            got=f"fewer than {settings.min_baselines} baselines with data for every antenna",
            expected=f"antennas with data on at least {settings.min_baselines} baselines to each other",
            remedy="Look at the flags of this observation before solving again.",
            reason_code="too_few_baselines",
        )
    significant = solved.usable & solved.converged[:, None] & (solved.snr >= settings.min_snr)
    if not np.any(significant):
        raise SolutionError(
            f"no usable {kind} solution for {name}",
            got=f"{int(solved.converged.sum())} of {len(solved.converged)} solutions converged, "
            f"median signal-to-noise {float(np.median(solved.snr[solved.usable])):.2g}",
            expected=f"converged solutions with signal-to-noise above {settings.min_snr:g}",
            remedy="Check that the model is what was observed, solve over longer intervals, look at the flags.",
            reason_code="solve_failed",
        )
