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
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from contimg_assets.science.photometry.kernels import Couplings

_MAX_CONDITION = 10.0
"""Condition number of a component's equations above which its members are flagged."""


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
    close = which[cKDTree(position_beams[which]).query_pairs(radius_beams, output_type="ndarray")].reshape(-1, 2)
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
    out_flux, out_error = flux.copy(), gain * rms
    blend = np.full(n, -1, dtype=np.int64)
    bad = np.zeros(n, dtype=np.bool_)
    label = components(n, pairs.first, pairs.second)
    member = np.argsort(label, kind="stable")
    size = np.bincount(label, minlength=1)
    start = np.concatenate([[0], np.cumsum(size)[:-1]])
    place = np.empty(n, dtype=np.int64)
    place[member] = np.arange(n) - start[label[member]]
    for m in np.unique(size[size > 1]):
        which = np.flatnonzero(size == m)
        rows = member[start[which][:, None] + np.arange(m)]
        block = np.full(label.max() + 1, -1, dtype=np.int64)
        block[which] = np.arange(which.size)
        inside = np.flatnonzero(block[label[pairs.first]] >= 0)
        index = (block[label[pairs.first[inside]]], place[pairs.first[inside]], place[pairs.second[inside]])
        matrix = np.broadcast_to(np.eye(m), (which.size, m, m)).copy()
        matrix[index] = pairs.coupling[inside]
        noise = np.einsum("ki,ij->kij", gain[rows] ** 2, np.eye(m))
        noise[index] = pairs.covariance[inside]
        noise *= rms[rows][:, :, None] * rms[rows][:, None, :]
        inverse = np.linalg.inv(matrix)
        out_flux[rows] = np.einsum("kij,kj->ki", inverse, flux[rows])
        out_error[rows] = np.sqrt(np.maximum(np.einsum("kij,kjl,kil->ki", inverse, noise, inverse), 0.0))
        blend[rows] = rows.min(axis=1, keepdims=True)
        bad[rows] = (np.linalg.cond(matrix) > _MAX_CONDITION)[:, None]
    return Deblended(flux=out_flux, error=out_error, blend=blend, ill_conditioned=bad)
