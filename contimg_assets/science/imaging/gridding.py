"""Between visibilities and images: the w-gridder of ducc0 in our conventions.

What belongs here: sign, axis order and normalisation. What the pixels mean is in ``geometry``, weights are in
``weighting``.

Our convention (``science.visibilities``) is V = S exp(+2 pi i (u l + v m + w (n - 1))) and images ``[y, x]`` with x
towards decreasing l. ducc0 computes V = sum I exp(-2 pi i (u x + v y - w (n - 1))) for an array [x, y]. Handing it the
columns (v, u, w) and flipping the first gives our convention without transposing an image. ``divide_by_n``
is off in both directions: with it, the peak of a point source would be S/n instead of S (times the primary beam).

The dirty image is divided by the sum of weights, so that it is in Jy/beam. Method: Arras et al. 2021,
doi:10.1051/0004-6361/202039723.
"""

from __future__ import annotations

import ducc0
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.imaging.geometry import ImageGeometry

_wgridder = ducc0.wgridder.experimental


class Gridder:
    """Transforms of one observation's visibilities of any subset of channels."""

    def __init__(self, uvw_m: NDArray[np.float64], geometry: ImageGeometry, *, epsilon: float, n_threads: int) -> None:
        bend = uvw_m[:, 2] - geometry.slant_u * uvw_m[:, 0] - geometry.slant_v * uvw_m[:, 1]
        self._uvw_m = np.stack([uvw_m[:, 1], uvw_m[:, 0], bend], axis=-1)
        self._geometry = geometry
        self.n_threads = n_threads
        self._options = {
            "pixsize_x": geometry.cell_rad,
            "pixsize_y": geometry.cell_rad,
            "epsilon": epsilon,
            "do_wgridding": geometry.needs_w,
            "nthreads": n_threads,
            "flip_u": True,
            "divide_by_n": False,
        }

    def image(
        self, vis: NDArray[np.complex64], weights: NDArray[np.float32], frequency_hz: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Dirty image of visibilities, Jy/beam, shape (n_y, n_x).

        Parameters
        ----------
        vis : array of complex64, shape (n_row, n_chan)
        weights : array of float32, shape (n_row, n_chan)
            Imaging weights, not all zero.
        frequency_hz : array of float, shape (n_chan,)
        """
        dirty: NDArray[np.float32] = _wgridder.vis2dirty(
            uvw=self._uvw_m,
            freq=frequency_hz,
            vis=vis,
            wgt=weights,
            npix_x=self._geometry.n_y,
            npix_y=self._geometry.n_x,
            **self._options,
        )
        dirty /= np.float32(weights.sum(dtype=np.float64))
        return dirty

    def visibilities(self, model: NDArray[np.float32], frequency_hz: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Visibilities of a model image in Jy/pixel, shape (n_row, n_chan)."""
        vis: NDArray[np.complex64] = _wgridder.dirty2vis(
            uvw=self._uvw_m, freq=frequency_hz, dirty=model, **self._options
        )
        return vis
