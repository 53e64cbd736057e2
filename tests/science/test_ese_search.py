"""Templates, noise models and the search: analytic truths, slow references, power and false alarms."""

import numpy as np
import pytest

from contimg_assets.science.ese.chromaticity import fit_chromaticity
from contimg_assets.science.ese.detect import Dip, find_dip
from contimg_assets.science.ese.false_alarms import false_alarm_probability, trials_from_noise
from contimg_assets.science.ese.grid import grid_templates, put_on_grids
from contimg_assets.science.ese.likelihoods import log_likelihoods
from contimg_assets.science.ese.noise import filter_gains, log_likelihood, noise_grid, without_disguised_events
from contimg_assets.science.ese.scan import SearchedSeries, _search, scan
from contimg_assets.science.ese.score import score_series
from contimg_assets.science.ese.search import best_peaks, likelihood_ratios
from contimg_assets.science.ese.series import Series, source_series, split_bands, usable_rows, without_outliers
from contimg_assets.science.ese.settings import SearchSettings
from contimg_assets.science.ese.templates import REACH, dip_fwhm, gain_table, interpolated_gain, template_bank
from contimg_assets.science.ese.verdict import Surroundings, common_mode_depth, judge, recurs_yearly
from contimg_assets.science.plasma_lens import lens_gain
from tests.science import light_curve_tables as tables


def series_of(time, value, error):
    """A series of relative flux densities."""
    return Series("a", "full", 1.4e9, time, value, np.full(time.size, error), 1.0)


def covariance(time, error, rms, tau_d):
    """Red plus white noise, written out."""
    return np.diag(error**2) + rms**2 * np.exp(-np.abs(time[:, None] - time[None, :]) / tau_d)


@pytest.fixture
def irregular(rng):
    """Forty irregular times with errors of their own."""
    return np.sort(rng.uniform(0.0, 60.0, 40)), rng.uniform(0.01, 0.03, 40)


def test_templates_are_one_deep_and_one_wide():
    """Every dip is -1 at its centre and -1/2 half a width away."""
    bank = template_bank()
    offset = np.linspace(-REACH, REACH, bank.shapes.shape[0])
    for shape in bank.shapes[:, : bank.n_dips].T:
        assert shape[offset.size // 2] == pytest.approx(-1.0)
        assert np.interp(0.5, offset, shape) == pytest.approx(-0.5, abs=0.03)
    assert np.all(bank.shapes[offset.size // 2, bank.n_dips :] == 1.0)


def test_widths_of_dips_are_those_of_the_literature():
    """Measured shapes: FWHM of 1.76 lens radii at strength 1, 3.68 at 5, for a source of half a radius."""
    assert dip_fwhm(1.0, 0.5) == pytest.approx(1.76, abs=0.05)
    assert dip_fwhm(5.0, 0.5) == pytest.approx(3.68, abs=0.05)


def test_interpolated_gain_is_the_gain(rng):
    """The table for fits follows the lens to a few per cent of the flux density, best where strengths are moderate."""
    position = rng.uniform(-8.0, 8.0, 50)
    for alpha, size in ((0.4, 0.6), (3.3, 1.1), (20.0, 0.9)):
        table = interpolated_gain(gain_table(), position, np.full(50, np.log(alpha)), size)
        np.testing.assert_allclose(table, lens_gain(position, alpha, size), atol=0.07)


def test_likelihood_equals_that_of_the_full_covariance(irregular, rng):
    """The Kalman filter gives the log-likelihood of red plus white noise about the best constant."""
    time, error = irregular
    value = 1.0 + 0.05 * rng.standard_normal(40)
    models = np.array([[0.04, 5.0, 0.0]])
    bank = template_bank()
    null, _ = likelihood_ratios(time, value, error, models, bank.shapes, bank.n_dips, np.empty((0, 2)))
    inverse = np.linalg.inv(covariance(time, error, 0.04, 5.0))
    level = np.sum(inverse @ value) / np.sum(inverse)
    residual = value - level
    _, log_determinant = np.linalg.slogdet(covariance(time, error, 0.04, 5.0))
    # The level is integrated over, which adds the information on it to the determinant.
    log_determinant += np.log(inverse.sum())
    expected, scale = log_likelihood(float(residual @ inverse @ residual), float(log_determinant), 40)
    assert null[1] == pytest.approx(level)
    assert null[0] == pytest.approx(expected)
    assert null[2] == pytest.approx(scale)


def test_matched_filter_equals_generalised_least_squares(irregular, rng):
    """Depth and signal-to-noise of a template are those of a linear fit with the full covariance."""
    time, error = irregular
    bank = template_bank()
    width, peak, shape = 9.0, 28.0, 4
    offset = np.linspace(-REACH, REACH, bank.shapes.shape[0])
    template = np.interp((time - peak) / width, offset, bank.shapes[:, shape], left=0.0, right=0.0)
    value = 1.0 + 0.4 * template + error * rng.standard_normal(40)
    model = np.array([[0.02, 4.0, 0.0]])
    _, events = likelihood_ratios(time, value, error, model, bank.shapes, bank.n_dips, np.array([[width, peak]]))
    design = np.stack([template, np.ones(40)], axis=1)
    inverse = np.linalg.inv(covariance(time, error, 0.02, 4.0))
    depth, level = np.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ value)
    assert events[1, 0, shape] == pytest.approx(depth, rel=1e-6)
    assert events[2, 0, shape] == pytest.approx(level, rel=1e-6)


def test_scale_of_errors_is_found_and_never_below_one():
    """Chi-square of 4 n means errors too small by nearly two; a small chi-square leaves them as they are."""
    assert log_likelihood(4.0 * 500, 0.0, 500)[1] == pytest.approx(2.0, abs=0.01)
    assert log_likelihood(10.0, 0.0, 500)[1] == 1.0


def test_best_peak_is_where_the_dip_is(rng):
    """A box without noise is found at its place with the signal-to-noise of its points."""
    time = np.arange(60.0)
    value = np.where(np.abs(time - 25.0) < 4.4, 0.9, 1.0)
    bank = template_bank()
    gains = filter_gains(time, np.full(60, 0.02), 0.0, 1.0)
    z, peak = best_peaks(time, value, gains, bank.shapes, bank.n_dips, np.array([9.0]), 3)
    box = bank.n_dips - 1
    assert peak[0, box] == pytest.approx(25.0, abs=1.2)
    assert z[0, box] == pytest.approx(0.1 / 0.02 * np.sqrt(9 * 51 / 60), rel=0.08)


def test_isolated_glitches_are_left_out_and_events_are_not(rng):
    """One wild point goes; a dip of several points stays."""
    time = np.arange(40.0)
    value = 1.0 + 0.01 * rng.standard_normal(40)
    value[7] = 0.3
    value[20:25] = 0.6
    left = without_outliers(series_of(time, value, 0.01), 0.01)
    assert left.time_mjd.tolist() == [t for t in time if t != 7.0]


def test_close_bands_are_averaged_and_distant_ones_are_searched_each(rng):
    """Four sub-bands make one series, 2.25 and 8.3 GHz two; a full band is searched instead of its parts."""
    time = tables.sidereal_days(12)
    table = tables.all_bands("a", time, tables.constant(time), 0.01, rng)
    (bands,) = source_series(usable_rows(table, np.inf))
    assert [s.band for s in split_bands(bands)[0]] == ["full"]
    subs = [s for s in bands if s.band != "full"]
    (combined,) = split_bands(subs)[0]
    assert combined.error[0] == pytest.approx(subs[0].error[0] / 2.0, rel=0.05)
    far = [subs[0], Series("a", "x", 8.3e9, time, subs[1].value, subs[1].error, 1.0)]
    assert len(split_bands(far)[0]) == 2


@pytest.mark.parametrize("n", [12, 30])
def test_false_alarm_probability_of_the_score_is_calibrated(n, rng):
    """4000 light curves of white noise: a tenth, a thirtieth and a hundredth are as significant as quoted."""
    time = 61000.0 + np.arange(n) * 1.0
    noise = [series_of(time, 1.0 + 0.03 * rng.standard_normal(n), 0.03) for _ in range(4000)]
    quoted = score_series(noise, SearchSettings(fractional_error_floor=0.0), rng).false_alarm_probability
    for probability in (0.1, 0.03, 0.01):
        rate, sigma = np.mean(quoted < probability), np.sqrt(probability / 4000)
        assert 0.5 * probability - 3 * sigma < rate < 1.5 * probability + 3 * sigma


def test_noise_gives_no_more_candidates_than_allowed(rng):
    """1000 sources of white noise at an allowed false-alarm probability of 1 per cent: 10 expected at most."""
    settings = SearchSettings(false_alarm_probability_max=0.01, fractional_error_floor=0.0, depth_min=0.0)
    time = tables.sidereal_days(30)
    one = tables.single_band("x", time, 1.0, 0.05, rng)
    names = np.repeat([f"s{k:04d}" for k in range(1000)], 30)
    whole = one.clear().vstack(
        one[np.tile(np.arange(30), 1000).tolist()].with_columns(
            source_id=names, flux_jy=0.2 * (1.0 + 0.05 * rng.standard_normal(30_000))
        )
    )
    _, found = scan(usable_rows(whole, np.inf), rng, settings)
    assert len(found) <= 20


def test_trials_are_recovered_from_the_scores_they_make(rng):
    """Scores drawn from the formula with 30 trials give back 30; the probability falls with the score."""
    z = np.sqrt(2.0 * np.log(30.0 / -np.log1p(-rng.uniform(size=100_000))))
    assert trials_from_noise(z) == pytest.approx(30.0, rel=0.1)
    assert false_alarm_probability(5.0, 30.0) == pytest.approx(30.0 * np.exp(-12.5), rel=1e-3)


def test_a_tail_steeper_or_flatter_than_the_theory_is_followed(rng):
    """Scores whose z^2 / 2 falls off with a scale of 1.2: the probability quoted at the thousandth is one thousandth."""
    z = np.sqrt(2.0 * (3.0 + 1.2 * rng.exponential(size=20_000)))
    true_thousandth = np.sqrt(2.0 * (3.0 + 1.2 * np.log(1000.0)))
    assert false_alarm_probability(true_thousandth, trials_from_noise(z)) == pytest.approx(1e-3, rel=0.3)


def test_the_population_learns_the_noise_it_has(rng):
    """1500 light curves of red noise, 5 per cent and 30 d: most of the weight is near that, and hardly any on strong noise."""
    series = tables.noise_with_lenses(60, 0.05, 1500, 45, rng)
    models = score_series(series, SearchSettings(), rng).models
    weight = np.exp(-models[:, 2])
    rms, tau_d = models[:, 0], models[:, 1]
    assert weight[(rms > 0.03) & (rms < 0.08) & (tau_d >= 14.0)].sum() > 0.8
    assert weight[rms > 0.15].sum() < 0.003


def test_rare_noise_counts_for_little_and_common_noise_is_kept():
    """What 1 and 2 per cent seem to follow is believed in as told, and as before it was seen; the rest keeps its ratio."""
    prior = np.array([0.5, 0.3, 0.05, 0.15])
    weight = without_disguised_events(np.array([0.6, 0.37, 0.02, 0.01]), prior, 1e-4)
    assert weight.sum() == pytest.approx(1.0)
    assert weight[0] / weight[1] == pytest.approx(0.6 / 0.37)
    assert weight[3] / weight[2] == pytest.approx(3.0)
    assert weight[2:].sum() == pytest.approx(1e-4, rel=0.04)
    never_learned = without_disguised_events(np.array([0.6, 0.4, 0.0, 1e-9]), prior, 1e-4)
    assert never_learned[2:].sum() < 2e-9


def test_score_of_white_noise_equals_least_squares(rng):
    """Without red noise the score is the best chi-square difference over all templates of the grid, gaps and all."""
    settings = SearchSettings()
    time = np.delete(61000.0 + np.arange(50.0), [7, 20, 21])
    error = rng.uniform(0.02, 0.04, time.size)
    value = 1.0 - 0.3 * np.exp(-0.5 * ((time - 61025.0) / 4.0) ** 2) + error * rng.standard_normal(time.size)
    (grid,) = put_on_grids([Series("a", "full", 1.4e9, time, value, error, 1.0)], settings)
    white = np.array([[0.0, 1.0, 0.0]])
    null, event, _ = log_likelihoods(grid, white, np.array([0]), settings)
    bank = grid_templates(grid.value.shape[1], grid.step_d, settings.width_min_d, settings.width_max_d)
    weight = grid.weight[0]
    data = grid.value[0] - np.average(grid.value[0], weights=weight)
    dips = bank.dips - np.average(bank.dips, weights=weight, axis=0)
    gain = (weight * data) @ dips / np.sqrt(weight @ dips**2)
    chi2 = float(np.sum(weight * data**2))
    # The level is integrated over, which adds the information on it to the determinant.
    log_determinant, n = float(np.log(weight.sum()) - np.sum(np.log(weight[weight > 0.0]))), time.size
    assert null[0, 0] == pytest.approx(log_likelihood(chi2, log_determinant, n)[0], rel=1e-9)
    assert event[0, 0] == pytest.approx(log_likelihood(chi2 - gain.max() ** 2, log_determinant, n)[0], rel=1e-4)


def test_score_of_red_noise_equals_generalised_least_squares(rng):
    """Complete light curve, equal errors: the variance of a template is that of the full covariance."""
    settings = SearchSettings(fractional_error_floor=0.0)
    time = 61000.0 + np.arange(40.0)
    value = 1.0 - 0.2 * np.exp(-0.5 * ((time - 61020.0) / 4.0) ** 2) + 0.03 * rng.standard_normal(40)
    (grid,) = put_on_grids([series_of(time, value, 0.03)], settings)
    model = np.array([[0.0, 1.0, 0.0], [0.05, 10.0, 0.0]])
    _, event, template = log_likelihoods(grid, model, np.array([1]), settings)
    bank = grid_templates(grid.value.shape[1], grid.step_d, settings.width_min_d, settings.width_max_d)
    inverse = np.linalg.inv(covariance(time, np.full(40, 0.03), 0.05, 10.0))
    design = np.stack([bank.dips[:40, template[0, 0]], np.ones(40)], axis=1).astype(np.float64)
    best = np.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ value)
    rest = value - design @ best
    _, log_determinant = np.linalg.slogdet(covariance(time, np.full(40, 0.03), 0.05, 10.0))
    log_determinant += np.log(inverse.sum())
    expected = log_likelihood(float(rest @ inverse @ rest), float(log_determinant), 40)[0]
    assert event[0, 0] == pytest.approx(expected, abs=0.5)


def test_a_long_light_curve_is_cut_into_overlapping_windows(rng):
    """Two and a half years: every event shorter than four months lies in one window."""
    time = 61000.0 + np.arange(900.0)
    (grid,) = put_on_grids([series_of(time, np.ones(900), 0.03)], SearchSettings())
    assert grid.start_mjd.tolist() == [61000.0, 61120.0, 61240.0, 61360.0, 61480.0, 61600.0, 61660.0]


def test_power_of_two_months_of_daily_points():
    """Among 12,000 sources of 5 per cent errors, 600 are lensed as in the literature: nine in ten of them are found.

    The power is known to 1.2 per cent; 12 false alarms are expected, 25 would be exceeded once in 2000 runs.
    """
    power, _, false_alarms = tables.power_of_the_score(60, 0.0, 12_000, 600, np.random.default_rng(60))
    assert power >= 0.9
    assert false_alarms <= 25 / 12_000


@pytest.mark.parametrize(
    ("n", "spacing_d", "width_d", "error"),
    [(30, 1.0, 2.6, 0.003), (30, 1.0, 2.6, 0.05), (12, 3.0, 3.9, 0.02), (60, 2.0, 5.2, 0.1)],
)
def test_strong_events_are_found_and_measured(n, spacing_d, width_d, error, rng):
    """Depth 0.5 at irregular samplings: found above threshold, at its time, with its depth."""
    settings = SearchSettings()
    time = 61000.0 + spacing_d * (np.arange(n) + rng.uniform(-0.2, 0.2, n))
    peak = time[n // 2] + 0.3
    value = tables.lens(time, peak, width_d=width_d)(np.float64(1.4e9)) + error * rng.standard_normal(n)
    dip = find_dip(series_of(time, value / np.median(value), error / np.median(value)), settings, noise_grid(spacing_d))
    assert dip is not None
    assert dip.is_credible
    assert dip.significance > 5.0
    assert dip.peak_mjd == pytest.approx(peak, abs=1.5 * spacing_d)
    assert dip.depth == pytest.approx(0.5, abs=0.12)


def test_a_glitch_of_alternating_points_is_not_credible():
    """Two of four neighbouring points at a tenth of the flux are an instrument, not a cloud."""
    time = np.arange(40.0)
    value = np.ones(40)
    value[[20, 23]] = 0.1
    dip = find_dip(series_of(time, value, 0.02), SearchSettings(), noise_grid(1.0))
    assert dip is None or not dip.is_credible


def test_a_lens_whose_middle_was_just_seen_is_credible():
    """The demonstration's lens on its fourth low day: a wider dip yet to reach its middle fits as well and must not hide it."""
    value = [1.0] * 8 + [1.058, 1.345, 1.886, 1.809, 1.024, 0.562, 0.462, 0.460, 0.450]
    time = np.arange(len(value)) * 0.9973
    dip = find_dip(series_of(time, np.array(value), 0.01), SearchSettings(), noise_grid(1.0))
    assert dip is not None
    assert dip.is_credible
    assert time[12] < dip.peak_mjd < time[-1]


COMING_DOWN = """
482 381 414 350 348 322 334 293 296 286 330 288 261 265 241 266 282 240 281 265 273 242 280 263 245 236 232 243
238 290 304 223 326 239 263 279 275 319 217 285 309 323 255 299 267 249 240 306 271 282 290 316 276 294 236 238
221 247 233 273 268 257 283 275 218 283 274 241 279 259 346 342 297 355 318 398 433 452 524 535 623 613 662 760
836 853 913 989 979 1114 1122 1246 1247 1296 1343 1354 1332 1397 1392 1419 1488 1430 1470 1465 1439 1456 1410
1371 1419 1436 1395 1402 1379 1362 1315 1311 1339 1326 1323 1330 1277 1351 1261 1291 1313 1341 1308 1270 1319
1308 1357 1326 1310 1330 1314 1347 1336 1364 1342 1334 1378 1341 1381 1407 1356 1406 1375 1381 1441 1462 1417
1433 1386 1399 1416 1415 1406 1390 1359 1358 1364 1265 1315 1271 1241 1225 1201 1158 1174 1143 1050 1079 1084
1109 1058 1036 1000 1073 1028
"""
"""A simulated slow scintillator, thousandths of its median flux, one point a day: low, high, and half way down again."""


def test_the_end_of_a_high_state_is_no_event():
    """With the low half cut out as an event of its own the rest shows a dip; yet the source is not fainter than it mostly is."""
    value = np.array(COMING_DOWN.split(), dtype=float) / 1000.0
    series = series_of(0.9973 * np.arange(value.size), value, 0.027)
    item = SearchedSeries(series, series, [], 1, 0)
    assert _search(item, SearchSettings(), noise_grid(1.0), 1.0) == []


def test_a_dip_that_began_before_the_data_is_not_credible():
    """Without its beginning a dip is a level."""
    time = np.arange(30.0)
    value = np.where(time < 8.0, 0.6, 1.0)
    dip = find_dip(series_of(time, value, 0.02), SearchSettings(), noise_grid(1.0))
    assert dip is None or not dip.is_credible


@pytest.mark.parametrize("kind", ["lens", "gaussian"])
def test_chromaticity_has_the_right_sign(kind, rng):
    """Errors of 2 per cent per sub-band: a lens is chromatic, a Gaussian dip is not, each by more than 4 sigma."""
    time = tables.sidereal_days(30)
    gain_at = (tables.lens if kind == "lens" else tables.gaussian_dip)(time, time[14] + 0.2)
    (bands,) = source_series(usable_rows(tables.all_bands("a", time, gain_at, 0.01, rng), np.inf))
    (full,), parts = split_bands(bands)
    dip = find_dip(full, SearchSettings(), noise_grid(1.0))
    assert dip is not None
    fit = fit_chromaticity(parts, dip, full.frequency_hz, 0.01)
    assert fit is not None
    assert fit.n_bands == 4
    if kind == "lens":
        assert fit.chromaticity > 4.0
        assert fit.alpha == pytest.approx(4.0, rel=0.5)
        assert fit.alpha_range[0] < fit.alpha < fit.alpha_range[1]
        assert fit.lens_width_d == pytest.approx(2.6, rel=0.3)
    else:
        assert fit.chromaticity < -4.0


def a_dip(**changes):
    """A plain dip for the rules of verdict."""
    known = {"significance": 9.0, "peak_mjd": 61020.0, "fwhm_d": 8.0, "depth": 0.5, "level": 1.0, "shape": 3}
    known |= {
        "red_rms": 0.01,
        "red_tau_d": 5.0,
        "error_scale": 1.0,
        "likelihood_ratio": 81.0,
        "n_core": 8,
        "is_credible": True,
    }
    return Dip(**(known | changes))


def around(**changes):
    """Surroundings in which nothing else happens."""
    known = {"common_mode_depth": 0.0, "common_mode_depth_err": 0.01, "recurs_yearly": False}
    return Surroundings(**(known | {"n_low_elsewhere": 0, "n_glitches_elsewhere": 0} | changes))


def test_verdicts_follow_the_rules(rng):
    """Common mode and yearly return beat scintillation, which beats colour; without colour there is no verdict."""
    settings = SearchSettings()
    assert judge(a_dip(), None, around(), settings) is None
    assert judge(a_dip(red_rms=0.2), None, around(), settings) == "scintillation"
    assert judge(a_dip(red_rms=0.2), None, around(common_mode_depth=0.4), settings) == "systematic"
    assert judge(a_dip(), None, around(recurs_yearly=True), settings) == "systematic"
    assert judge(a_dip(), None, around(n_low_elsewhere=9, n_glitches_elsewhere=8), settings) == "systematic"
    assert judge(a_dip(), None, around(n_low_elsewhere=9), settings) == "scintillation"
    assert recurs_yearly(a_dip(), [a_dip(peak_mjd=61020.0 + 730.0)])
    assert not recurs_yearly(a_dip(), [a_dip(), a_dip(peak_mjd=61200.0)])


def test_common_mode_is_the_median_of_the_others(rng):
    """Six neighbours dipping by a quarter together show a quarter; four are too few to say."""
    time = np.arange(61000.0, 61040.0)
    value = np.where(np.abs(time - 61020.0) <= 4.0, 0.75, 1.0)
    others = [series_of(time, value + 0.01 * rng.standard_normal(40), 0.01) for _ in range(6)]
    depth, error = common_mode_depth(others, a_dip())
    assert depth == pytest.approx(0.25, abs=0.01)
    assert error < 0.01
    assert np.isnan(common_mode_depth(others[:4], a_dip())[0])


def test_noise_grid_begins_with_white_noise():
    """The first model is the quoted errors; the prior probabilities add up to one."""
    models = noise_grid(1.0)
    assert models[0, :2].tolist() == [0.0, 1.0]
    assert np.exp(-models[:, 2]).sum() == pytest.approx(1.0)
