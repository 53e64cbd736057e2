from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.optimize import least_squares

from contimg_assets.science.calibration.bandpass import solve_bandpass
from contimg_assets.science.calibration.gain import solve_gains, transfer_flux_scale
from contimg_assets.science.calibration.solutions import SolveSettings, join_in_time, reference_phases
from contimg_assets.science.errors import DataError, NotEnoughDataError, SolutionError
from contimg_assets.science.field_model import field_sky_model
from contimg_assets.science.flux_calibrators import with_listed
from contimg_assets.science.sky_model import point_source
from tests.science.corruption import FIELD, corrupt, observed, random_bandpass, random_gains, relative_to

LEAST_SQUARES = SolveSettings(robust_iterations=0)


def test_gains_are_recovered_without_noise(rng):
    """Sources far from the phase centre do not decorrelate, however many channels are averaged."""
    vis, model = observed(FIELD, n_antennas=8, n_time=4, n_chan=24)
    truth = random_gains(rng, 8)
    solved = solve_gains(corrupt(vis, truth[:, None]), model, SolveSettings(tolerance=1e-8))
    np.testing.assert_allclose(solved.gains[0], relative_to(solved.refant, truth[:, None]), rtol=0, atol=1e-5)
    assert not solved.flags.any()
    assert solved.converged.all()


@pytest.mark.parametrize("n_chan", [20, 400], ids=["all channels", "comb"])
def test_bandpass_is_recovered_with_delays_and_drifting_phases(rng, n_chan):
    """Phases that drift by a radian over the scan are taken out before integrations are averaged."""
    vis, model = observed(n_antennas=9, n_time=6, n_chan=n_chan)
    truth = random_bandpass(rng, vis.frequency_hz, 9)
    drift = np.linspace(-0.5, 0.5, 6)[:, None, None, None] * rng.uniform(-1, 1, (1, 9, 1, 1))
    data = corrupt(vis, truth * np.exp(1j * drift), rng=rng, sigma_jy=0.01)
    solved = solve_bandpass(data, model, SolveSettings())
    expected = relative_to(solved.refant, truth)
    np.testing.assert_allclose(np.abs(solved.gains[0]), np.abs(expected), rtol=2e-3)
    # The zero of each antenna's drifting phase is free; its dependence on frequency is not.
    turn = solved.gains[0] * np.conj(expected)
    turn *= np.exp(-1j * np.angle(turn.sum(axis=1, keepdims=True)))
    assert np.abs(np.angle(turn)).max() < 5e-3
    unaligned = solve_bandpass(data, model, SolveSettings(align_phases=False))
    assert np.median(np.abs(unaligned.gains) / np.abs(expected)) < 0.99


def test_a_listed_calibrator_sets_the_flux_scale(rng):
    """A source of the list, off the pointing centre at +54.57 deg, gives the true bandpass, whatever the catalogue says of it."""
    vis, sky = observed([(0.3, -0.2, 6.0, -0.4)], n_antennas=9, n_time=6, n_chan=20, pointing_dec_deg=54.57)
    place = {"ra_deg": float(sky.ra_deg[0]), "dec_deg": float(sky.dec_deg[0])}
    flux_jy = 6.0 * (5.0 / 1.4) ** -0.4
    listed = {"name": "J1", **place, "flux_jy": flux_jy, "reference_frequency_hz": 5e9, "spectral_index": -0.4}
    catalogue = pl.DataFrame([{**place, "flux_jy": 9.0, "spectral_index": 0.0}])
    centre_deg = vis.phase_centre_ra_deg, vis.phase_centre_dec_deg
    truth = random_bandpass(rng, vis.frequency_hz, 9)
    data = corrupt(vis, truth, rng=rng, sigma_jy=0.01)
    solved = solve_bandpass(data, field_sky_model(catalogue, *centre_deg, 3.0, with_listed([listed])), SolveSettings())
    np.testing.assert_allclose(np.abs(solved.gains[0]), np.abs(truth), rtol=2e-3)
    by_catalogue = solve_bandpass(data, field_sky_model(catalogue, *centre_deg, 3.0), SolveSettings())
    assert np.median(np.abs(by_catalogue.gains[0]) / np.abs(truth)) == pytest.approx(np.sqrt(6.0 / 9.0), rel=0.02)


def test_errors_match_the_scatter(rng):
    """Amplitude errors quoted by the signal-to-noise ratio are the true ones (pulls of width 1 within 10 per cent)."""
    vis, model = observed(n_antennas=10, n_time=3, n_chan=96)
    truth = random_gains(rng, 10)[:, None]
    solved = solve_bandpass(corrupt(vis, truth, rng=rng, sigma_jy=1.0), model, SolveSettings(align_phases=False))
    pull = (np.abs(solved.gains[0]) / np.abs(truth) - 1.0) * solved.snr[0]
    assert 0.9 < pull.std() < 1.1
    assert abs(pull.mean()) < 0.15


def test_signal_to_noise_scales_with_the_noise(rng):
    """Three times the noise gives a third of the signal-to-noise, whatever the weights say."""
    vis, model = observed(n_antennas=10, n_time=4, n_chan=96)
    gains = random_gains(rng, 10)[:, None]
    settings = SolveSettings(channels_per_block=8)
    quiet, loud = (solve_gains(corrupt(vis, gains, rng=rng, sigma_jy=sigma), model, settings) for sigma in (0.1, 0.3))
    assert np.median(quiet.snr) / np.median(loud.snr) == pytest.approx(3.0, rel=0.1)
    rescaled = replace(corrupt(vis, gains, rng=rng, sigma_jy=0.1), weights=vis.weights * 50.0)
    assert np.median(solve_gains(rescaled, model, settings).snr) == pytest.approx(np.median(quiet.snr), rel=0.1)


def test_solution_is_the_least_squares_one(rng):
    """Plain solves end where a general-purpose minimiser of the same sum ends."""
    vis, model = observed(FIELD, n_antennas=5, n_time=1, n_chan=2)
    data = corrupt(vis, random_gains(rng, 5)[:, None], rng=rng, sigma_jy=0.5)
    settings = SolveSettings(robust_iterations=0, tolerance=1e-10, min_snr=0.0, max_iterations=5000)
    solved = solve_gains(data, model, settings)

    def residuals(parameters):
        g = parameters[:5] + 1j * parameters[5:]
        rest = (data.vis - vis.vis * (g[vis.antenna1] * np.conj(g[vis.antenna2]))[:, None, None])[:, :, 0].ravel()
        return np.concatenate([rest.real, rest.imag])

    start = solved.gains[0, :, 0, 0] * 1.05
    best = least_squares(residuals, np.concatenate([start.real, start.imag]), xtol=1e-12, ftol=1e-12, gtol=1e-12).x
    expected = relative_to(solved.refant, (best[:5] + 1j * best[5:])[:, None, None])
    np.testing.assert_allclose(solved.gains[0, :, :, :1], expected, atol=2e-4)


def test_drifts_are_followed_as_finely_as_the_noise_allows(rng):
    """A bright field is cut into intervals that keep the wanted SNR, a faint one is not; the cut follows the drift."""
    vis, model = observed(n_antennas=10, n_time=12, n_chan=48)
    gains = random_gains(rng, 10)[None, :, None] * np.exp(
        1j * np.linspace(-0.2, 0.2, 12)[:, None, None, None] * rng.uniform(-1, 1, (1, 10, 1, 2))
    )
    once = SolveSettings(refants=("3",))
    bright, faint = (corrupt(vis, gains, rng=rng, sigma_jy=sigma) for sigma in (0.5, 8.0))
    whole = solve_gains(bright, model, once)
    wanted = float(np.median(whole.snr)) / 2.0
    cut = solve_gains(bright, model, replace(once, interval_snr=wanted))
    assert cut.time_mjd.size >= 4
    assert np.median(cut.snr) > 0.85 * wanted
    assert cut.residual < 0.5 * whole.residual
    assert solve_gains(faint, model, replace(once, interval_snr=wanted)).time_mjd.size == 1


def test_outliers_do_not_move_robust_solutions(rng):
    """Interference on 3 per cent of the averages spoils plain least squares and not the robust solution."""
    vis, model = observed(n_antennas=10, n_time=8, n_chan=8)
    truth = random_gains(rng, 10)[:, None]
    data = corrupt(vis, truth, rng=rng, sigma_jy=0.05)
    data.vis[rng.random(len(data.vis)) < 0.03] += 300.0
    expected = relative_to(solve_gains(data, model, SolveSettings()).refant, truth)
    robust, plain = (
        np.abs(solve_gains(data, model, settings).gains[0] / expected - 1.0).max()
        for settings in (SolveSettings(robust_iterations=4), LEAST_SQUARES)
    )
    assert robust < 0.01
    assert plain > 0.1


def test_dead_and_missing_antennas_are_flagged_not_dropped(rng):
    """Every slot has a row: noise-only antennas, flagged ones and empty slots are flagged, the rest are right."""
    vis, model = observed(n_antennas=10, n_time=4, n_chan=8)
    truth = random_gains(rng, 10)
    truth[4] = 0.0
    data = corrupt(vis, truth[:, None], rng=rng, sigma_jy=0.2)
    data.flags[(data.antenna1 == 7) | (data.antenna2 == 7)] = True
    data = replace(
        data,
        antenna_names=(*data.antenna_names, "empty"),
        antenna_positions_m=np.vstack([data.antenna_positions_m, data.antenna_positions_m[:1]]),
    )
    solved = solve_gains(data, model, SolveSettings(min_snr=5.0))
    assert np.flatnonzero(solved.flags.all(axis=(0, 2, 3))).tolist() == [4, 7, 10]
    good = np.setdiff1d(np.arange(10), [4, 7])
    expected = relative_to(solved.refant, truth[:, None])
    np.testing.assert_allclose(solved.gains[0, good], expected[good], atol=0.02)
    assert np.all(solved.gains[solved.flags] == 1.0)


def test_antenna_with_too_few_baselines_is_flagged(rng):
    """Three baselines do not make a solution when four are asked for."""
    vis, model = observed(n_antennas=8, n_time=2, n_chan=4)
    data = corrupt(vis, random_gains(rng, 8)[:, None], rng=rng, sigma_jy=0.01)
    data.flags[(data.antenna1 == 0) & (data.antenna2 > 3)] = True
    assert solve_gains(data, model, SolveSettings()).flags[0, 0].all()
    assert not solve_gains(data, model, SolveSettings(min_baselines=3)).flags[0, 0].any()


def test_separate_groups_of_antennas_are_not_tied(rng):
    """Antennas that share no baseline with the main group have no common phase and are flagged."""
    vis, model = observed(n_antennas=13, n_time=2, n_chan=4)
    data = corrupt(vis, random_gains(rng, 13)[:, None], rng=rng, sigma_jy=0.01)
    data.flags[(data.antenna1 < 5) & (data.antenna2 >= 5)] = True
    solved = solve_gains(data, model, SolveSettings())
    assert np.flatnonzero(solved.flags.all(axis=(0, 2, 3))).tolist() == [0, 1, 2, 3, 4]


def test_phase_only_solutions_have_unit_amplitude(rng):
    """Phases are right although amplitudes are wrong in the data."""
    vis, model = observed(n_antennas=8, n_time=3, n_chan=4)
    truth = random_gains(rng, 8)[:, None]
    solved = solve_gains(corrupt(vis, truth), model, replace(LEAST_SQUARES, phase_only=True, tolerance=1e-9))
    np.testing.assert_allclose(np.abs(solved.gains), 1.0, rtol=1e-12)
    expected = relative_to(solved.refant, truth / np.abs(truth))
    np.testing.assert_allclose(solved.gains[0], expected, atol=1e-5)


def test_intervals_break_at_scans_and_when_full(rng):
    """A gap starts a new solution, and so does a full interval; times are means of their data."""
    vis, model = observed(n_antennas=6, n_time=8, n_chan=4)
    late = replace(vis, time_mjd=vis.time_mjd + np.where(vis.time_mjd > np.median(vis.time_mjd), 600.0 / 86400.0, 0.0))
    by_scan = solve_gains(late, model, SolveSettings())
    assert by_scan.gains.shape[0] == 2
    np.testing.assert_allclose(by_scan.interval_s, 4 * 12.885, rtol=1e-3)
    np.testing.assert_allclose(by_scan.time_mjd[0], np.unique(late.time_mjd)[:4].mean(), rtol=0, atol=1e-9)
    assert solve_gains(late, model, SolveSettings(interval_s=26.0)).gains.shape[0] == 4
    assert solve_gains(late, model, SolveSettings(interval_s=0.0)).gains.shape[0] == 8


def test_gains_after_the_bandpass_are_near_one(rng):
    """The bandpass carries amplitude and phase; what is left for the gains is 1."""
    vis, model = observed(FIELD, n_antennas=8, n_time=3, n_chan=12)
    data = corrupt(vis, random_bandpass(rng, vis.frequency_hz, 8), rng=rng, sigma_jy=0.02)
    bandpass = solve_bandpass(data, model, SolveSettings())
    gains = solve_gains(data, model, SolveSettings(), bandpass)
    np.testing.assert_allclose(gains.gains, 1.0, atol=5e-3)


def test_normalised_bandpass_has_unit_mean_amplitude(rng):
    """On request the bandpass holds the shape only."""
    vis, model = observed(n_antennas=6, n_time=2, n_chan=12)
    data = corrupt(vis, random_bandpass(rng, vis.frequency_hz, 6))
    solved = solve_bandpass(data, model, SolveSettings(normalise=True))
    np.testing.assert_allclose(np.abs(solved.gains).mean(axis=2), 1.0, rtol=1e-6)


def test_model_can_be_cut_to_the_brightest_sources(rng):
    """Leaving out 3 per cent of the flux changes the gains little, and the residual shows it."""
    vis, model = observed([*FIELD, (0.1, 0.9, 0.2, 0.0)], n_antennas=8, n_time=3, n_chan=8)
    data = corrupt(vis, random_gains(rng, 8)[:, None])
    whole = solve_gains(data, model, SolveSettings())
    cut = solve_gains(data, model, SolveSettings(flux_fraction=0.95))
    assert cut.residual > 10.0 * whole.residual
    np.testing.assert_allclose(cut.gains, whole.gains, atol=0.05)


def test_short_baselines_can_be_left_out(rng):
    """What the short baselines see does not matter when they are excluded."""
    vis, model = observed(n_antennas=12, n_time=2, n_chan=4)
    data = corrupt(vis, random_gains(rng, 12)[:, None])
    length = np.hypot(data.uvw_m[:, 0], data.uvw_m[:, 1])
    data.vis[length < 80.0] += 50.0
    settings = replace(LEAST_SQUARES, min_baseline_m=80.0)
    assert solve_gains(data, model, settings).residual < 1e-3
    assert solve_gains(data, model, LEAST_SQUARES).residual > 0.1


def test_reference_antenna_is_central_full_or_as_named(rng):
    """By default the fullest antenna near the centre; else the first of the chain that has data."""
    vis, model = observed(n_antennas=8, n_time=2, n_chan=4)
    data = corrupt(vis, random_gains(rng, 8)[:, None])
    assert solve_gains(data, model, SolveSettings()).refant in (0, 1, 2)
    data.flags[(data.antenna1 == 5) | (data.antenna2 == 5)] = True
    solved = solve_gains(data, model, SolveSettings(refants=("6", "4")))
    assert solved.antenna_names[solved.refant] == "4"
    np.testing.assert_allclose(np.angle(solved.gains[:, solved.refant]), 0.0, atol=1e-12)
    with pytest.raises(DataError, match="unknown reference antenna"):
        solve_gains(data, model, SolveSettings(refants=("DV01",)))
    with pytest.raises(NotEnoughDataError, match="no reference antenna"):
        solve_gains(data, model, SolveSettings(refants=("6",)))


def test_phases_stay_continuous_where_the_reference_is_flagged(rng):
    """One solution without the reference antenna is turned to fit its neighbour."""
    truth = np.repeat(random_gains(rng, 6, 1)[None], 4, axis=0)
    flags = np.zeros(truth.shape, dtype=bool)
    flags[2, 3] = True
    turned = reference_phases(truth * np.exp(1j * np.array([0.3, 2.0, -1.0, 0.5]))[:, None, None], flags, 3)
    np.testing.assert_allclose(turned[2], turned[1], rtol=1e-9)
    np.testing.assert_allclose(np.angle(turned[0, 3]), 0.0, atol=1e-12)


def test_flux_scale_is_transferred_between_fields(rng):
    """A field of 2.5 Jy solved for as 1 Jy gives 2.5 Jy, and its gains come back to the true scale."""
    vis, primary = observed(n_antennas=8, n_time=3, n_chan=8)
    gains = random_gains(rng, 8)[:, None]
    reference = solve_gains(corrupt(vis, gains, rng=rng, sigma_jy=0.02), primary, SolveSettings())
    centre = (vis.phase_centre_ra_deg, vis.phase_centre_dec_deg)
    unit, second = point_source(*centre, 1.0), replace(vis, vis=np.full_like(vis.vis, 2.5), field_name="second")
    # The unit source has the drifting beam in it too, so the data need it as well.
    settings = SolveSettings(primary_beam=False)
    unknown = solve_gains(corrupt(second, gains, rng=rng, sigma_jy=0.02), unit, settings)
    scaled, flux_jy, error_jy = transfer_flux_scale(unknown, reference)
    assert flux_jy == pytest.approx(2.5, abs=5 * error_jy)
    assert error_jy < 0.02
    np.testing.assert_allclose(np.abs(scaled.gains), np.abs(reference.gains), rtol=0.02)
    joined = join_in_time([scaled, reference])
    assert joined.gains.shape[0] == 2
    assert joined.field_name == "second,drift"


def test_solutions_of_different_reference_cannot_be_joined(rng):
    """Gains whose phases refer to different antennas would be interpolated between wrongly."""
    vis, model = observed(n_antennas=6, n_time=2, n_chan=4)
    first, second = (solve_gains(vis, model, SolveSettings(refants=(name,))) for name in ("1", "2"))
    with pytest.raises(DataError, match="cannot stand in one table"):
        join_in_time([first, second])


def test_all_flagged_is_not_enough_data():
    """Nothing is solved where everything is flagged, and the message says so."""
    vis, model = observed(n_antennas=5, n_time=2, n_chan=4)
    vis.flags[:] = True
    for solve in (solve_gains, solve_bandpass):
        with pytest.raises(NotEnoughDataError, match=r"100\.0% of"):
            solve(vis, model, SolveSettings())


def test_too_few_antennas_are_not_enough_data():
    """Four antennas have three baselines each."""
    vis, model = observed(n_antennas=4, n_time=2, n_chan=4)
    with pytest.raises(NotEnoughDataError, match="fewer than 4 baselines"):
        solve_gains(vis, model, SolveSettings())


def test_noise_alone_is_no_solution(rng):
    """Data without the model's source give no significant gains."""
    vis, model = observed(n_antennas=8, n_time=2, n_chan=4)
    noise = corrupt(replace(vis, vis=np.zeros_like(vis.vis)), np.ones((8, 1, 2)), rng=rng, sigma_jy=1.0)
    with pytest.raises(SolutionError, match="no usable G solution"):
        solve_gains(noise, model, SolveSettings(min_snr=10.0))
