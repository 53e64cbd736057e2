"""Bokeh figures of light curves, as JSON documents that the page's script draws in its own colours.

What a figure shows is decided here; its place on the page and its text are the templates'. Fluxes are Jy. BokehJS comes
from the installed package through the portal, never from the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, DataRange1d, HoverTool, Line, Range1d, Scatter
from bokeh.models.annotations import BoxAnnotation, Legend, LegendItem, Span, Whisker
from bokeh.plotting import figure

from contimg_portal.formats import from_mjd

BAND_COLOURS = {
    "full": "#3d7fc4",
    "band0": "#c8553d",
    "band1": "#c98a1b",
    "band2": "#2e9e6b",
    "band3": "#a463b8",
}
"""Distinguishable with common colour-vision deficiencies, on light and dark ground; low frequencies are red."""
OTHER_COLOUR = "#7a8290"
MODEL_COLOUR = "#8a6d00"
EVENT_COLOUR = "#d9a400"
STATE_COLOURS = {"good": "#2e9e6b", "amber": "#c98a1b", "red": "#d1493f", "unknown": "#7a8290"}
"""Of figures; on text the style sheet has its own, with more contrast."""
_HALF_DAY_MS = 43_200_000.0


def axis_times(mjd: Any) -> Any:
    """Bokeh's axis of dates counts milliseconds since 1970."""
    return (np.asarray(mjd, dtype=np.float64) - 40_587.0) * 86_400_000.0


def _source(rows: pl.DataFrame) -> ColumnDataSource:
    flux = rows["flux_jy"].to_numpy().astype(np.float64)
    error = rows["flux_err_jy"].fill_null(0.0).to_numpy().astype(np.float64)
    return ColumnDataSource(
        {
            "time": axis_times(rows["mjd"].to_numpy()),
            "flux": flux,
            "error": error,
            "upper": flux + error,
            "lower": flux - error,
            "band": rows["band"].to_list(),
            "when": [f"{from_mjd(mjd):%Y-%m-%d %H:%M}" for mjd in rows["mjd"]],
        }
    )


def blank_figure(height: int, tools: str, **options: Any) -> Any:
    """A figure as wide as its place, on the page's own ground; the page's script gives text and lines their colours."""
    plot = figure(
        height=height,
        tools=tools,
        toolbar_location="above" if tools else None,
        background_fill_alpha=0.0,
        border_fill_alpha=0.0,
        outline_line_alpha=0.3,
        **{"sizing_mode": "stretch_width", **options},
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.grid.grid_line_alpha = 0.35
    return plot


def _flux_figure(height: int, tools: str) -> Any:
    plot = blank_figure(height, tools, x_axis_type="datetime")
    plot.yaxis.axis_label = "flux density (Jy)"
    plot.y_range = DataRange1d(range_padding=0.25)  # error bars do not count for Bokeh's range
    return plot


def _add_points(plot: Any, rows: pl.DataFrame, band: str) -> Any:
    source = _source(rows)
    colour = BAND_COLOURS.get(band, OTHER_COLOUR)
    # A bare glyph: figure.scatter would add variants for selection and muting, and Bokeh's cost is per model.
    size = 7 if band == "full" else 5
    glyph = Scatter(x="time", y="flux", size=size, fill_color=colour, line_color=colour)
    points = plot.add_glyph(source, glyph)
    bars = Whisker(source=source, base="time", upper="upper", lower="lower", line_color=colour, line_alpha=0.6)
    bars.upper_head = bars.lower_head = None
    plot.add_layout(bars)
    # A band hidden through the legend takes its error bars along.
    points.js_link("visible", bars, "visible")
    return points


def _add_model(plot: Any, model: Mapping[str, Any]) -> Any:
    source = ColumnDataSource(
        {"time": axis_times(model["mjd"]), "flux": np.asarray(model["flux_jy"], dtype=np.float64)}
    )
    return plot.add_glyph(source, Line(x="time", y="flux", line_color=MODEL_COLOUR, line_width=2))


def mark_events(plot: Any, events: list[tuple[float, float]]) -> None:
    """Shade spans of time (MJD)."""
    for start_mjd, end_mjd in events:
        left, right = axis_times([start_mjd, end_mjd])
        plot.add_layout(BoxAnnotation(left=left, right=right, fill_color=EVENT_COLOUR, fill_alpha=0.13, line_alpha=0.0))


def _measured(light_curve: pl.DataFrame, band: str) -> pl.DataFrame:
    return light_curve.filter(pl.col("band") == band, pl.col("flux_jy").is_not_null(), pl.col("mjd").is_not_null())


def bands_of(light_curve: pl.DataFrame) -> list[str]:
    """Bands of a light curve, the full band first."""
    return sorted(light_curve["band"].unique().to_list(), key=lambda band: (band != "full", band))


def plot_light_curve(
    light_curve: pl.DataFrame, *, events: list[tuple[float, float]], model: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Light curve in all bands in one figure.

    Parameters
    ----------
    light_curve : polars.DataFrame
        Columns ``band, mjd, flux_jy, flux_err_jy``.
    events : list of (start_mjd, end_mjd)
        Spans shaded as candidates.
    model : mapping, optional
        ``mjd`` and ``flux_jy`` of a fit to the full band.

    Returns
    -------
    dict
        Bokeh's JSON document.
    """
    plot = _flux_figure(380, "pan,box_zoom,wheel_zoom,reset,save")
    plot.xaxis.axis_label = "date (UTC)"
    mark_events(plot, events)
    points = {band: _add_points(plot, _measured(light_curve, band), band) for band in bands_of(light_curve)}
    tips = [("time", "@when UTC"), ("flux", "@flux{0.0000} ± @error{0.0000} Jy"), ("band", "@band")]
    plot.add_tools(HoverTool(renderers=list(points.values()), tooltips=tips))
    entries = list(points.items())
    if model is not None:
        entries.append(("lens fit", _add_model(plot, model)))
    if len(entries) > 1:
        items = [LegendItem(label=label, renderers=[renderer]) for label, renderer in entries]
        legend = Legend(items=items, click_policy="hide", background_fill_alpha=0.0, border_line_alpha=0.0)
        plot.add_layout(legend, "right")
    return dict(json_item(plot))


def plot_bands(
    light_curve: pl.DataFrame, *, events: list[tuple[float, float]], models: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """One panel per sub-band over the same span of time, each with its fit where there is one.

    Parameters
    ----------
    light_curve, events
        As for `plot_light_curve`.
    models : mapping of band to mapping
        ``mjd`` and ``flux_jy`` of the fit of each band.

    Returns
    -------
    dict of band to dict
        Bokeh's JSON documents: separate ones, so that the page may put them side by side or below each other.
    """
    bands = [band for band in bands_of(light_curve) if band != "full"]
    times = axis_times(light_curve["mjd"].to_numpy())
    margin = max(0.03 * float(np.ptp(times)), _HALF_DAY_MS)
    panels = {}
    for band in bands:
        panel = _flux_figure(230, "")
        panel.x_range = Range1d(start=times.min() - margin, end=times.max() + margin)
        mark_events(panel, events)
        _add_points(panel, _measured(light_curve, band), band)
        if band in models:
            _add_model(panel, models[band])
        panels[band] = dict(json_item(panel))
    return panels


def plot_residuals(rows: pl.DataFrame, *, events: list[tuple[float, float]]) -> dict[str, Any]:
    """Measured minus fitted flux in units of the error, all bands in one figure.

    Parameters
    ----------
    rows : polars.DataFrame
        ``band, mjd, residual_sigma``.
    events : list of (start_mjd, end_mjd)
    """
    plot = blank_figure(220, "", x_axis_type="datetime")
    plot.yaxis.axis_label = "residual (σ)"
    mark_events(plot, events)
    for sigma, dash in ((0.0, "solid"), (3.0, "dotted"), (-3.0, "dotted")):
        plot.add_layout(Span(location=sigma, dimension="width", line_dash=dash, line_color=OTHER_COLOUR))
    renderers = []
    for band in bands_of(rows):
        part = rows.filter(band=band)
        source = ColumnDataSource(
            {
                "time": axis_times(part["mjd"].to_numpy()),
                "sigma": part["residual_sigma"].to_list(),
                "band": [band] * part.height,
            }
        )
        colour = BAND_COLOURS.get(band, OTHER_COLOUR)
        renderers.append(
            plot.add_glyph(source, Scatter(x="time", y="sigma", size=5, fill_color=colour, line_color=colour))
        )
    plot.add_tools(HoverTool(renderers=renderers, tooltips=[("band", "@band"), ("residual", "@sigma{0.0} σ")]))
    return dict(json_item(plot))
