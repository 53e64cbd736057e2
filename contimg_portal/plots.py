"""Bokeh figures of light curves, as JSON documents that the page's script draws in its own colours.

What a figure shows is decided here; its place on the page and its text are the templates'. Fluxes are Jy. BokehJS comes
from the installed package through the portal, never from the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from bokeh.models import ColumnDataSource, DataRange1d, HoverTool, Line, Range1d, Scatter, Segment
from bokeh.models.annotations import BoxAnnotation, Legend, LegendItem, Span, Whisker
from bokeh.plotting import figure

from contimg_portal.figure_forms import FigureForm

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
_MOST_FORMS = 256
"""Figures that differ in bands, number of events or model."""
EVENT_COLOUR = "#d9a400"
STATE_COLOURS = {"good": "#2e9e6b", "amber": "#c98a1b", "red": "#d1493f", "unknown": "#7a8290"}
"""Of figures; on text the style sheet has its own, with more contrast."""
_HALF_DAY_MS = 43_200_000.0


def axis_times(mjd: Any) -> Any:
    """Bokeh's axis of dates counts milliseconds since 1970."""
    return (np.asarray(mjd, dtype=np.float64) - 40_587.0) * 86_400_000.0


def _columns(rows: pl.DataFrame) -> dict[str, Any]:
    """Columns of the points' source."""
    flux = rows["flux_jy"].to_numpy().astype(np.float64)
    error = rows["flux_err_jy"].fill_null(0.0).to_numpy().astype(np.float64)
    return {
        "time": axis_times(rows["mjd"].to_numpy()),
        "flux": flux,
        "error": error,
        "upper": flux + error,
        "lower": flux - error,
    }


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


def _named_source(name: str, columns: Iterable[str]) -> Any:
    """A source without points, to be filled."""
    return ColumnDataSource({column: np.empty(0) for column in columns}, name=name)


def _add_points(plot: Any, band: str) -> Any:
    source = _named_source(f"points-{band}", ("time", "flux", "error", "upper", "lower"))
    colour = BAND_COLOURS.get(band, OTHER_COLOUR)
    # A bare glyph: figure.scatter would add variants for selection and muting, and Bokeh's cost is per model.
    size = 7 if band == "full" else 5
    glyph = Scatter(x="time", y="flux", size=size, fill_color=colour, line_color=colour)
    points = plot.add_glyph(source, glyph)
    points.name = band
    bars = Whisker(source=source, base="time", upper="upper", lower="lower", line_color=colour, line_alpha=0.6)
    bars.upper_head = bars.lower_head = None
    plot.add_layout(bars)
    # A band hidden through the legend takes its error bars along.
    points.js_link("visible", bars, "visible")
    return points


def _add_model(plot: Any) -> Any:
    return plot.add_glyph(
        _named_source("model", ("time", "flux")), Line(x="time", y="flux", line_color=MODEL_COLOUR, line_width=2)
    )


def _model_columns(model: Mapping[str, Any]) -> dict[str, Any]:
    return {"time": axis_times(model["mjd"]), "flux": np.asarray(model["flux_jy"], dtype=np.float64)}


def _add_events(plot: Any, n_events: int) -> None:
    """Spans of time, to be filled."""
    for k in range(n_events):
        plot.add_layout(
            BoxAnnotation(name=f"event-{k}", left=0, right=0, fill_color=EVENT_COLOUR, fill_alpha=0.13, line_alpha=0.0)
        )


def _event_ends(events: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Left and right end of each span (MJD)."""
    ends = (axis_times(event) for event in events)
    return {f"event-{k}": {"left": float(left), "right": float(right)} for k, (left, right) in enumerate(ends)}


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
    bands = bands_of(light_curve)
    values = {f"points-{band}": _columns(_measured(light_curve, band)) for band in bands} | _event_ends(events)
    if model is not None:
        values["model"] = _model_columns(model)
    return _light_curve_form(tuple(bands), len(events), model is not None).filled(values)


@lru_cache(_MOST_FORMS)
def _light_curve_form(bands: tuple[str, ...], n_events: int, has_model: bool) -> FigureForm:  # noqa: FBT001 (a key)
    plot = _flux_figure(380, "pan,box_zoom,wheel_zoom,reset,save")
    plot.xaxis.axis_label = "date (UTC)"
    _add_events(plot, n_events)
    points = {band: _add_points(plot, band) for band in bands}
    tips = [("time", "@time{%F %H:%M} UTC"), ("flux", "@flux{0.0000} ± @error{0.0000} Jy"), ("band", "$name")]
    plot.add_tools(HoverTool(renderers=list(points.values()), tooltips=tips, formatters={"@time": "datetime"}))
    entries = list(points.items())
    if has_model:
        entries.append(("lens fit", _add_model(plot)))
    if len(entries) > 1:
        items = [LegendItem(label=label, renderers=[renderer]) for label, renderer in entries]
        legend = Legend(items=items, click_policy="hide", background_fill_alpha=0.0, border_line_alpha=0.0)
        plot.add_layout(legend, "right")
    return FigureForm(plot)


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
    shared = {"dates": {"start": times.min() - margin, "end": times.max() + margin}} | _event_ends(events)
    panels = {}
    for band in bands:
        values = shared | {f"points-{band}": _columns(_measured(light_curve, band))}
        if band in models:
            values["model"] = _model_columns(models[band])
        panels[band] = _panel_form(band, len(events), band in models).filled(values)
    return panels


@lru_cache(_MOST_FORMS)
def _panel_form(band: str, n_events: int, has_model: bool) -> FigureForm:  # noqa: FBT001 (a key)
    panel = _flux_figure(230, "")
    panel.x_range = Range1d(name="dates", start=0, end=1)
    _add_events(panel, n_events)
    _add_points(panel, band)
    if has_model:
        _add_model(panel)
    return FigureForm(panel)


def plot_residuals(rows: pl.DataFrame, *, events: list[tuple[float, float]]) -> dict[str, Any]:
    """Measured minus fitted flux in units of the error, all bands in one figure.

    Parameters
    ----------
    rows : polars.DataFrame
        ``band, mjd, residual_sigma``.
    events : list of (start_mjd, end_mjd)
    """
    bands = bands_of(rows)
    parts = {f"sigma-{band}": rows.filter(band=band) for band in bands}
    columns = {
        name: {"time": axis_times(part["mjd"].to_numpy()), "sigma": part["residual_sigma"].to_numpy()}
        for name, part in parts.items()
    }
    return _residuals_form(tuple(bands), len(events)).filled(columns | _event_ends(events))


@lru_cache(_MOST_FORMS)
def _residuals_form(bands: tuple[str, ...], n_events: int) -> FigureForm:
    plot = blank_figure(220, "", x_axis_type="datetime")
    plot.yaxis.axis_label = "residual (σ)"
    _add_events(plot, n_events)
    for sigma, dash in ((0.0, "solid"), (3.0, "dotted"), (-3.0, "dotted")):
        plot.add_layout(Span(location=sigma, dimension="width", line_dash=dash, line_color=OTHER_COLOUR))
    renderers = []
    for band in bands:
        colour = BAND_COLOURS.get(band, OTHER_COLOUR)
        glyph = Scatter(x="time", y="sigma", size=5, fill_color=colour, line_color=colour)
        points = plot.add_glyph(_named_source(f"sigma-{band}", ("time", "sigma")), glyph)
        points.name = band
        renderers.append(points)
    plot.add_tools(HoverTool(renderers=renderers, tooltips=[("band", "$name"), ("residual", "@sigma{0.0} σ")]))
    return FigureForm(plot)


def plot_chromaticity(rows: pl.DataFrame, model: pl.DataFrame | None) -> dict[str, Any]:
    """Relative flux density at the peak of an event against wavelength squared, and what the fitted lens predicts.

    Parameters
    ----------
    rows, model : polars.DataFrame
        ``band, wavelength2_m2, depth, depth_err``; the model without errors.
    """
    values: dict[str, dict[str, Any]] = {
        f"change-{part['band']}": {
            "x": [part["wavelength2_m2"]],
            "y": [part["depth"]],
            "upper": [part["depth"] + part["depth_err"]],
            "lower": [part["depth"] - part["depth_err"]],
        }
        for part in rows.to_dicts()
    }
    if model is not None and model.height:
        curve = model.sort("wavelength2_m2")
        values["lens"] = {"x": curve["wavelength2_m2"].to_numpy(), "y": curve["depth"].to_numpy()}
    return _chromaticity_form(tuple(rows["band"])).filled(values)


@lru_cache(_MOST_FORMS)
def _chromaticity_form(bands: tuple[str, ...]) -> FigureForm:
    plot = blank_figure(260, "")
    plot.xaxis.axis_label, plot.yaxis.axis_label = "wavelength² (m²)", "change of flux in the event"
    lens = _named_source("lens", ("x", "y"))
    plot.add_glyph(lens, Line(x="x", y="y", line_color=EVENT_COLOUR, line_width=2))
    renderers = []
    for band in bands:
        colour = BAND_COLOURS.get(band, OTHER_COLOUR)
        source = _named_source(f"change-{band}", ("x", "y", "upper", "lower"))
        plot.add_glyph(source, Segment(x0="x", y0="lower", x1="x", y1="upper", line_color=colour))
        points = plot.add_glyph(source, Scatter(x="x", y="y", size=9, fill_color=colour, line_color=colour))
        points.name = band
        renderers.append(points)
    plot.add_tools(HoverTool(renderers=renderers, tooltips=[("band", "$name"), ("change", "@y{0.000}")]))
    return FigureForm(plot)
