"""Light curves on common grids of time, so that thousands can be compared with thousands of templates in one product.

What belongs here: cutting series into windows, putting them on nodes, and the templates of a grid. What does not:
likelihoods (``likelihoods``), whose every number is computed on these arrays.

A grid has a step of about the median spacing of its series. A point belongs to the nearest node, points of one node
are averaged: times move by at most half a step, less than a fifth of the narrowest template. A light curve longer than
``NODES_MAX`` steps is cut into overlapping windows, each with a quiescent level of its own, because a source changes
over years for reasons of its own; every event shorter than half a window lies wholly in one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.ese.series import Series
from contimg_assets.science.ese.settings import SearchSettings
from contimg_assets.science.ese.templates import dip_fwhm
from contimg_assets.science.plasma_lens import lens_gain

NODES_MAX = 240
"""Nodes of the longest window: eight months of daily points. Costs grow with the cube."""

_STEP_MIN_D = 1.0
_NODE_CLASSES = 1.12
"""Grids have one of a geometric series of lengths, so that series of nearly equal lengths share templates."""

_WIDTH_RATIO = 1.4
_PEAK_STEP = 0.3
_WIDTH_MAX_SPANS = 1.5
"""Longest template in spans of the grid: an event may outlast the observations, and still change while they last."""

_PEAK_OUTSIDE = 0.3
"""Peaks are tried this many widths (or spans, if shorter) beyond either end."""

_STRENGTHS = (0.6, 2.0, 6.0, 25.0)
_SOURCE_SIZES = (0.5, 1.2)
_HALF_DEEP_NODES_MIN = 3
_SAMPLES = 4001
_POSITION_MAX = 24.0


@dataclass(frozen=True, slots=True, eq=False)
class GriddedWindows:
    """Windows of series on one grid."""

    series: NDArray[np.int64]
    """Shape (n_window,): which series a window belongs to."""

    start_mjd: NDArray[np.float64]
    """Shape (n_window,): time of the first node."""

    value: NDArray[np.float64]
    """Shape (n_window, n_node): flux density over the median, minus one; 0 where there is no point."""

    weight: NDArray[np.float64]
    """Shape (n_window, n_node): 1 / error^2; 0 where there is no point."""

    step_d: float

    def part(self, rows: NDArray[np.int64]) -> GriddedWindows:
        """Some of the windows."""
        return GriddedWindows(self.series[rows], self.start_mjd[rows], self.value[rows], self.weight[rows], self.step_d)


def put_on_grids(series: list[Series], settings: SearchSettings) -> list[GriddedWindows]:
    """All windows of all series, by grid.

    Parameters
    ----------
    series : list of Series
        Without isolated outliers.
    settings : SearchSettings
        Error floor and number of epochs apply; windows with too few nodes are left out.

    Returns
    -------
    list of GriddedWindows
        One per step and number of nodes.
    """
    rows: dict[tuple[float, int], list[tuple[int, float, NDArray[np.float64], NDArray[np.float64]]]] = {}
    for k, one in enumerate(series):
        step = _step(one.time_mjd)
        value, weight = _on_nodes(one.time_mjd, one.value, one.with_floor(settings.fractional_error_floor), step)
        for first in _window_starts(value.size):
            observed = np.flatnonzero(weight[first : first + NODES_MAX])
            if observed.size < settings.n_epochs_min:
                continue
            n_node = int(observed[-1]) + 1
            windows = np.zeros((2, _length_class(n_node)))
            windows[0, :n_node] = value[first : first + n_node]
            windows[1, :n_node] = weight[first : first + n_node]
            start = float(one.time_mjd[0] + first * step)
            rows.setdefault((step, windows.shape[1]), []).append((k, start, windows[0], windows[1]))
    return [
        GriddedWindows(
            series=np.array([row[0] for row in found]),
            start_mjd=np.array([row[1] for row in found]),
            value=np.array([row[2] for row in found]),
            weight=np.array([row[3] for row in found]),
            step_d=step,
        )
        for (step, _), found in sorted(rows.items(), key=lambda item: item[0])
    ]


def _step(time: NDArray[np.float64]) -> float:
    """Median spacing, at least a day, in steps of a half."""
    spacing = np.diff(time)
    spacing = np.sort(spacing[spacing > 0.1 * _STEP_MIN_D])
    median = 0.5 * float(spacing[(spacing.size - 1) // 2] + spacing[spacing.size // 2]) if spacing.size else 1.0
    return max(_STEP_MIN_D, float(np.rint(2.0 * median)) / 2.0)


@numba.njit(cache=True, nogil=True)
def _on_nodes(
    time: NDArray[np.float64], value: NDArray[np.float64], error: NDArray[np.float64], step: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inverse-variance mean of the value minus one at each node, 0 without points; and its weight."""
    n_node = int(np.rint((time[-1] - time[0]) / step)) + 1
    mean, weight = np.zeros(n_node), np.zeros(n_node)
    for i in range(time.size):
        node = int(np.rint((time[i] - time[0]) / step))
        one = error[i] ** -2.0
        weight[node] += one
        mean[node] += one * (value[i] - 1.0)
    for node in range(n_node):
        if weight[node] > 0.0:
            mean[node] /= weight[node]
    return mean, weight


def _length_class(n_node: int) -> int:
    """The next length of the geometric series."""
    power = int(np.ceil(np.log(max(n_node, 2)) / np.log(_NODE_CLASSES) - 1e-9))
    return min(max(n_node, int(np.floor(_NODE_CLASSES**power))), max(NODES_MAX, n_node))


def _window_starts(n_node: int) -> list[int]:
    """First nodes of the windows, half a window apart; the last one ends with the light curve."""
    if n_node <= NODES_MAX:
        return [0]
    return [*range(0, n_node - NODES_MAX, NODES_MAX // 2), n_node - NODES_MAX]


@dataclass(frozen=True, slots=True, eq=False)
class GridTemplates:
    """Dips of all shapes, widths and times on one grid."""

    dips: NDArray[np.float32]
    """Shape (n_node, n_template): -1 at the deepest point of the whole dip."""

    fwhm_d: NDArray[np.float64]
    peak_d: NDArray[np.float64]
    """Shape (n_template,): width, and time since the first node."""


@lru_cache(maxsize=4)
def grid_templates(n_node: int, step_d: float, width_min_d: float, width_max_d: float) -> GridTemplates:
    """The templates of a grid; cached, because days share them."""
    time = step_d * np.arange(n_node)
    span = step_d * (n_node - 1)
    shortest = max(width_min_d, 2.0 * step_d)
    longest = max(min(width_max_d, _WIDTH_MAX_SPANS * span), shortest)
    widths = np.geomspace(shortest, longest, int(np.ceil(np.log(longest / shortest) / np.log(_WIDTH_RATIO))) + 1)
    position = np.linspace(0.0, _POSITION_MAX, _SAMPLES)
    dips, fwhm, peaks = [], [], []
    for strength in _STRENGTHS:
        for size in _SOURCE_SIZES:
            change = lens_gain(position, strength, size) - 1.0
            radii = dip_fwhm(strength, size)
            for width in widths:
                outside = _PEAK_OUTSIDE * min(width, span)
                peak = np.arange(-outside, span + outside, _PEAK_STEP * width)
                offset = np.abs(time[:, None] - peak[None, :]) / width * radii
                dips.append(-np.interp(offset, position, change / change[0], right=0.0))
                fwhm.append(np.full(peak.size, width))
                peaks.append(peak)
    every = np.concatenate(dips, axis=1)
    half_deep = np.sum(-every >= 0.5 * np.max(-every, axis=0), axis=0)
    usable = (half_deep >= _HALF_DEEP_NODES_MIN) & (np.max(-every, axis=0) > 0.25)
    return GridTemplates(
        np.ascontiguousarray(every[:, usable], dtype=np.float32),
        np.concatenate(fwhm)[usable],
        np.concatenate(peaks)[usable],
    )
