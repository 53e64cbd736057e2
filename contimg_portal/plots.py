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
from bokeh.layouts import gridplot
from bokeh.models import ColumnDataSource, HoverTool, Range1d
from bokeh.models.annotations import BoxAnnotation, TeeHead, Whisker
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
_OTHER_COLOUR = "#7a8290"
_MODEL_COLOUR = "#8a6d00"
_EVENT_COLOUR = "#d9a400"


def _times(mjd: Any) -> Any:
    """Bokeh's axis of dates counts milliseconds since 1970."""
    return (np.asarray(mjd, dtype=np.float64) - 40_587.0) * 86_400_000.0


def _source(rows: pl.DataFrame) -> ColumnDataSource:
    flux = rows["flux_jy"].to_numpy().astype(np.float64)
    error = rows["flux_err_jy"].fill_null(0.0).to_numpy().astype(np.float64)
    return ColumnDataSource(
        {
            "time": _times(rows["mjd"].to_numpy()),
            "flux": flux,
            "error": error,
            "upper": flux + error,
            "lower": flux - error,
            "band": rows["band"].to_list(),
            "when": [f"{from_mjd(mjd):%Y-%m-%d %H:%M}" for mjd in rows["mjd"]],
        }
    )


def _empty_figure(title: str, height: int) -> Any:
    plot = figure(
        title=title or None,
        height=height,
        sizing_mode="stretch_width",
        x_axis_type="datetime",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        toolbar_location="above",
        background_fill_alpha=0.0,
        border_fill_alpha=0.0,
        outline_line_alpha=0.3,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.yaxis.axis_label = "flux density (Jy)"
    plot.xaxis.axis_label = "date (UTC)"
    plot.grid.grid_line_alpha = 0.35
    return plot


def _add_points(plot: Any, rows: pl.DataFrame, band: str, *, legend: bool) -> None:
    source = _source(rows)
    colour = BAND_COLOURS.get(band, _OTHER_COLOUR)
    named = {"legend_label": band} if legend else {}
    points = plot.scatter("time", "flux", source=source, size=7 if band == "full" else 5, color=colour, **named)
    head = TeeHead(size=4, line_color=colour, line_alpha=0.6)
    bars = Whisker(
        source=source, base="time", upper="upper", lower="lower", upper_head=head, lower_head=head, line_color=colour
    )
    bars.line_alpha = 0.6
    plot.add_layout(bars)
    # A band hidden through the legend takes its error bars along.
    points.js_link("visible", bars, "visible")
    tips = [("time", "@when UTC"), ("flux", "@flux{0.0000} ± @error{0.0000} Jy"), ("band", "@band")]
    plot.add_tools(HoverTool(renderers=[points], tooltips=tips))


def _mark_events(plot: Any, events: list[tuple[float, float]]) -> None:
    for start_mjd, end_mjd in events:
        left, right = _times([start_mjd, end_mjd])
        plot.add_layout(
            BoxAnnotation(left=left, right=right, fill_color=_EVENT_COLOUR, fill_alpha=0.13, line_alpha=0.0)
        )


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
    plot = _empty_figure("", 380)
    _mark_events(plot, events)
    bands = bands_of(light_curve)
    for band in bands:
        _add_points(plot, _measured(light_curve, band), band, legend=len(bands) > 1)
    if model is not None:
        label = {"legend_label": "lens fit"}
        plot.line(_times(model["mjd"]), np.asarray(model["flux_jy"]), color=_MODEL_COLOUR, line_width=2, **label)
    if plot.legend:
        plot.legend.click_policy = "hide"
        plot.legend.location = "top_left"
        plot.legend.background_fill_alpha = plot.legend.border_line_alpha = 0.0
        plot.add_layout(plot.legend[0], "right")
    return dict(json_item(plot))


def plot_bands(
    light_curve: pl.DataFrame, *, events: list[tuple[float, float]], models: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """One panel per sub-band on a common time axis, each with its fit where there is one.

    Parameters
    ----------
    light_curve, events
        As for `plot_light_curve`.
    models : mapping of band to mapping
        ``mjd`` and ``flux_jy`` of the fit of each band.
    """
    bands = [band for band in bands_of(light_curve) if band != "full"]
    measured = light_curve.filter(pl.col("band").is_in(bands), pl.col("mjd").is_not_null())
    start, end = _times([measured["mjd"].min(), measured["mjd"].max()]) if measured.height else (0.0, 1.0)
    margin = max(0.03 * (end - start), 43_200_000.0)
    shared = Range1d(start=start - margin, end=end + margin)
    panels = []
    for band in bands:
        panel = _empty_figure(band, 230)
        panel.x_range = shared
        panel.title.text_color = BAND_COLOURS.get(band, _OTHER_COLOUR)
        panel.xaxis.axis_label = None
        _mark_events(panel, events)
        _add_points(panel, _measured(light_curve, band), band, legend=False)
        if band in models:
            model = models[band]
            panel.line(_times(model["mjd"]), np.asarray(model["flux_jy"]), color=_MODEL_COLOUR, line_width=2)
        panels.append(panel)
    grid = gridplot(panels, ncols=2, sizing_mode="stretch_width", merge_tools=False)
    return dict(json_item(grid))
