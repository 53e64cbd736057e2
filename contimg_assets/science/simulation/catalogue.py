"""What people know of the simulated sky: the truth tables, and the survey catalogue an astronomer would have.

What belongs here: tables made from sources and their changes. The sky itself is ``sky`` and ``variability``.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from contimg_assets.science.simulation.sky import Source
from contimg_assets.science.simulation.variability import Variability

_FLUX_ERROR_FLOOR_JY = 0.5e-3
"""Noise of the imaginary survey, Jy."""

_SPECTRAL_INDEX_ERROR = 0.05


def truth_sources(sky: tuple[tuple[Source, Variability], ...]) -> pl.DataFrame:
    """Every source as it is when quiescent, one row each.

    Returns
    -------
    polars.DataFrame
        ``source_id, ra_deg, dec_deg, flux_jy`` (at 1.4 GHz)``, spectral_index, kind``.
    """
    kinds = [change.event() for _, change in sky]
    return pl.DataFrame(
        {
            "source_id": [source.source_id for source, _ in sky],
            "ra_deg": [source.ra_deg for source, _ in sky],
            "dec_deg": [source.dec_deg for source, _ in sky],
            "flux_jy": [source.flux_jy for source, _ in sky],
            "spectral_index": [source.spectral_index for source, _ in sky],
            "kind": ["constant" if event is None else event.kind for event in kinds],
        },
        schema_overrides={"source_id": pl.String, "kind": pl.String},
    )


def truth_events(sky: tuple[tuple[Source, Variability], ...]) -> pl.DataFrame:
    """Everything that happens, one row per variable source.

    Returns
    -------
    polars.DataFrame
        ``source_id, kind, start_mjd, end_mjd, peak_mjd, depth, width_d, lens_alpha``; see ``variability.Event``.
    """
    events = [(source.source_id, event) for source, change in sky if (event := change.event()) is not None]
    numbers = ("start_mjd", "end_mjd", "peak_mjd", "depth", "width_d", "lens_alpha")
    return pl.DataFrame(
        {"source_id": [name for name, _ in events], "kind": [event.kind for _, event in events]}
        | {number: [float(getattr(event, number)) for _, event in events] for number in numbers},
        schema={"source_id": pl.String, "kind": pl.String} | dict.fromkeys(numbers, pl.Float64),
    )


def survey_catalogue(
    sky: tuple[tuple[Source, Variability], ...],
    rng: np.random.Generator,
    *,
    flux_error: float,
    position_error_arcsec: float,
    flux_min_jy: float,
) -> pl.DataFrame:
    """Catalogue of an earlier survey: quiescent flux densities and positions with errors, faint sources missing.

    Parameters
    ----------
    sky : tuple of (Source, Variability)
    rng : numpy.random.Generator
    flux_error : float
        Relative error of the flux densities, added in quadrature to 0.5 mJy.
    position_error_arcsec : float
        Error per coordinate.
    flux_min_jy : float
        Sources fainter than this are not listed.

    Returns
    -------
    polars.DataFrame
        ``source_id, ra_deg, dec_deg, flux_jy, flux_err_jy, spectral_index, major_arcsec`` (0 for a point).
    """
    flux_jy = np.array([source.flux_jy for source, _ in sky])
    dec_deg = np.array([source.dec_deg for source, _ in sky])
    error_jy = np.hypot(flux_error * flux_jy, _FLUX_ERROR_FLOOR_JY)
    kicks = rng.standard_normal((4, len(sky)))
    offset_deg = position_error_arcsec / 3600.0 * kicks[:2]
    frame = pl.DataFrame(
        {
            "source_id": [source.source_id for source, _ in sky],
            "ra_deg": (np.array([s.ra_deg for s, _ in sky]) + offset_deg[0] / np.cos(np.deg2rad(dec_deg))) % 360.0,
            "dec_deg": dec_deg + offset_deg[1],
            "flux_jy": np.maximum(flux_jy + error_jy * kicks[2], 0.1 * flux_jy),
            "flux_err_jy": error_jy,
            "spectral_index": np.array([s.spectral_index for s, _ in sky]) + _SPECTRAL_INDEX_ERROR * kicks[3],
            "major_arcsec": np.zeros(len(sky)),
        },
        schema_overrides={"source_id": pl.String},
    )
    return frame.filter(flux_jy >= flux_min_jy)
