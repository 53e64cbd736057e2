from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contimg_assets.science.calibration.apply import apply_solutions
from contimg_assets.science.calibration.bandpass import solve_bandpass
from contimg_assets.science.calibration.gain import solve_gains
from contimg_assets.science.calibration.quality import solution_quality
from contimg_assets.science.calibration.solutions import Solutions, SolveSettings
from contimg_assets.science.errors import DataError
from tests.science.corruption import FIELD, corrupt, observed, random_bandpass, random_gains


def table(vis, gains, *, kind="G", time_mjd=None, flags=None):
    """Solutions holding the given gains, shape (n_time, n_ant, n_chan, n_corr)."""
    n_time = gains.shape[0]
    return Solutions(
        kind=kind,
        gains=gains.astype(np.complex128),
        flags=np.zeros(gains.shape, dtype=bool) if flags is None else flags,
        snr=np.full(gains.shape, 100.0, dtype=np.float32),
        time_mjd=np.linspace(vis.time_mjd.min(), vis.time_mjd.max(), n_time) if time_mjd is None else time_mjd,
        interval_s=np.full(n_time, 10.0),
        frequency_hz=vis.frequency_hz if kind == "B" else np.array([vis.mean_frequency_hz]),
        refant=0,
        antenna_names=vis.antenna_names,
        correlations=("XX", "YY"),
        field_name="drift",
        residual=0.01,
        n_iterations=10,
        converged=np.ones((n_time, gains.shape[2], gains.shape[3]), dtype=bool),
    )


def test_applying_undoes_the_corruption(rng):
    """Solve, then apply: the perfect visibilities come back."""
    vis, model = observed(FIELD, n_antennas=8, n_time=3, n_chan=12)
    data = corrupt(vis, random_bandpass(rng, vis.frequency_hz, 8))
    settings = SolveSettings(tolerance=1e-8)
    bandpass = solve_bandpass(data, model, settings)
    gains = solve_gains(data, model, settings, bandpass)
    calibrated = apply_solutions(data, [bandpass, gains])
    assert calibrated is data
    np.testing.assert_allclose(data.vis, vis.vis, atol=2e-4)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_applying_then_corrupting_is_the_identity(seed):
    """Dividing by gains and multiplying by them again changes nothing."""
    rng = np.random.default_rng(seed)
    vis, _ = observed(n_antennas=4, n_time=2, n_chan=3)
    gains = random_gains(rng, 4)[None, :, None]
    before = vis.vis.copy()
    apply_solutions(vis, [table(vis, gains)])
    np.testing.assert_allclose(corrupt(vis, gains).vis, before, rtol=1e-4)


def test_weights_follow_the_gains(rng):
    """Noise divided by a gain of 2 on both antennas is a quarter: the weight is 16 times as large."""
    vis, _ = observed(n_antennas=4, n_time=1, n_chan=3)
    weights = vis.weights.copy()
    apply_solutions(vis, [table(vis, np.full((1, 4, 1, 2), 2.0))])
    np.testing.assert_allclose(vis.weights, 16.0 * weights)


def test_gains_are_interpolated_in_time():
    """Half-way between two solutions amplitude and phase are half-way, the short way round, and held outside."""
    vis, _ = observed(n_antennas=4, n_time=5, n_chan=2)
    times = np.unique(vis.time_mjd)
    start, stop = np.exp(3.0j), 3.0 * np.exp(-3.0j)
    gains = np.ones((2, 4, 1, 2), dtype=complex)
    gains[0, 1], gains[1, 1] = start, stop
    vis.vis[:] = 1.0
    apply_solutions(vis, [table(vis, gains, time_mjd=times[[1, 3]])])
    found = 1.0 / vis.vis[(vis.antenna1 == 1) & (vis.antenna2 == 2), 0, 0]
    np.testing.assert_allclose(found, [start, start, 2.0 * np.exp(1j * np.pi), stop, stop], rtol=1e-5)


def test_flagged_solutions_are_bridged_or_flag_the_data():
    """A flagged time is interpolated over; an antenna never solved flags its data and leaves them as they were."""
    vis, _ = observed(n_antennas=4, n_time=3, n_chan=2)
    gains = np.full((3, 4, 1, 2), 2.0)
    flags = np.zeros(gains.shape, dtype=bool)
    flags[1, 2] = True
    flags[:, 3] = True
    before = vis.vis.copy()
    apply_solutions(vis, [table(vis, gains, flags=flags)])
    dead = (vis.antenna1 == 3) | (vis.antenna2 == 3)
    assert vis.flags[dead].all()
    assert not vis.flags[~dead].any()
    np.testing.assert_array_equal(vis.vis[dead], before[dead])
    np.testing.assert_allclose(vis.vis[~dead], before[~dead] / 4.0, rtol=1e-6)


def test_bandpass_covers_only_its_own_channels():
    """Channels beyond the bandpass are flagged; antennas are matched by name."""
    vis, _ = observed(n_antennas=4, n_time=1, n_chan=6)
    narrow = replace(vis, vis=vis.vis[:, 2:4], flags=vis.flags[:, 2:4], frequency_hz=vis.frequency_hz[2:4])
    gains = np.ones((1, 4, 2, 2))
    gains[0, 3] = 2.0
    reversed_names = replace(table(narrow, gains, kind="B"), antenna_names=vis.antenna_names[::-1])
    before = vis.vis.copy()
    apply_solutions(vis, [reversed_names])
    assert vis.flags.any(axis=(0, 2)).tolist() == [True, True, False, False, True, True]
    first = (vis.antenna1 == 0) & (vis.antenna2 == 1)
    np.testing.assert_allclose(vis.vis[first, 2:4], before[first, 2:4] / 2.0, rtol=1e-6)


def test_solutions_of_another_telescope_are_refused():
    """No antenna in common: an error, not a silent flagging of everything."""
    vis, _ = observed(n_antennas=4, n_time=1, n_chan=2)
    other = replace(table(vis, np.ones((1, 4, 1, 2))), antenna_names=("A", "B", "C", "D"))
    with pytest.raises(DataError, match="do not belong"):
        apply_solutions(vis, [other])


def test_read_only_arrays_are_refused():
    """Calibration is in place, so it needs arrays it may write to."""
    vis, _ = observed(n_antennas=4, n_time=1, n_chan=2)
    vis.vis.flags.writeable = False
    with pytest.raises(DataError, match="read-only"):
        apply_solutions(vis, [table(vis, np.ones((1, 4, 1, 2)))])


def test_inconsistent_solutions_are_refused():
    """Arrays of different shape cannot be put together."""
    vis, _ = observed(n_antennas=4, n_time=1, n_chan=2)
    with pytest.raises(DataError, match="do not fit together"):
        replace(table(vis, np.ones((1, 4, 1, 2))), interval_s=np.ones(3))


def test_quality_counts_existing_antennas_only(rng):
    """One of ten antennas is dead, the eleventh slot is empty: nine tenths are solved."""
    vis, model = observed(n_antennas=10, n_time=3, n_chan=8)
    data = corrupt(vis, random_gains(rng, 10)[:, None], rng=rng, sigma_jy=0.1)
    data.flags[(data.antenna1 == 2) | (data.antenna2 == 2)] = True
    data = replace(
        data,
        antenna_names=(*data.antenna_names, "empty"),
        antenna_positions_m=np.vstack([data.antenna_positions_m, data.antenna_positions_m[:1]]),
    )
    assert data.n_antennas_with_data == 9
    quality = solution_quality(solve_gains(data, model, SolveSettings()), data.existing_antennas)
    assert quality["solved_fraction"] == pytest.approx(0.9)
    assert quality["flagged_fraction"] == pytest.approx(0.1)
    assert quality["unsolved_antennas"] == ["3"]
    assert quality["converged_fraction"] == 1.0
    assert 0.85 < quality["quality"] < 0.9


def test_stability_ignores_the_reference_phase(rng):
    """A table 5 per cent higher whose phases differ by a common turn and 2 deg of scatter is reported as just that."""
    vis, _ = observed(n_antennas=400, n_time=1, n_chan=1)
    gains = random_gains(rng, 400)[None, :, None]
    later = 1.05 * gains * np.exp(1j * (1.3 + np.deg2rad(2.0) * rng.standard_normal(gains.shape)))
    quality = solution_quality(table(vis, later), vis.existing_antennas, table(vis, gains))
    assert quality["amplitude_ratio"] == pytest.approx(1.05)
    assert quality["amplitude_scatter"] < 1e-6
    assert quality["phase_scatter_deg"] == pytest.approx(2.0, rel=0.1)


def test_quality_of_nothing_is_zero():
    """A wholly flagged table has quality 0 and no NaN in its score."""
    vis, _ = observed(n_antennas=4, n_time=1, n_chan=1)
    dead = table(vis, np.ones((1, 4, 1, 2)), flags=np.ones((1, 4, 1, 2), dtype=bool))
    assert solution_quality(dead, vis.existing_antennas)["quality"] == 0.0
