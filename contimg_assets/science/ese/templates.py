"""Shapes a dip may have: plasma lenses of several strengths and source sizes, a Gaussian, a box; and flares, as rivals.

What belongs here: shapes against time in units of their width, and the lens's gain as a table for fits.
What does not: the physics of the lens (``plasma_lens``) and comparing shapes with data (``search``).

A shape is tabulated against (t - t_peak) / FWHM from -REACH to REACH, with -1 at the centre of a dip (+1 for a
flare), so its amplitude is a depth. A lens's amplitude is fitted freely, which stands for the compact fraction of the
source. Eighteen lens shapes suffice, because the width absorbs most of the change of shape with strength (dips are
1.3 to 5 lens radii wide while alpha spans a factor of 200). The rejected alternative, 2248 templates over all
parameters, gained nothing against red noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import SIGMA_TO_FWHM
from contimg_assets.science.plasma_lens import lens_gain

REACH = 4.0
"""Half-length of a template, in FWHM of its dip: beyond it the strongest shoulder is below 1 per cent."""

SAMPLES_PER_FWHM = 64
"""Linear interpolation in the table is then good to 1e-3 of the depth."""

_COARSE = ((0.5, 1.5, 3.0, 6.0, 12.0, 40.0), (0.4, 0.9, 1.8))
_FINE = (tuple(np.geomspace(0.4, 45.0, 12).tolist()), (0.3, 0.5, 0.8, 1.2, 1.8))
"""Strengths and source sizes of the banks: below, at and above the caustic limit; from a compact to a washed-out source."""

FLARE_ASYMMETRIES = (0.2, 1.0, 5.0)
"""Rise time over decay time of the rival flares; 1 is a Gaussian."""

GRID_LOG_ALPHA = (-3.0, 4.7, 232)
GRID_SOURCE_FWHM = (0.3, 2.1, 13)
GRID_POSITION = (0.0, 20.0, 1001)
"""First, last and number of nodes of the gain table: natural logarithm of alpha, source FWHM and position in lens
radii. A strong lens has an outer caustic near 0.72 + 0.43 alpha: 18 radii for alpha 40. Between two strengths it moves by
a third of the source's sigma for alpha 10 and a small source; three times as far, and fits of strong lenses were off by
up to 30 in chi-square at their true parameters."""


@dataclass(frozen=True, slots=True, eq=False)
class TemplateBank:
    """Tabulated shapes."""

    shapes: NDArray[np.float64]
    """Shape (2 REACH SAMPLES_PER_FWHM + 1, n_shape); dips first. The compiled loops run over shapes innermost."""

    n_dips: int
    """How many of the shapes are dips; the rest are flares."""

    alpha: NDArray[np.float64]
    """Lens strength of each dip, NaN for shapes without one."""

    source_fwhm: NDArray[np.float64]
    """Source size of each dip, lens radii, NaN for shapes without one."""

    lens_radii_per_fwhm: NDArray[np.float64]
    """FWHM of the dip in lens radii, NaN for shapes without one."""


def dip_fwhm(alpha: float, source_fwhm: float) -> float:
    """Full width at half depth of a lens's central dip, lens radii."""
    position = np.linspace(0.0, 8.0, 321)
    loss = 1.0 - lens_gain(position, alpha, source_fwhm)
    first = int(np.argmax(loss < 0.5 * loss[0]))
    part = (loss[first - 1] - 0.5 * loss[0]) / (loss[first - 1] - loss[first])
    return float(2.0 * (position[first - 1] + part * (position[1] - position[0])))


@lru_cache(maxsize=2)
def template_bank(*, fine: bool = False) -> TemplateBank:
    """Build the bank for searching, or the fine one for what was found; cached, because it never changes."""
    offset = np.linspace(-REACH, REACH, int(2 * REACH * SAMPLES_PER_FWHM) + 1)
    shapes, strengths, sizes, widths = [], [], [], []
    bank_strengths, bank_sizes = _FINE if fine else _COARSE
    for alpha in bank_strengths:
        for source_fwhm in bank_sizes:
            fwhm = dip_fwhm(alpha, source_fwhm)
            change = lens_gain(offset * fwhm, alpha, source_fwhm) - 1.0
            shapes.append(-change / change[offset.size // 2])
            strengths.append(alpha)
            sizes.append(source_fwhm)
            widths.append(fwhm)
    gaussian = np.exp(-0.5 * (offset * SIGMA_TO_FWHM) ** 2)
    shapes += [-gaussian, -1.0 / (1.0 + (2.0 * offset) ** 8)]
    n_dips = len(shapes)
    for asymmetry in FLARE_ASYMMETRIES:
        scale = np.where(offset < 0.0, 2.0 * asymmetry / (1.0 + asymmetry), 2.0 / (1.0 + asymmetry))
        sharp = np.exp2(-2.0 * np.abs(offset) / scale)
        shapes.append(gaussian if asymmetry == 1.0 else sharp)
    blank = [np.nan] * (n_dips - len(strengths))
    return TemplateBank(
        shapes=np.ascontiguousarray(np.array(shapes).T),
        n_dips=n_dips,
        alpha=np.array(strengths + blank),
        source_fwhm=np.array(sizes + blank),
        lens_radii_per_fwhm=np.array(widths + blank),
    )


@lru_cache(maxsize=1)
def gain_table() -> NDArray[np.float64]:
    """Gain of the lens on the grid of ``GRID_*``, shape (n_alpha, n_source_fwhm, n_position)."""
    position = np.linspace(*GRID_POSITION)
    strengths = np.exp(np.linspace(*GRID_LOG_ALPHA))
    return np.array([[lens_gain(position, a, b) for b in np.linspace(*GRID_SOURCE_FWHM)] for a in strengths])


@numba.njit(cache=True)
def interpolated_gain(
    table: NDArray[np.float64], position: NDArray[np.float64], log_alpha: NDArray[np.float64], source_fwhm: float
) -> NDArray[np.float64]:
    """Gain at each position and strength by linear interpolation in ``gain_table``; 1 beyond its last position.

    Parameters
    ----------
    table : array of float, shape (n_alpha, n_source_fwhm, n_position)
        The result of ``gain_table``.
    position, log_alpha : array of float, shape (n,)
        Lens radii and natural logarithm of the strength, one of each per point; clipped to the grid.
    source_fwhm : float
        Lens radii; clipped to the grid.

    Returns
    -------
    array of float, shape (n,)
    """
    gain = np.ones(position.size)
    n_alpha, n_size, n_position = table.shape
    size = min(max((source_fwhm - GRID_SOURCE_FWHM[0]) / (GRID_SOURCE_FWHM[1] - GRID_SOURCE_FWHM[0]), 0.0), 1.0)
    b = min(int(size * (n_size - 1)), n_size - 2)
    fb = size * (n_size - 1) - b
    for i in range(position.size):
        where = abs(position[i]) / GRID_POSITION[1] * (n_position - 1)
        k = int(where)
        if k >= n_position - 1:
            continue
        fk = where - k
        strength = (log_alpha[i] - GRID_LOG_ALPHA[0]) / (GRID_LOG_ALPHA[1] - GRID_LOG_ALPHA[0])
        strength = min(max(strength, 0.0), 1.0) * (n_alpha - 1)
        a = min(int(strength), n_alpha - 2)
        fa = strength - a
        total = 0.0
        for da in range(2):
            for db in range(2):
                weight = (fa if da else 1.0 - fa) * (fb if db else 1.0 - fb)
                total += weight * ((1.0 - fk) * table[a + da, b + db, k] + fk * table[a + da, b + db, k + 1])
        gain[i] = total
    return gain
