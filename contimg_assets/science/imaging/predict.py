"""Visibilities of a model image, the brightest components through the moving primary beam.

What belongs here: the prediction that deconvolution subtracts, of components on pixels and of known sources between them.
The transforms themselves are in ``gridding``, the beam is in ``drift_beam``.

In a drift scan a source's apparent flux density changes during the observation, by several per cent near the centre
and by tens of per cent at the half-power point, and with frequency inside a band. A constant component subtracts only the
mean and leaves sidelobes: 12 Jy near the centre double the noise of the image. So known sources and the brightest
components are predicted one by one with the beam of each integration and channel relative to its mean, by a direct
Fourier sum that also has no gridding error; their number is limited by its cost. All others go through the gridder. Gridding
each integration by itself (A-projection's way, Bhatnagar et al. 2008) would multiply the cost of imaging.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.direct_sum import add_point_sources
from contimg_assets.science.imaging.averaging import BandVisibilities
from contimg_assets.science.imaging.drift_beam import LEAST_POWER, Pointings, power_course
from contimg_assets.science.imaging.geometry import ImageGeometry
from contimg_assets.science.imaging.gridding import Gridder
from contimg_assets.science.imaging.known_sources import PointSources, spread
from contimg_assets.science.threads import in_threads

_MOST_COMPONENTS = 128
_MOST_TERMS = 1e9
"""Components times visibilities of one band that a prediction by direct sum may cost, about a quarter of a second of one core."""
_MOST_ROWS = 4096
"""Rows that one thread predicts at a time."""


class Predictor:
    """Predicts the visibilities of model images of one observation."""

    def __init__(
        self,
        uvw_m: NDArray[np.float64],
        pointings: Pointings,
        grid: ImageGeometry,
        gridder: Gridder,
        bands: Sequence[BandVisibilities],
        shares: Sequence[NDArray[np.float64]],
    ) -> None:
        """Shares are those of pointings and channel groups in each band's imaging weights (``drift_beam.weight_shares``)."""
        self._uvw_m = uvw_m
        self._pointings = pointings
        self._grid = grid
        self._gridder = gridder
        self._bands = bands
        self._shares = shares
        order = np.argsort(pointings.of_row, kind="stable")
        bounds = np.searchsorted(pointings.of_row[order], np.arange(len(pointings.lmn) + 1))
        self._rows = [
            rows
            for first, last in pairwise(bounds)
            for rows in np.array_split(order[first:last], max(1, -(-int(last - first) // _MOST_ROWS)))
            if rows.size
        ]
        """Rows of one pointing each, cut for threads."""

    def visibilities(
        self, index: int, model: NDArray[np.float32], sources: PointSources | None = None
    ) -> NDArray[np.complex64]:
        """Visibilities of a band's model image and known sources.

        Parameters
        ----------
        index : int
            Which band.
        model : array of float32, shape (n_y, n_x)
            Mean apparent flux density of the components (with the imaging weights), Jy/pixel.
        sources : PointSources, optional

        Returns
        -------
        array of complex64, shape (n_row, n_group)
        """
        band = self._bands[index]
        rest = model.copy()
        most = int(_MOST_TERMS / band.vis.size)
        parts = []
        if sources is not None:
            order = np.argsort(-np.abs(sources.flux_jy), kind="stable")
            direct, gridded = order[:most], order[most:]
            spread(rest, sources.x_pixel[gridded], sources.y_pixel[gridded], sources.flux_jy[gridded])
            parts.append((sources.lmn[direct], sources.flux_jy[direct, None, None] * sources.shape[direct]))
            most -= direct.size
        if len(self._pointings.lmn) > 1:
            parts.append(self._brightest(rest, model, index, min(_MOST_COMPONENTS, most)))
        vis = self._gridder.visibilities(rest, band.frequency_hz) if rest.any() else np.zeros_like(band.vis)
        lmn = np.concatenate([part[0] for part in parts]) if parts else np.empty((0, 3))
        if lmn.size:
            self._add(vis, lmn, np.concatenate([part[1] for part in parts]), band)
        return vis

    def _add(
        self,
        vis: NDArray[np.complex64],
        lmn: NDArray[np.float64],
        flux_jy: NDArray[np.float64],
        band: BandVisibilities,
    ) -> None:
        """Add sources of flux density (n_source, n_pointing, n_chan) by a direct sum."""
        flux = np.asarray(flux_jy, dtype=np.float32)
        smearing_m2 = 0.5 * band.spread_hz2 * (2.0 * np.pi / SPEED_OF_LIGHT_M_S) ** 2
        directions = lmn - np.array([0.0, 0.0, 1.0])

        def add(rows: NDArray[np.int64]) -> None:
            seen = np.ascontiguousarray(flux[:, self._pointings.of_row[rows[0]]])
            block = vis[rows]
            add_point_sources(block, self._uvw_m[rows], directions, seen, band.frequency_hz, smearing_m2)
            vis[rows] = block

        in_threads(add, self._rows, self._gridder.n_threads)

    def _brightest(
        self,
        rest: NDArray[np.float32],
        model: NDArray[np.float32],
        index: int,
        most: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Unit vectors and flux densities (n, n_pointing, n_chan) of the brightest pixels, which leave ``rest``."""
        pixel_y, pixel_x = np.nonzero(model != 0)
        order = np.argsort(-np.abs(model[pixel_y, pixel_x]), kind="stable")[: max(0, most)]
        pixel_y, pixel_x = pixel_y[order], pixel_x[order]
        lmn = self._grid.directions(pixel_x.astype(np.float64), pixel_y.astype(np.float64))
        power = power_course(lmn, self._pointings, self._bands[index].frequency_hz)
        mean = np.einsum("kpc,pc->k", power, self._shares[index])
        seen = mean > LEAST_POWER
        pixel_y, pixel_x, power, mean = pixel_y[seen], pixel_x[seen], power[seen], mean[seen]
        flux_jy = model[pixel_y, pixel_x]
        rest[pixel_y, pixel_x] -= flux_jy
        return lmn[seen], (flux_jy / mean)[:, None, None] * power
