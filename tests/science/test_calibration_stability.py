"""Jumps and drifts of single receptors between successive tables, and what per-antenna quality names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from contimg_assets.science.calibration.gain import solve_gains
from contimg_assets.science.calibration.inputs import solve_input_hash
from contimg_assets.science.calibration.quality import antenna_quality
from contimg_assets.science.calibration.solutions import Solutions, SolveSettings
from contimg_assets.science.calibration.stability import StabilityLimits, changes_between, judge_stability
from contimg_assets.science.sky_model import point_source
from tests.science.corruption import corrupt, observed, random_gains

N_ANT, N_CHAN = 30, 16
LIMITS = StabilityLimits(amplitude_floor=0.05, amplitude_limit=0.1, phase_floor_deg=10.0)


def tables(rng, *, n=6, wander=0.01, snr=200.0):
    """Bandpasses whose receptors wander by so much (natural log, rad) from one to the next, each with its own common phase."""
    gains = random_gains(rng, N_ANT)[:, None] * np.ones((1, N_CHAN, 1))
    made = []
    for _ in range(n):
        step = wander * (rng.standard_normal((N_ANT, 1, 2)) + 1j * rng.standard_normal((N_ANT, 1, 2)))
        gains = gains * np.exp(step) * np.exp(2j * np.pi * rng.random((1, 1, 2)))
        noise = (rng.standard_normal(gains.shape) + 1j * rng.standard_normal(gains.shape)) / snr
        made.append(table(gains * (1.0 + noise), snr))
    return made


def table(gains, snr):
    """A bandpass of these gains, shape (n_ant, n_chan, n_corr)."""
    return Solutions(
        kind="B",
        gains=gains[None],
        flags=np.zeros((1, *gains.shape), dtype=bool),
        snr=np.full((1, *gains.shape), snr, dtype=np.float32),
        time_mjd=np.array([61000.0]),
        interval_s=np.array([300.0]),
        frequency_hz=1.3e9 + 1e6 * np.arange(N_CHAN),
        refant=0,
        antenna_names=tuple(str(k + 1) for k in range(N_ANT)),
        correlations=("XX", "YY"),
        field_name="f",
        residual=0.1,
        n_iterations=5,
        converged=np.ones((1, N_CHAN, 2), dtype=bool),
    )


def multiplied(solutions, antenna, corr, factor):
    """The same table with one receptor multiplied."""
    gains = solutions.gains.copy()
    gains[:, antenna, :, corr] *= factor
    return replace(solutions, gains=gains)


def test_nothing_is_unstable_in_a_steady_array(rng):
    """Random steps of 1 per cent and arbitrary common phases are neither jumps nor drifts, in any of 40 histories."""
    for _ in range(40):
        *history, last = tables(rng)
        found = judge_stability(last, history, LIMITS)
        assert found.n_tables == 5
        assert found.n_receptors == 2 * N_ANT
        assert found.unstable == ()


@pytest.mark.parametrize("antenna", [7, 0], ids=["any antenna", "reference antenna"])
@pytest.mark.parametrize(
    ("factor", "amplitude_ratio", "phase_deg"),
    [(1.3, 1.3, 0.0), (np.exp(0.7j), 1.0, 40.1), (0.5 * np.exp(-1j), 0.5, -57.3)],
    ids=["amplitude", "phase", "both"],
)
def test_a_jump_is_named_with_its_size(rng, antenna, factor, amplitude_ratio, phase_deg):
    """One receptor that jumps is found, alone, whichever antenna phases are referred to; its size is right."""
    *history, last = tables(rng)
    found = judge_stability(multiplied(last, antenna, 1, factor), history, LIMITS)
    (worst,) = found.unstable
    assert (worst["receptor"], worst["kind"]) == (f"{antenna + 1} Y", "jump")
    assert worst["amplitude_ratio"] == pytest.approx(amplitude_ratio, rel=0.06)
    assert worst["phase_deg"] == pytest.approx(phase_deg, abs=4.0)
    assert found.unstable_fraction == pytest.approx(1 / (2 * N_ANT))


def test_a_jump_needs_more_than_its_error(rng):
    """The same 20 per cent in a table of signal-to-noise 3 per solution, over 16 channels, is not believed."""
    *history, last = tables(rng, snr=3.0)
    assert judge_stability(multiplied(last, 7, 0, 1.2), history, LIMITS).unstable == ()
    *history, last = tables(rng, snr=200.0)
    assert len(judge_stability(multiplied(last, 7, 0, 1.2), history, LIMITS).unstable) == 1


def test_a_phase_jump_needs_more_than_what_is_usual(rng):
    """A phase change of 35 deg is a jump of a quiet receptor and nothing special of one that always moves so."""
    history = tables(rng)
    restless = [
        multiplied(t, 7, 0, np.exp(1j * phase)) for t, phase in zip(history, (0, 0.6, 0, 0.6, 0, 0.6), strict=True)
    ]
    assert judge_stability(restless[-1], restless[:-1], LIMITS).unstable == ()
    quiet = [*history[:-1], multiplied(history[-1], 7, 0, np.exp(0.6j))]
    assert [item["receptor"] for item in judge_stability(quiet[-1], quiet[:-1], LIMITS).unstable] == ["8 X"]


def test_steps_that_add_up_are_a_drift(rng):
    """Six steps of 3 per cent, none of them a jump, are a drift of 20 per cent."""
    history = [multiplied(t, 7, 0, 1.03**k) for k, t in enumerate(tables(rng, n=7, wander=0.005))]
    (worst,) = judge_stability(history[-1], history[:-1], LIMITS).unstable
    assert (worst["receptor"], worst["kind"]) == ("8 X", "drift")
    assert worst["amplitude_ratio"] == pytest.approx(1.03**6, rel=0.05)


def test_tables_that_cannot_be_compared_say_nothing(rng):
    """Without history, or with that of another array, there is no verdict; flagged antennas are not compared."""
    *history, last = tables(rng, n=2)
    assert judge_stability(last, [], LIMITS).n_tables == 0
    other = replace(history[0], antenna_names=tuple(f"p{k}" for k in range(N_ANT)))
    assert judge_stability(last, [other], LIMITS).n_tables == 0
    flags = last.flags.copy()
    flags[:, 4] = True
    compared = changes_between(history[0], replace(last, flags=flags))
    assert np.isnan(compared.error[4]).all()
    assert np.isfinite(np.delete(compared.error, 4, axis=0)).all()
    flags[:] = True
    assert changes_between(history[0], replace(last, flags=flags)) is None


def test_every_antenna_is_accounted_for(rng):
    """A dead antenna, a noisy one and the rest: each has a row with its state, signal-to-noise and residual."""
    vis, model = observed(n_antennas=10, n_time=4, n_chan=8)
    data = corrupt(vis, np.ones((10, 1, 2)), rng=rng, sigma_jy=0.5)
    data.flags[(data.antenna1 == 2) | (data.antenna2 == 2)] = True
    noisy = (data.antenna1 == 5) | (data.antenna2 == 5)
    data.vis[noisy] += 3.0 * (rng.standard_normal((noisy.sum(), 8, 2)) + 1j * rng.standard_normal((noisy.sum(), 8, 2)))
    settings = SolveSettings(channels_per_block=1)
    rows = antenna_quality(solve_gains(data, model, settings), data.existing_antennas)
    assert [(row["antenna"], row["receptor"]) for row in rows] == [(str(k + 1), r) for k in range(10) for r in "XY"]
    by_antenna = {row["antenna"]: row for row in rows if row["receptor"] == "X"}
    assert by_antenna["3"]["state"] == "no solution"
    assert np.isnan(by_antenna["3"]["snr_median"])
    assert by_antenna["6"]["residual"] > 3.0
    good = [row for name, row in by_antenna.items() if name not in {"3", "6"}]
    assert all(row["state"] == "solved" and row["converged_fraction"] == 1.0 for row in good)
    # They share one baseline in nine with the noisy antenna.
    assert all(0.8 < row["residual"] < by_antenna["6"]["residual"] / 1.5 for row in good)


def test_residuals_of_equal_antennas_are_one(rng):
    """With the same noise everywhere each antenna's residual is that of the typical baseline."""
    vis, model = observed(n_antennas=12, n_time=6, n_chan=16)
    data = corrupt(vis, random_gains(rng, 12)[:, None], rng=rng, sigma_jy=1.0)
    solved = solve_gains(data, model, SolveSettings(channels_per_block=1, robust_iterations=0))
    np.testing.assert_allclose(solved.antenna_residual, 1.0, atol=0.06)


def test_inputs_have_one_hash(rng):
    """Equal data, model and settings give an equal hash whatever the threads; any change of them gives another."""
    vis, model = observed(n_antennas=6, n_time=2, n_chan=5)
    data, settings = corrupt(vis, random_gains(rng, 6)[:, None]), SolveSettings()

    def hashed(data=data, model=model, settings=settings, code_version="1", prior=""):
        return solve_input_hash(data, model, settings, code_version=code_version, prior=prior)

    first = hashed()
    assert hashed(replace(data, vis=data.vis.copy(), source_name="elsewhere")) == first
    assert hashed(settings=replace(settings, n_threads=3)) == first
    changed_vis, changed_flags = data.vis.copy(), data.flags.copy()
    changed_vis[-1, -1, -1] *= 1.0 + 1e-6
    changed_flags[-1, -1, -1] = True
    others = {
        hashed(replace(data, vis=changed_vis)),
        hashed(replace(data, flags=changed_flags)),
        hashed(replace(data, weights=2.0 * data.weights)),
        hashed(model=point_source(float(model.ra_deg[0]), float(model.dec_deg[0]), 10.1)),
        hashed(settings=replace(settings, min_snr=4.0)),
        hashed(code_version="2"),
        hashed(prior="abc"),
    }
    assert len(others | {first}) == 8
