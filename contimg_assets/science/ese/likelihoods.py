"""How much better an event explains gridded windows than noise does: all windows against all templates at once.

What belongs here: likelihoods of windows under given noise models. What does not: the models' weights
(``calibration``), and what the gain means (``score``).

The product of a template with the whitened data, T' C^-1 y, is exact for any errors and gaps: C^-1 y costs O(n) by
Kalman filter (``noise``), and one matrix product compares all light curves with all templates. Its variance,
T' C^-1 T, is exact for white noise; for red noise it is that of complete light curves with equal errors, times the
ratio of the two for white noise. That of complete light curves follows for all errors and strengths of the red noise
from the eigenvectors of its correlation, which depend on its memory only: C^-1 = Q (1 + lambda rho^2 / sigma^2)^-1 Q'.
Rejected: filtering every template through every light curve's own noise (40 times slower), and an inverse for each
error and model (20 times slower, and most of the time of a thousand light curves).

Windows go through the products in batches of one size, filled up with empty rows: a window's numbers then do not
depend on which others are scored with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.ese.grid import GriddedWindows, grid_templates
from contimg_assets.science.ese.settings import SearchSettings
from contimg_assets.science.ese.whitening import best_templates, whitened, with_event
from contimg_assets.science.threads import in_threads

_EVENT_MODELS_MAX = 6
_EVENT_MODELS_WEIGHT = 0.99
"""Usual light curves are compared with the likeliest noise models only, at most so many, up to this weight."""

_ERROR_CLASS = 0.25
"""Step in ln(error) between which red-noise variances of templates are interpolated."""

_RESTLESS = 4.0
"""Mean square of the points in units of their errors above which a light curve is always looked at in detail."""

_CONSTANT = 1e-4
"""Part of a template's variance that must be left without its mean."""

_BATCH = 128
_ROWS_MAX = 1024
"""Windows times noise models whose products with all templates are held by one thread: 27 MB."""

_Sampling = tuple[int, float, float, float]
"""Nodes, step in d, shortest and longest FWHM in d."""


@dataclass(frozen=True, slots=True, eq=False)
class BestEvents:
    """The best event of each window."""

    ratio: NDArray[np.float64]
    """Shape (n_window,): twice the gain in log-likelihood over noise alone."""

    template: NDArray[np.int64]
    """Shape (n_window,): which of the grid's templates it is."""

    is_unusual: NDArray[np.bool_]
    """Shape (n_window,): noise of a kind the population does not have, or far beyond the errors."""


def best_events(grid: GriddedWindows, models: NDArray[np.float64], settings: SearchSettings) -> BestEvents:
    """The best event of each window, with the noise models that suit the window and the event best.

    Events are compared with the population's likeliest noise models; where another model suits a window better, or a
    window varies far beyond its errors, it holds something unusual, and all models are tried.
    """
    chosen = _event_models(models)
    null, event, template = log_likelihoods(grid, models, chosen, settings)
    rows = np.arange(len(null))
    best = np.argmax(event, axis=1)
    highest, where = event[rows, best], template[rows, best]
    is_unusual = ~np.isin(np.argmax(null, axis=1), chosen) | _is_restless(grid)
    unusual = np.flatnonzero(is_unusual)
    if unusual.size:
        _, event, template = log_likelihoods(grid.part(unusual), models, np.arange(len(models)), settings)
        best = np.argmax(event, axis=1)
        rows = np.arange(unusual.size)
        highest[unusual], where[unusual] = event[rows, best], template[rows, best]
    return BestEvents(2.0 * (highest - null.max(axis=1)), where, is_unusual)


def _event_models(models: NDArray[np.float64]) -> NDArray[np.int64]:
    """The likeliest noise models, which together have nearly all of the weight; white noise is always one."""
    weight = np.exp(-models[:, 2])
    order = np.argsort(-weight, kind="stable")
    n = 1 + int(np.searchsorted(np.cumsum(weight[order]), _EVENT_MODELS_WEIGHT * weight.sum()))
    return np.unique(np.append(order[: min(n, _EVENT_MODELS_MAX)], 0))


def _is_restless(grid: GriddedWindows) -> NDArray[np.bool_]:
    """Whether a window varies so far beyond its errors that the mismatch of coarse templates outweighs its noise."""
    mean = np.sum(grid.weight * grid.value, axis=1, keepdims=True) / np.sum(grid.weight, axis=1, keepdims=True)
    chi2 = np.sum(grid.weight * (grid.value - mean) ** 2, axis=1)
    return np.asarray(chi2 > _RESTLESS * np.sum(grid.weight > 0.0, axis=1))


def log_likelihoods(
    grid: GriddedWindows, models: NDArray[np.float64], chosen: NDArray[np.int64], settings: SearchSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Log-likelihoods of noise alone (n_window, n_model), with the best event for the chosen models, and its template."""
    n_window = grid.series.size
    null = np.empty((n_window, len(models)))
    event = np.empty((n_window, chosen.size))
    template = np.zeros((n_window, chosen.size), dtype=np.int64)
    sampling = (grid.value.shape[1], grid.step_d, settings.width_min_d, settings.width_max_d)
    dips = grid_templates(*sampling).dips
    square = dips * dips
    position = np.log(_typical_error(grid.weight)) / _ERROR_CLASS
    error_class = np.floor(position).astype(np.int64)
    ratio = {
        int(one): _variance_ratios(sampling, int(one), models[chosen])
        for one in np.unique([error_class, error_class + 1])
    }
    jobs = [
        (int(one), members)
        for one in np.unique(error_class)
        for members in _batches(np.flatnonzero(error_class == one), max(1, min(_BATCH, _ROWS_MAX // chosen.size)))
    ]

    def work(job: tuple[int, NDArray[np.int64]]) -> None:
        one, rows = job
        weight, part = grid.weight[rows], (position[rows] - one).astype(np.float32)
        log_l, residual, chi2, log_determinant = whitened(grid.value[rows], weight, models, chosen, grid.step_d)
        null[rows] = log_l
        share = weight.astype(np.float32)
        white = _white_variance(share, _products(share, square), _products(share, dips))
        product = _products(residual.reshape(-1, weight.shape[1]), dips).reshape(chosen.size, rows.size, -1)
        n_point = np.sum(weight > 0.0, axis=1)
        for k in range(chosen.size):
            gain, best = best_templates(product[k], white, ratio[one][k], ratio[one + 1][k], part)
            template[rows, k] = best
            event[rows, k] = with_event(chi2[:, k], gain, log_determinant[:, k], n_point)

    in_threads(work, jobs)
    return null, event, template


def _batches(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, rows.size, size)]


def _products(rows: NDArray[np.float32], dips: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrix product in batches of one size, the last filled up with empty rows: each row is treated alike."""
    product = np.empty((len(rows), dips.shape[1]), dtype=np.float32)
    whole = len(rows) // _BATCH * _BATCH
    for start in range(0, whole, _BATCH):
        np.matmul(rows[start : start + _BATCH], dips, out=product[start : start + _BATCH])
    if whole < len(rows):
        last = np.zeros((_BATCH, rows.shape[1]), dtype=np.float32)
        last[: len(rows) - whole] = rows[whole:]
        product[whole:] = (last @ dips)[: len(rows) - whole]
    return product


def _white_variance(
    share: NDArray[np.float32], square: NDArray[np.float32], overlap: NDArray[np.float32]
) -> NDArray[np.float32]:
    """T' C^-1 T of white noise with a constant projected out, in place: memory, not arithmetic, is what it costs."""
    np.square(overlap, out=overlap)
    overlap /= share.sum(axis=1, keepdims=True)
    square -= overlap
    return square


def _typical_error(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median error of the points of each window."""
    error = np.divide(1.0, np.sqrt(weight), out=np.full(weight.shape, np.nan), where=weight > 0.0)
    return np.asarray(np.nanmedian(error, axis=1))


def _variance_ratios(sampling: _Sampling, error_class: int, models: NDArray[np.float64]) -> NDArray[np.float32]:
    """T' C^-1 T over that of white noise, for complete light curves of equal errors, a constant projected out.

    Returns
    -------
    array of float32, shape (n_model, n_template)
        NaN for templates that are as good as constant.
    """
    variance = math.exp(2.0 * _ERROR_CLASS * error_class)
    dips = grid_templates(*sampling).dips
    total = np.sum(dips * dips, axis=0)
    white = total - np.sum(dips, axis=0) ** 2 / len(dips)
    white = np.where(white > _CONSTANT * total, white, np.nan)
    ratios = np.empty((len(models), dips.shape[1]), dtype=np.float32)
    for tau_d in np.unique(models[:, 1]).tolist():
        modes = _red_modes(sampling, tau_d)
        alike = models[:, 1] == tau_d
        kept = 1.0 / (1.0 + models[alike, 0, None] ** 2 / variance * modes.eigenvalue)
        whole = kept.astype(np.float32) @ modes.square
        mean = kept.astype(np.float32) @ modes.with_constant
        rest = whole - mean**2 / (kept @ modes.constant_square).astype(np.float32)[:, None]
        ratios[alike] = np.where(rest > _CONSTANT * whole, rest / white, np.nan)
    return ratios


@dataclass(frozen=True, slots=True, eq=False)
class _RedModes:
    """Templates and a constant in terms of the eigenvectors of an Ornstein-Uhlenbeck process on a grid."""

    eigenvalue: NDArray[np.float64]
    """Shape (n_node,)."""

    square: NDArray[np.float32]
    """Shape (n_node, n_template): (Q'T)^2."""

    with_constant: NDArray[np.float32]
    """Shape (n_node, n_template): (Q'T) (Q'1)."""

    constant_square: NDArray[np.float64]
    """Shape (n_node,): (Q'1)^2."""


@lru_cache(maxsize=8)
def _red_modes(sampling: _Sampling, tau_d: float) -> _RedModes:
    """Modes of red noise of unit variance; cached, because all errors and strengths share them."""
    dips = grid_templates(*sampling).dips
    time = sampling[1] * np.arange(len(dips))
    eigenvalue, vectors = np.linalg.eigh(np.exp(-np.abs(time[:, None] - time[None, :]) / tau_d))
    modes, constant = vectors.T @ dips, vectors.sum(axis=0)
    return _RedModes(
        eigenvalue,
        np.asarray(modes**2, dtype=np.float32),
        np.asarray(modes * constant[:, None], dtype=np.float32),
        constant**2,
    )
