"""Sources that see each other: which they are, and their fluxes solved together.

What belongs here: pairs within reach, connected components, the linear solve. The coupling of a pair is
computed in ``kernels``.

Method. A filter W_i sees every neighbour: f_i = sum_j A_ij F_j with A_ij = W_i.K_j / W_i.K_i. Each connected
component is solved exactly, F = A^-1 f, with covariance A^-1 S A^-T, where S is the covariance of the filtered noise.
Sources closer than ``merge_radius_beams`` cannot be told apart and are measured as one. Components are disjoint, so
the result depends neither on the order of the sources nor on which source is asked for. Rejected: iterative
least-squares fits of each cluster's cut-out (forced_phot, Aegean), the same answer a thousand times slower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, diags_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from contimg_assets.science.photometry.kernels import Couplings

_MAX_AMPLIFICATION = 2.0
"""Growth of a source's error by deblending above which it is flagged."""
_MAX_DENSE = 64
"""Components of more sources than this, in fields crowded to the confusion limit, are solved as sparse systems."""
_ROWS_AT_ONCE = 64
"""Rows of a large inverse in memory at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Directed pairs of sources within reach of each other, sorted by ``first``."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    representative: NDArray[np.int64]
    """The source that stands for each source, shape (n,): itself unless it is merged with another."""


def find_pairs(
    position_beams: NDArray[np.float64], usable: NDArray[np.bool_], radius_beams: float, merge_radius_beams: float
) -> Pairs:
    """Pairs of usable sources closer than ``radius_beams``, after merging those that cannot be separated.

    Parameters
    ----------
    position_beams : array of float, shape (n, 2)
        Positions in units of the beam's FWHM (``PixelBeam.in_beams``).
    usable : array of bool, shape (n,)
        Sources with a measured flux; others take no part.
    radius_beams, merge_radius_beams : float
    """
    n = position_beams.shape[0]
    which = np.flatnonzero(usable)
    # Sources are scattered evenly enough that balancing the tree costs more than it saves.
    tree = cKDTree(position_beams[which], balanced_tree=False)
    close = which[tree.query_pairs(radius_beams, output_type="ndarray")].reshape(-1, 2)
    distance = np.linalg.norm(position_beams[close[:, 0]] - position_beams[close[:, 1]], axis=1)
    representative = _merge(n, close[distance < merge_radius_beams])
    apart = np.all(representative[close] == close, axis=1)
    kept = close[apart]
    directed = np.concatenate([kept, kept[:, ::-1]])
    directed = directed[np.lexsort((directed[:, 1], directed[:, 0]))]
    return Pairs(
        first=np.ascontiguousarray(directed[:, 0]),
        second=np.ascontiguousarray(directed[:, 1]),
        representative=representative,
    )


def _merge(n: int, inseparable: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lowest index of each chain of inseparable sources."""
    label = components(n, inseparable[:, 0], inseparable[:, 1])
    lowest = np.full(n, n)
    np.minimum.at(lowest, label, np.arange(n))
    return np.asarray(lowest[label], dtype=np.int64)


def components(n: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Label of the connected component of each of ``n`` sources."""
    graph = coo_array((np.ones(first.size, dtype=np.int8), (first, second)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Deblended:
    """Fluxes and errors after solving the blends."""

    flux: NDArray[np.float64]
    """Shape (n,), Jy/beam."""
    error: NDArray[np.float64]
    blend: NDArray[np.int64]
    """Lowest index of the sources solved together; -1 for a source on its own."""
    ill_conditioned: NDArray[np.bool_]


def solve_blends(
    flux: NDArray[np.float64],
    gain: NDArray[np.float64],
    rms: NDArray[np.float64],
    pairs: Couplings,
) -> Deblended:
    """Solve every component of coupled sources.

    Parameters
    ----------
    flux, gain, rms : array of float, shape (n,)
        Filtered flux (Jy/beam), its error for unit rms, and the local rms (Jy/beam).
    pairs : Couplings
        As filled by ``kernels.couple_pairs``.
    """
    n = flux.size
    alone = gain * rms
    out_flux, out_error = flux.copy(), alone.copy()
    blend = np.full(n, -1, dtype=np.int64)
    label = components(n, pairs.first, pairs.second)
    member = np.argsort(label, kind="stable")
    size = np.bincount(label, minlength=1)
    start = np.concatenate([[0], np.cumsum(size)[:-1]])
    place = np.empty(n, dtype=np.int64)
    place[member] = np.arange(n) - start[label[member]]
    for m in np.unique(size[size > 1]):
        which = np.flatnonzero(size == m)
        rows = member[start[which][:, None] + np.arange(m)]
        block = np.full(size.size, -1, dtype=np.int64)
        block[which] = np.arange(which.size)
        inside = np.flatnonzero(block[label[pairs.first]] >= 0)
        index = (block[label[pairs.first[inside]]], place[pairs.first[inside]], place[pairs.second[inside]])
        scale = rms[pairs.first[inside]] * rms[pairs.second[inside]]
        values = (pairs.coupling[inside], pairs.covariance[inside] * scale)
        solve = _solve_small if m <= _MAX_DENSE else _solve_large
        out_flux[rows], out_error[rows] = solve(flux[rows], alone[rows] ** 2, index, values)
        blend[rows] = rows.min(axis=1, keepdims=True)
    return Deblended(
        flux=out_flux, error=out_error, blend=blend, ill_conditioned=out_error > _MAX_AMPLIFICATION * alone
    )


Index = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Component, row and column of each coupled pair."""


def _solve_small(
    flux: NDArray[np.float64],
    variance: NDArray[np.float64],
    index: Index,
    values: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fluxes and errors of components of one size, shape (n_components, size), by dense inverses of all at once."""
    n_components, m = flux.shape
    matrix = np.broadcast_to(np.eye(m), (n_components, m, m)).copy()
    matrix[index] = values[0]
    noise = variance[:, :, None] * np.eye(m)
    noise[index] = values[1]
    inverse = np.linalg.inv(matrix)
    squared = np.einsum("kil,kil->ki", inverse @ noise, inverse)
    return np.einsum("kij,kj->ki", inverse, flux), np.sqrt(np.maximum(squared, 0.0))


def _solve_large(
    flux: NDArray[np.float64],
    variance: NDArray[np.float64],
    index: Index,
    values: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same for components of a crowded field, by a sparse factorisation and a few rows of the inverse at a time."""
    m = flux.shape[1]
    out_flux, out_error = np.empty_like(flux), np.empty_like(flux)
    for k in range(flux.shape[0]):
        mine = index[0] == k
        at = (index[1][mine], index[2][mine])
        factors = splu((coo_array((values[0][mine], at), shape=(m, m)) + eye_array(m)).tocsc())
        noise = (coo_array((values[1][mine], at), shape=(m, m)) + diags_array(variance[k])).tocsr()
        out_flux[k] = factors.solve(flux[k])
        for begin in range(0, m, _ROWS_AT_ONCE):
            rows = np.arange(begin, min(begin + _ROWS_AT_ONCE, m))
            wanted = np.zeros((m, rows.size))
            wanted[rows, np.arange(rows.size)] = 1.0
            inverse_rows = factors.solve(wanted, trans="T")
            squared = np.einsum("mr,mr->r", inverse_rows, noise @ inverse_rows)
            out_error[k, rows] = np.sqrt(np.maximum(squared, 0.0))
    return out_flux, out_error
