"""Bokeh figures of the sky: what was observed and when, an image with its catalogue, the plane of variability.

What belongs here: how they are drawn; light curves are ``plots.py``, the array ``array_figures.py``, pixels
``sky_pictures.py``. Figures are JSON documents, which the page's script draws.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import polars as pl
from bokeh.embed import json_item
from bokeh.models import (
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    ImageURL,
    LogColorMapper,
    OpenURL,
    Quad,
    Range1d,
    Rect,
    Scatter,
    TapTool,
)
from bokeh.models.annotations import ColorBar, Span

from contimg_portal.formats import from_mjd
from contimg_portal.plots import BAND_COLOURS, EVENT_COLOUR, STATE_COLOURS, axis_times, blank_figure
from contimg_resources.image_regions import ImageGeometry

_COLOUR_OF_STATUS = {
    "processed": STATE_COLOURS["good"],
    "ready": BAND_COLOURS["full"],
    "collecting": STATE_COLOURS["amber"],
    "quarantined": STATE_COLOURS["red"],
}
_HOUR_MS = 3_600_000.0
_DAY_MS = 24 * _HOUR_MS
_SIDEREAL = 1.002_737_91
_NARROWEST_H = 0.09
"""Width (hours of right ascension) below which an observation would not be seen on the strip."""
_FEW_SOURCES = 1500
"""So many sources are drawn one by one; more are counted in cells."""
_N_CELLS = (72, 48)
_LONELY = 3
"""Sources in a cell of at most so many are drawn one by one as well: there the interesting ones are."""


def plot_sky_strip(pointings: pl.DataFrame, lst_deg: float, days: int) -> dict[str, Any]:
    """Right ascension against date: a mark for every observation in the colour of its status, and the meridian now.

    Parameters
    ----------
    pointings : polars.DataFrame
        ``observation_id, start_mjd, duration_s, pointing_ra_deg, pointing_dec_deg, status, n_subbands``.
    lst_deg : float
        Right ascension on the meridian now.
    days : int
        Days shown, up to the newest observation.
    """
    shown = pointings.drop_nulls(["pointing_ra_deg"])
    day = np.floor(shown["start_mjd"].to_numpy())
    hours = shown["duration_s"].fill_null(309.0).to_numpy() / 3600.0 * _SIDEREAL
    source = ColumnDataSource(
        {
            "ra": shown["pointing_ra_deg"].to_numpy() / 15.0,
            "day": axis_times(day + 0.5),
            "width": np.maximum(hours, _NARROWEST_H),
            "colour": [_COLOUR_OF_STATUS.get(status, STATE_COLOURS["unknown"]) for status in shown["status"]],
            "name": shown["observation_id"].to_list(),
            "status": shown["status"].to_list(),
            "dec": [f"{dec:+.2f}" if dec is not None else "unknown" for dec in shown["pointing_dec_deg"]],
            "subbands": shown["n_subbands"].fill_null(0).to_list(),
        }
    )
    last = axis_times(day.max() + 1.0) if day.size else axis_times(0.0)
    plot = blank_figure(
        300,
        "xpan,xwheel_zoom,reset",
        x_range=Range1d(start=0, end=24),
        y_range=Range1d(start=float(last - days * _DAY_MS), end=float(last)),
        y_axis_type="datetime",
    )
    plot.xaxis.ticker = FixedTicker(ticks=list(range(0, 25, 3)))
    plot.xaxis.axis_label = "right ascension = sidereal time (h)"
    glyph = Rect(
        x="ra", y="day", width="width", height=0.82 * _DAY_MS, fill_color="colour", line_color="colour", line_width=0.5
    )
    marks = plot.add_glyph(source, glyph)
    plot.add_layout(
        Span(location=lst_deg / 15.0, dimension="height", line_color=EVENT_COLOUR, line_dash="dashed", line_width=2)
    )
    tips = [("observation", "@name"), ("status", "@status"), ("sub-bands", "@subbands"), ("declination", "@dec°")]
    plot.add_tools(HoverTool(renderers=[marks], tooltips=tips))
    _open_on_tap(plot, marks, "observations/@name")
    return dict(json_item(plot))


def _open_on_tap(plot: Any, renderer: Any, path: str) -> None:
    # The script puts the address of the site in front (see portal.js), so that one document serves every site.
    plot.add_tools(TapTool(renderers=[renderer], callback=OpenURL(url=path, same_tab=True)))


def plot_image(geometry: ImageGeometry, address: str, catalogue: pl.DataFrame) -> dict[str, Any]:
    """An image of the sky that is fetched anew when a part of it is enlarged, catalogue sources circled.

    Parameters
    ----------
    geometry : ImageGeometry
    address : str
        Of the picture; ``x0, x1, y0, y1`` (pixels) are added by the page's script.
    catalogue : polars.DataFrame
        ``source_id, ra_deg, dec_deg, catalogue_flux_jy``.
    """
    cell_arcmin = geometry.cell_arcsec / 60.0
    half_x, half_y = 0.5 * geometry.n_x * cell_arcmin, 0.5 * geometry.n_y * cell_arcmin
    plot = blank_figure(
        560,
        "pan,wheel_zoom,box_zoom,reset",
        x_range=Range1d(start=-half_x, end=half_x, bounds=(-1.2 * half_x, 1.2 * half_x)),
        y_range=Range1d(start=-half_y, end=half_y, bounds=(-1.2 * half_y, 1.2 * half_y)),
        # The frame has about the image's own shape: a round beam looks round.
        sizing_mode="scale_width",
        aspect_ratio=geometry.n_x / geometry.n_y,
        name="sky-image",
    )
    plot.toolbar.active_scroll = "auto"
    plot.xaxis.axis_label, plot.yaxis.axis_label = "west of the centre (arcmin)", "north of the centre (arcmin)"
    pixels = {"url": [address], "x": [-half_x], "y": [half_y], "w": [2 * half_x], "h": [2 * half_y]}
    plot.add_glyph(
        ColumnDataSource(pixels, name="sky-pixels", tags=[address, cell_arcmin, geometry.n_x, geometry.n_y]),
        ImageURL(url="url", x="x", y="y", w="w", h="h", anchor="top_left"),  # type: ignore[arg-type]  # Bokeh's stubs ask for a property
    )
    x, y = geometry.wcs.world_to_pixel_values(catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy())
    inside = np.isfinite(x) & (x > -0.5) & (x < geometry.n_x - 0.5) & (y > -0.5) & (y < geometry.n_y - 0.5)
    listed = catalogue.filter(pl.Series(inside))
    circles = ColumnDataSource(
        {
            "x": (x[inside] + 0.5) * cell_arcmin - half_x,
            "y": (y[inside] + 0.5) * cell_arcmin - half_y,
            "name": listed["source_id"].to_list(),
            "flux": listed["catalogue_flux_jy"].to_list(),
        }
    )
    rings = plot.add_glyph(
        circles, Scatter(x="x", y="y", size=17, fill_alpha=0.0, line_color="#7fd4ff", line_alpha=0.85, line_width=1.3)
    )
    plot.add_tools(HoverTool(renderers=[rings], tooltips=[("source", "@name"), ("catalogue", "@flux{0.0000} Jy")]))
    _open_on_tap(plot, rings, "sources/@name")
    return dict(json_item(plot))


def plot_eta_v(register: pl.DataFrame, candidates: Collection[str]) -> dict[str, Any]:
    """Significance of variability (eta) against its amplitude (V), both logarithmic.

    Many sources are shown as the number in each cell, those in nearly empty cells and the candidates as points, too.

    Parameters
    ----------
    register : polars.DataFrame
        ``source_id, eta, modulation_index, n_epochs``.
    candidates : collection of str
        Sources to mark.
    """
    usable = register.filter(pl.col("eta") > 0, pl.col("modulation_index") > 0).with_columns(
        is_candidate=pl.col("source_id").is_in(list(candidates))
    )
    plot = blank_figure(420, "pan,box_zoom,wheel_zoom,reset", x_axis_type="log", y_axis_type="log")
    plot.xaxis.axis_label = "η: reduced χ² about the weighted mean"
    plot.yaxis.axis_label = "V: modulation index"
    plot.add_layout(Span(location=1.0, dimension="height", line_dash="dotted", line_color=STATE_COLOURS["unknown"]))
    drawn = usable
    if usable.height > _FEW_SOURCES:
        drawn = usable.filter(pl.Series(_add_density(plot, usable)) | pl.col("is_candidate"))
    parts = (
        (drawn.filter(~pl.col("is_candidate")), Scatter(x="x", y="y", size=6, fill_alpha=0.65, line_alpha=0.0,
                                                        fill_color=BAND_COLOURS["full"])),
        (drawn.filter("is_candidate"), Scatter(x="x", y="y", size=14, marker="star", fill_color=EVENT_COLOUR,
                                               line_color=STATE_COLOURS["red"])),
    )  # fmt: skip
    for part, glyph in parts:
        source = ColumnDataSource(
            {
                "x": part["eta"].to_list(),
                "y": part["modulation_index"].to_list(),
                "name": part["source_id"].to_list(),
                "epochs": part["n_epochs"].to_list(),
            }
        )
        points = plot.add_glyph(source, glyph)
        tips = [("source", "@name"), ("η", "@x{0.00}"), ("V", "@y{0.000}"), ("epochs", "@epochs")]
        plot.add_tools(HoverTool(renderers=[points], tooltips=tips))
        _open_on_tap(plot, points, "sources/@name")
    return dict(json_item(plot))


def _add_density(plot: Any, usable: pl.DataFrame) -> list[bool]:
    """Count sources in cells of the plane; return which sources lie in nearly empty ones."""
    x, y = np.log10(usable["eta"].to_numpy()), np.log10(usable["modulation_index"].to_numpy())
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=_N_CELLS)
    at_x, at_y = (
        np.clip(np.searchsorted(edges, values, side="right") - 1, 0, n - 1)
        for edges, values, n in ((x_edges, x, _N_CELLS[0]), (y_edges, y, _N_CELLS[1]))
    )
    i, j = np.nonzero(counts > _LONELY)
    cells = ColumnDataSource(
        {
            "left": 10 ** x_edges[i],
            "right": 10 ** x_edges[i + 1],
            "bottom": 10 ** y_edges[j],
            "top": 10 ** y_edges[j + 1],
            "n": counts[i, j],
        }
    )
    mapper = LogColorMapper(palette=list(_DENSITY), low=1, high=float(counts.max()))
    glyph = Quad(left="left", right="right", bottom="bottom", top="top", line_alpha=0.0,
                 fill_color={"field": "n", "transform": mapper})  # fmt: skip
    plot.add_tools(HoverTool(renderers=[plot.add_glyph(cells, glyph)], tooltips=[("sources", "@n")]))
    plot.add_layout(ColorBar(color_mapper=mapper, title="sources", background_fill_alpha=0.0, width=10), "right")
    return [bool(n <= _LONELY) for n in counts[at_x, at_y]]


_DENSITY = ("#9cc3ee", "#86b0e6", "#6f9cdc", "#5a87d0", "#4a72c1", "#3e5dae", "#374997", "#33377d", "#2e2863")
"""From few to many; all of them stand out on light ground and all but the last on dark."""


def observation_label(start_mjd: float) -> str:
    """Date of an observation as pictures are captioned."""
    return f"{from_mjd(start_mjd):%d %b %H:%M}"
