"""Maps of the local rms and background of an image.

What belongs here: robust statistics on a mesh and their interpolation to every pixel, for any image. Fitting
sources is photometry's.

Method: the image is cut in boxes; in each, pixels beyond 3 sigma of the median are clipped until nothing changes,
the first sigma being that of the median absolute deviation; the background is the median, the rms the standard
deviation of what is left, corrected for the clipped tails. Bilinear interpolation between box centres
gives the maps. Every second pixel on each axis suffices, because neighbours share a beam. The running median of
BANE (Hancock et al. 2012, 2018) with overlapping boxes was rejected: the noise of a drift-scan image before
primary-beam correction is flat, and independent boxes cost a fraction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import MAD_TO_SIGMA
from contimg_assets.science.threads import in_threads, slices

_CLIP_SIGMA = 3.0
_CLIPPED_STD = 0.98661
"""Standard deviation of a normal distribution truncated at +-3 sigma, in sigma."""
_MAX_CLIPS = 8
_MIN_SAMPLES = 24


@dataclass(frozen=True, slots=True, eq=False)
class NoiseMaps:
    """Local noise of an image, in its units; NaN where no valid pixel is near."""

    rms: NDArray[np.float32]
    """Standard deviation of the noise, shape (n_y, n_x)."""
    background: NDArray[np.float32]
    """Local zero level, shape (n_y, n_x)."""


@numba.njit(cache=True, nogil=True)
def _clipped_statistics(sample: NDArray[np.float32]) -> tuple[float, float]:
    """Background and rms of one box's finite pixels."""
    centre = np.median(sample)
    sigma = MAD_TO_SIGMA * np.median(np.abs(sample - centre))
    kept = sample
    for _ in range(_MAX_CLIPS):
        if sigma == 0.0:
            break
        survivors = kept[np.abs(kept - centre) <= _CLIP_SIGMA * sigma]
        if survivors.size == 0:
            break
        centre = np.median(survivors)
        mean = 0.0
        for value in survivors:
            mean += value
        mean /= survivors.size
        variance = 0.0
        for value in survivors:
            variance += (value - mean) ** 2
        sigma = np.sqrt(variance / survivors.size) / _CLIPPED_STD
        if survivors.size == kept.size:
            break
        kept = survivors
    return float(centre), float(sigma)


@numba.njit(cache=True, nogil=True)
def _mesh_statistics(
    image: NDArray[np.float32],
    edges_y: NDArray[np.int64],
    edges_x: NDArray[np.int64],
    stride: int,
    boxes: tuple[int, int],
    background: NDArray[np.float64],
    rms: NDArray[np.float64],
) -> None:
    """Fill the statistics of boxes first to last - 1, counted along rows of boxes."""
    n_box_x = edges_x.size - 1
    for index in range(boxes[0], boxes[1]):
        j, i = index // n_box_x, index % n_box_x
        box = image[edges_y[j] : edges_y[j + 1] : stride, edges_x[i] : edges_x[i + 1] : stride]
        sample = np.empty(box.size, dtype=np.float32)
        count = 0
        for y in range(box.shape[0]):
            for x in range(box.shape[1]):
                if np.isfinite(box[y, x]):
                    sample[count] = box[y, x]
                    count += 1
        if count >= _MIN_SAMPLES:
            background[j, i], rms[j, i] = _clipped_statistics(sample[:count])


@numba.njit(cache=True, nogil=True)
def _interpolate(
    mesh: NDArray[np.float32], position_y: NDArray[np.float32], position_x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Bilinear interpolation of a mesh at fractional mesh positions between its first and last centres."""
    n_box_y, n_box_x = mesh.shape
    out = np.empty((position_y.size, position_x.size), dtype=np.float32)
    row = np.empty(n_box_x, dtype=np.float32)
    left = np.minimum(position_x.astype(np.int64), max(n_box_x - 2, 0))
    step = min(1, n_box_x - 1)
    fraction = position_x - left.astype(np.float32)
    for y in range(position_y.size):
        below = min(int(position_y[y]), max(n_box_y - 2, 0))
        above = min(below + 1, n_box_y - 1)
        row[:] = mesh[below] + (position_y[y] - np.float32(below)) * (mesh[above] - mesh[below])
        for x in range(position_x.size):
            first = row[left[x]]
            out[y, x] = first + fraction[x] * (row[left[x] + step] - first)
    return out


def _fill_empty_boxes(mesh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give boxes without statistics the value of the nearest box that has them."""
    empty = np.argwhere(~np.isfinite(mesh))
    full = np.argwhere(np.isfinite(mesh))
    if len(full) == 0 or len(empty) == 0:
        return mesh
    nearest = full[np.argmin(((empty[:, None, :] - full[None, :, :]) ** 2).sum(axis=-1), axis=1)]
    filled = mesh.copy()
    filled[empty[:, 0], empty[:, 1]] = mesh[nearest[:, 0], nearest[:, 1]]
    return filled


def _box_edges(n_pixel: int, box_pixels: float) -> NDArray[np.int64]:
    n_box = max(1, round(n_pixel / box_pixels))
    return np.round(np.linspace(0, n_pixel, n_box + 1)).astype(np.int64)


def estimate_noise(image: NDArray[np.float32], *, box_pixels: float, n_threads: int = 0) -> NoiseMaps:
    """Local rms and background of an image.

    Parameters
    ----------
    image : array of float32, shape (n_y, n_x)
        Any units; NaN = blank. Sources should cover a minor part of each box.
    box_pixels : float
        Side of a mesh box, pixels; 20 to 30 restoring beams is a good choice. Boxes are adjusted to fit the image.
    n_threads : int
        0 for all cores.

    Returns
    -------
    NoiseMaps
    """
    image = np.asarray(image, dtype=np.float32)
    edges_y, edges_x = _box_edges(image.shape[0], box_pixels), _box_edges(image.shape[1], box_pixels)
    stride = 2 if box_pixels >= 40 else 1
    meshes = np.full((2, edges_y.size - 1, edges_x.size - 1), np.nan)
    in_threads(
        lambda part: _mesh_statistics(image, edges_y, edges_x, stride, (part.start, part.stop), meshes[0], meshes[1]),
        slices(meshes[0].size, n_threads),
        n_threads,
    )
    background, rms = (_fill_empty_boxes(mesh) for mesh in meshes)
    position_y, position_x = (
        np.interp(np.arange(n), 0.5 * (e[:-1] + e[1:] - 1), np.arange(e.size - 1)).astype(np.float32)
        for n, e in zip(image.shape, (edges_y, edges_x), strict=True)
    )
    maps = [_interpolate(mesh.astype(np.float32), position_y, position_x) for mesh in (rms, background)]
    blank = ~np.isfinite(image)
    if blank.any():
        for out in maps:
            out[blank] = np.nan
    return NoiseMaps(rms=maps[0], background=maps[1])


def robust_rms(image: NDArray[np.float32], *, max_samples: int = 250_000) -> float:
    """One clipped standard deviation of a whole image, from an even subsample of its finite pixels; NaN if none."""
    stride = max(1, int(np.sqrt(image.size / max_samples)))
    sample = np.ascontiguousarray(image[::stride, ::stride]).ravel()
    sample = sample[np.isfinite(sample)]
    return float(_clipped_statistics(sample)[1]) if sample.size else float("nan")
