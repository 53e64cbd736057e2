"""Solvers against the Cramer-Rao bound: no unbiased estimate of gains can scatter less, and ours scatters no more than that."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from contimg_assets.science.calibration.bandpass import solve_bandpass
from contimg_assets.science.calibration.gain import solve_gains
from contimg_assets.science.calibration.solutions import SolveSettings
from tests.science.corruption import FIELD, corrupt, observed, random_bandpass, random_gains, relative_to

N_ANTENNAS = 10
SETTINGS = {"robust": SolveSettings(n_threads=1), "least squares": SolveSettings(robust_iterations=0, n_threads=1)}


def smallest_variances(vis, gains, refant, sigma_jy):
    """Cramer-Rao bounds of log amplitude and phase, shape (2, n_ant), from the Fisher matrix of all visibilities.

    ``vis`` holds perfect visibilities of one correlation, shape (n_row, n_chan); ``gains`` one gain per antenna. Real and
    imaginary parts carry independent noise of ``sigma_jy``, so the Fisher matrix is Re(J^H J) / sigma^2 with J the derivatives
    of g_i conj(g_j) M by ln|g_k| and arg g_k. The phase of the reference antenna is known to be zero.
    """
    expected = vis.vis[:, :, 0] * (gains[vis.antenna1] * np.conj(gains[vis.antenna2]))[:, None]
    n_ant = len(gains)
    rows = np.arange(len(expected))
    jacobian = np.zeros((len(expected), expected.shape[1], 2 * n_ant), dtype=complex)
    jacobian[rows, :, vis.antenna1] += expected
    jacobian[rows, :, vis.antenna2] += expected
    jacobian[rows, :, n_ant + vis.antenna1] += 1j * expected
    jacobian[rows, :, n_ant + vis.antenna2] -= 1j * expected
    flat = jacobian.reshape(-1, 2 * n_ant)
    # einsum, because threads of a matrix product cost more than these few numbers.
    fisher = sum(np.einsum("ki,kj->ij", part, part) for part in (flat.real, flat.imag)) / sigma_jy**2
    known = n_ant + refant
    free = np.delete(np.arange(2 * n_ant), known)
    variances = np.zeros(2 * n_ant)
    variances[free] = np.diag(np.linalg.inv(fisher[np.ix_(free, free)]))
    return variances.reshape(2, n_ant)


def deviations(solved, truth, refant):
    """Errors of log amplitude and phase, arrays of the shape of the solutions; antennas are the third axis from the end."""
    ratio = solved / relative_to(refant, truth)
    return np.log(np.abs(ratio)), np.angle(ratio)


def assert_at_the_bound(errors, bounds, refant):
    """Mean squared error over its bound is 1 within 10 per cent, for amplitudes and phases."""
    for name, error, bound in zip(("amplitude", "phase"), errors, bounds, strict=True):
        others = np.arange(N_ANTENNAS) != refant if name == "phase" else np.ones(N_ANTENNAS, dtype=bool)
        efficiency = float(np.mean(error[:, others] ** 2 / bound[:, others]))
        assert 0.9 < efficiency < 1.1, f"{name}: variance is {efficiency:.3f} of the bound"


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_gains_reach_the_bound(rng, settings):
    """Over 600 noisy integrations of a field, gains of each scatter as little as the Fisher matrix allows."""
    n_time = 600
    vis, model = observed(FIELD, n_antennas=N_ANTENNAS, n_time=n_time, n_chan=4, drifts=False)
    truth = random_gains(rng, N_ANTENNAS)
    data = corrupt(vis, truth[:, None], rng=rng, sigma_jy=1.5)
    settings = replace(settings, refants=("1",), channels_per_block=1, interval_s=0.0)
    solved = solve_gains(data, model, settings)
    assert solved.gains.shape[0] == n_time
    assert not solved.flags.any()
    log_amplitude, phase = deviations(solved.gains, truth[:, None], 0)
    for corr in range(2):
        bounds = [smallest_variances(part_of(vis, row), truth[:, corr], 0, 1.5) for row in by_time(vis)]
        errors = log_amplitude[:, :, 0, corr], phase[:, :, 0, corr]
        assert_at_the_bound(errors, np.swapaxes(bounds, 0, 1), 0)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_bandpass_reaches_the_bound(rng, settings):
    """Over 600 channels, each with a gain of its own, the bandpass scatters as little as the Fisher matrix allows."""
    n_chan = 600
    vis, model = observed(n_antennas=N_ANTENNAS, n_time=4, n_chan=n_chan)
    truth = random_bandpass(rng, vis.frequency_hz, N_ANTENNAS)
    solved = solve_bandpass(corrupt(vis, truth, rng=rng, sigma_jy=1.5), model, replace(settings, refants=("1",)))
    assert not solved.flags.any()
    log_amplitude, phase = deviations(solved.gains[0], truth, 0)
    for corr in range(2):
        bounds = [
            smallest_variances(part_of(vis, channels=slice(k, k + 1)), truth[:, k, corr], 0, 1.5) for k in range(n_chan)
        ]
        assert_at_the_bound((log_amplitude[:, :, corr].T, phase[:, :, corr].T), np.swapaxes(bounds, 0, 1), 0)


def by_time(vis):
    """Rows of each integration."""
    return np.split(np.arange(len(vis.time_mjd)), len(np.unique(vis.time_mjd)))


def part_of(vis, rows=slice(None), channels=slice(None)):
    """The perfect visibilities of some rows and channels, as much as the bound needs."""
    return SimpleNamespace(vis=vis.vis[rows][:, channels], antenna1=vis.antenna1[rows], antenna2=vis.antenna2[rows])
