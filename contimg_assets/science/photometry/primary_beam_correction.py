"""From apparent to true fluxes: dividing measurements by the primary beam.

What belongs here: the correction of a table, and reading a primary beam map at the measured positions. The beam
itself is ``science.primary_beam``. Measuring comes first, correcting after: the noise of an uncorrected image is
flat, and the corrected map would amplify it inside every stamp.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray


def primary_beam_at(
    primary_beam: NDArray[np.float32], x_pixel: NDArray[np.float64], y_pixel: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Primary beam power at pixel positions inside the map, bilinear, shape (n,); NaN next to blank pixels."""
    n_y, n_x = primary_beam.shape
    x, y = np.clip(x_pixel, 0, n_x - 1), np.clip(y_pixel, 0, n_y - 1)
    x0 = np.minimum(x.astype(np.int64), max(n_x - 2, 0))
    y0 = np.minimum(y.astype(np.int64), max(n_y - 2, 0))
    x1, y1 = np.minimum(x0 + 1, n_x - 1), np.minimum(y0 + 1, n_y - 1)
    f_x, f_y = x - x0, y - y0
    low = primary_beam[y0, x0] * (1 - f_x) + primary_beam[y0, x1] * f_x
    high = primary_beam[y1, x0] * (1 - f_x) + primary_beam[y1, x1] * f_x
    return np.asarray(low * (1 - f_y) + high * f_y, dtype=np.float64)


def correct_for_primary_beam(frame: pl.DataFrame, primary_beam_values: NDArray[np.float64]) -> pl.DataFrame:
    """Divide peak fluxes and their errors by the primary beam.

    Parameters
    ----------
    frame : polars.DataFrame
        As made by ``measure_forced``, apparent.
    primary_beam_values : array of float, shape (frame.height,)
        Power response, 1 at the pointing centre. Where it is not positive, flux and error become NaN.

    Returns
    -------
    polars.DataFrame
        With column ``primary_beam`` added. ``local_rms_jy_beam`` and ``background_jy_beam`` stay apparent.
    """
    values = np.asarray(primary_beam_values, dtype=np.float64)
    power = pl.Series("primary_beam", np.where(values > 0, values, np.nan))
    return frame.with_columns(
        power,
        pl.col("peak_flux_jy_beam", "peak_flux_err_jy_beam") / power,
    )
