"""Which detections a catalogue knows: association within what both positions allow.

What belongs here: one image's detections against a catalogue, and what the others are called. Finding them is ``blind``;
following them from image to image is ``blind_sources``.

Method. A detection and a catalogue source are the same if they are closer than::

    r^2 = (n_sigma)^2 (s_det^2 + s_cat^2) + (major / 2)^2

s_det the larger error of the fitted position, s_cat the catalogue's: a floor and half its resolution over its
signal-to-noise (Condon 1997 has 1/sqrt(8 ln 2), surveys do somewhat worse), and major the size of a resolved source,
whose peak may lie anywhere in it. At n_sigma = 5 four true pairs in a million are missed. What is outside r but within
one beam of a catalogue source cannot be told from a part of it and is not called new.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.coordinates import separation_deg
from contimg_assets.science.crossmatch import match_nearest, neighbours_within
from contimg_assets.science.images import SkyImage
from contimg_assets.science.photometry.pixel_grid import pixel_positions

CATALOGUED = "catalogued"
"""The catalogue knows it."""
NEAR_CATALOGUED = "near_catalogued"
"""Within a beam of a catalogue source, but not where it is: a part of it, a blend, or what calibration left of it."""
ARTEFACT = "artefact"
"""A negative peak of comparable height is near."""
NEW = "new"
"""None of these: a source outside the catalogue."""


@dataclass(frozen=True, slots=True)
class AssociationSettings:
    """How near is near enough."""

    n_sigma: float = 5.0
    """Combined position errors within which two positions are the same."""
    floor_arcsec: float = 1.0
    """Error of the brightest catalogue source, and of the astrometry of the image."""
    catalogue_resolution_arcsec: float = 45.0
    """Beam of the survey behind the catalogue; the default is NVSS's, generous for sharper ones."""
    unknown_snr: float = 5.0
    """Signal-to-noise of catalogue sources without a flux error."""


def associate(
    detections: pl.DataFrame, image: SkyImage, catalogue: pl.DataFrame, settings: AssociationSettings | None = None
) -> pl.DataFrame:
    """Say of every detection whether the catalogue knows it.

    Parameters
    ----------
    detections : polars.DataFrame
        ``blind.COLUMNS``.
    image : SkyImage
        The image they were found in.
    catalogue : polars.DataFrame
        ``source_id``, ``ra_deg``, ``dec_deg`` and, where known, ``flux_jy``, ``flux_err_jy``, ``major_arcsec``.
    settings : AssociationSettings, optional

    Returns
    -------
    polars.DataFrame
        The detections with ``kind`` (one of the four above), ``catalogue_source_id`` (the nearest within the radius, or for
        ``near_catalogued`` the nearest at all; null otherwise) and ``separation_arcsec`` to it.
    """
    settings = settings or AssociationSettings()
    on_image, _, _ = pixel_positions(image, catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy())
    near = catalogue[on_image]
    index, separation = _match(detections, near, settings)
    known = index >= 0
    ra, dec = detections["ra_deg"].to_numpy(), detections["dec_deg"].to_numpy()
    beside, apart = match_nearest(
        ra, dec, near["ra_deg"].to_numpy(), near["dec_deg"].to_numpy(), image.beam_major_arcsec
    )
    partner = np.where(known, index, beside)
    separation = np.where(known, separation, apart)
    return detections.with_columns(
        kind=pl.when(pl.Series(known, dtype=pl.Boolean))
        .then(pl.lit(CATALOGUED))
        .when("is_artefact")
        .then(pl.lit(ARTEFACT))
        .when(pl.Series(beside >= 0, dtype=pl.Boolean))
        .then(pl.lit(NEAR_CATALOGUED))
        .otherwise(pl.lit(NEW)),
        catalogue_source_id=near["source_id"].gather(pl.Series(partner).replace(-1, None))
        if near.height
        else pl.lit(None, dtype=pl.String),
        separation_arcsec=pl.Series(np.where(partner >= 0, separation, np.nan), dtype=pl.Float64).fill_nan(None),
    )


def catalogue_position_errors_arcsec(catalogue: pl.DataFrame, settings: AssociationSettings) -> NDArray[np.float64]:
    """Error of each catalogue position per coordinate, from the signal-to-noise of its flux density, shape (n,)."""
    snr = _floats(catalogue, "flux_jy") / _floats(catalogue, "flux_err_jy")
    snr = np.where(np.isfinite(snr) & (snr > 0), snr, settings.unknown_snr)
    return np.hypot(settings.floor_arcsec, 0.5 * settings.catalogue_resolution_arcsec / snr)


def _match(
    detections: pl.DataFrame, catalogue: pl.DataFrame, settings: AssociationSettings
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Row of the catalogue nearest in units of its radius, -1 outside it, and the separation in arcsec."""
    index, separation = np.full(detections.height, -1, dtype=np.int64), np.full(detections.height, np.inf)
    if detections.is_empty() or catalogue.is_empty():
        return index, separation
    own = detections.select(pl.max_horizontal("ra_err_arcsec", "dec_err_arcsec")).to_series().to_numpy()
    theirs = catalogue_position_errors_arcsec(catalogue, settings)
    size = np.nan_to_num(_floats(catalogue, "major_arcsec"))
    ra, dec = detections["ra_deg"].to_numpy(), detections["dec_deg"].to_numpy()
    others_ra, others_dec = catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy()
    widest = np.hypot(settings.n_sigma * np.hypot(own.max(), theirs.max()), 0.5 * size.max())
    for row, entries in enumerate(neighbours_within(ra, dec, others_ra, others_dec, float(widest))):
        near = np.sort(np.asarray(entries, dtype=np.int64))
        if near.size:
            apart = 3600.0 * separation_deg(ra[row], dec[row], others_ra[near], others_dec[near])
            radius = np.hypot(settings.n_sigma * np.hypot(own[row], theirs[near]), 0.5 * size[near])
            best = int(np.argmin(apart / radius))
            if apart[best] <= radius[best]:
                index[row], separation[row] = near[best], apart[best]
    return index, separation


def _floats(table: pl.DataFrame, column: str) -> NDArray[np.float64]:
    """A column as floats, NaN where it is null or missing."""
    if column not in table.columns:
        return np.full(table.height, np.nan)
    return table[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
