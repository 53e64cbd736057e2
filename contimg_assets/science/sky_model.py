"""A sky of point sources: their spectra, their brightness through the drifting primary beam, their visibilities.

What belongs here: component lists and the prediction of model visibilities. What does not: calibrators' numbers
(``flux_calibrators``), solving for gains (``calibration``) and images.

Method: direct Fourier sum (``direct_sum``) with the sign of ``visibilities``,
``V(row, nu) = sum_k S_k(nu) A_k(t, nu) exp(2 pi i nu/c (u l_k + v m_k + w (n_k - 1)))``. Smearing within a channel and
an integration is left out. Rejected: degridding a model image (ducc0 ``dirty2vis``), which is faster only beyond some
hundred sources, needs an image covering all of them, and turns positions into an approximation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.coordinates import direction_cosines, separation_deg
from contimg_assets.science.direct_sum import add_point_sources
from contimg_assets.science.errors import DataError, NotEnoughDataError
from contimg_assets.science.flux_calibrators import FluxCalibrator
from contimg_assets.science.primary_beam import airy_power
from contimg_assets.science.threads import in_threads
from contimg_assets.science.visibilities import Visibilities

REFERENCE_FREQUENCY_HZ = 1.4e9
"""Frequency at which catalogues state flux densities, Hz."""
_LEAST_POWER = 0.02
"""What the beam must leave of at least one source: side lobes of a circular dish stay below 0.0175, and in them the shape of
the beam is not known."""
TYPICAL_SPECTRAL_INDEX = -0.7
"""Spectral index (S ~ nu^alpha) of a source whose own is unknown: the median of 1.4 GHz sources."""


@dataclass(frozen=True, slots=True, eq=False)
class SkyModel:
    """Unpolarised point sources: log10(S / flux) = alpha x + sum_k curvature_k x^(k+2), x = log10(nu / reference)."""

    ra_deg: NDArray[np.float64]
    """ICRS, shape (n_source,)."""
    dec_deg: NDArray[np.float64]
    flux_jy: NDArray[np.float64]
    """Stokes I at the reference frequency, not attenuated by any beam, shape (n_source,)."""
    spectral_index: NDArray[np.float64]
    """alpha of S ~ nu^alpha at the reference frequency, shape (n_source,)."""
    curvature: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    """Higher coefficients, shape (n_source, n_curvature); empty for pure power laws."""
    reference_frequency_hz: float = REFERENCE_FREQUENCY_HZ

    def __post_init__(self) -> None:
        if self.curvature.size == 0:
            object.__setattr__(self, "curvature", np.zeros((len(self.ra_deg), 0)))
        columns = (self.ra_deg, self.dec_deg, self.flux_jy, self.spectral_index, self.curvature)
        lengths = {len(column) for column in columns}
        numbers = np.concatenate([column.ravel() for column in columns])
        if len(lengths) != 1 or not np.all(np.isfinite(numbers)):
            raise DataError(
                "sky model with columns of different length or numbers that are not finite",
                got=f"lengths {sorted(lengths)}, {int(np.sum(~np.isfinite(numbers)))} bad numbers",
                expected="finite ra_deg, dec_deg, flux_jy and spectral_index for every source",
                remedy="Correct the component list.",
                reason_code="bad_sky_model",
            )

    @property
    def n_sources(self) -> int:
        """Number of components."""
        return len(self.flux_jy)

    def flux_jy_at(self, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Flux densities, shape (n_source, n_chan), Jy."""
        x = np.log10(np.atleast_1d(frequency_hz) / self.reference_frequency_hz)
        exponent = self.spectral_index[:, None] * x
        for k in range(self.curvature.shape[1]):
            exponent = exponent + self.curvature[:, k, None] * x ** (k + 2)
        return np.asarray(self.flux_jy[:, None] * 10.0**exponent, dtype=np.float64)

    def select(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> SkyModel:
        """Return the model of some of the sources (mask or indices)."""
        return replace(
            self,
            ra_deg=self.ra_deg[kept],
            dec_deg=self.dec_deg[kept],
            flux_jy=self.flux_jy[kept],
            spectral_index=self.spectral_index[kept],
            curvature=self.curvature[kept],
        )


def calibrator(source: FluxCalibrator) -> SkyModel:
    """Model of a calibrator, exact at every frequency; see ``flux_calibrators``."""
    # The published polynomial in log10(nu / 1 GHz), expanded about our reference frequency.
    about_reference = np.polynomial.Polynomial([np.log10(REFERENCE_FREQUENCY_HZ / 1e9), 1.0])
    shifted = np.asarray(np.polynomial.Polynomial(source.log_coefficients)(about_reference).coef, dtype=np.float64)
    return SkyModel(
        ra_deg=np.array([source.ra_deg]),
        dec_deg=np.array([source.dec_deg]),
        flux_jy=np.array([10.0 ** shifted[0]]),
        spectral_index=np.array([shifted[1]]),
        curvature=shifted[None, 2:],
    )


def point_source(ra_deg: float, dec_deg: float, flux_jy: float, spectral_index: float = 0.0) -> SkyModel:
    """Model of a single source."""
    return SkyModel(np.array([ra_deg]), np.array([dec_deg]), np.array([flux_jy]), np.array([spectral_index]))


def component_list(table: pl.DataFrame) -> SkyModel:
    """Model from a table with ``ra_deg``, ``dec_deg``, ``flux_jy`` (1.4 GHz) and, where known, ``spectral_index``."""
    missing = [name for name in ("ra_deg", "dec_deg", "flux_jy") if name not in table.columns]
    if missing or table.is_empty():
        raise DataError(
            "component list without sources or without the columns of a sky model",
            got=f"{table.height} rows with columns {', '.join(table.columns)}",
            expected="at least one row with ra_deg, dec_deg, flux_jy and optionally spectral_index",
            remedy="Correct the component list.",
            reason_code="bad_sky_model",
        )
    if "spectral_index" not in table.columns:
        table = table.with_columns(pl.lit(None, dtype=pl.Float64).alias("spectral_index"))
    columns = table.select(pl.col("ra_deg", "dec_deg", "flux_jy", "spectral_index").cast(pl.Float64))
    return SkyModel(
        ra_deg=columns["ra_deg"].to_numpy(),
        dec_deg=columns["dec_deg"].to_numpy(),
        flux_jy=columns["flux_jy"].to_numpy(),
        spectral_index=columns["spectral_index"].fill_null(TYPICAL_SPECTRAL_INDEX).to_numpy(),
    )


def merge(models: Sequence[SkyModel]) -> SkyModel:
    """One model of the sources of several, which must share the reference frequency."""
    references = {model.reference_frequency_hz for model in models}
    if len(references) != 1:
        raise DataError(
            "sky models to merge differ in reference frequency",
            got=", ".join(f"{r:.6g} Hz" for r in sorted(references)) or "no model",
            expected="one common reference frequency",
            remedy="Convert the flux densities first.",
            reason_code="bad_sky_model",
        )
    depth = max(model.curvature.shape[1] for model in models)
    padded = [np.pad(model.curvature, ((0, 0), (0, depth - model.curvature.shape[1]))) for model in models]
    return SkyModel(
        ra_deg=np.concatenate([model.ra_deg for model in models]),
        dec_deg=np.concatenate([model.dec_deg for model in models]),
        flux_jy=np.concatenate([model.flux_jy for model in models]),
        spectral_index=np.concatenate([model.spectral_index for model in models]),
        curvature=np.concatenate(padded),
        reference_frequency_hz=references.pop(),
    )


def rows_by_time(vis: Visibilities) -> Iterator[tuple[float, NDArray[np.int64]]]:
    """Each integration's time (MJD) and its row numbers, in order of time."""
    times, inverse = np.unique(vis.time_mjd, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(len(times) + 1))
    for i, time_mjd in enumerate(times):
        yield float(time_mjd), order[bounds[i] : bounds[i + 1]]


def amplitudes(model: SkyModel, vis: Visibilities, row: int, *, primary_beam: bool) -> NDArray[np.float32]:
    """Flux densities as seen by the dishes at the time of ``row``, shape (n_source, n_chan), Jy."""
    flux_jy = model.flux_jy_at(vis.frequency_hz)
    if primary_beam:
        offset_deg = separation_deg(model.ra_deg, model.dec_deg, vis.pointing_ra_deg[row], vis.pointing_dec_deg[row])
        flux_jy = flux_jy * airy_power(offset_deg[:, None], vis.frequency_hz, vis.dish_diameter_m)
    return np.asarray(flux_jy, dtype=np.float32)


def apparent_flux(model: SkyModel, vis: Visibilities) -> NDArray[np.float64]:
    """Flux density at mid-band attenuated by the beam, averaged over the drift, shape (n_source,), Jy."""
    pointings = np.unique(np.column_stack([vis.pointing_ra_deg, vis.pointing_dec_deg]), axis=0)
    offset_deg = separation_deg(model.ra_deg[:, None], model.dec_deg[:, None], pointings[:, 0], pointings[:, 1])
    power = airy_power(offset_deg, vis.mean_frequency_hz, vis.dish_diameter_m).mean(axis=1)
    return np.asarray(model.flux_jy_at(np.array([vis.mean_frequency_hz]))[:, 0] * power, dtype=np.float64)


def require_flux_in_view(model: SkyModel, vis: Visibilities, *, primary_beam: bool = True) -> None:
    """Refuse a model that these dishes could not see, before data are compared with it.

    Raises
    ------
    NotEnoughDataError
        If the model holds no flux (``model_without_flux``), or if the primary beam leaves less than ``_LEAST_POWER`` of
        every source (``model_outside_beam``).
    """
    name = vis.source_name or vis.field_name
    flux_jy = np.abs(model.flux_jy_at(np.array([vis.mean_frequency_hz]))[:, 0])
    if not np.any(flux_jy > 0.0):
        raise NotEnoughDataError(
            f"the sky model for {name} holds no flux",
            got=f"{model.n_sources} sources of 0 Jy together",
            expected="at least one source of known flux density",
            remedy="Correct flux_jy in the component list or the catalogue (Jy at 1.4 GHz).",
            reason_code="model_without_flux",
        )
    seen = flux_jy > 0.0
    power = float(np.max(np.abs(apparent_flux(model, vis))[seen] / flux_jy[seen]))
    if primary_beam and power < _LEAST_POWER:
        apart_deg = separation_deg(model.ra_deg, model.dec_deg, vis.pointing_ra_deg[0], vis.pointing_dec_deg[0])
        raise NotEnoughDataError(
            f"the sky model for {name} lies outside the primary beam",
            got=f"at most {power:.2g} of a source left by the beam, the nearest {np.min(apart_deg):.2f} deg "
            "from where the dishes pointed",
            expected=f"at least {_LEAST_POWER:g}, which means inside the first null",
            remedy="Name the field in which that calibrator was observed, or a model of this one.",
            reason_code="model_outside_beam",
        )


def brightest(model: SkyModel, vis: Visibilities, *, fraction: float) -> SkyModel:
    """Keep the fewest sources that hold ``fraction`` of the total apparent flux density, brightest first."""
    apparent_jy = np.abs(apparent_flux(model, vis))
    order = np.argsort(-apparent_jy)
    cumulative = np.cumsum(apparent_jy[order])
    if not len(order) or cumulative[-1] <= 0.0:
        raise NotEnoughDataError(
            f"sky model of {vis.source_name or vis.field_name} holds no flux within the primary beam",
            got=f"{model.n_sources} sources of zero apparent flux density",
            expected="at least one source that the dishes see",
            remedy="Check the position of the field and the component list.",
            reason_code="empty_sky_model",
        )
    n_kept = int(np.searchsorted(cumulative, fraction * cumulative[-1] * (1.0 - 1e-12))) + 1
    return model.select(np.sort(order[:n_kept]))


def predict_rows(
    model: SkyModel,
    vis: Visibilities,
    rows: NDArray[np.int64],
    frequency_hz: NDArray[np.float64],
    amplitude_jy: NDArray[np.float32],
) -> NDArray[np.complex64]:
    """Model visibilities of some rows of one integration at some frequencies, shape (n_row, n_frequency), Jy.

    Releases the GIL; ``amplitude_jy`` is that of ``amplitudes`` at these frequencies.
    """
    l, m, n = direction_cosines(model.ra_deg, model.dec_deg, vis.phase_centre_ra_deg, vis.phase_centre_dec_deg)
    directions = np.column_stack([l, m, n - 1.0])
    predicted = np.zeros((len(rows), len(frequency_hz)), dtype=np.complex64)
    add_point_sources(predicted, vis.uvw_m[rows], directions, amplitude_jy, frequency_hz)
    return predicted


def predict(model: SkyModel, vis: Visibilities, *, primary_beam: bool, n_threads: int = 0) -> NDArray[np.complex64]:
    """Stokes I model visibilities of all rows (XX = YY = RR = LL = I).

    Parameters
    ----------
    model : SkyModel
    vis : Visibilities
        Gives uvw, frequencies, phase centre and pointing; its visibilities are not read.
    primary_beam : bool
        Attenuate by the Airy beam about each integration's pointing.
    n_threads : int
        0 for all cores.

    Returns
    -------
    array of complex64, shape (n_row, n_chan), Jy
        As large as one correlation of the visibilities; solvers predict block by block instead.
    """
    predicted = np.empty((len(vis.time_mjd), len(vis.frequency_hz)), dtype=np.complex64)

    def fill(rows: NDArray[np.int64]) -> None:
        amplitude_jy = amplitudes(model, vis, int(rows[0]), primary_beam=primary_beam)
        predicted[rows] = predict_rows(model, vis, rows, vis.frequency_hz, amplitude_jy)

    in_threads(fill, (rows for _, rows in rows_by_time(vis)), n_threads)
    return predicted
