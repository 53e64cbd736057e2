"""What the light curves of a population say about noise: which kinds there are, and what noise alone scores.

What belongs here: what scores are judged by, learned from many light curves. What does not: the score of one
(``score``), the kinds of noise that can be (``noise``), the formula of false alarms (``false_alarms``).

Method. Red noise and a slow event look alike in one light curve, but not in a thousand: the noise models of
``noise.noise_grid`` get prior weights from many light curves together, by expectation maximisation of a mixture in
which each light curve may also hold one event (which costs ``_EVENT_COST``): noise does not pass for events, nor events
for noise. Then noise of these kinds is simulated on each grid, with the errors and gaps of the light curves learned
from, and its scores fix the number of trials.

A calibration is made once for a day, from light curves up to the day before. A light curve scored with it has the same
score whichever others are scored, and in whichever order days are made: scores of light curves that have not changed
need not be computed again. Rejected: judging each light curve by itself (loses 5 to 10 per cent of events against red
noise, 2 without), and learning from the light curves being scored, which changes every score with every new point.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.ese.false_alarms import trials_from_noise
from contimg_assets.science.ese.grid import GriddedWindows, put_on_grids
from contimg_assets.science.ese.likelihoods import best_events, log_likelihoods
from contimg_assets.science.ese.noise import COMMON, WHITE_PRIOR, noise_grid, without_disguised_events
from contimg_assets.science.ese.series import Series
from contimg_assets.science.ese.settings import SearchSettings

_EVENT_COST = 10.0
"""Log-likelihood an event must gain to be believed while the noise is learned: rarity (1 in 1000) and trials. Learning
the rarity too fails: in two months of data red noise cannot be told from many events."""

_LEARN_FROM = 1000
"""Windows the noise of the population is learned from; its weights are then good to 3 per cent."""

_PRIOR_WINDOWS = 2.0
"""Windows' worth of belief in the initial weights: what a table of one source is judged by."""

_ITERATIONS = 300
_SIMULATIONS = (600, 6000)
"""Fewest and most simulated windows of a grid; as many as there are real ones in between."""

_UNKNOWN_ERROR = 0.05
"""Relative error of simulated light curves while there is none to learn from."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What scores are judged by; the same for the same light curves, settings and seed."""

    models: NDArray[np.float64]
    """Shape (n_model, 3): noise models with the penalties the population gives them, as of ``noise_grid``."""

    weights: list[NDArray[np.float64]]
    """1 / error^2 at the nodes of some windows of the population, 0 in gaps: sampling to simulate noise on."""

    n_simulated: int
    """Windows of noise simulated for a grid."""

    seed: int
    """Of the simulations."""

    trials: dict[tuple[float, int], float] = field(default_factory=dict)
    """Effective number of trials by step (d) and nodes of a grid, as far as they have been asked for."""

    def trials_of(self, step_d: float, n_node: int, settings: SearchSettings) -> float:
        """Effective number of trials on a grid, simulated when first asked for."""
        key = (step_d, n_node)
        if key not in self.trials:
            noise = _simulated(self, step_d, n_node)
            ratio = best_events(noise, self.models, settings).ratio
            self.trials[key] = trials_from_noise(np.sqrt(np.maximum(ratio, 0.0)))
        return self.trials[key]


def calibrate(series: list[Series], settings: SearchSettings, rng: np.random.Generator) -> Calibration:
    """Learn from light curves what noise does.

    Parameters
    ----------
    series : list of Series
        Without isolated outliers; those with too few points teach nothing. With none at all, the noise is what
        ``noise_grid`` believes.
    settings : SearchSettings
        Limits of widths and epochs, error floor.
    rng : numpy.random.Generator
        Chooses the light curves learned from, and seeds the simulations.
    """
    grids = put_on_grids([s for s in series if s.time_mjd.size >= settings.n_epochs_min], settings)
    n_window = sum(grid.series.size for grid in grids)
    steps = [grid.step_d for grid in grids for _ in grid.series]
    models = noise_grid(float(np.median(steps)) if steps else 1.0)
    share = min(1.0, _LEARN_FROM / max(n_window, 1))
    parts = [grid.part(rng.permutation(grid.series.size)[: int(np.ceil(share * grid.series.size))]) for grid in grids]
    return Calibration(
        models=_learned(parts, models, share, settings) if parts else models,
        weights=[row[: int(np.flatnonzero(row)[-1]) + 1] for part in parts for row in part.weight],
        n_simulated=int(np.clip(n_window, *_SIMULATIONS)),
        seed=int(rng.integers(2**62)),
    )


def _learned(
    parts: list[GriddedWindows], models: NDArray[np.float64], share: float, settings: SearchSettings
) -> NDArray[np.float64]:
    """The noise models with the weights that the light curves give them."""
    belief = np.exp(-models[:, 2])
    flat = np.column_stack([models[:, :2], np.zeros(len(models))])
    found = []
    for part in parts:
        null, event, _ = log_likelihoods(part, flat, np.arange(len(models)), settings)
        found.append(np.logaddexp(null, event - _EVENT_COST))
    log_l = np.concatenate(found)
    likelihood = np.exp(log_l - log_l.max(axis=1, keepdims=True))
    weight = belief
    for _ in range(_ITERATIONS):
        joint = likelihood * weight
        counts = np.sum(joint / joint.sum(axis=1, keepdims=True), axis=0) / share + _PRIOR_WINDOWS * belief
        weight = counts / counts.sum()
    n_window = sum(part.series.size for part in parts) / share
    before = _PRIOR_WINDOWS / (_PRIOR_WINDOWS + n_window) * (1.0 - WHITE_PRIOR)
    belief_in_rare = max(0.1 * settings.false_alarm_probability_max, before)
    return np.column_stack([models[:, :2], -np.log(without_disguised_events(weight, belief, belief_in_rare))])


def _simulated(calibration: Calibration, step_d: float, n_node: int) -> GriddedWindows:
    """Windows of noise alone as the population has it, with the errors and gaps of real windows."""
    models, n = calibration.models, calibration.n_simulated
    rng = np.random.default_rng([calibration.seed, round(2.0 * step_d), n_node])
    sampling = calibration.weights or [np.full(n_node, _UNKNOWN_ERROR**-2.0)]
    # Shorter ones are repeated, longer ones begin anywhere.
    like = [sampling[k] for k in rng.integers(len(sampling), size=n)]
    first = [int(rng.integers(max(row.size - n_node, 0) + 1)) for row in like]
    weight = np.array([np.resize(row[start:], n_node) for row, start in zip(like, first, strict=True)])
    weight[:, 0] = np.where(weight.any(axis=1), weight[:, 0], _UNKNOWN_ERROR**-2.0)
    prior = np.exp(-models[:, 2])
    prior[prior < min(COMMON, prior.max())] = 0.0
    kind = rng.choice(len(models), size=n, p=prior / prior.sum())
    state = rng.standard_normal(n)
    noise = rng.standard_normal(weight.shape)
    noise /= np.sqrt(np.where(weight > 0.0, weight, 1.0))
    memory = np.exp(-step_d / models[kind, 1])
    for i in range(n_node):
        noise[:, i] += models[kind, 0] * state
        state = memory * state + np.sqrt(1.0 - memory**2) * rng.standard_normal(n)
    value = np.where(weight > 0.0, noise, 0.0)
    return GriddedWindows(np.arange(n), np.zeros(n), value, weight, step_d)


CALIBRATION_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "models": pl.List(pl.List(pl.Float64)),
    "weights": pl.List(pl.List(pl.Float64)),
    "n_simulated": pl.Int64,
    "seed": pl.Int64,
    "trials": pl.List(pl.List(pl.Float64)),
}
"""A calibration as a table of one row; each of ``trials`` is step, nodes, number."""


def as_table(calibration: Calibration) -> pl.DataFrame:
    """A calibration in the shape it is kept in."""
    row = {
        "models": calibration.models.tolist(),
        "weights": [row.tolist() for row in calibration.weights],
        "n_simulated": calibration.n_simulated,
        "seed": calibration.seed,
        "trials": [[*grid, number] for grid, number in sorted(calibration.trials.items())],
    }
    return pl.DataFrame([row], schema=CALIBRATION_SCHEMA)


def from_table(table: pl.DataFrame) -> Calibration:
    """A calibration that was kept, the same to the last bit."""
    (row,) = table.select(list(CALIBRATION_SCHEMA)).iter_rows(named=True)
    return Calibration(
        models=np.array(row["models"]),
        weights=[np.array(one) for one in row["weights"]],
        n_simulated=row["n_simulated"],
        seed=row["seed"],
        trials={(step_d, int(n_node)): number for step_d, n_node, number in row["trials"]},
    )
