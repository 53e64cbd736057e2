"""How much better a lensing event explains each light curve than its noise does.

What belongs here: scores of light curves. What does not: the likelihoods (``likelihoods``), the noise of the population
they are judged against (``calibration``), describing an event (``detect``) and naming it (``verdict``).

The score of a light curve is twice the difference of the best log-likelihoods with and without an event, each with the
noise model that suits it best, prior included; the largest of its windows. What the score means is calibrated by
simulating the population's noise on the same grid. A score depends on the light curve and the calibration alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.ese.calibration import Calibration, calibrate
from contimg_assets.science.ese.false_alarms import false_alarm_probability
from contimg_assets.science.ese.grid import grid_templates, put_on_grids
from contimg_assets.science.ese.likelihoods import best_events
from contimg_assets.science.ese.series import Series
from contimg_assets.science.ese.settings import SearchSettings


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The score of each series; NaN for series too short to be scored."""

    significance: NDArray[np.float64]
    """Shape (n_series,): root of twice the gain in log-likelihood, before trials."""

    false_alarm_probability: NDArray[np.float64]
    """Shape (n_series,): probability that noise alone scores as high, after trials; one per light curve."""

    trials: NDArray[np.float64]
    """Shape (n_series,): effective number of trials of ``false_alarms``."""

    fwhm_d: NDArray[np.float64]
    peak_mjd: NDArray[np.float64]
    """Shape (n_series,): the best template."""

    is_unusual: NDArray[np.bool_]
    """Shape (n_series,): noise of a kind the population does not have, or far beyond the errors; an event with small
    errors looks like that, and the templates of the grid are too coarse for it."""

    models: NDArray[np.float64]
    """Shape (n_model, 3): noise models of the calibration."""


def score_series(series: list[Series], settings: SearchSettings, rng: np.random.Generator) -> Scores:
    """Score every series against the noise of them all: ``calibrate`` and ``score``."""
    return score(series, calibrate(series, settings, rng), settings)


def score(series: list[Series], calibration: Calibration, settings: SearchSettings) -> Scores:
    """Score every series, each by itself.

    Parameters
    ----------
    series : list of Series
        Without isolated outliers.
    calibration : Calibration
        What they are judged by.
    settings : SearchSettings
        Limits of widths and epochs, error floor; those of the calibration.
    """
    significance, probability, trials, fwhm, peak = np.full((5, len(series)), np.nan)
    unusual = np.zeros(len(series), dtype=np.bool_)
    position = np.array([k for k, s in enumerate(series) if s.time_mjd.size >= settings.n_epochs_min])
    for grid in put_on_grids([series[k] for k in position], settings):
        best = best_events(grid, calibration.models, settings)
        n_trial = calibration.trials_of(grid.step_d, grid.value.shape[1], settings)
        bank = grid_templates(grid.value.shape[1], grid.step_d, settings.width_min_d, settings.width_max_d)
        for k, of in enumerate(position[grid.series]):
            z = float(np.sqrt(max(best.ratio[k], 0.0)))
            unusual[of] |= best.is_unusual[k]
            trials[of] = n_trial + (0.0 if np.isnan(trials[of]) else trials[of])
            if not z <= significance[of]:
                significance[of] = z
                fwhm[of] = bank.fwhm_d[best.template[k]]
                peak[of] = grid.start_mjd[k] + bank.peak_d[best.template[k]]
    scored = np.isfinite(significance)
    probability[scored] = [
        false_alarm_probability(z, n) for z, n in zip(significance[scored], trials[scored], strict=True)
    ]
    return Scores(significance, probability, trials, fwhm, peak, unusual, calibration.models)
