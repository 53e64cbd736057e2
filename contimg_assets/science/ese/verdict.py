"""What a significant dip is: an extreme scattering event, an achromatic dip, scintillation, or our own systematics.

What belongs here: the rules. What does not: the measurements they rest on.

In this order: a dip that the other sources show too, that comes back every year, that is one of many glitches, or
that how its points were observed explains (tile edge, antennas, calibration: ``conditions``) is ours
(``systematic``); a dip that is one of many, or barely stands out of the red noise beside it, is ``scintillation``; a
dip that grows with wavelength as plasma's does is an ``ese``; one that does not is ``achromatic`` (a U shape alone
proves nothing: Vedantham et al. 2017, ApJ 845, 89, J1415+1320). Without the bands to tell, there is no verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import MAD_TO_SIGMA
from contimg_assets.science.ese.chromaticity import ChromaticFit
from contimg_assets.science.ese.conditions import ConditionFit
from contimg_assets.science.ese.detect import Dip
from contimg_assets.science.ese.series import Series
from contimg_assets.science.ese.settings import SearchSettings

COMMON_MODE_FRACTION = 0.4
"""A dip is ours when the median of the other sources shows at least this part of it, significantly."""

_NEIGHBOURS_MIN = 5
_RED_NOISE_MARGIN = 3.0
"""A dip shallower than this many times the rms of the red noise is one of its excursions."""

_LOW_ELSEWHERE_MIN = 3
_YEAR_D = 365.25
_YEAR_TOLERANCE_D = 6.0


def common_mode_depth(others: list[Series], dip: Dip) -> tuple[float, float]:
    """Median depth of all other sources during the dip, and its standard error; NaN with fewer than five of them.

    Parameters
    ----------
    others : list of Series
        The searched series of the other sources.
    dip : Dip
        The event.
    """
    depths = [_depth_during(series, dip) for series in others]
    known = np.array([d for d in depths if np.isfinite(d)])
    if known.size < _NEIGHBOURS_MIN:
        return float("nan"), float("nan")
    middle = float(np.median(known))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(known - middle)))
    return middle, 1.25 * spread / float(np.sqrt(known.size))


def _depth_during(series: Series, dip: Dip) -> float:
    """Weighted mean loss within the half-maximum relative to the points outside, for one source."""
    core = np.abs(series.time_mjd - dip.peak_mjd) <= 0.5 * dip.fwhm_d
    outside = np.abs(series.time_mjd - dip.peak_mjd) > dip.fwhm_d
    if core.sum() < 2 or outside.sum() < 2:
        return float("nan")

    def mean(chosen: NDArray[np.bool_]) -> float:
        return float(np.average(series.value[chosen], weights=series.error[chosen] ** -2.0))

    return 1.0 - mean(core) / mean(outside)


def recurs_yearly(dip: Dip, others: list[Dip]) -> bool:
    """Whether another dip of the source lies whole years away: the Sun and the weather come back, clouds do not."""
    for other in others:
        apart = abs(other.peak_mjd - dip.peak_mjd)
        years = round(apart / _YEAR_D)
        if years >= 1 and abs(apart - years * _YEAR_D) < _YEAR_TOLERANCE_D + 0.5 * dip.fwhm_d:
            return True
    return False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known about a dip besides its own points."""

    common_mode_depth: float
    """Median depth of the other sources at the same time; NaN if there are too few."""

    common_mode_depth_err: float
    recurs_yearly: bool
    n_low_elsewhere: int
    """Points of the same source below the half-depth at other times, glitches included, other candidates excluded."""

    n_glitches_elsewhere: int
    """Those of them that are isolated glitches."""

    condition: ConditionFit | None = None
    """The condition of observing that explains the light curve best, if any is known and changes."""


def low_points_elsewhere(raw: Series, clean: Series, dips: list[Dip], dip: Dip) -> tuple[int, int]:
    """Points below the half-depth outside all candidates, and how many of them were left out as glitches."""
    half_depth = dip.level * (1.0 - 0.5 * dip.depth)
    elsewhere = raw.value < half_depth
    for other in dips:
        elsewhere &= np.abs(raw.time_mjd - other.peak_mjd) > 1.5 * other.fwhm_d
    low = raw.time_mjd[elsewhere]
    return int(low.size), int(np.sum(~np.isin(low, clean.time_mjd)))


def systematic_cause(dip: Dip, around: Surroundings) -> str | None:
    """What of ours made a dip: ``other_sources``, ``yearly``, ``glitches``, or the name of a condition; None if nothing did."""
    common, common_err = around.common_mode_depth, around.common_mode_depth_err
    if np.isfinite(common) and common > COMMON_MODE_FRACTION * dip.depth and common > 3.0 * common_err:
        return "other_sources"
    if around.recurs_yearly:
        return "yearly"
    if _is_one_of_many(dip, around) and 2 * around.n_glitches_elsewhere >= around.n_low_elsewhere:
        return "glitches"
    return around.condition.condition if around.condition and around.condition.is_cause else None


def _is_one_of_many(dip: Dip, around: Surroundings) -> bool:
    return around.n_low_elsewhere >= max(dip.n_core, _LOW_ELSEWHERE_MIN)


def judge(dip: Dip, fit: ChromaticFit | None, around: Surroundings, settings: SearchSettings) -> str | None:
    """Name a dip.

    Parameters
    ----------
    dip : Dip
        The event.
    fit : ChromaticFit or None
        Comparison of the bands, if there are any.
    around : Surroundings
        The other sources, the other times and how the points were observed.
    settings : SearchSettings
        ``chromaticity_min`` applies, to both sides.

    Returns
    -------
    str or None
        ``systematic``, ``scintillation``, ``ese``, ``achromatic``, or None where the bands do not decide.
    """
    if systematic_cause(dip, around):
        return "systematic"
    if _is_one_of_many(dip, around) or dip.depth < _RED_NOISE_MARGIN * dip.red_rms:
        return "scintillation"
    if fit is None or abs(fit.chromaticity) < settings.chromaticity_min:
        return None
    return "ese" if fit.chromaticity > 0.0 else "achromatic"
