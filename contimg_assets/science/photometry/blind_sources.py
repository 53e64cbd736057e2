"""Sources outside the catalogue over time: which detections are one source, and whether it is steady.

What belongs here: identity and kind. Detections come from ``blind`` and ``blind_association``, fluxes of the sources they
make from forced photometry.

Identity. Detections are taken in order of time and declination, whatever order they were made in. One that lies within
the errors of a source already there, or within a quarter of a beam, is that source; one of kind ``new`` that does not
founds a source, named after its own position. The same detections thus give the same sources. The name is never changed
by later detections, the position becomes the mean weighted by inverse variance. Artefacts and what lies near catalogue
sources may be detections of a source, but found none.

Kind. Forced fluxes of the full band, whatever the epoch was, decide: steady ones make a ``new`` source (the catalogue is old or not
deep enough), others a ``variable`` one if it was seen at every epoch or a ``transient`` if, at some epoch where its
highest flux would have been significant, it was not there. A name of a class, not an explanation.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import chi2

from contimg_assets.science.coordinates import separation_deg
from contimg_assets.science.photometry.blind_association import NEW

TRANSIENT = "transient"
VARIABLE = "variable"

_N_SIGMA = 5.0
_FLOOR_ARCSEC = 1.0
_SAME_BEAMS = 0.25
_CHANCE = 1e-4
"""Largest probability that a constant source looks like it, for a source to be called variable or transient."""
_SYSTEMATIC = 0.05
"""Relative error of single fluxes beside the statistical one: primary beam and flux scale."""
_DETECTED_SNR = 5.0
_ABSENT_SNR = 3.0

SOURCE_COLUMNS = {
    "source_id": pl.String,
    "ra_deg": pl.Float64,
    "dec_deg": pl.Float64,
    "ra_err_arcsec": pl.Float64,
    "dec_err_arcsec": pl.Float64,
    "n_detections": pl.Int32,
    "max_snr": pl.Float64,
    "first_mjd": pl.Float64,
    "last_mjd": pl.Float64,
}
"""Columns of ``blind_sources``."""

KIND_COLUMNS = {
    "source_id": pl.String,
    "kind": pl.String,
    "n_epochs": pl.Int32,
    "weighted_mean_flux_jy": pl.Float64,
    "weighted_mean_flux_err_jy": pl.Float64,
    "eta": pl.Float64,
    "chi2_p_value": pl.Float64,
}
"""Columns of ``source_kinds``."""


def identify(detections: pl.DataFrame) -> pl.DataFrame:
    """Give every detection the source it belongs to.

    Parameters
    ----------
    detections : polars.DataFrame
        ``detection_id`` (unique), ``mjd``, ``ra_deg``, ``dec_deg``, ``ra_err_arcsec``, ``dec_err_arcsec``,
        ``beam_major_arcsec``, ``snr``, ``kind``; all images together, in any order.

    Returns
    -------
    polars.DataFrame
        The rows in order of time with ``source_id``, null where a detection belongs to no source.
    """
    ordered = detections.sort("mjd", "dec_deg", "ra_deg", "detection_id")
    ra, dec, ra_err, dec_err, beam = (
        ordered[name].to_numpy()
        for name in ("ra_deg", "dec_deg", "ra_err_arcsec", "dec_err_arcsec", "beam_major_arcsec")
    )
    error = np.hypot(np.maximum(ra_err, dec_err), _FLOOR_ARCSEC)
    may_found = (ordered["kind"] == NEW).to_numpy()
    founders: list[int] = []
    names: list[str | None] = []
    for row in range(ordered.height):
        known = np.array(founders, dtype=np.int64)
        apart = 3600.0 * separation_deg(ra[row], dec[row], ra[known], dec[known])
        radius = np.maximum(_N_SIGMA * np.hypot(error[row], error[known]), _SAME_BEAMS * beam[known])
        if known.size and np.min(apart / radius) <= 1.0:
            names.append(_name(*_at(ra, dec, founders[int(np.argmin(apart / radius))])))
        elif may_found[row]:
            founders.append(row)
            names.append(_name(*_at(ra, dec, row)))
        else:
            names.append(None)
    return ordered.with_columns(source_id=pl.Series(names, dtype=pl.String))


def _at(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], row: int) -> tuple[float, float]:
    return float(ra_deg[row]), float(dec_deg[row])


def _name(ra_deg: float, dec_deg: float) -> str:
    """Name of a position, to 0.04 arcsec: nearer than any beam this telescope has."""
    return f"blind_{ra_deg:09.5f}{dec_deg:+09.5f}"


def blind_sources(identified: pl.DataFrame) -> pl.DataFrame:
    """One row per source from its detections.

    Parameters
    ----------
    identified : polars.DataFrame
        As ``identify`` returns it.

    Returns
    -------
    polars.DataFrame
        ``SOURCE_COLUMNS``, sorted by source. Right ascensions are averaged as offsets from the first.
    """
    turn = (pl.col("ra_deg") - pl.col("ra_deg").first().over("source_id") + 180.0) % 360.0 - 180.0
    weight_ra, weight_dec = pl.col("ra_err_arcsec") ** -2, pl.col("dec_err_arcsec") ** -2
    grouped = (
        identified.filter(pl.col("source_id").is_not_null())
        .with_columns(turn=turn)
        .group_by("source_id", maintain_order=True)
        .agg(
            ra_deg=(pl.col("ra_deg").first() + (pl.col("turn") * weight_ra).sum() / weight_ra.sum()) % 360.0,
            dec_deg=(pl.col("dec_deg") * weight_dec).sum() / weight_dec.sum(),
            ra_err_arcsec=1.0 / weight_ra.sum().sqrt(),
            dec_err_arcsec=1.0 / weight_dec.sum().sqrt(),
            n_detections=pl.len(),
            max_snr=pl.col("snr").max(),
            first_mjd=pl.col("mjd").min(),
            last_mjd=pl.col("mjd").max(),
        )
    )
    return grouped.select(pl.col(name).cast(kind) for name, kind in SOURCE_COLUMNS.items()).sort("source_id")


def source_kinds(fluxes: pl.DataFrame) -> pl.DataFrame:
    """Kind of each source from its forced fluxes.

    Parameters
    ----------
    fluxes : polars.DataFrame
        ``source_id``, ``flux_jy``, ``flux_err_jy`` of one band, one row per epoch, non-detections included; rows
        without a flux or a positive error are left out.

    Returns
    -------
    polars.DataFrame
        ``KIND_COLUMNS``, sorted by source: ``eta`` is the weighted reduced chi-square about the weighted mean with 5 %
        added to the errors; NULL with one epoch, where the kind is ``new``.
    """
    flux, error = pl.col("flux_jy"), pl.col("flux_err_jy")
    usable = fluxes.filter(flux.is_finite(), error.is_finite(), error > 0).with_columns(
        total=(error**2 + (_SYSTEMATIC * flux) ** 2).sqrt()
    )
    weight = pl.col("total") ** -2
    mean = (weight * flux).sum() / weight.sum()
    # An epoch says that a source is absent only if the source at its best would have been seen in it.
    absent = (flux < _ABSENT_SNR * error) & (flux.max().over("source_id") >= _DETECTED_SNR * error)
    table = (
        usable.with_columns(absent=absent)
        .group_by("source_id")
        .agg(
            n_epochs=pl.len(),
            weighted_mean_flux_jy=mean,
            weighted_mean_flux_err_jy=1.0 / weight.sum().sqrt(),
            chi2=(weight * (flux - mean) ** 2).sum(),
            was_absent=pl.col("absent").any(),
        )
        .sort("source_id")
    )
    n_free = table["n_epochs"].to_numpy().astype(np.float64) - 1.0
    several = pl.Series(n_free > 0, dtype=pl.Boolean)
    chance = pl.Series(chi2.sf(table["chi2"].to_numpy(), np.maximum(n_free, 1.0)), dtype=pl.Float64)
    changes = several & (chance < _CHANCE)
    return table.with_columns(
        kind=pl.when(changes & pl.col("was_absent"))
        .then(pl.lit(TRANSIENT))
        .when(changes)
        .then(pl.lit(VARIABLE))
        .otherwise(pl.lit(NEW)),
        eta=pl.when(several).then(pl.col("chi2") / pl.Series(np.maximum(n_free, 1.0))),
        chi2_p_value=pl.when(several).then(chance),
    ).select(pl.col(name).cast(kind) for name, kind in KIND_COLUMNS.items())
