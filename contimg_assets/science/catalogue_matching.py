"""Two catalogues of the same sky at two frequencies: spectral indices, and who is resolved or confused.

What belongs here: what the pair of catalogues says about each source. Matching positions is in ``crossmatch``; choosing
flux references among the result is in ``flux_references``.

Fluxes of both are at 1.4 GHz, moved there with one assumed index from the frequency of each (as
``contimg_resources.reference_catalogues`` does), so the index between them is the assumed one plus what is left:
alpha = alpha_0 + ln(S_1 / S_2) / ln(nu_1 / nu_2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.crossmatch import match_nearest, neighbours_within
from contimg_assets.science.errors import DataError
from contimg_assets.science.sky_model import TYPICAL_SPECTRAL_INDEX

_RESOLVED_SIGMA = 3.0


@dataclass(frozen=True, slots=True)
class MatchSettings:
    """When two entries are one source, and what disturbs it."""

    radius_arcsec: float = 15.0
    """Farther entries are different sources: a third of the coarser beam."""
    confusion_radius_arcsec: float = 45.0
    """Two entries of the second catalogue this near to one of the first share its beam."""
    confusion_fraction: float = 0.1
    """A second entry fainter than this fraction of the matched one does not matter."""
    resolved_size_arcsec: float = 20.0
    """A larger deconvolved major axis in either catalogue is a resolved source."""
    resolved_excess: float = 0.1
    """So is an integrated flux above the peak by more than this fraction, at three sigma."""


def match_catalogues(
    first: pl.DataFrame,
    second: pl.DataFrame,
    frequency_first_hz: float,
    frequency_second_hz: float,
    settings: MatchSettings | None = None,
    *,
    assumed_index: float = TYPICAL_SPECTRAL_INDEX,
) -> pl.DataFrame:
    """What a second catalogue says about each source of the first.

    Parameters
    ----------
    first, second : polars.DataFrame
        ``ra_deg, dec_deg, flux_jy`` (at 1.4 GHz) and, if known, ``source_id, flux_err_jy, peak_flux_jy_beam,
        major_arcsec``.
    frequency_first_hz, frequency_second_hz : float
        At which the fluxes were measured.
    settings : MatchSettings, optional
    assumed_index : float
        With which the fluxes were moved to 1.4 GHz.

    Returns
    -------
    polars.DataFrame
        Of the height and order of ``first``: ``match_index`` (row of ``second``, null without a match),
        ``separation_arcsec``, ``spectral_index`` and ``spectral_index_err`` (null without a match, positive
        fluxes or, for the latter, errors), ``is_resolved``, ``is_confused``.

    Raises
    ------
    DataError
        When the frequencies are the same, so that there is no index between them.
    """
    settings = settings or MatchSettings()
    if not (frequency_first_hz > 0 and frequency_second_hz > 0 and frequency_first_hz != frequency_second_hz):
        raise DataError(
            "no spectral index between catalogues of one frequency",
            got=f"{frequency_first_hz / 1e6:.1f} MHz and {frequency_second_hz / 1e6:.1f} MHz",
            expected="two frequencies, both positive",
            remedy="Give the frequency at which each catalogue was measured.",
            reason_code="same_frequency",
        )
    ra, dec, other_ra, other_dec = (_floats(t, c) for t in (first, second) for c in ("ra_deg", "dec_deg"))
    index, separation = match_nearest(ra, dec, other_ra, other_dec, settings.radius_arcsec)
    matched = index >= 0
    partner = np.where(matched, index, 0)
    flux, flux_err = _floats(first, "flux_jy"), _floats(first, "flux_err_jy")
    other_flux, other_err = (_of_partner(second, name, partner, matched) for name in ("flux_jy", "flux_err_jy"))
    both = (flux > 0) & (other_flux > 0)
    lever = np.log(frequency_first_hz / frequency_second_hz)
    ratio = np.where(both, flux, 1.0) / np.where(both, other_flux, 1.0)
    alpha = np.where(both, assumed_index + np.log(ratio) / lever, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha_err = np.hypot(flux_err / flux, other_err / other_flux) / abs(lever)
    other_resolved = _is_resolved(second, settings)
    return pl.DataFrame(
        {
            "match_index": pl.Series(index).replace(-1, None),
            "separation_arcsec": pl.Series(np.where(matched, separation, np.nan)).fill_nan(None),
            "spectral_index": pl.Series(alpha).fill_nan(None),
            "spectral_index_err": pl.Series(np.where(both, alpha_err, np.nan)).fill_nan(None),
            "is_resolved": _is_resolved(first, settings)
            | (matched & (other_resolved[partner] if second.height else False)),
            "is_confused": _is_confused((ra, dec), second, partner, matched, settings),
        }
    )


def _is_resolved(table: pl.DataFrame, settings: MatchSettings) -> NDArray[np.bool_]:
    flux, error, peak = (_floats(table, name) for name in ("flux_jy", "flux_err_jy", "peak_flux_jy_beam"))
    needed = settings.resolved_excess * peak + _RESOLVED_SIGMA * np.where(np.isfinite(error), error, 0.0)
    large = _floats(table, "major_arcsec") > settings.resolved_size_arcsec
    return np.asarray(large | (flux - peak > needed), dtype=np.bool_)


def _is_confused(
    position: tuple[NDArray[np.float64], NDArray[np.float64]],
    second: pl.DataFrame,
    partner: NDArray[np.int64],
    matched: NDArray[np.bool_],
    settings: MatchSettings,
) -> NDArray[np.bool_]:
    """Whether an entry of ``second`` other than the partner, and not much fainter, is in the beam of each source."""
    confused = np.zeros(matched.size, dtype=np.bool_)
    flux = _floats(second, "flux_jy")
    others_at = (_floats(second, "ra_deg"), _floats(second, "dec_deg"))
    near = neighbours_within(*position, *others_at, settings.confusion_radius_arcsec)
    for source, entries in enumerate(near):
        if matched[source]:
            others = flux[[entry for entry in entries if entry != partner[source]]]
            confused[source] = bool(np.any(~(others < settings.confusion_fraction * flux[partner[source]])))
        else:
            confused[source] = len(entries) > 1
    return confused


def _of_partner(
    second: pl.DataFrame, name: str, partner: NDArray[np.int64], matched: NDArray[np.bool_]
) -> NDArray[np.float64]:
    values = _floats(second, name)
    return np.where(matched, values[partner], np.nan) if values.size else np.full(matched.size, np.nan)


def _floats(table: pl.DataFrame, column: str) -> NDArray[np.float64]:
    """A column as floats, NaN where it is null or missing."""
    if column not in table.columns:
        return np.full(table.height, np.nan)
    return table[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
