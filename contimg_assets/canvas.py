"""The look of every picture: colours, sizes, and how a drawing becomes a small PNG.

What belongs here: what all pictures share. What is drawn is in ``pictures``. Drawn with matplotlib's object interface
on the Agg canvas: no global state, so runs may draw in threads; imported when the first picture is drawn, so that the
definitions load without it. Colours are those of Okabe and Ito (2008), told apart by people with any colour vision;
frequency bands run along cividis. Rejected: Bokeh or Plotly documents (a megabyte each, and Dagster's Markdown
runs no scripts).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#8A8A8A"

SERIES_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE)
"""Colours of up to four things side by side, e.g. correlations."""

_WIDTH_INCH = 9.0
_PIXELS_PER_INCH = 100
_BOTTOM_INCH, _TOP_INCH = 0.52, 0.4
"""Margins that hold tick labels and an axis label, and a title."""
_N_COLOURS = 128
"""Colours of a finished PNG: pictures of noise do not compress in true colour."""

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.2,
}


def render_png(draw: Callable[[Figure], object], *, height_inch: float) -> bytes:
    """Draw on a page 900 pixels wide and return it as a PNG of few colours.

    Parameters
    ----------
    draw : callable
        Puts axes and artists on the figure it is given, whose margins hold one line of labels and titles each.
        Margins are fixed: matplotlib's automatic layouts measure every label twice, half the time of a picture.
    height_inch : float
        Height of the page, 100 pixels per inch.

    Returns
    -------
    bytes
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCH, height_inch), dpi=_PIXELS_PER_INCH)
        bottom, top = _BOTTOM_INCH / height_inch, 1.0 - _TOP_INCH / height_inch
        figure.subplots_adjust(left=0.085, right=0.975, bottom=bottom, top=top, hspace=0.2, wspace=0.06)
        canvas = FigureCanvasAgg(figure)
        draw(figure)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    few = picture.quantize(colors=_N_COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    png = io.BytesIO()
    few.save(png, format="PNG")
    return png.getvalue()


def data_uri(png: bytes) -> str:
    """The picture as an address that holds it, for self-contained pages."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def band_colours(bands: Collection[str]) -> dict[str, Any]:
    """Colour of each band: black for the full band, cividis from the lowest to the highest sub-band."""
    import matplotlib as mpl

    parts = sorted(set(bands) - {"full"})
    shades = mpl.colormaps["cividis"](np.linspace(0.1, 0.8, max(len(parts), 1)))
    return {"full": "black", **dict(zip(parts, shades, strict=False))}


def say_instead(axes: Axes, text: str) -> None:
    """Write why there is nothing to draw where the drawing would be."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
