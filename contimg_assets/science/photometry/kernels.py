"""The compiled loops of forced photometry: filter, couple, residual.

What belongs here: loops over sources and stamp pixels, nothing about sky or tables. All positions are pixels, all
sums are double precision. The beam on a stamp is built row by row with a multiplicative recurrence, two exponentials
per row, at the exact sub-pixel position.

Arrays travel in named tuples, which numba takes apart at compile time. Results are written into arrays the caller hands
in, and loops are written out: array expressions would triple the time of the first compilation, which a fresh machine
has to wait for.

A stamp is taken from the maps once, from memory that no cache holds (0.7 microseconds, a third of the whole cost), and
kept for the residuals. Stamps that lie wholly on the image, nearly all, are loaded without looking at each pixel: their
sum tells whether one of them is blank.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Plane(NamedTuple):
    """The maps, Jy/beam."""

    data: NDArray[np.float32]
    """Image, shape (n_y, n_x), NaN where blank."""
    background: NDArray[np.float32]
    """Shape of the image, or (0, 0) for none."""


class Stamp(NamedTuple):
    """The pixels around a source, as runs of rows relative to the pixel nearest to it, and the beam."""

    precision: Floats
    """Inverse covariance of the beam, shape (2, 2), pixel^-2, axes (x, y)."""
    row_y: Integers
    """Offset of each row, shape (n_rows,)."""
    row_x: Integers
    """Offset of the first pixel of each row."""
    row_n: Integers
    """Number of pixels of each row; their sum is n_pixels."""
    step: int
    """Distance between the pixels used; rows follow each other at this distance too."""
    shape: Floats
    """Beam of a source in the middle of its pixel, shape (n_pixels,)."""


class Filters(NamedTuple):
    """The filter bank, see ``filter_bank.FilterBank``."""

    use_bank: bool
    """False filters every source with its own beam."""
    n_phases: int
    weights: Floats
    noise_gain: Floats
    response: NDArray[np.float32]
    noise_acf: Floats


class Positions(NamedTuple):
    """Pixel positions, shape (n,)."""

    x: Floats
    y: Floats
    order: Integers
    """Order in which sources are visited, so that neighbours find their pixels in the cache."""


class Filtered(NamedTuple):
    """What the filter of each source alone says, shape (n, ...)."""

    flux: Floats
    """Jy/beam; NaN without any usable pixel."""
    gain: Floats
    """Error of the flux for noise of unit rms."""
    norm: Floats
    """W.K, the filter's response to a unit source."""
    used: Floats
    """Fraction of K.K on usable pixels."""
    counts: Integers
    """Stamp pixels outside the image and blank ones, shape (n, 2)."""
    pixels: NDArray[np.float32]
    """The stamps less the background, NaN where blank, shape (n, n_pixels)."""


class Couplings(NamedTuple):
    """Directed pairs of sources, shape (n_pairs,)."""

    first: Integers
    second: Integers
    coupling: Floats
    """Flux the filter of ``first`` sees of a unit source ``second``."""
    covariance: Floats
    """Covariance of their filtered noise for unit rms."""


class Neighbours(NamedTuple):
    """Neighbours of source i: ``source[start[i] : start[i + 1]]``."""

    start: Integers
    source: Integers


@numba.njit(cache=True, nogil=True)
def _add_beam(model: Floats, keep: float, amplitude: float, x: float, y: float, stamp: Stamp) -> None:
    """Model := keep * model + amplitude * beam, the beam centred (x, y) from the stamp's central pixel."""
    p_xx, p_xy, p_yy = stamp.precision[0, 0], stamp.precision[0, 1], stamp.precision[1, 1]
    step = stamp.step
    along_x = p_xx * x + p_xy * y
    along_y = p_xy * x + p_yy * y
    forward, backward, upward = math.exp(along_x * step), math.exp(-along_x * step), math.exp(along_y * step)
    column = stamp.row_x[0]
    start = amplitude * math.exp(along_x * column + along_y * stamp.row_y[0] - 0.5 * (along_x * x + along_y * y))
    p = 0
    for r in range(stamp.row_y.size):
        while column < stamp.row_x[r]:
            start *= forward
            column += step
        while column > stamp.row_x[r]:
            start *= backward
            column -= step
        value = start
        for _ in range(stamp.row_n[r]):
            model[p] = keep * model[p] + value * stamp.shape[p]
            value *= forward
            p += 1
        start *= upward


@numba.njit(cache=True, nogil=True)
def _load_pixels(plane: Plane, ix: int, iy: int, stamp: Stamp, pixels: NDArray[np.float32], counts: Integers) -> None:
    """Background-subtracted pixels of a stamp, NaN where blank or outside; counts := (outside, blank)."""
    n_y, n_x = plane.data.shape
    last = stamp.row_y.size - 1
    inside = iy + stamp.row_y[0] >= 0 and iy + stamp.row_y[last] < n_y
    for r in range(stamp.row_y.size):
        first = ix + stamp.row_x[r]
        inside = inside and first >= 0 and first + (stamp.row_n[r] - 1) * stamp.step < n_x
    counts[0] = 0
    counts[1] = 0
    if not (inside and _load_inner_pixels(plane, ix, iy, stamp, pixels)):
        _load_checked_pixels(plane, ix, iy, stamp, pixels, counts)


@numba.njit(cache=True, nogil=True)
def _load_inner_pixels(plane: Plane, ix: int, iy: int, stamp: Stamp, pixels: NDArray[np.float32]) -> bool:
    """Fill a stamp that lies on the image; say whether all of its pixels are finite."""
    step = stamp.step
    has_background = plane.background.size > 0
    total = np.float32(0.0)
    p = 0
    for r in range(stamp.row_y.size):
        n = stamp.row_n[r]
        x = ix + stamp.row_x[r]
        row = plane.data[iy + stamp.row_y[r], x : x + (n - 1) * step + 1 : step]
        if has_background:
            under = plane.background[iy + stamp.row_y[r], x : x + (n - 1) * step + 1 : step]
            for k in range(n):
                value = row[k] - under[k]
                total += value
                pixels[p + k] = value
        else:
            for k in range(n):
                total += row[k]
                pixels[p + k] = row[k]
        p += n
    return math.isfinite(total)


@numba.njit(cache=True, nogil=True)
def _load_checked_pixels(
    plane: Plane, ix: int, iy: int, stamp: Stamp, pixels: NDArray[np.float32], counts: Integers
) -> None:
    """Fill a stamp pixel by pixel and count those outside and those blank."""
    n_y, n_x = plane.data.shape
    has_background = plane.background.size > 0
    p = 0
    for r in range(stamp.row_y.size):
        y = iy + stamp.row_y[r]
        for k in range(stamp.row_n[r]):
            x = ix + stamp.row_x[r] + k * stamp.step
            value = np.float32(math.nan)
            if 0 <= y < n_y and 0 <= x < n_x:
                value = plane.data[y, x]
                if has_background:
                    value -= plane.background[y, x]
                if not math.isfinite(value):
                    value = np.float32(math.nan)
                    counts[1] += 1
            else:
                counts[0] += 1
            pixels[p] = value
            p += 1


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Sum of products in double precision, in an order that vectorises."""
    total = 0.0
    for p in range(b.size):
        total += float(a[p]) * float(b[p])
    return total


@numba.njit(cache=True, nogil=True)
def _phase(x: float, y: float, n_phases: int) -> int:
    """Row of the filter bank for a sub-pixel position."""
    p_x = min(max(int((x - math.floor(x + 0.5) + 0.5) * n_phases), 0), n_phases - 1)
    p_y = min(max(int((y - math.floor(y + 0.5) + 0.5) * n_phases), 0), n_phases - 1)
    return p_y * n_phases + p_x


@numba.njit(cache=True, nogil=True)
def _quadratic_form(weights: Floats, acf: Floats, stamp: Stamp) -> float:
    """W^T C W over the pixels of a stamp, for weights that are in no bank."""
    middle = acf.shape[0] // 2
    total = 0.0
    i = 0
    for r in range(stamp.row_y.size):
        for k in range(stamp.row_n[r]):
            w = weights[i]
            i += 1
            if w == 0.0:
                continue
            j = 0
            for s in range(stamp.row_y.size):
                lag_y = middle + stamp.row_y[r] - stamp.row_y[s]
                lag_x = middle + stamp.row_x[r] + k * stamp.step - stamp.row_x[s]
                for m in range(stamp.row_n[s]):
                    total += w * weights[j] * acf[lag_y, lag_x - m * stamp.step]
                    j += 1
    return total


@numba.njit(cache=True, nogil=True)
def filter_sources(plane: Plane, stamp: Stamp, filters: Filters, at: Positions, work: Floats, out: Filtered) -> None:
    """Filter every source on its own; ``work`` has room for two stamps.

    A stamp with blank pixels takes the matched filter over the others.
    """
    beam, masked = work[0], work[1]
    for o in range(at.order.size):
        i = at.order[o]
        pixels = out.pixels[i]
        ix = math.floor(at.x[i] + 0.5)
        iy = math.floor(at.y[i] + 0.5)
        _load_pixels(plane, ix, iy, stamp, pixels, out.counts[i])
        _add_beam(beam, 0.0, 1.0, at.x[i] - ix, at.y[i] - iy, stamp)
        phase = _phase(at.x[i], at.y[i], filters.n_phases)
        if out.counts[i, 0] + out.counts[i, 1] == 0:
            weights = filters.weights[phase] if filters.use_bank else beam
            out.used[i] = 1.0
            out.norm[i] = _dot(weights, beam)
            out.flux[i] = _dot(weights, pixels) / out.norm[i]
            out.gain[i] = filters.noise_gain[phase]
            continue
        for p in range(beam.size):
            masked[p] = 0.0 if math.isnan(pixels[p]) else beam[p]
            if masked[p] == 0.0:
                pixels[p] = np.float32(0.0)
        norm = _dot(masked, beam)
        out.used[i] = norm / _dot(beam, beam)
        if norm > 0.0:
            out.norm[i] = norm
            out.flux[i] = _dot(masked, pixels) / norm
            out.gain[i] = math.sqrt(max(_quadratic_form(masked, filters.noise_acf, stamp), 0.0)) / norm
        for p in range(beam.size):
            if masked[p] == 0.0:
                pixels[p] = np.float32(math.nan)


@numba.njit(cache=True, nogil=True)
def couple_pairs(
    stamp: Stamp, filters: Filters, at: Positions, filtered: Filtered, pairs: Couplings, work: Floats
) -> None:
    """Fill coupling and covariance of every pair.

    Of a stamp with blank pixels only the noise gain is known; its covariance is then taken as that of the pixels
    under both sources.
    """
    own, other = work[0], work[1]
    n_side = filters.response.shape[1]
    middle = n_side // 2
    acf_middle = filters.noise_acf.shape[0] // 2
    for k in range(pairs.first.size):
        i, j = pairs.first[k], pairs.second[k]
        ix, iy = math.floor(at.x[i] + 0.5), math.floor(at.y[i] + 0.5)
        jx, jy = math.floor(at.x[j] + 0.5), math.floor(at.y[j] + 0.5)
        phase_i = _phase(at.x[i], at.y[i], filters.n_phases)
        phase_j = _phase(at.x[j], at.y[j], filters.n_phases)
        complete_i = filtered.counts[i, 0] + filtered.counts[i, 1] == 0
        complete_j = filtered.counts[j, 0] + filtered.counts[j, 1] == 0
        if complete_i and filters.use_bank:
            for p in range(own.size):
                own[p] = filters.weights[phase_i, p]
        else:
            _add_beam(own, 0.0, 1.0, at.x[i] - ix, at.y[i] - iy, stamp)
            for p in range(own.size):
                if math.isnan(filtered.pixels[i, p]):
                    own[p] = 0.0
        _add_beam(other, 0.0, 1.0, at.x[j] - ix, at.y[j] - iy, stamp)
        seen = 0.0
        shared = 0.0
        p = 0
        for r in range(stamp.row_y.size):
            g_y = middle + stamp.row_y[r] + iy - jy
            for m in range(stamp.row_n[r]):
                g_x = middle + stamp.row_x[r] + m * stamp.step + ix - jx
                seen += own[p] * other[p]
                if 0 <= g_y < n_side and 0 <= g_x < n_side:
                    shared += own[p] * filters.response[phase_j, g_y, g_x]
                p += 1
        pairs.coupling[k] = seen / filtered.norm[i]
        if complete_i and complete_j:
            pairs.covariance[k] = shared / (filtered.norm[i] * filtered.norm[j])
        else:
            correlation = filters.noise_acf[acf_middle + iy - jy, acf_middle + ix - jx]
            pairs.covariance[k] = filtered.gain[i] * filtered.gain[j] * correlation


@numba.njit(cache=True, nogil=True)
def residual_chi2(
    stamp: Stamp,
    at: Positions,
    pixels: NDArray[np.float32],
    flux: Floats,
    rms: Floats,
    near: Neighbours,
    work: Floats,
    chi2: Floats,
) -> None:
    """Reduced chi-square of the stamps of the first ``chi2.size`` sources, less them and their neighbours.

    One degree of freedom is spent on the flux. Left as it is where flux or rms are NaN.
    """
    model = work[0]
    for i in range(chi2.size):
        if not (rms[i] > 0.0) or math.isnan(flux[i]):
            continue
        ix = math.floor(at.x[i] + 0.5)
        iy = math.floor(at.y[i] + 0.5)
        _add_beam(model, 0.0, flux[i], at.x[i] - ix, at.y[i] - iy, stamp)
        for k in range(near.start[i], near.start[i + 1]):
            j = near.source[k]
            _add_beam(model, 1.0, flux[j], at.x[j] - ix, at.y[j] - iy, stamp)
        total = 0.0
        n_used = 0
        for p in range(model.size):
            if not math.isnan(pixels[i, p]):
                residual = float(pixels[i, p]) - model[p]
                total += residual * residual
                n_used += 1
        if n_used > 1:
            chi2[i] = total / (rms[i] * rms[i] * (n_used - 1))
