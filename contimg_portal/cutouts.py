"""Which images show a source at the times that matter: its faintest and brightest epoch, and an event from before to after.

What belongs here: choosing observations. Pixels are ``sky_pictures.py``. The image nearest to the source's centre of the
beam is taken where several observations make one epoch.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import numpy as np
import polars as pl

from contimg_assets.science.coordinates import separation_deg
from contimg_resources.store import nights
from contimg_resources.store.moment import Answers

_EPOCH_D = 0.03
"""Observations so near a point of a light curve belong to its epoch: a source crosses the beam in a quarter of an hour."""
_FARTHEST_DEG = 1.7
"""Farther from the pointing a source is outside the useful beam."""
_SHARED_PEAK = 1.1
"""Cut-outs of one source share a scale up to so many times its brightest flux."""


def extreme_cutouts(moment: Answers, ra_deg: float, dec_deg: float, light_curve: pl.DataFrame) -> list[dict[str, Any]]:
    """Cut-outs at the faintest and the brightest point of the full band; empty without points or images."""
    points = light_curve.filter(pl.col("band") == "full", pl.col("flux_jy").is_not_null()).sort("flux_jy")
    if points.is_empty():
        return []
    faintest, brightest = points.row(0, named=True), points.row(-1, named=True)
    peak_jy = _SHARED_PEAK * brightest["flux_jy"]
    cutouts = []
    for label, point in (("faintest", faintest), ("brightest", brightest)):
        images = nights.images_between(moment, point["mjd"] - _EPOCH_D, point["mjd"] + _EPOCH_D)
        chosen = _nearest_of_each_day(images, ra_deg, dec_deg).head(1).to_dicts()
        cutouts += [_cutout(row, ra_deg, dec_deg, peak_jy) | {"label": label, **_flux_of(point)} for row in chosen]
    return cutouts


def event_cutouts(
    moment: Answers, ra_deg: float, dec_deg: float, light_curve: pl.DataFrame, span_mjd: tuple[float, float], most: int
) -> list[dict[str, Any]]:
    """Cut-outs through an event and as long again before and after, at most so many, evenly spread."""
    length = span_mjd[1] - span_mjd[0]
    images = nights.images_between(moment, span_mjd[0] - 0.5 * length, span_mjd[1] + 0.5 * length)
    daily = _nearest_of_each_day(images, ra_deg, dec_deg)
    if daily.is_empty():
        return []
    points = light_curve.filter(pl.col("band") == "full", pl.col("flux_jy").is_not_null()).sort("mjd")
    peak_jy = _SHARED_PEAK * float(points["flux_jy"].max() or 0.0)  # type: ignore[arg-type]
    chosen = np.unique(np.linspace(0, daily.height - 1, most).round().astype(int))
    cutouts = []
    for row in daily[chosen].to_dicts():
        near = points.filter((pl.col("mjd") - row["start_mjd"]).abs() <= _EPOCH_D).head(1).to_dicts()
        inside = span_mjd[0] <= row["start_mjd"] <= span_mjd[1]
        flux = _flux_of(near[0]) if near else {"flux_jy": None, "flux_err_jy": None}
        cutouts.append(_cutout(row, ra_deg, dec_deg, peak_jy) | {"label": "in the event" if inside else "", **flux})
    return cutouts


def _nearest_of_each_day(images: pl.DataFrame, ra_deg: float, dec_deg: float) -> pl.DataFrame:
    """Of each day the image whose pointing is nearest to a position, in order of time."""
    pointed = images.drop_nulls(["pointing_ra_deg", "pointing_dec_deg"])
    if pointed.is_empty():
        return pointed
    distance = separation_deg(
        ra_deg, dec_deg, pointed["pointing_ra_deg"].to_numpy(), pointed["pointing_dec_deg"].to_numpy()
    )
    return (
        pointed.with_columns(separation_deg=pl.Series(np.atleast_1d(distance)), day=pl.col("start_mjd").floor())
        .filter(pl.col("separation_deg") < _FARTHEST_DEG)
        .sort("separation_deg")
        .unique("day", keep="first", maintain_order=True)
        .sort("start_mjd")
    )


def _flux_of(point: dict[str, Any]) -> dict[str, Any]:
    return {"flux_jy": point["flux_jy"], "flux_err_jy": point["flux_err_jy"]}


def _cutout(row: dict[str, Any], ra_deg: float, dec_deg: float, peak_jy: float) -> dict[str, Any]:
    asked: dict[str, Any] = {"ra_deg": f"{ra_deg:.6f}", "dec_deg": f"{dec_deg:.6f}"}
    if peak_jy > 0:
        asked["peak_jy"] = f"{peak_jy:.4g}"
    address = f"/observations/{row['observation_id']}/cutout.png?{urlencode(asked)}"
    return {"address": address, "observation_id": row["observation_id"], "start_mjd": row["start_mjd"]}
