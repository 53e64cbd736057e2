"""Divide visibilities by antenna gains.

What belongs here: applying tables to data in memory. What does not: interpolation (``interpolation``) and files.

``V_calibrated(i, j) = V / (g_i conj(g_j))``; weights are multiplied by the mean of ``|g_i|^2`` and that of
``|g_j|^2`` over the channels with solutions (as CASA's ``calwt``), so that they stay 1/sigma^2 of the calibrated data.
Works in place: no second array of the size of the data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.interpolation import gains_at, map_solutions, receptors
from contimg_assets.science.calibration.solutions import Solutions
from contimg_assets.science.errors import DataError
from contimg_assets.science.sky_model import rows_by_time
from contimg_assets.science.threads import in_threads
from contimg_assets.science.visibilities import Visibilities


def apply_solutions(vis: Visibilities, solutions: Sequence[Solutions], *, n_threads: int = 0) -> Visibilities:
    """Calibrate visibilities in place.

    Parameters
    ----------
    vis : Visibilities
        ``vis.vis``, ``vis.flags`` and ``vis.weights`` are changed; pass copies to keep them.
    solutions : sequence of Solutions
        Tables of any kind; all are applied. Gains are interpolated in time, see ``interpolation``.
    n_threads : int
        0 for all cores.

    Returns
    -------
    Visibilities
        The same object, for convenience. Data without a solution are flagged and left as they are.

    Raises
    ------
    DataError
        If a table does not belong to these data, or the arrays are read-only.
    """
    if not (vis.vis.flags.writeable and vis.flags.flags.writeable and vis.weights.flags.writeable):
        raise DataError(
            f"visibilities of {vis.source_name or vis.field_name} cannot be calibrated in place",
            got="read-only arrays",
            expected="writeable vis, flags and weights",
            remedy="Pass a copy of the arrays.",
            reason_code="read_only",
        )
    mapped = map_solutions(solutions, vis)
    names = receptors(vis.correlations)
    feeds = np.array([[names.index(c[0]), names.index(c[-1])] for c in vis.correlations], dtype=np.int64)

    def calibrate(item: tuple[float, NDArray[np.int64]]) -> None:
        time_mjd, rows = item
        gains = gains_at(mapped, vis, time_mjd)
        good = gains != 0.0
        inverse = np.divide(1.0, gains, out=np.zeros_like(gains), where=good)
        squares = np.sum(np.abs(gains) ** 2, axis=1)
        scale = (squares / np.maximum(good.sum(axis=1), 1)).astype(np.float32)
        antennas = (vis.antenna1, vis.antenna2)
        _divide(vis.vis, vis.flags, vis.weights, rows, antennas, feeds, inverse, scale)

    in_threads(calibrate, rows_by_time(vis), n_threads)
    return vis


@numba.njit(cache=True, nogil=True)
def _divide(vis, flags, weights, rows, antennas, feeds, inverse, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Multiply rows by inverse gains (antenna, chan, receptor); 0 flags."""
    antenna1, antenna2 = antennas
    for row in rows:
        i, j = antenna1[row], antenna2[row]
        for corr in range(vis.shape[2]):
            first, second = feeds[corr, 0], feeds[corr, 1]
            if scale[i, first] > 0.0 and scale[j, second] > 0.0:
                weights[row, corr] *= scale[i, first] * scale[j, second]
            for chan in range(vis.shape[1]):
                factor = inverse[i, chan, first] * np.conj(inverse[j, chan, second])
                if factor == 0.0:
                    flags[row, chan, corr] = True
                else:
                    vis[row, chan, corr] *= factor
