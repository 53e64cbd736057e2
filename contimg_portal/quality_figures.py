"""Bokeh figures of the page ``/quality``: completeness of the event search, and calibration over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, FactorRange, HoverTool, Line, Range1d, Scatter
from bokeh.models.annotations import Legend, LegendItem

from contimg_portal.plots import blank_figure

_COLOURS = ("#3d7fc4", "#c8553d", "#2e9e6b", "#c98a1b", "#a463b8", "#7a8290")
_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "star")


def _lower_edge(name: str) -> float:
    digits = "".join(letter if letter.isdigit() or letter == "." else " " for letter in name).split()
    return float(digits[0]) if digits else 0.0


def _add_curve(plot: Any, source: ColumnDataSource, x: str, y: str, k: int) -> Any:
    colour = _COLOURS[k % len(_COLOURS)]
    plot.add_glyph(source, Line(x=x, y=y, line_color=colour, line_width=2))
    marker = _MARKERS[k % len(_MARKERS)]
    return plot.add_glyph(source, Scatter(x=x, y=y, size=8, marker=marker, fill_color=colour, line_color=colour))


def plot_completeness(recovery: pl.DataFrame) -> dict[str, Any]:
    """Fraction of injected events that were found, by depth, one curve for each duration.

    Parameters
    ----------
    recovery : polars.DataFrame
        Rows of ``injection_recovery`` of one day.
    """
    depths = sorted(recovery["depth_bin"].unique().to_list(), key=_lower_edge)
    durations = sorted(recovery["duration_bin"].unique().to_list(), key=_lower_edge)
    plot = blank_figure(320, "", x_range=FactorRange(*depths), y_range=Range1d(start=-0.03, end=1.03))
    plot.xaxis.axis_label, plot.yaxis.axis_label = "depth of the event", "completeness"
    points = {}
    for k, duration in enumerate(durations):
        rows = recovery.filter(duration_bin=duration)
        by_depth = {row["depth_bin"]: row for row in rows.iter_rows(named=True)}
        known = [by_depth[depth] for depth in depths if depth in by_depth]
        source = ColumnDataSource(
            {
                "depth": [row["depth_bin"] for row in known],
                "completeness": [np.nan if row["completeness"] is None else row["completeness"] for row in known],
                "found": [f"{row['n_recovered']} of {row['n_injected']}" for row in known],
            }
        )
        points[duration] = _add_curve(plot, source, "depth", "completeness", k)
    plot.add_tools(HoverTool(renderers=list(points.values()), tooltips=[("depth", "@depth"), ("found", "@found")]))
    items = [LegendItem(label=f"lasting {duration}", renderers=[points[duration]]) for duration in durations]
    plot.add_layout(Legend(items=items, background_fill_alpha=0.0, border_line_alpha=0.0), "right")
    return dict(json_item(plot))


def plot_calibration(tables: pl.DataFrame) -> dict[str, Any]:
    """Signal-to-noise of calibration solutions over time, one curve for each kind of table.

    Parameters
    ----------
    tables : polars.DataFrame
        ``kind, solved_at_mjd, snr_median``, oldest first.
    """
    plot = blank_figure(320, "", x_axis_type="datetime")
    plot.xaxis.axis_label, plot.yaxis.axis_label = "solved (UTC)", "median signal-to-noise"
    items = []
    for k, kind in enumerate(sorted(tables["kind"].unique().to_list())):
        rows = tables.filter(pl.col("kind") == kind, pl.col("snr_median").is_not_null())
        times = (rows["solved_at_mjd"].to_numpy() - 40_587.0) * 86_400_000.0
        source = ColumnDataSource({"time": times, "snr": rows["snr_median"].to_numpy()})
        label = {"B": "bandpass", "G": "gains"}.get(kind, kind)
        items.append(LegendItem(label=label, renderers=[_add_curve(plot, source, "time", "snr", k)]))
    plot.add_layout(Legend(items=items, background_fill_alpha=0.0, border_line_alpha=0.0), "right")
    return dict(json_item(plot))
