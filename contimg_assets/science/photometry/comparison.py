"""Two filters on the same image: the evidence that forced fluxes are not the filter's doing.

What belongs here: GLS against the matched filter. They weigh the pixels differently, so a background that is off,
sources broader than the beam or a wrong beam move them apart (the matched filter doubles a background error, GLS does
not).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.constants import MAD_TO_SIGMA
from contimg_assets.science.images import SkyImage
from contimg_assets.science.photometry.flags import UNRELIABLE
from contimg_assets.science.photometry.forced import PhotometrySettings, measure_forced


@dataclass(frozen=True, slots=True, eq=False)
class MethodComparison:
    """Fluxes by both methods and how far apart they are."""

    table: pl.DataFrame
    """``source_index, gls_flux_jy_beam, matched_flux_jy_beam, difference_sigma``: the difference in units of the
    matched filter's error. Unreliable measurements are left out."""
    median_difference_sigma: float
    """Offset of all sources: a background error shows here."""
    scatter_difference_sigma: float
    """Robust standard deviation; about 0.5 for noise correlated by the beam, less for white noise."""
    n_bright: int
    """Sources with signal-to-noise above the limit."""
    median_ratio: float
    """GLS over matched filter of the bright sources; NaN without any."""


def compare_methods(
    image: SkyImage,
    rms: NDArray[np.float32],
    background: NDArray[np.float32] | None,
    ra_deg: NDArray[np.float64],
    dec_deg: NDArray[np.float64],
    settings: PhotometrySettings | None = None,
    *,
    min_snr: float = 10.0,
) -> MethodComparison:
    """Measure the same positions with both filters.

    Parameters
    ----------
    image, rms, background, ra_deg, dec_deg, settings
        As for ``measure_forced``; the method in the settings is ignored.
    min_snr : float
        Least signal-to-noise (GLS) of the sources whose ratio is taken.
    """
    settings = settings or PhotometrySettings()
    gls = measure_forced(image, rms, background, ra_deg, dec_deg, replace(settings, method="gls"))
    matched = measure_forced(image, rms, background, ra_deg, dec_deg, replace(settings, method="matched_filter"))
    both = pl.DataFrame(
        {
            "source_index": gls["source_index"],
            "gls_flux_jy_beam": gls["peak_flux_jy_beam"],
            "matched_flux_jy_beam": matched["peak_flux_jy_beam"],
            "snr": gls["peak_flux_jy_beam"] / gls["peak_flux_err_jy_beam"],
            "difference_sigma": (gls["peak_flux_jy_beam"] - matched["peak_flux_jy_beam"])
            / matched["peak_flux_err_jy_beam"],
        }
    ).filter((gls["flags"] & UNRELIABLE) == 0)
    difference = both["difference_sigma"].to_numpy()
    bright = both.filter(pl.col("snr") >= min_snr)
    centre = float(np.median(difference)) if difference.size else float("nan")
    scatter = float(MAD_TO_SIGMA * np.median(np.abs(difference - centre))) if difference.size else float("nan")
    ratio = (bright["gls_flux_jy_beam"] / bright["matched_flux_jy_beam"]).to_numpy()
    return MethodComparison(
        table=both.drop("snr"),
        median_difference_sigma=centre,
        scatter_difference_sigma=scatter,
        n_bright=bright.height,
        median_ratio=float(np.median(ratio)) if ratio.size else float("nan"),
    )
