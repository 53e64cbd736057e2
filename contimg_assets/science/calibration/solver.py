"""Antenna gains from baseline statistics: alternating least squares with robust reweighting.

What belongs here: the numerical kernels and the function that runs them over many independent problems. What does not:
the choice of intervals, blocks and priors (``bandpass``, ``gain``) and the pass over the data (``statistics``).

Method: minimise ``sum_ij w |V_ij - g_i conj(g_j) M_ij|^2`` by solving for each antenna with the others held
(``g_i = sum_j cross_ij g_j / sum_j power_ij |g_j|^2``) and averaging every second step with the one before it (StEFCal:
Salvini & Wijnholds 2014, A&A 571, A97). Averages that lie off by more than a few robust standard deviations then lose
weight, and the solution is repeated. The error of a gain is the curvature of that sum times the scatter of the averaged
residuals, so that it includes what the model lacks and does not trust the scale of the weights. Rejected: Levenberg-
Marquardt on all antennas, which costs n^3 per step and finds the same minimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.solutions import SolveSettings
from contimg_assets.science.calibration.statistics import BaselineStatistics
from contimg_assets.science.threads import in_threads, slices

_RAYLEIGH_MEDIAN = 1.1774100225154747
"""Median of the modulus of a complex normal number in units of the deviation of one component, sqrt(2 ln 2)."""

_SNR_LIMIT = 1e6
"""Noiseless data would give infinite signal-to-noise."""


class _Controls(NamedTuple):
    """What the kernels need of the settings, in a form numba takes."""

    phase_only: bool
    min_baselines: int
    robust_iterations: int
    outlier_sigma: float
    tolerance: float
    max_iterations: int


@dataclass(frozen=True, slots=True, eq=False)
class SolvedGains:
    """Result of independent problems; gains have arbitrary common phase."""

    gains: NDArray[np.complex128]
    """Shape (n_problem, n_ant); 1 where not usable."""
    usable: NDArray[np.bool_]
    """Antenna had enough baselines to the others, shape (n_problem, n_ant)."""
    snr: NDArray[np.float64]
    """Amplitude over standard error, same shape; 0 where not usable."""
    converged: NDArray[np.bool_]
    """Shape (n_problem,)."""
    n_iterations: NDArray[np.int64]
    """Shape (n_problem,)."""
    residual: NDArray[np.float64]
    """Rms of averaged residuals over rms of fitted averages, NaN without data, shape (n_problem,)."""
    antenna_residual: NDArray[np.float64]
    """Rms of the averaged residuals of each antenna's baselines over the robust one of all, NaN without, (n_problem, n_ant)."""


def solve_problems(
    statistics: BaselineStatistics,
    problems: Sequence[tuple[int, int, int, int, int]],
    n_antennas: int,
    settings: SolveSettings,
    *,
    phase_only: bool,
) -> SolvedGains:
    """Solve independent gain problems.

    Parameters
    ----------
    statistics : BaselineStatistics
    problems : sequence of (first cell, last cell, first block, last block, corr)
        Each takes the cells and blocks of two half-open ranges and one correlation.
    n_antennas : int
        Number of antenna slots.
    settings : SolveSettings
    phase_only : bool
        Hold all amplitudes at 1.
    """
    domains = np.array(problems, dtype=np.int64).reshape(-1, 5)
    shape = (len(domains), n_antennas)
    solved = SolvedGains(
        gains=np.ones(shape, dtype=np.complex128),
        usable=np.zeros(shape, dtype=np.bool_),
        snr=np.zeros(shape),
        converged=np.zeros(len(domains), dtype=np.bool_),
        n_iterations=np.zeros(len(domains), dtype=np.int64),
        residual=np.full(len(domains), np.nan),
        antenna_residual=np.full(shape, np.nan),
    )
    controls = _Controls(
        phase_only,
        settings.min_baselines,
        settings.robust_iterations,
        settings.outlier_sigma,
        settings.tolerance,
        settings.max_iterations,
    )
    antennas = (statistics.antenna1, statistics.antenna2)
    found = (
        solved.gains,
        solved.usable,
        solved.snr,
        solved.converged,
        solved.n_iterations,
        solved.residual,
        solved.antenna_residual,
    )
    sums = _by_problem(statistics, settings.n_threads)
    in_threads(
        lambda part: _solve_some(part.start, part.stop, domains, sums, antennas, controls, found),
        slices(len(domains), settings.n_threads),
        settings.n_threads,
    )
    return solved


def _by_problem(statistics: BaselineStatistics, n_threads: int) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """Sums with axes (block, corr, cell, baseline): each problem's lie together; the pass over the data needs the other layout."""
    cross, power = statistics.cross.transpose(2, 3, 0, 1), statistics.power.transpose(2, 3, 0, 1)
    turned_cross, turned_power = np.empty(cross.shape, dtype=cross.dtype), np.empty(power.shape, dtype=power.dtype)

    def turn(part: slice) -> None:
        turned_cross[part] = cross[part]
        turned_power[part] = power[part]

    in_threads(turn, slices(len(cross), n_threads), n_threads)
    return turned_cross, turned_power


def median_residual(
    statistics: BaselineStatistics,
    problems: Sequence[tuple[int, int, int, int, int]],
    gains: NDArray[np.complex128],
    usable: NDArray[np.bool_],
) -> float:
    """Residual of gains found elsewhere: median over problems of what ``SolvedGains.residual`` says of ours, NaN without data.

    ``problems`` are those of ``solve_problems``, ``gains`` and ``usable`` of shape (n_problem, n_ant).
    """
    found = []
    for (t0, t1, k0, k1, p), gain, is_usable in zip(problems, gains, usable, strict=True):
        data, norm = (
            np.ascontiguousarray(cube[t0:t1, :, k0:k1, p].swapaxes(1, 2)).reshape(-1, len(statistics.antenna1))
            for cube in (statistics.cross, statistics.power)
        )
        whole, deviation = np.ones(norm.shape, dtype=np.float32), np.zeros(norm.shape, dtype=np.float32)
        squares, fitted = _residuals(
            data, norm, whole, statistics.antenna1, statistics.antenna2, is_usable, gain, deviation
        )
        if fitted > 0.0:
            found.append(np.sqrt(squares / fitted))
    return float(np.median(found)) if found else float("nan")


@numba.njit(cache=True, nogil=True)
def _solve_some(first, last, domains, sums, antennas, controls, found):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Solve problems ``first`` to ``last`` on sums (block, corr, cell, baseline) into rows of the arrays of ``SolvedGains``."""
    antenna1, antenna2 = antennas
    all_gains, all_usable, snr, converged, n_iterations, residual, antenna_residual = found
    n_antennas = all_gains.shape[1]
    cross, power = np.zeros((n_antennas, n_antennas), dtype=np.complex128), np.zeros((n_antennas, n_antennas))
    updated = np.empty(n_antennas, dtype=np.complex128)
    for k in range(first, last):
        t0, t1, k0, k1, p = domains[k, 0], domains[k, 1], domains[k, 2], domains[k, 3], domains[k, 4]
        shape = ((k1 - k0) * (t1 - t0), antenna1.shape[0])
        data = np.ascontiguousarray(sums[0][k0:k1, p, t0:t1]).reshape(shape)
        norm = np.ascontiguousarray(sums[1][k0:k1, p, t0:t1]).reshape(shape)
        trust, deviation = np.ones(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        gains, usable = all_gains[k], all_usable[k]
        _sum_cells(data, norm, trust, antenna1, antenna2, cross, power)
        _find_usable(power, controls.min_baselines, np.ones(n_antennas, dtype=np.bool_), usable)
        if not np.any(usable):
            continue
        _guess(cross, power, usable, controls.phase_only, gains)
        scale = 0.0
        n_parameters = usable.sum() * (1 if controls.phase_only else 2) - 1
        for attempt in range(controls.robust_iterations + 1):
            if attempt > 0:
                _reweight(deviation, np.float32(controls.outlier_sigma * scale), trust)
                _sum_cells(data, norm, trust, antenna1, antenna2, cross, power)
            n_steps = _alternate(cross, power, usable, gains, updated, controls)
            converged[k] = n_steps >= 0
            n_iterations[k] += abs(n_steps)
            squares, fitted = _residuals(data, norm, trust, antenna1, antenna2, usable, gains, deviation)
            sizes = deviation.ravel()
            sizes = sizes[sizes > 0.0]
            if sizes.size == 0:
                scale, residual[k] = 0.0, 0.0
                break
            freedom = 2.0 * sizes.size / max(2.0 * sizes.size - n_parameters, 1.0)
            scale = np.median(sizes) / _RAYLEIGH_MEDIAN * np.sqrt(freedom)
            residual[k] = np.sqrt(squares / fitted)
        _signal_to_noise(power, usable, gains, scale, snr[k])
        _antenna_residuals(deviation, antenna1, antenna2, scale, antenna_residual[k])
        for i in range(n_antennas):
            if not usable[i]:
                gains[i] = 1.0


@numba.njit(cache=True, nogil=True)
def _reweight(deviation, limit, trust):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Averages that deviate by more than the limit count with the square of how much less they may."""
    for c in range(deviation.shape[0]):
        for b in range(deviation.shape[1]):
            size = deviation[c, b]
            trust[c, b] = np.float32(1.0) if size <= limit else (limit / size) ** 2


@numba.njit(cache=True, nogil=True)
def _sum_cells(data, norm, trust, antenna1, antenna2, cross, power):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sum cells (cell, baseline) into hermitian antenna-by-antenna matrices."""
    for i in range(power.shape[0]):
        for j in range(power.shape[0]):
            cross[i, j] = 0.0
            power[i, j] = 0.0
    for c in range(norm.shape[0]):
        for b in range(norm.shape[1]):
            i, j = antenna1[b], antenna2[b]
            cross[i, j] += trust[c, b] * data[c, b]
            power[i, j] += trust[c, b] * norm[c, b]
    for b in range(norm.shape[1]):
        i, j = antenna1[b], antenna2[b]
        cross[j, i] = cross[i, j].conjugate()
        power[j, i] = power[i, j]


@numba.njit(cache=True, nogil=True)
def _count_linked(power, members, i):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Number of baselines with data from antenna i to members."""
    count = 0
    for j in range(power.shape[0]):
        if members[j] and power[i, j] > 0.0:
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _find_usable(power, min_baselines, candidate, usable):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Mark antennas with enough baselines among each other that can be reached from the fullest of them.

    ``candidate`` is all True on entry and ``usable`` all False.
    """
    changed = True
    fullest, most = 0, 0
    while changed:
        changed, most = False, 0
        for i in range(power.shape[0]):
            count = _count_linked(power, candidate, i) if candidate[i] else 0
            if candidate[i] and count < max(min_baselines, 2):
                candidate[i] = False
                changed = True
            elif count > most:
                fullest, most = i, count
    usable[fullest] = most > 0
    changed = most > 0
    while changed:
        changed = False
        for i in range(power.shape[0]):
            if candidate[i] and not usable[i] and _count_linked(power, usable, i) > 0:
                usable[i] = True
                changed = True


@numba.njit(cache=True, nogil=True)
def _guess(cross, power, usable, phase_only, gains):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Start from the phases of the baselines to the fullest antenna and one common amplitude; 0 where not usable."""
    n_antennas = usable.shape[0]
    total, weight = 0.0, 0.0
    anchor, most = 0, 0
    for i in range(n_antennas):
        count = 0
        for j in range(n_antennas):
            if usable[i] and usable[j] and power[i, j] > 0.0:
                total += np.sqrt(cross[i, j].real ** 2 + cross[i, j].imag ** 2)
                weight += power[i, j]
                count += 1
        if count > most:
            anchor, most = i, count
    amplitude = 1.0 if phase_only else np.sqrt(total / weight)
    for i in range(n_antennas):
        towards = cross[i, anchor]
        gains[i] = 0.0
        if usable[i]:
            gains[i] = amplitude * towards / abs(towards) if abs(towards) > 0.0 else amplitude


@numba.njit(cache=True, nogil=True)
def _best_gain(cross, power, gains, i, phase_only):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Least-squares gain of antenna i with all others held."""
    top, bottom = 0j, 0.0
    for j in range(gains.shape[0]):
        g = gains[j]
        top += cross[i, j] * g
        bottom += power[i, j] * (g.real * g.real + g.imag * g.imag)
    if phase_only:
        bottom = abs(top)
    return top / bottom if bottom > 0.0 else gains[i]


@numba.njit(cache=True, nogil=True)
def _alternate(cross, power, usable, gains, updated, controls):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Iterate ``gains`` in place; returns the number of steps, negative if it did not converge."""
    n_antennas = usable.shape[0]
    for step in range(1, controls.max_iterations + 1):
        is_averaged = step % 2 == 0
        change, size = 0.0, 0.0
        for i in range(n_antennas):
            updated[i] = gains[i]
            if usable[i]:
                new = _best_gain(cross, power, gains, i, controls.phase_only)
                if is_averaged:
                    new = 0.5 * (new + gains[i])
                if controls.phase_only and abs(new) > 0.0:
                    new /= abs(new)
                moved = new - gains[i]
                change += moved.real * moved.real + moved.imag * moved.imag
                size += new.real * new.real + new.imag * new.imag
                updated[i] = new
        for i in range(n_antennas):
            gains[i] = updated[i]
        if is_averaged and change <= controls.tolerance**2 * size:
            return step
    return -controls.max_iterations


@numba.njit(cache=True, nogil=True)
def _residuals(data, norm, trust, antenna1, antenna2, usable, gains, deviation):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill the normalised residual of each averaged visibility; returns sums of squares of residual and fit."""
    squares, fitted = 0.0, 0.0
    for c in range(norm.shape[0]):
        for b in range(norm.shape[1]):
            i, j = antenna1[b], antenna2[b]
            deviation[c, b] = 0.0
            if usable[i] and usable[j] and norm[c, b] > 0.0:
                product = gains[i] * gains[j].conjugate()
                rest = data[c, b] - product * norm[c, b]
                square = (rest.real * rest.real + rest.imag * rest.imag) / norm[c, b]
                deviation[c, b] = np.sqrt(square)
                squares += trust[c, b] * square
                fitted += trust[c, b] * norm[c, b] * (product.real * product.real + product.imag * product.imag)
    return squares, fitted


@numba.njit(cache=True, nogil=True)
def _signal_to_noise(power, usable, gains, scale, snr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Amplitude over error from the curvature; the other antennas are unknown too: (n - 1) / n for n baselines."""
    for i in range(usable.shape[0]):
        curvature, n_baselines = 0.0, 0
        for j in range(usable.shape[0]):
            if usable[i] and usable[j] and power[i, j] > 0.0:
                curvature += power[i, j] * (gains[j].real ** 2 + gains[j].imag ** 2)
                n_baselines += 1
        if n_baselines > 0:
            amplitude = abs(gains[i]) * np.sqrt(curvature * (n_baselines - 1) / n_baselines)
            snr[i] = amplitude / scale if amplitude < _SNR_LIMIT * scale else _SNR_LIMIT


@numba.njit(cache=True, nogil=True)
def _antenna_residuals(deviation, antenna1, antenna2, scale, relative):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Rms deviation of each antenna's baselines in units of ``sqrt(2) scale``: 1 for complex noise of that scale."""
    squares, count = np.zeros(relative.shape[0]), np.zeros(relative.shape[0])
    for c in range(deviation.shape[0]):
        for b in range(deviation.shape[1]):
            if deviation[c, b] > 0.0:
                for i in (antenna1[b], antenna2[b]):
                    squares[i] += deviation[c, b] ** 2
                    count[i] += 1
    for i in range(relative.shape[0]):
        if count[i] > 0 and scale > 0.0:
            relative[i] = np.sqrt(squares[i] / (2.0 * count[i])) / scale
