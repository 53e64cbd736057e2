"""Where CLEAN may put components.

What belongs here: masks grown from significant pixels of a residual image. A pixel is
significant when it stands above a number of local rms *and* above the sidelobes that the brightest
remaining source can throw, so that in the first cycles only the brightest sources enter.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def _paint_disc(mask: NDArray[np.bool_], y0: int, x0: int, radius: float) -> None:
    reach = int(radius)
    for y in range(max(0, y0 - reach), min(mask.shape[0], y0 + reach + 1)):
        for x in range(max(0, x0 - reach), min(mask.shape[1], x0 + reach + 1)):
            if (y - y0) ** 2 + (x - x0) ** 2 <= radius * radius:
                mask[y, x] = True


@numba.njit(cache=True, nogil=True)
def grow_mask(
    mask: NDArray[np.bool_],
    residual: NDArray[np.float32],
    rms: NDArray[np.float32],
    n_sigma: float,
    floor: float,
    radius: float,
) -> int:
    """Add discs around pixels brighter than max(n_sigma * rms, floor) and outside the mask; return how many there were.

    Parameters
    ----------
    mask : array of bool, shape (n_y, n_x)
        Changed in place.
    residual, rms : array of float32, shape (n_y, n_x)
        Jy/beam.
    n_sigma : float
    floor : float
        Jy/beam.
    radius : float
        Radius of a disc, pixels.
    """
    seeds = 0
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            value = residual[y, x]
            if value > floor and value > n_sigma * rms[y, x] and not mask[y, x]:
                seeds += 1
                _paint_disc(mask, y, x, radius)
    return seeds
