"""Tables of photometry to and from the flux scale: what the assets flux_scale and light_curves do to their rows.

What belongs here: joining measurements with the catalogue, and rows of the tables flux_scale, flux_reference and
flux_scale_comparison. The formulas are ``science.flux_scale`` and ``science.reference_history``.

The product of an observation (flux_scale, flux_reference) knows of no other observation. What the references' past says
is learned anew for each day from their raw measurements of that day and a fixed number of days before it, so that a day
has the same rows whenever and in whatever order days are made. Those measurements are the few references only, in a
table of their own: the photometry of all sources is read for the day itself and never again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from contimg_assets.partitions import REFERENCE_HISTORY_D, day_mjd_range
from contimg_resources.store.connection import Store

_CATALOGUE_COLUMNS = ("source_id", "ra_deg", "dec_deg", "flux_jy", "flux_err_jy", "spectral_index", "is_reference")
_WIDER_FIELD_D = 1.0 / 24.0
"""Observations this near in time make the wider field of one with too few references of its own."""
_LEAST_SNR = 10.0
"""Of sources that are no references, when they are asked for want of references."""
_APPLIED = {"ensemble": "ensemble_plane", "catalogue": "catalogue"}
"""Method of science.reference_history.METHODS that a value of the feature flag applies."""


@dataclass(frozen=True, slots=True, eq=False)
class ScaledDay:
    """Measurements of a day with their factors, and how the methods compare."""

    measurements: pl.DataFrame
    """Table forced_photometry with ``factor``, ``factor_err``, ``scale_method``, and of the observation ``n_antennas`` and
    ``calibration_fallback`` (1 if any of its calibration tables was one)."""
    comparison: pl.DataFrame
    """Rows of table flux_scale_comparison."""
    expelled: dict[str, list[str]]
    """Variable references by band."""


def flux_scales(measured: pl.DataFrame, catalogue: pl.DataFrame, minimum_references: int) -> pl.DataFrame:
    """Rows of table ``flux_scale``: one per band."""
    from contimg_assets.science.flux_scale import FluxScaleSettings, estimate_flux_scale

    settings = FluxScaleSettings(min_references=minimum_references)
    rows = []
    for (observation_id, band), part in measured.group_by("observation_id", "band", maintain_order=True):
        joined = _with_catalogue(part, catalogue)
        scale = estimate_flux_scale(
            _ratios(joined, pl.col("is_reference")), _targets(joined), settings, _ratios(joined, _IS_BRIGHT_OTHER)
        )
        rows.append(
            {
                "observation_id": observation_id,
                "band": band,
                "factor": scale.factor,
                "factor_err": scale.factor_err,
                "n_references": scale.n_references,
                "scatter": _finite(scale.scatter),
                "method": f"{scale.method}: {scale.reason}" if scale.reason else scale.method,
                "gradient_east_per_deg": scale.gradient_x_per_deg,
                "gradient_north_per_deg": scale.gradient_y_per_deg,
                "cross_validated_mean": _finite(scale.cross_validated_mean),
                "cross_validated_plane": _finite(scale.cross_validated_plane),
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def reference_measurements(measured: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """Rows of table ``flux_reference``: usable raw measurements of the references of one observation."""
    rows = [
        _with_catalogue(part, catalogue).filter(pl.col("is_reference") & pl.col("is_usable"))
        for _, part in measured.group_by("observation_id", "band", maintain_order=True)
    ]
    return pl.concat(rows).select(
        "observation_id",
        "source_id",
        "band",
        "mjd",
        "frequency_hz",
        "offset_east_deg",
        "offset_north_deg",
        flux_jy="peak_flux_jy_beam",
        flux_err_jy="peak_flux_err_jy_beam",
    )


def scale_day(
    store: Store,
    catalogue: pl.DataFrame,
    day: str,
    *,
    method_of: Callable[[str], str] = lambda _partition_key: "ensemble",
    minimum_references: int = 3,
) -> ScaledDay:
    """Forced photometry of a day with the flux-scale factor of each source, from which the source itself is left out.

    Parameters
    ----------
    store : Store
    catalogue : polars.DataFrame
        The reference catalogue.
    day : str
    method_of : callable
        Value of the feature flag for an observation, by its partition key: ``ensemble``, references with what their past
        says, or ``catalogue``, its fluxes as they are.
    minimum_references : int
    """
    from contimg_assets.science.flux_scale import FluxScaleSettings, source_factors
    from contimg_assets.science.reference_history import learn_references

    start, end = day_mjd_range(day)
    settings = FluxScaleSettings(min_references=minimum_references)
    measured = store.query(
        "SELECT p.* EXCLUDE (run_id, code_version), i.n_antennas, c.calibration_fallback"
        " FROM forced_photometry p JOIN flux_scale USING (observation_id, band)"
        " LEFT JOIN (SELECT observation_id, band, n_antennas FROM image) i USING (observation_id, band)"
        " LEFT JOIN (SELECT observation_id, max(CASE WHEN fallback = 'none' THEN 0 ELSE 1 END) AS calibration_fallback"
        " FROM calibration_use GROUP BY observation_id) c USING (observation_id)"
        " WHERE p.mjd >= ? AND p.mjd < ? ORDER BY band, observation_id, source_id",
        [start, end],
    )
    past = store.query(
        "SELECT * EXCLUDE (run_id, code_version, partition_key) FROM flux_reference WHERE mjd >= ? AND mjd < ?"
        " ORDER BY band, observation_id, source_id",
        [start - REFERENCE_HISTORY_D, end],
    )
    numbered = _numbered(catalogue)
    scaled, compared, expelled = [], [], {}
    for (band,), of_band in measured.group_by("band", maintain_order=True):
        history, observations = _history(past.filter(band=band), numbered)
        knowledge, validation = learn_references(history)
        names = numbered["source_id"].to_list()
        expelled[str(band)] = [names[k] for k in np.flatnonzero(knowledge.is_expelled[0])]
        compared.append(_comparison(validation, observations, str(band)))
        fields = [
            _with_catalogue(part, catalogue) for _, part in of_band.group_by("observation_id", maintain_order=True)
        ]
        for field in fields:
            uses_past = method_of(field["partition_key"][0]) == "ensemble"
            attempts = _attempts(field, fields, knowledge if uses_past else None)
            factors = source_factors(attempts, _targets(field), settings)
            scaled.append(
                field.select(measured.columns).with_columns(
                    factor=pl.Series(factors.factor),
                    factor_err=pl.Series(factors.factor_err),
                    scale_method=pl.Series(factors.method.tolist(), dtype=pl.String),
                )
            )
    nothing = measured.with_columns(factor=pl.lit(1.0), factor_err=pl.lit(0.0), scale_method=pl.lit("unit"))
    return ScaledDay(
        measurements=pl.concat(scaled) if scaled else nothing,
        comparison=_applied(pl.concat([_EMPTY_COMPARISON, *compared]), measured, method_of),
        expelled=expelled,
    )


def _applied(compared: pl.DataFrame, measured: pl.DataFrame, method_of: Callable[[str], str]) -> pl.DataFrame:
    """Each method for each observation of the day, also of one without references, with the one that was applied to it."""
    from contimg_assets.science.reference_history import METHODS

    wanted = measured.select("observation_id", "band", "partition_key").unique(maintain_order=True)
    applied = [_APPLIED[method_of(key)] for key in wanted["partition_key"]]
    every = wanted.with_columns(applied=pl.Series(applied, dtype=pl.String)).join(
        pl.DataFrame({"method": METHODS}, schema={"method": pl.String}), how="cross", maintain_order="left_right"
    )
    joined = every.join(compared, on=["observation_id", "band", "method"], how="left", maintain_order="left")
    return joined.select(*compared.columns, is_applied=pl.col("method") == pl.col("applied")).with_columns(
        pl.col("n_references").fill_null(0), pl.col("has_plane").fill_null(value=False)
    )


def _attempts(field: pl.DataFrame, fields: list[pl.DataFrame], knowledge: Any) -> Iterator[Any]:
    """The ways to scale one observation in their order; each is prepared only when those before it did not do."""
    from contimg_assets.science.flux_scale import Attempt, Ratios

    is_reference = pl.col("is_reference")
    if knowledge is None:
        yield Attempt(_ratios(field, is_reference))
    else:
        yield Attempt(_ratios(field, is_reference, with_catalogue_err=False), knowledge)
        mjd = float(field["mjd"][0])
        near = [
            _ratios(other, is_reference, with_catalogue_err=False)
            for other in fields
            if abs(float(other["mjd"][0]) - mjd) <= _WIDER_FIELD_D
        ]
        # Other observations have other centres: no plane through them, and no side they could be on.
        pooled = {name: np.concatenate([getattr(one, name) for one in near]) for name in ("source", "ratio", "error")}
        nowhere = np.zeros(pooled["ratio"].size)
        yield Attempt(Ratios(**pooled, x_deg=nowhere, y_deg=nowhere), knowledge, "wider_field")
    yield Attempt(_ratios(field, _IS_BRIGHT_OTHER), None, "catalogue_flux")


def _numbered(catalogue: pl.DataFrame) -> pl.DataFrame:
    """References with their numbers, which follow the order of their names."""
    references = catalogue.select(_CATALOGUE_COLUMNS).filter(pl.col("is_reference").fill_null(value=False))
    return references.sort("source_id").with_columns(number=pl.int_range(pl.len(), dtype=pl.Int64))


def _with_catalogue(part: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """Rows of one observation and band with what the catalogue says of their sources, numbers and offsets in the field."""
    from contimg_assets.science.flux_scale import band_flux_jy, offsets_deg
    from contimg_assets.science.photometry.flags import UNRELIABLE

    joined = part.join(catalogue.select(_CATALOGUE_COLUMNS), on="source_id", how="left", maintain_order="left").join(
        _numbered(catalogue).select("source_id", "number"), on="source_id", how="left", maintain_order="left"
    )
    east, north = offsets_deg(_floats(joined, "ra_deg"), _floats(joined, "dec_deg"))
    alpha, frequency_hz = _floats(joined, "spectral_index"), float(part["frequency_hz"][0])
    flux, error = pl.col("peak_flux_jy_beam"), pl.col("peak_flux_err_jy_beam")
    is_measured = flux.is_finite() & error.is_finite() & (error > 0.0)
    return joined.with_columns(
        number=pl.col("number").fill_null(-1 - pl.int_range(pl.len(), dtype=pl.Int64)),
        is_reference=pl.col("is_reference").fill_null(value=False),
        expected_jy=pl.Series(band_flux_jy(_floats(joined, "flux_jy"), alpha, frequency_hz)),
        expected_err_jy=pl.Series(band_flux_jy(_floats(joined, "flux_err_jy"), alpha, frequency_hz)),
        offset_east_deg=pl.Series(np.nan_to_num(east)),
        offset_north_deg=pl.Series(np.nan_to_num(north)),
        is_usable=is_measured.fill_null(value=False) & ((pl.col("flags") & UNRELIABLE) == 0),
    )


_IS_BRIGHT_OTHER = ~pl.col("is_reference") & (
    pl.col("peak_flux_jy_beam") > _LEAST_SNR * pl.col("peak_flux_err_jy_beam")
)


def _targets(joined: pl.DataFrame) -> Any:
    from contimg_assets.science.flux_scale import Targets

    return Targets(
        source=joined["number"].to_numpy(),
        x_deg=joined["offset_east_deg"].to_numpy(),
        y_deg=joined["offset_north_deg"].to_numpy(),
    )


def _ratios(joined: pl.DataFrame, chosen: pl.Expr, *, with_catalogue_err: bool = True) -> Any:
    """Ratios to the catalogue of the chosen usable sources; its errors are constant in time and may be left out."""
    from contimg_assets.science.flux_scale import reference_ratios

    return reference_ratios(
        _floats(joined, "peak_flux_jy_beam"),
        _floats(joined, "peak_flux_err_jy_beam"),
        joined["expected_jy"].to_numpy(),
        joined["expected_err_jy"].to_numpy() if with_catalogue_err else np.full(joined.height, np.nan),
        joined.select((chosen & pl.col("is_usable")).fill_null(value=False)).to_series().to_numpy(),
        _targets(joined),
    )


def _history(past: pl.DataFrame, numbered: pl.DataFrame) -> tuple[Any, list[str]]:
    """Ratios of the references in one band, and the observations they are numbered by."""
    from contimg_assets.science.flux_scale import band_flux_jy
    from contimg_assets.science.reference_history import ReferenceHistory

    rows = past.rename({"flux_jy": "measured_jy", "flux_err_jy": "measured_err_jy"}).join(
        numbered, on="source_id", how="inner", maintain_order="left"
    )
    # Frequencies of a band hardly differ, but an observation may lack sub-bands: each row has its own.
    expected = band_flux_jy(_floats(rows, "flux_jy"), _floats(rows, "spectral_index"), rows["frequency_hz"].to_numpy())
    rows = rows.with_columns(expected_jy=pl.Series(expected, dtype=pl.Float64)).filter(
        pl.col("expected_jy").is_finite() & (pl.col("expected_jy") > 0.0)
    )
    observations = rows["observation_id"].unique(maintain_order=True).to_list()
    number = {observation_id: k for k, observation_id in enumerate(observations)}
    history = ReferenceHistory(
        source=rows["number"].to_numpy(),
        observation=np.array([number[name] for name in rows["observation_id"]], dtype=np.int64),
        ratio=(rows["measured_jy"] / rows["expected_jy"]).to_numpy(),
        error=(rows["measured_err_jy"] / rows["expected_jy"]).to_numpy(),
        x_deg=rows["offset_east_deg"].to_numpy(),
        y_deg=rows["offset_north_deg"].to_numpy(),
        n_sources=numbered.height,
        n_observations=len(observations),
    )
    return history, observations


def _comparison(validation: Any, observations: list[str], band: str) -> pl.DataFrame:
    """Rows of table ``flux_scale_comparison`` in one band, for all observations of the history."""
    from contimg_assets.science.reference_history import METHODS

    return pl.concat(
        [_EMPTY_COMPARISON]
        + [
            pl.DataFrame(
                {
                    "observation_id": observations,
                    "band": band,
                    "method": method,
                    "factor": validation.factor[m],
                    "factor_err": validation.factor_err[m],
                    "n_references": validation.n_references[m],
                    "has_plane": validation.has_plane[m],
                    "cross_validated_scatter": validation.scatter[m],
                },
                schema=_EMPTY_COMPARISON.schema,
            )
            for m, method in enumerate(METHODS)
        ]
    ).with_columns(pl.col(pl.Float64).fill_nan(None))


_EMPTY_COMPARISON = pl.DataFrame(
    schema={
        "observation_id": pl.String,
        "band": pl.String,
        "method": pl.String,
        "factor": pl.Float64,
        "factor_err": pl.Float64,
        "n_references": pl.Int64,
        "has_plane": pl.Boolean,
        "cross_validated_scatter": pl.Float64,
    }
)


def _floats(table: pl.DataFrame, column: str) -> Any:
    """A column as floats, NaN where it is null."""
    return table[column].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
