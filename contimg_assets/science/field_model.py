"""The catalogue sky that one observation sees: what its gains are solved against and where CLEAN may look.

What belongs here: choosing and merging components for a field. Spectra and prediction are ``sky_model``. Calibrators have
their own spectra, never the catalogue's, whose few per cent of error would move the flux scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from contimg_assets.science.coordinates import separation_deg
from contimg_assets.science.errors import NotEnoughDataError
from contimg_assets.science.flux_calibrators import CALIBRATORS, FluxCalibrator
from contimg_assets.science.sky_model import SkyModel, calibrator, component_list, merge

_SAME_SOURCE_DEG = 30.0 / 3600.0
"""A catalogue entry this near to a calibrator is that calibrator, deg."""


def calibrators_in_view(
    ra_deg: float, dec_deg: float, radius_deg: float, calibrators: Sequence[FluxCalibrator]
) -> list[tuple[FluxCalibrator, float]]:
    """Those of the calibrators within a radius, with their separation in deg, nearest first.

    Parameters
    ----------
    ra_deg, dec_deg : float
        ICRS direction, deg.
    radius_deg : float
    calibrators : sequence of FluxCalibrator
    """
    found = [(source, float(separation_deg(ra_deg, dec_deg, source.ra_deg, source.dec_deg))) for source in calibrators]
    return sorted(((source, apart) for source, apart in found if apart <= radius_deg), key=lambda item: item[1])


def field_sky_model(
    catalogue: pl.DataFrame,
    ra_deg: float,
    dec_deg: float,
    radius_deg: float,
    calibrators: Sequence[FluxCalibrator] = CALIBRATORS,
) -> SkyModel:
    """Sky model of a field: catalogue sources within a radius, calibrators by their own models.

    Parameters
    ----------
    catalogue : polars.DataFrame
        Columns ``ra_deg``, ``dec_deg``, ``flux_jy`` (1.4 GHz) and optionally ``spectral_index``. Sources of unknown flux
        density are left out.
    ra_deg, dec_deg : float
        ICRS centre of the field, deg.
    radius_deg : float
    calibrators : sequence of FluxCalibrator
        The primary ones, and those the observatory lists itself.

    Raises
    ------
    NotEnoughDataError
        If neither a catalogue source nor a calibrator lies within the radius.
    """
    in_view = calibrators_in_view(ra_deg, dec_deg, radius_deg, calibrators)
    calibrator_models = [calibrator(source) for source, _ in in_view]
    near = catalogue.filter(
        pl.Series(
            separation_deg(ra_deg, dec_deg, catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy())
            <= radius_deg
        )
    ).filter(pl.col("flux_jy").is_finite())
    for model in calibrator_models:
        apart = separation_deg(
            float(model.ra_deg[0]), float(model.dec_deg[0]), near["ra_deg"].to_numpy(), near["dec_deg"].to_numpy()
        )
        near = near.filter(pl.Series(np.asarray(apart) > _SAME_SOURCE_DEG))
    models = calibrator_models + ([component_list(near)] if near.height else [])
    if not models:
        raise NotEnoughDataError(
            f"no sky model for the field at {ra_deg:.3f} {dec_deg:+.3f} deg",
            got=f"0 of {catalogue.height} catalogue sources within {radius_deg:g} deg",
            expected="at least one source",
            remedy="Check that CONTIMG_CATALOGUE covers the declination of the observations.",
            reason_code="empty_sky_model",
        )
    return merge(models)
