"""Whether a table of light curves that somebody else made can be meant as it stands.

What belongs here: contradictions that no statistic would notice and every statistic would suffer from. What does not:
single points that cannot be used, which are left out and counted (``ese.series.usable_rows``), and our own light
curves, which the checks of their asset judge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from contimg_assets.science.errors import DataError
from contimg_assets.science.ese.series import usable_rows

_GAP = 300.0
"""Neighbouring flux densities of one source, both detected, that differ by more are in two units (1000 apart): no source
that is seen throughout jumps by so much, and the quiet time of one that does is not detected."""

_DETECTED = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class CheckedTable:
    """A table of light curves, and what was odd about it."""

    rows: pl.DataFrame
    """Rows that say the same are there once."""

    n_repeated: int
    """Rows left out because another says the same."""

    n_simultaneous: int
    """Usable points that share source, band and time with another but not the flux density; each counts as a point."""


def checked_table(light_curve: pl.DataFrame) -> CheckedTable:
    """Look for repeated rows, points of one time, and two units.

    Parameters
    ----------
    light_curve : polars.DataFrame
        ``source_id``, ``mjd``, ``flux_jy``, ``flux_err_jy``; optional ``band``, ``frequency_hz``, ``flux_sys_err_jy``.

    Raises
    ------
    DataError
        If a source has flux densities in two units (reason code ``mixed_units``).
    """
    once = light_curve.unique(maintain_order=True)
    usable = usable_rows(once, np.inf)
    _refuse_two_units(usable)
    n_simultaneous = usable.filter(pl.struct("source_id", "band", "mjd").is_duplicated()).height
    return CheckedTable(once, light_curve.height - once.height, n_simultaneous)


def _refuse_two_units(usable: pl.DataFrame) -> None:
    detected = usable.filter(pl.col("flux_jy") > _DETECTED * pl.col("flux_err_jy")).sort("source_id", "band", "flux_jy")
    step = pl.col("flux_jy") / pl.col("flux_jy").shift(1).over("source_id", "band")
    jumps = detected.with_columns(step=step).filter(pl.col("step") > _GAP)
    if jumps.height:
        source_id, band, flux, factor = jumps.select("source_id", "band", "flux_jy", "step").row(0)
        raise DataError(
            f"Flux densities of source {source_id} in band {band} are in two units",
            got=f"{flux / factor:g} and, next to it, {flux:g}, both detected",
            expected="all flux densities and errors in Jy",
            remedy="Convert the rows in mJy: divide flux and error by 1000.",
            reason_code="mixed_units",
        )
