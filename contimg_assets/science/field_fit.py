"""A value that is constant or changes linearly across a field, fitted robustly to many groups of samples at once.

What belongs here: the fit, the choice between constant and plane, its errors. What the groups are (observations,
sources, the same observation without each of its sources) is the caller's: ``flux_scale``, ``reference_history``.

Method. Weights 1 / (e^2 + s^2), e the error of a sample and s a scatter that errors do not explain, made robust by
Tukey's biweight (Beaton & Tukey 1974), started from the median. s is given, or found in each group as what is left of
the median absolute deviation (the between-group variance of DerSimonian & Laird 1986, by a robust estimator). A plane
is fitted where samples are many and do not lie on a line, and kept only where it predicts left-out samples better:
residual / (1 - leverage) is the residual of a sample that took no part, so cross-validation costs no further fit.
Errors are those of the estimator: A^-1 (sum b^2 v x x^T) A^-1 with A = sum b x x^T, b the robust weights, v the variances.
Samples that are no members enter with a weight of exactly zero: what they hold cannot change anything, bit by bit.

Rejected: least squares per group in a loop, a hundred times slower for the histories of a season; higher orders, for
which a field has too few references.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import MAD_TO_SIGMA

_BIWEIGHT_SIGMA = 4.685
"""Tuning constant of the biweight: 95 % efficient for normal errors."""
_FLATNESS = 1e-3
"""Least ratio of the axes of the ellipse of positions for which a plane is determined."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """When a plane is tried and kept."""

    min_scatter: float = 0.02
    """Least relative scatter assumed in weights: one very precise sample must not decide alone."""
    min_plane_members: int = 8
    """Fewer members are fitted by a constant."""
    plane_gain: float = 0.95
    """A plane is kept where its cross-validated scatter is below this fraction of that of the constant; infinite keeps
    every plane."""
    n_iterations: int = 30


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Values at positions, in groups. All arrays have shape (n,)."""

    group: NDArray[np.int64]
    value: NDArray[np.float64]
    """Finite."""
    variance: NDArray[np.float64]
    """Square of the standard error of each value."""
    x_deg: NDArray[np.float64]
    y_deg: NDArray[np.float64]
    """Offsets from the centre of the field."""
    is_member: NDArray[np.bool_]
    """Whether the sample has a say."""


@dataclass(frozen=True, slots=True, eq=False)
class FieldFits:
    """One constant or plane per group; NaN for a group without members."""

    coefficients: NDArray[np.float64]
    """Shape (n_groups, 3): value at the centre, and change per degree along x and y."""
    covariance: NDArray[np.float64]
    """Shape (n_groups, 3, 3)."""
    has_plane: NDArray[np.bool_]
    n_members: NDArray[np.int64]
    scatter: NDArray[np.float64]
    """Robust relative standard deviation of the members about the fit; NaN below two."""
    excess_scatter: NDArray[np.float64]
    """What is left of it when the errors of the members are taken out; NaN below two."""
    cross_validated_constant: NDArray[np.float64]
    """Relative rms by which left-out members miss a constant; NaN below two members. Outliers are clipped."""
    cross_validated_plane: NDArray[np.float64]
    """The same for a plane; NaN where none was tried."""
    leverage: NDArray[np.float64]
    """Share of each sample in its own prediction, shape (n,); 0 for samples without a say."""

    def at(
        self, group: NDArray[np.int64], x_deg: NDArray[np.float64], y_deg: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Value and its standard error at positions, each in a group."""
        design = np.stack([np.ones_like(x_deg), x_deg, y_deg], axis=-1)
        value = np.einsum("np,np->n", design, self.coefficients[group])
        error = np.sqrt(np.einsum("np,npq,nq->n", design, self.covariance[group], design))
        return value, error


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    coefficients: NDArray[np.float64]
    covariance: NDArray[np.float64]
    total: NDArray[np.float64]
    residual: NDArray[np.float64]
    leverage: NDArray[np.float64]


def fit_fields(
    samples: Samples,
    n_groups: int,
    *,
    scatter: NDArray[np.float64] | None = None,
    may_slope: NDArray[np.bool_] | None = None,
    settings: FitSettings | None = None,
) -> FieldFits:
    """Fit every group by a constant or, where it predicts better, a plane.

    Parameters
    ----------
    samples : Samples
    n_groups : int
    scatter : array of float, shape (n_groups,), optional
        Relative scatter that errors do not explain; found from the samples of each group when absent.
    may_slope : array of bool, shape (n_groups,), optional
        Where a plane is tried; nowhere when absent.
    settings : FitSettings, optional

    Returns
    -------
    FieldFits
    """
    settings = settings or FitSettings()
    centre = group_medians(samples.value, samples, n_groups)
    n_members = np.bincount(samples.group[samples.is_member], minlength=n_groups)
    constant = _fit(samples, np.ones((samples.value.size, 1)), centre[:, None], scatter, settings)
    clip = _BIWEIGHT_SIGMA**2 * constant.total
    missed = _missed(samples, constant, constant.total, clip, centre, n_members)
    has_plane = np.zeros(n_groups, dtype=np.bool_)
    missed_by_plane = np.full(n_groups, np.nan)
    coefficients = np.zeros((n_groups, 3))
    covariance = np.zeros((n_groups, 3, 3))
    coefficients[:, :1], covariance[:, :1, :1] = constant.coefficients, constant.covariance
    residual, leverage = constant.residual, constant.leverage
    tried = np.zeros(n_groups, dtype=np.bool_) if may_slope is None else _can_slope(samples, n_groups, settings)
    tried &= may_slope if may_slope is not None else True
    if tried.any():
        inside = tried[samples.group]
        planar = _subset(samples, inside)
        design = np.stack([np.ones(planar.value.size), planar.x_deg, planar.y_deg], axis=1)
        plane = _fit(planar, design, coefficients, scatter, settings)
        missed_by_plane[tried] = _missed(planar, plane, constant.total[inside], clip[inside], centre, n_members)[tried]
        has_plane = tried & (missed_by_plane / settings.plane_gain < missed)
        coefficients[has_plane], covariance[has_plane] = plane.coefficients[has_plane], plane.covariance[has_plane]
        sloped = has_plane[samples.group]
        residual, leverage = residual.copy(), leverage.copy()
        residual[sloped] = plane.residual[has_plane[planar.group]]
        leverage[sloped] = plane.leverage[has_plane[planar.group]]
    level = np.abs(coefficients[:, 0])
    spread = MAD_TO_SIGMA * group_medians(np.abs(residual), samples, n_groups) / level
    expected = group_medians(samples.variance, samples, n_groups) / level**2
    return FieldFits(
        coefficients=coefficients,
        covariance=covariance,
        has_plane=has_plane,
        n_members=n_members,
        scatter=np.where(n_members > 1, spread, np.nan),
        excess_scatter=np.where(n_members > 1, np.sqrt(np.maximum(spread**2 - expected, 0.0)), np.nan),
        cross_validated_constant=missed,
        cross_validated_plane=missed_by_plane,
        leverage=leverage,
    )


def group_medians(values: NDArray[np.float64], samples: Samples, n_groups: int) -> NDArray[np.float64]:
    """Median of the members of each group, shape (n_groups,); NaN for a group without members."""
    group, value = samples.group[samples.is_member], values[samples.is_member]
    ordered = value[np.lexsort((value, group))]
    count = np.bincount(group, minlength=n_groups)
    start = np.cumsum(count) - count
    filled = count > 0
    median = np.full(n_groups, np.nan)
    low, high = start + (count - 1) // 2, start + count // 2
    median[filled] = 0.5 * (ordered[low[filled]] + ordered[high[filled]])
    return median


def spread_in_field(
    samples: Samples, n_groups: int, x_deg: NDArray[np.float64], y_deg: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far a plane through the members of each group would reach, and how far from the middle of a field they lie.

    Parameters
    ----------
    samples : Samples
    n_groups : int
    x_deg, y_deg : array of float, shape (n_field,)
        Positions the fits are wanted at.

    Returns
    -------
    reach : array of float, shape (n_groups,)
        Variance of a plane averaged over the field in units of that of a constant, 1 + tr(C^-1 (T + d d^T)): C and T
        the covariances of the positions of members and field, d the distance of their centroids. Infinite for members
        on a line.
    distance : array of float, shape (n_groups,)
        d over the rms radius of the field; 0 for a field without extent.
    """
    group = samples.group[samples.is_member]
    x, y = samples.x_deg[samples.is_member], samples.y_deg[samples.is_member]
    count = np.maximum(np.bincount(group, minlength=n_groups), 1)
    dx, dy = np.bincount(group, x, n_groups) / count, np.bincount(group, y, n_groups) / count
    xx, yy = np.bincount(group, (x - dx[group]) ** 2, n_groups), np.bincount(group, (y - dy[group]) ** 2, n_groups)
    xy = np.bincount(group, (x - dx[group]) * (y - dy[group]), n_groups)
    tx, ty = x_deg - x_deg.mean(), y_deg - y_deg.mean()
    dx, dy = dx - x_deg.mean(), dy - y_deg.mean()
    txx, tyy, txy = (tx**2).mean() + dx**2, (ty**2).mean() + dy**2, (tx * ty).mean() + dx * dy
    determinant = (xx * yy - xy**2) / count
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = 1.0 + (yy * txx + xx * tyy - 2.0 * xy * txy) / determinant
        distance = np.hypot(dx, dy) / np.sqrt((tx**2).mean() + (ty**2).mean())
    return np.where(determinant > 0.0, reach, np.inf), np.nan_to_num(distance, nan=0.0, posinf=0.0)


def _subset(samples: Samples, chosen: NDArray[np.bool_]) -> Samples:
    return Samples(
        group=samples.group[chosen],
        value=samples.value[chosen],
        variance=samples.variance[chosen],
        x_deg=samples.x_deg[chosen],
        y_deg=samples.y_deg[chosen],
        is_member=samples.is_member[chosen],
    )


def _can_slope(samples: Samples, n_groups: int, settings: FitSettings) -> NDArray[np.bool_]:
    """Groups with enough members that do not lie on a line."""
    group = samples.group[samples.is_member]
    count = np.maximum(np.bincount(group, minlength=n_groups), 1)
    x, y = samples.x_deg[samples.is_member], samples.y_deg[samples.is_member]
    x = x - (np.bincount(group, x, n_groups) / count)[group]
    y = y - (np.bincount(group, y, n_groups) / count)[group]
    xx, yy, xy = (np.bincount(group, product, n_groups) for product in (x * x, y * y, x * y))
    small = 0.5 * (xx + yy) - np.sqrt(0.25 * (xx - yy) ** 2 + xy**2)
    return np.asarray((count >= settings.min_plane_members) & (small > _FLATNESS**2 * (xx + yy)), dtype=np.bool_)


def _fit(
    samples: Samples,
    design: NDArray[np.float64],
    start: NDArray[np.float64],
    scatter: NDArray[np.float64] | None,
    settings: FitSettings,
) -> _Model:
    """Biweight fit of a linear model to every group; ``design`` has shape (n, p), ``start`` (n_groups, p)."""
    n_groups, group = len(start), samples.group
    coefficients = start
    residual = samples.value - np.einsum("np,np->n", design, coefficients[group])
    bounded, total, true_total = samples.variance, samples.variance, samples.variance
    for step in range(settings.n_iterations):
        if step == 0 or (scatter is None and design.shape[1] > 1 and step in (3, 6)):
            total, true_total = _variances(samples, residual, np.abs(coefficients[:, 0]), scatter, settings)
        near = np.clip(1.0 - residual**2 / (_BIWEIGHT_SIGMA**2 * total), 0.0, None)
        bounded = np.where(samples.is_member & (near > 0.0), near**2 / total, 0.0)
        inverse = _inverse_normal(design, bounded, group, n_groups)
        moments = _grouped(design * (bounded * samples.value)[:, None], group, n_groups)
        coefficients = np.einsum("gpq,gq->gp", inverse, moments)
        residual = samples.value - np.einsum("np,np->n", design, coefficients[group])
    noise = _grouped_products(design, bounded**2 * true_total, group, n_groups)
    return _Model(
        coefficients=coefficients,
        covariance=inverse @ noise @ inverse,
        total=total,
        residual=residual,
        leverage=bounded * np.einsum("np,npq,nq->n", design, inverse[group], design),
    )


def _variances(
    samples: Samples,
    residual: NDArray[np.float64],
    level: NDArray[np.float64],
    scatter: NDArray[np.float64] | None,
    settings: FitSettings,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance of each sample with the scatter in it: as weights use it, and as errors do."""
    n_groups = level.size
    least = (settings.min_scatter * level) ** 2
    if scatter is None:
        spread = (MAD_TO_SIGMA * group_medians(np.abs(residual), samples, n_groups)) ** 2
        between = np.maximum(spread - group_medians(samples.variance, samples, n_groups), least)
        total = samples.variance + between[samples.group]
        return total, total
    between = (scatter * level) ** 2
    return (
        samples.variance + np.maximum(between, least)[samples.group],
        samples.variance + between[samples.group],
    )


def _grouped(columns: NDArray[np.float64], group: NDArray[np.int64], n_groups: int) -> NDArray[np.float64]:
    return np.stack([np.bincount(group, column, n_groups) for column in columns.T], axis=1)


def _grouped_products(
    design: NDArray[np.float64], weight: NDArray[np.float64], group: NDArray[np.int64], n_groups: int
) -> NDArray[np.float64]:
    """Sum of weight x x^T in each group, shape (n_groups, p, p)."""
    p = design.shape[1]
    products = np.empty((n_groups, p, p))
    for i in range(p):
        for j in range(i, p):
            products[:, i, j] = products[:, j, i] = np.bincount(group, weight * design[:, i] * design[:, j], n_groups)
    return products


def _inverse_normal(
    design: NDArray[np.float64], weight: NDArray[np.float64], group: NDArray[np.int64], n_groups: int
) -> NDArray[np.float64]:
    """Inverse of the normal matrix of each group; NaN where nothing has a weight or the weights leave it undetermined."""
    normal = _grouped_products(design, weight, group, n_groups)
    p = design.shape[1]
    if p == 1:
        return np.divide(1.0, normal, out=np.full_like(normal, np.nan), where=normal > 0.0)
    diagonal = np.maximum(np.einsum("gpp->gp", normal), 0.0)
    scale = np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    scaled = normal / (scale[:, :, None] * scale[:, None, :])
    is_determined = np.linalg.det(scaled) > _FLATNESS**2
    scaled[~is_determined] = np.eye(p)
    inverse = np.linalg.inv(scaled) / (scale[:, :, None] * scale[:, None, :])
    inverse[~is_determined] = np.nan
    return np.asarray(inverse, dtype=np.float64)


def _missed(
    samples: Samples,
    model: _Model,
    total: NDArray[np.float64],
    clip: NDArray[np.float64],
    centre: NDArray[np.float64],
    n_members: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Relative rms by which the model of all others misses each member, with the same weights for every model."""
    n_groups = centre.size
    left_out = model.residual / np.maximum(1.0 - model.leverage, 1e-6)
    weight = np.where(samples.is_member, 1.0 / total, 0.0)
    square = np.bincount(samples.group, weight * np.minimum(left_out**2, clip), n_groups)
    sum_weight = np.bincount(samples.group, weight, n_groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        missed = np.sqrt(square / sum_weight) / np.abs(centre)
    return np.where(n_members > 1, missed, np.nan)
