"""Whether a dip is explained by how its points were observed: near the beam's edge, with fewer antennas, otherwise calibrated.

What belongs here: one dip of one source against the conditions of its points. What does not: what all sources do
together (``verdict.common_mode_depth``), and what follows from it (``verdict``).

Method. Three explanations of the searched series compete, all with the noise of the dip and each with its own scale
of the errors: the dip as found; a flux density that depends on one condition, linearly, by a step at some value, or
by such a step during one episode only (the next dropout takes other antennas, the next fallback another table); and
both together. Each is judged by its likelihood less what its free parameters would gain from noise: 1/2 ln n for a
continuous one (Schwarz 1978, Ann. Stat. 6, 461, doi:10.1214/aos/1176344136), ln m for the choice of one of m
conditions, values or episodes. A condition that explains the light curve at least as well as the dip, and beside
which the dip is not needed or most of it is gone, is the cause: an instrument is the better guess. Shape decides, not
coincidence: a lens in the days of a dropout of antennas is smooth while the dropout is a step. A wrong primary beam
cannot change a flux density by more than the beam itself differs, so that dependence is bounded. Rejected: a
correlation coefficient with a threshold, which a real event has too when the conditions change slowly, and which says
nothing of how much of the dip is left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.ese.detect import Dip
from contimg_assets.science.ese.noise import filter_gains, log_likelihood
from contimg_assets.science.ese.series import CONDITIONS, Series
from contimg_assets.science.ese.templates import REACH, template_bank

_DIP_PARAMETERS = 4
"""Depth, peak time, width and shape."""

_N_KINDS = 3
"""Slope, step and episode."""

_STEPS_TRIED = 40
"""Values of a condition at which a step is tried, at most."""

_REMAINING_DEPTH = 0.5
"""Beside a condition that causes a dip, less than this part of its depth is left."""

_DECIMALS = 6
"""No condition is known better: means of equal values that differ by rounding are no change."""

_POINTS_MIN = 2
"""Points of known condition inside and outside a dip's half-maximum below which nothing can be said."""


@dataclass(frozen=True, slots=True)
class ConditionFit:
    """The condition that explains a light curve best, against the dip found in it."""

    condition: str
    effect: str
    """``slope``: it acts linearly; ``step``: from some value on; ``episode``: from some value on, once."""

    log_evidence: float
    """By how much its penalised log-likelihood exceeds that of the dip."""

    log_evidence_beside: float
    """By how much the dip raises the condition's penalised log-likelihood."""

    remaining_depth: float
    """Part of the dip's depth that is left beside the condition."""

    @property
    def is_cause(self) -> bool:
        """Whether the dip is an effect of the condition."""
        is_gone = self.log_evidence_beside <= 0.0 or self.remaining_depth < _REMAINING_DEPTH
        return self.log_evidence >= 0.0 and is_gone


@dataclass(frozen=True, slots=True, eq=False)
class _Effect:
    """One way a condition may act on the flux density."""

    kind: str
    column: NDArray[np.float64]
    largest: float
    """Bound of its coefficient relative to the level."""

    n_choices: int = 1
    """Values and episodes it was chosen from."""


def best_condition(series: Series, dip: Dip, floor: float) -> ConditionFit | None:
    """The condition that explains a light curve best.

    Parameters
    ----------
    series : Series
        As searched.
    dip : Dip
        What was found in it.
    floor : float
        Fractional error floor of the search.

    Returns
    -------
    ConditionFit or None
        None where no condition is known inside and outside the dip, or none changes.
    """
    rounded = {name: np.round(values, _DECIMALS) for name, values in series.conditions.items()}
    series = replace(series, conditions=rounded)
    fits = []
    names = _independent(series)
    for name in names:
        known = np.isfinite(series.conditions[name])
        seen = series.select(known)
        in_core = np.abs(seen.time_mjd - dip.peak_mjd) <= 0.5 * dip.fwhm_d
        if min(int(in_core.sum()), int((~in_core).sum())) < _POINTS_MIN:
            continue
        fits += _fits(seen, dip, name, seen.with_floor(floor), n_condition=len(names))
    return max(fits, key=lambda fit: fit.log_evidence, default=None)


def _independent(series: Series) -> list[str]:
    """Conditions that change; the distance from the centre says nothing more where the primary beam is known."""
    known = [
        name
        for name in CONDITIONS
        if name in series.conditions and np.unique(_finite(series.conditions[name])).size > 1
    ]
    return [name for name in known if name != "separation_from_centre_deg" or "primary_beam" not in known]


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values[np.isfinite(values)])


def _fits(series: Series, dip: Dip, name: str, error: NDArray[np.float64], n_condition: int) -> list[ConditionFit]:
    """Each effect of one condition against the dip."""
    bank = template_bank(fine=True)
    offset = (series.time_mjd - dip.peak_mjd) / dip.fwhm_d
    effects = _effects(name, series.conditions[name], np.abs(offset) <= 0.5)
    grid = np.linspace(-REACH, REACH, bank.shapes.shape[0])
    template = np.interp(offset, grid, bank.shapes[:, dip.shape], left=0.0, right=0.0)
    gains = filter_gains(series.time_mjd, error, dip.red_rms / dip.error_scale, dip.red_tau_d)
    columns = np.array([np.ones(template.size), series.value, template, *(effect.column for effect in effects)])
    white = _whitened(columns, gains)
    data, shape, *acts = _without_level(white)
    n, log_n = template.size, float(np.log(template.size))
    determinant = -2.0 * float(np.log(gains[2]).sum())
    depth = float(data @ shape / (shape @ shape))

    def log_l(rest: NDArray[np.float64]) -> float:
        return log_likelihood(float(rest @ rest), determinant, n)[0]

    alone = log_l(data - depth * shape) - 0.5 * _DIP_PARAMETERS * log_n
    found = []
    for effect, act in zip(effects, acts, strict=True):
        bound = effect.largest * dip.level
        size = float(np.clip(data @ act / (act @ act), -bound, bound))
        condition = log_l(data - size * act)
        choice = float(np.log(_N_KINDS * n_condition * effect.n_choices))
        remaining, size_beside = _both(data, shape, act, bound)
        both = log_l(data - size_beside * act - remaining * shape) - 0.5 * _DIP_PARAMETERS * log_n
        found.append(
            ConditionFit(
                condition=name,
                effect=effect.kind,
                log_evidence=condition - 0.5 * log_n - choice - alone,
                log_evidence_beside=both - condition,
                remaining_depth=remaining / depth,
            )
        )
    return found


def _effects(name: str, values: NDArray[np.float64], in_core: NDArray[np.bool_]) -> list[_Effect]:
    """What a condition may do to the flux density; bounded for the beam, which divides it."""
    is_beam = name == "primary_beam" and bool(np.all(values > 0.0))
    x = np.log(values) if is_beam else values
    effects = [_Effect("slope", x - x.mean(), 1.0 if is_beam else np.inf)]
    levels = np.unique(x)[1:]
    edges = levels[np.unique(np.linspace(0, levels.size - 1, min(_STEPS_TRIED, levels.size)).astype(np.int64))]
    for edge in edges:
        is_high = x >= edge
        apart = float(x[is_high].mean() - x[~is_high].mean()) if is_beam else np.inf
        effects.append(_Effect("step", is_high.astype(np.float64), apart, edges.size))
        for side in (is_high, ~is_high):
            if side[in_core].any():
                episode, n_episodes = _episode(side, in_core)
                effects.append(_Effect("episode", episode, apart, edges.size * n_episodes))
    return effects


def _episode(is_met: NDArray[np.bool_], in_core: NDArray[np.bool_]) -> tuple[NDArray[np.float64], int]:
    """1 in the run of consecutive points meeting a condition that has most of the dip's points; and the number of runs."""
    run = np.cumsum(np.diff(is_met, prepend=False))
    longest = np.argmax(np.bincount(run[is_met & in_core]))
    return (is_met & (run == longest)).astype(np.float64), int(np.unique(run[is_met]).size)


def _both(
    data: NDArray[np.float64], shape: NDArray[np.float64], act: NDArray[np.float64], bound: float
) -> tuple[float, float]:
    """Depth of the dip and size of the effect, fitted together; no dip where they are the same."""
    shape_shape, act_act, shape_act = float(shape @ shape), float(act @ act), float(shape @ act)
    determinant = shape_shape * act_act - shape_act**2
    if determinant < 1e-9 * shape_shape * act_act:
        return 0.0, float(data @ act) / act_act
    size = (float(data @ act) * shape_shape - float(data @ shape) * shape_act) / determinant
    size = float(np.clip(size, -bound, bound))
    return (float(data @ shape) - size * shape_act) / shape_shape, size


def _without_level(white: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whitened columns without the first, the level, and orthogonal to it."""
    level, rest = white[0], white[1:]
    return np.asarray(rest - np.outer(rest @ level / (level @ level), level))


@numba.njit(cache=True)
def _whitened(columns: NDArray[np.float64], gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Innovations over their sigma of each row of ``columns``, for the noise of ``noise.filter_gains``."""
    white = np.empty_like(columns)
    for c in range(columns.shape[0]):
        state = 0.0
        for i in range(columns.shape[1]):
            state *= gains[0, i]
            innovation = columns[c, i] - state
            state += gains[1, i] * innovation
            white[c, i] = innovation * gains[2, i]
    return white
