"""Light-curve points: all measurements of one source during one transit become one flux density per band.

What belongs here: grouping and combining. What does not: measuring (``photometry``), the flux scale (``flux_scale``),
judging variability (``variability``).

Method. A measurement is divided by the flux-scale factor of its observation. Measurements of a transit are averaged
with weights 1 / (statistical^2 + systematic^2); of three or more, one that is far from their median counts less
(Huber's weights at 3 sigma), so that a spoilt tile cannot make an event. Statistical and systematic errors travel
separately: the first are independent for each source, the second are shared by the sources of an observation. A
transit is named after its UTC day, which is also how the table is partitioned, so that any order of processing gives
the same names; a transit across midnight gives two points. The rejected alternative, a mosaic per transit, needs
reprojection and waits for the last tile.
"""

from __future__ import annotations

import polars as pl

from contimg_assets.science.ese.series import CONDITIONS

TRANSIT_GAP_D = 0.25
"""Measurements of one source further apart than this belong to different transits."""

INCONSISTENT = 1 << 16
"""Flag: the measurements of the transit disagree by more than their errors allow; the systematic error covers the
spread."""

NO_MEASUREMENT = 1 << 17
"""Flag: the source was looked at but nothing could be measured; flux density and errors are NULL."""

FALLBACK_SCALE = 1 << 18
"""Flag: a measurement was scaled by a fallback: references of the wider field or of one side only, or catalogue sources
that are no references."""

UNIT_SCALE = 1 << 19
"""Flag: a measurement has no flux scale: factor 1 with the error of an unmeasured scale."""

_SCALE_FLAGS = {
    "wider_field": FALLBACK_SCALE,
    "one_sided_mean": FALLBACK_SCALE,
    "catalogue_flux": FALLBACK_SCALE,
    "unit": UNIT_SCALE,
}
_HUBER_SIGMA = 3.0
_DISAGREEMENT_SIGMA = 5.0

LIGHT_CURVE_SCHEMA = {
    "source_id": pl.String,
    "epoch_mjd": pl.Float64,
    "band": pl.String,
    "mjd": pl.Float64,
    "frequency_hz": pl.Float64,
    "flux_jy": pl.Float64,
    "flux_err_jy": pl.Float64,
    "flux_sys_err_jy": pl.Float64,
    "n_observations": pl.Int32,
    "flags": pl.Int32,
    **dict.fromkeys(CONDITIONS, pl.Float64),
}
"""Columns of the table ``light_curve``. ``flags`` are those of the measurements (bits 0-15), joined, and the four
above. The last four are weighted means over the measurements, NULL where none is known: primary beam power, distance
from the pointing centre, antennas with data, and the share of measurements that fallbacks of the calibration served."""

_POINT = ["source_id", "epoch_mjd", "band"]


def flag_scale_fallbacks(measurements: pl.DataFrame) -> pl.DataFrame:
    """Add to ``flags`` how the scale of each measurement was found (column ``scale_method``), where not by the fit."""
    flag = pl.col("scale_method").replace_strict(_SCALE_FLAGS, default=0, return_dtype=pl.Int32)
    return measurements.with_columns(flags=pl.col("flags").cast(pl.Int32) | flag)


def combine_transits(measurements: pl.DataFrame) -> pl.DataFrame:
    """Combine forced photometry into light-curve points.

    Parameters
    ----------
    measurements : polars.DataFrame
        One row per source, observation and band: ``source_id``, ``observation_id``, ``band``, ``mjd``,
        ``frequency_hz``, ``peak_flux_jy_beam``, ``peak_flux_err_jy_beam`` (statistical), ``factor``, ``factor_err``
        (flux scale; the factor of a reference source leaves that source out), ``flags``; optional ``CONDITIONS``. In any
        order.

    Returns
    -------
    polars.DataFrame
        ``LIGHT_CURVE_SCHEMA``, sorted by source, epoch and band. Non-detections keep their value, which may be
        negative. ``epoch_mjd`` is the noon of the UTC day, or the middle of the quarter of the day in which the
        transit began if a source has two transits on one day (once a year). ``mjd`` is the weighted mean time.
    """
    unknown = [pl.lit(None, pl.Float64).alias(name) for name in CONDITIONS if name not in measurements.columns]
    measured = _with_epoch(measurements.with_columns(unknown)).with_columns(
        flux=pl.col("peak_flux_jy_beam") / pl.col("factor"),
        stat=pl.col("peak_flux_err_jy_beam") / pl.col("factor").abs(),
    )
    measured = measured.with_columns(sys=(pl.col("flux") * pl.col("factor_err") / pl.col("factor")).abs())
    usable = (
        pl.col("flux").is_finite() & (pl.col("stat") > 0.0) & pl.col("stat").is_finite() & pl.col("sys").is_finite()
    )
    measured = measured.with_columns(usable=usable.fill_null(value=False))
    points = _combine(measured.filter("usable"))
    missing = (
        measured.filter(~pl.col("usable").any().over(_POINT))
        .group_by(_POINT)
        .agg(
            pl.col("mjd").mean(),
            pl.col("frequency_hz").mean(),
            pl.len().alias("n_observations"),
            (pl.col("flags").cast(pl.Int32).bitwise_or() | NO_MEASUREMENT).alias("flags"),
        )
    )
    both = pl.concat([points, missing], how="diagonal_relaxed")
    return both.select(pl.col(name).cast(kind) for name, kind in LIGHT_CURVE_SCHEMA.items()).sort(_POINT)


def _with_epoch(measurements: pl.DataFrame) -> pl.DataFrame:
    """Add ``epoch_mjd``, from the times of a source in all bands together so that bands share their epochs."""
    times = (
        measurements.select("source_id", "mjd")
        .unique()
        .sort("source_id", "mjd")
        .with_columns(day=pl.col("mjd").floor())
        .with_columns(begins=(pl.col("mjd").diff() > TRANSIT_GAP_D).fill_null(value=False).over("source_id", "day"))
        .with_columns(transit=pl.col("begins").cum_sum().over("source_id", "day"))
        .with_columns(start=pl.col("mjd").min().over("source_id", "day", "transit"))
    )
    quarter = ((pl.col("start") - pl.col("day")) * 4.0).floor() / 4.0 + 0.125
    only_one = pl.col("transit").max().over("source_id", "day") == 0
    times = times.with_columns(epoch_mjd=pl.col("day") + pl.when(only_one).then(0.5).otherwise(quarter))
    return measurements.join(times.select("source_id", "mjd", "epoch_mjd"), on=["source_id", "mjd"], how="left")


def _combine(usable: pl.DataFrame) -> pl.DataFrame:
    """Robust weighted means of measurements that all have a flux density and errors."""
    total = (pl.col("stat") ** 2 + pl.col("sys") ** 2).sqrt()
    pull = ((pl.col("flux") - pl.col("flux").median().over(_POINT)) / pl.col("total")).abs()
    doubt = pl.when((pl.len().over(_POINT) >= 3) & (pull > _HUBER_SIGMA)).then(_HUBER_SIGMA / pull).otherwise(1.0)
    weighted = (
        usable.sort([*_POINT, "mjd", "observation_id"])
        .with_columns(total=total)
        .with_columns(weight=doubt / pl.col("total") ** 2)
    )
    w, sum_w = pl.col("weight"), pl.col("weight").sum()
    mean = (w * pl.col("flux")).sum() / sum_w
    low, high = pl.col("flux").arg_min(), pl.col("flux").arg_max()
    spread = pl.col("flux").max() - pl.col("flux").min()
    spread_err = (pl.col("total").get(low) ** 2 + pl.col("total").get(high) ** 2).sqrt()
    disagree = spread > _DISAGREEMENT_SIGMA * spread_err
    sys_err = ((w * pl.col("sys")) ** 2).sum().sqrt() / sum_w
    conditions = [_mean_of_known(pl.col(name), w) for name in CONDITIONS]
    return weighted.group_by(_POINT, maintain_order=True).agg(
        ((w * pl.col("mjd")).sum() / sum_w).alias("mjd"),
        ((w * pl.col("frequency_hz")).sum() / sum_w).alias("frequency_hz"),
        mean.alias("flux_jy"),
        (((w * pl.col("stat")) ** 2).sum().sqrt() / sum_w).alias("flux_err_jy"),
        pl.when(disagree).then(pl.max_horizontal(sys_err, 0.5 * spread)).otherwise(sys_err).alias("flux_sys_err_jy"),
        pl.len().alias("n_observations"),
        (pl.col("flags").cast(pl.Int32).bitwise_or() | pl.when(disagree).then(INCONSISTENT).otherwise(0)).alias(
            "flags"
        ),
        *[mean.fill_nan(None).alias(name) for name, mean in zip(CONDITIONS, conditions, strict=True)],
    )


def _mean_of_known(value: pl.Expr, weight: pl.Expr) -> pl.Expr:
    """Weighted mean of what is not NULL; of equal values exactly that value, or a constant would seem to change."""
    first = value.drop_nulls().first()
    return first + (weight * (value - first)).sum() / weight.filter(value.is_not_null()).sum()
