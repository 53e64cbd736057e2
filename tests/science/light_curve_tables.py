"""Simulated light curves for the tests of variability: constants, lenses, dips, flares, scintillation."""

import numpy as np
import polars as pl

from contimg_assets.science.ese.chromaticity import fit_chromaticity
from contimg_assets.science.ese.detect import find_dip
from contimg_assets.science.ese.lens_posterior import LOG_ALPHA_RANGE, SOURCE_FWHM_RANGE
from contimg_assets.science.ese.noise import noise_grid
from contimg_assets.science.ese.score import score_series
from contimg_assets.science.ese.series import Series, source_series, split_bands, usable_rows
from contimg_assets.science.ese.settings import SearchSettings
from contimg_assets.science.plasma_lens import light_curve_gain

SUB_BANDS_HZ = (1.332e9, 1.380e9, 1.428e9, 1.476e9)
FULL_BAND_HZ = 1.404e9
START_MJD = 61_000.3


def sidereal_days(n):
    """Times of a transit instrument, MJD."""
    return START_MJD + np.arange(n) * 0.99727


def ornstein_uhlenbeck(time, tau_d, rng):
    """Red noise of unit rms."""
    noise = rng.standard_normal(time.size)
    for i in range(1, time.size):
        memory = np.exp(-(time[i] - time[i - 1]) / tau_d)
        noise[i] = memory * noise[i - 1] + np.sqrt(1.0 - memory**2) * noise[i]
    return noise


def lens(time, peak_mjd, *, depth=0.5, width_d=2.6, alpha=4.0):
    """Gain against frequency of a plasma lens; FWHM of the dip about 3.4 widths."""
    return lambda hz: light_curve_gain(
        time, peak_mjd, width_d, alpha, 0.6, hz, 1.4e9, depth / (1.0 - 1.0 / (1.0 + alpha))
    )


def gaussian_dip(time, peak_mjd, *, depth=0.5, fwhm_d=9.0):
    """The same dip at all frequencies."""
    return lambda _: 1.0 - depth * np.exp(-4.0 * np.log(2.0) * ((time - peak_mjd) / fwhm_d) ** 2)


def flare(time, peak_mjd, *, amplitude=0.8, rise_d=2.0, decay_d=6.0):
    """A fast rise and an exponential decay."""
    return lambda _: 1.0 + amplitude * np.exp(-np.abs(time - peak_mjd) / np.where(time < peak_mjd, rise_d, decay_d))


def constant(time):
    """Nothing happens."""
    return lambda _: np.ones(time.size)


def single_band(source_id, time, gain, error, rng, *, flux_jy=0.2):
    """A light curve in the band ``full`` only, white noise of relative size ``error``."""
    value = gain + error * rng.standard_normal(time.size)
    return pl.DataFrame(
        {
            "source_id": source_id,
            "band": "full",
            "frequency_hz": FULL_BAND_HZ,
            "mjd": time,
            "flux_jy": flux_jy * value,
            "flux_err_jy": flux_jy * error,
            "flux_sys_err_jy": 0.0,
        }
    )


def all_bands(source_id, time, gain_at, error, rng, *, flux_jy=0.2, scale_error=0.005):
    """Four sub-bands and their mean; ``gain_at`` maps a frequency to the gain at each time."""
    common = 1.0 + scale_error * rng.standard_normal(time.size)
    tables, values = [], []
    for k, hz in enumerate(SUB_BANDS_HZ):
        values.append(gain_at(np.float64(hz)) * common + 2.0 * error * rng.standard_normal(time.size))
        tables.append(_table(source_id, f"band{k}", hz, time, values[-1], 2.0 * error, scale_error, flux_jy))
    mean = np.mean(values, axis=0)
    return pl.concat([*tables, _table(source_id, "full", FULL_BAND_HZ, time, mean, error, scale_error, flux_jy)])


def _table(source_id, band, hz, time, value, error, scale_error, flux_jy):
    return pl.DataFrame(
        {
            "source_id": source_id,
            "band": band,
            "frequency_hz": hz,
            "mjd": time,
            "flux_jy": flux_jy * value,
            "flux_err_jy": flux_jy * error,
            "flux_sys_err_jy": flux_jy * scale_error,
        }
    )


def gbi_light_curve(folder, name):
    """A real light curve of the Green Bank Interferometer as a table; missing values are -1 there."""
    columns = np.loadtxt(folder / name, usecols=(0, 2, 3, 5, 6), unpack=True)
    tables = []
    for hz, flux, error in ((2.25e9, columns[1], columns[3]), (8.3e9, columns[2], columns[4])):
        tables.append(
            pl.DataFrame(
                {
                    "source_id": name,
                    "band": f"{hz / 1e6:.1f} MHz",
                    "mjd": columns[0],
                    "frequency_hz": hz,
                    "flux_jy": flux,
                    "flux_err_jy": error,
                }
            )
        )
    return pl.concat(tables).filter(pl.col("flux_jy") > 0.0)


def lens_population(n_days, n_event, rng):
    """Gains of lenses at daily cadence, shape (n_event, n_day): the population of photometry_and_variability.md, 5.

    Strength 0.5-30 and crossing time 4-30 d (logarithmic), source 0.3-1.5 lens radii, compact fraction 0.4-1, closest
    approach in the middle 70 per cent.
    """
    time = np.arange(float(n_days))
    return np.array(
        [
            light_curve_gain(
                time,
                rng.uniform(0.15, 0.85) * n_days,
                np.exp(rng.uniform(*np.log((4.0, 30.0)))),
                np.exp(rng.uniform(*np.log((0.5, 30.0)))),
                rng.uniform(0.3, 1.5),
                1.4e9,
                1.4e9,
                rng.uniform(0.4, 1.0),
            )
            for _ in range(n_event)
        ]
    )


def lens_parameter_pulls(n_event, rng, *, error=0.05, like_the_prior=False):
    """Pulls (n, 2) of strength and crossing time in ln, and whether the 68 and 95 per cent intervals (n, 2, 2) hold them.

    Lenses of ``lens_population`` crossing in 3-10 d, in the middle of 120 days, in four sub-bands and their mean;
    each is found and fitted as any other. Events that are not found (below 7 sigma) do not count. ``like_the_prior``
    draws strength, source and compact fraction as the prior of the fit has them: intervals are then as wide as they
    should be on average, if the posterior is computed correctly (Cook, Gelman & Rubin 2006).
    """
    strengths = np.exp(LOG_ALPHA_RANGE) if like_the_prior else (0.5, 30.0)
    sizes, least_fraction = (SOURCE_FWHM_RANGE, 0.0) if like_the_prior else ((0.3, 1.5), 0.4)
    time = sidereal_days(120)
    settings = SearchSettings()
    pulls, inside = [], []
    while len(pulls) < n_event:
        alpha, width_d = np.exp(rng.uniform(*np.log(strengths))), np.exp(rng.uniform(*np.log((3.0, 10.0))))
        size, fraction, peak = rng.uniform(*sizes), rng.uniform(least_fraction, 1.0), time[60] + rng.uniform(-5.0, 5.0)

        def gain_at(hz, lens=(peak, width_d, alpha, size), fraction=fraction):
            return light_curve_gain(time, *lens, hz, FULL_BAND_HZ, fraction)

        (bands,) = source_series(usable_rows(all_bands("a", time, gain_at, error, rng), np.inf))
        (full,), parts = split_bands(bands)
        dip = find_dip(full, settings, noise_grid(1.0))
        if dip is None or dip.significance < 7.0 or not dip.is_credible:
            continue
        fit = fit_chromaticity(parts, dip, FULL_BAND_HZ, settings.fractional_error_floor)
        known = (
            (alpha, fit.alpha, fit.alpha_range, fit.alpha_range_95),
            (width_d, fit.lens_width_d, fit.lens_width_range_d, fit.lens_width_range_95_d),
        )
        pulls.append([2.0 * np.log(found / true) / np.log(ends[1] / ends[0]) for true, found, ends, _ in known])
        inside.append([[low < true < high for low, high in ends] for true, _, *ends in known])
    return np.array(pulls), np.array(inside)


def noise_with_lenses(n_days, red_rms, n_null, n_event, rng, *, error=0.05, tau_d=30.0):
    """Series of white and red noise, ``n_null`` of it alone and then ``n_event`` with a lens of ``lens_population``."""
    time = START_MJD + np.arange(float(n_days))
    gains = np.concatenate([np.ones((n_null, n_days)), lens_population(n_days, n_event, rng)])
    series = []
    for gain in gains:
        value = gain + error * rng.standard_normal(n_days)
        if red_rms > 0.0:
            value = value + red_rms * ornstein_uhlenbeck(time, tau_d, rng)
        level = np.median(value)
        series.append(Series("s", "full", 1.4e9, time, value / level, np.full(n_days, error / level), level))
    return series


def power_of_the_score(n_days, red_rms, n_null, n_event, rng):
    """Power at a false-alarm rate of 1e-3, and at a quoted probability of 1e-3 power and rate of false alarms."""
    series = noise_with_lenses(n_days, red_rms, n_null, n_event, rng)
    scores = score_series(series, SearchSettings(), rng)
    highest = np.quantile(scores.significance[:n_null], 1.0 - 1e-3)
    quoted = scores.false_alarm_probability <= 1e-3
    power = float(np.mean(scores.significance[n_null:] > highest))
    return power, float(np.mean(quoted[n_null:])), float(np.mean(quoted[:n_null]))


def ordinary_population(n_source, n_days, rng):
    """Sources that are not lensed, in all bands: 87 per cent constant, 10 scintillating, 3 flaring; errors 1-10 per cent."""
    time = sidereal_days(n_days)
    parts = []
    for k in range(n_source):
        kind, gain = "constant", constant(time)
        draw = rng.uniform()
        if draw < 0.10:
            rms, tau_d = rng.uniform(0.03, 0.2), np.exp(rng.uniform(*np.log((2.0, 30.0))))
            walk = np.maximum(1.0 + rms * ornstein_uhlenbeck(time, tau_d, rng), 0.05)
            kind, gain = "scintillator", lambda _, walk=walk: walk
        elif draw < 0.13:
            kind = "flare"
            gain = flare(
                time,
                time[0] + rng.uniform(0.0, n_days),
                amplitude=rng.uniform(0.2, 2.0),
                rise_d=rng.uniform(0.5, 5.0),
                decay_d=rng.uniform(2.0, 15.0),
            )
        parts.append(all_bands(f"{kind}{k}", time, gain, np.exp(rng.uniform(*np.log((0.01, 0.1)))), rng))
    return pl.concat(parts)


def events_with_colours(n_event, n_days, rng, *, chromatic):
    """Lenses (depth 0.25-0.8, FWHM 6-25 d), or Gaussian dips of the same depths and widths at all frequencies."""
    time = sidereal_days(n_days)
    parts = []
    for k in range(n_event):
        depth, fwhm_d = rng.uniform(0.25, 0.75), rng.uniform(6.0, 25.0)
        peak = time[0] + rng.uniform(0.3, 0.7) * n_days
        if chromatic:
            gain = lens(time, peak, depth=depth, width_d=fwhm_d / 3.4)
        else:
            gain = gaussian_dip(time, peak, depth=depth, fwhm_d=fwhm_d)
        parts.append(all_bands(f"{'lens' if chromatic else 'dip'}{k}", time, gain, 0.02, rng))
    return pl.concat(parts)
