"""What the search for extreme scattering events may be told, with the reason for each default.

What belongs here: numbers an astronomer may want to change. What does not: numbers that follow from a method, which
stand beside that method.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """Limits of the search; the defaults suit daily flux densities at 1.4 GHz."""

    false_alarm_probability_max: float = 1e-3
    """Candidates are kept up to this probability that noise alone gives one, per light curve and after all trials."""

    significance_min: float = float("inf")
    """Dips from this significance on are kept whatever their false-alarm probability: 4 shows what noise may also do."""

    depth_min: float = 0.1
    """Shallowest dip reported, relative to the quiescent flux density; below it flux scales, not plasma, dominate."""

    fractional_error_floor: float = 0.01
    """Added in quadrature to every error, relative to the source's median: formal errors are never the whole truth."""

    width_min_d: float = 2.5
    """Shortest dip searched (FWHM), d; two samples are the limit anyway."""

    width_max_d: float = 180.0
    """Longest dip searched (FWHM), d; half of the light curve is the limit anyway."""

    n_epochs_min: int = 8
    """Light curves with fewer points are not searched."""

    n_points_in_event_min: int = 3
    """Points within the dip's half-maximum; two are enough for light curves of fewer than 15."""

    events_per_source_max: int = 3
    """A source may be lensed again (2005+403: six times); after each find its points are set aside."""

    chromaticity_min: float = 2.0
    """Verdict ``ese`` needs the lens to beat an achromatic dip by this (root of the difference in chi-square)."""
