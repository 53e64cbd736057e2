"""Bokeh figures of the array and its calibration: where the antennas stand and how they are, gains and bandpass.

What belongs here: drawing what calibration tables hold. Reading them is ``contimg_resources.calibration_tables``, the
state of an antenna ``antenna_states`` of science.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, DataRange1d, HoverTool, MultiLine, Scatter
from bokeh.models.annotations import Legend, LegendItem
from numpy.typing import NDArray

from contimg_assets.science.calibration.antenna_states import AntennaStates
from contimg_assets.science.coordinates import enu_basis_itrf
from contimg_portal.plots import BAND_COLOURS, STATE_COLOURS, blank_figure

_MARKS = {
    "good": ("circle", STATE_COLOURS["good"]),
    "weak": ("triangle", STATE_COLOURS["amber"]),
    "dead": ("x", STATE_COLOURS["red"]),
}
"""Shape and colour of each state: shape too, for those who do not see the colours."""
_CORRELATION_COLOURS = (BAND_COLOURS["full"], BAND_COLOURS["band0"])


def plot_antenna_map(
    positions_itrf_m: NDArray[np.float64], names: tuple[str, ...], states: AntennaStates
) -> dict[str, Any]:
    """Map of the array, north up, with the state of each antenna.

    Parameters
    ----------
    positions_itrf_m : array of float, shape (n_ant, 3)
    names : tuple of str
    states : AntennaStates
        Of the same antennas in the same order.
    """
    centre = np.median(positions_itrf_m, axis=0)
    east, north, _ = enu_basis_itrf(centre) @ (positions_itrf_m - centre).T
    plot = blank_figure(380, "pan,wheel_zoom,reset", match_aspect=True)
    plot.xaxis.axis_label, plot.yaxis.axis_label = "east (m)", "north (m)"
    items, renderers = [], []
    for state, (marker, colour) in _MARKS.items():
        chosen = [index for index, of_one in enumerate(states.state) if of_one == state]
        if not chosen:
            continue
        source = ColumnDataSource(
            {
                "east": east[chosen],
                "north": north[chosen],
                "name": [names[index] for index in chosen],
                "state": [state] * len(chosen),
                "amplitude": states.amplitude_ratio[chosen],
                "snr": states.snr[chosen],
                "flagged": 100.0 * states.flagged_fraction[chosen],
            }
        )
        glyph = Scatter(x="east", y="north", marker=marker, size=11, fill_color=colour, line_color=colour, line_width=2,
                        fill_alpha=0.75)  # fmt: skip
        renderers.append(plot.add_glyph(source, glyph))
        items.append(LegendItem(label=f"{state} ({len(chosen)})", renderers=[renderers[-1]]))
    tips = [("antenna", "@name"), ("state", "@state"), ("amplitude over median", "@amplitude{0.00}"),
            ("signal-to-noise", "@snr{0.0}"), ("flagged", "@flagged{0} %")]  # fmt: skip
    plot.add_tools(HoverTool(renderers=renderers, tooltips=tips))
    plot.add_layout(_plain_legend(items), "above")
    return dict(json_item(plot))


def _plain_legend(items: list[LegendItem]) -> Legend:
    return Legend(items=items, orientation="horizontal", background_fill_alpha=0.0, border_line_alpha=0.0, margin=0)


def plot_gains(solutions: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Amplitude and phase of each antenna's gain, one point per solution interval.

    Parameters
    ----------
    solutions : mapping
        As ``read_calibration_table`` returns them.

    Returns
    -------
    dict of str to dict
        Documents of ``amplitude`` and ``phase``.
    """
    gains = np.where(solutions["flags"], np.nan, solutions["gains"])[:, :, 0]
    _, n_ant, n_corr = gains.shape
    antenna = np.broadcast_to(np.arange(n_ant)[None, :, None], gains.shape)
    panels = {}
    for what, label, values in (
        ("amplitude", "gain amplitude", np.abs(gains)),
        ("phase", "gain phase (deg)", np.rad2deg(np.angle(gains))),
    ):
        plot = blank_figure(250, "pan,box_zoom,reset")
        plot.xaxis.axis_label, plot.yaxis.axis_label = "antenna", label
        items, renderers = [], []
        for corr in range(n_corr):
            offset = 0.2 * (corr - 0.5 * (n_corr - 1))
            source = ColumnDataSource(
                {
                    "x": (antenna[..., corr] + offset).ravel(),
                    "y": values[..., corr].ravel(),
                    "name": [solutions["antenna_names"][index] for index in antenna[..., corr].ravel()],
                }
            )
            colour = _CORRELATION_COLOURS[corr % 2]
            glyph = Scatter(x="x", y="y", size=4, fill_color=colour, line_color=colour)
            renderers.append(plot.add_glyph(source, glyph))
            items.append(LegendItem(label=solutions["correlations"][corr], renderers=[renderers[-1]]))
        plot.add_tools(HoverTool(renderers=renderers, tooltips=[("antenna", "@name"), (label, "@y{0.000}")]))
        plot.add_layout(_plain_legend(items), "above")
        if what == "amplitude":
            plot.y_range = DataRange1d(start=0.0, range_padding=0.1)
        panels[what] = dict(json_item(plot))
    return panels


def plot_bandpass(solutions: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Amplitude of the first bandpass of a table against frequency, a line per antenna, one figure per correlation."""
    amplitude = np.abs(np.where(solutions["flags"], np.nan, solutions["gains"])[0])
    frequency_mhz = (solutions["frequency_hz"] / 1e6).tolist()
    panels = {}
    for corr, name in enumerate(solutions["correlations"]):
        antennas = np.flatnonzero(np.isfinite(amplitude[..., corr]).any(axis=1))
        source = ColumnDataSource(
            {
                "x": [frequency_mhz] * len(antennas),
                "y": [amplitude[index, :, corr] for index in antennas],
                "name": [solutions["antenna_names"][index] for index in antennas],
            }
        )
        plot = blank_figure(250, "pan,box_zoom,reset")
        plot.xaxis.axis_label, plot.yaxis.axis_label = "frequency (MHz)", "bandpass amplitude"
        lines = plot.add_glyph(
            source, MultiLine(xs="x", ys="y", line_color=_CORRELATION_COLOURS[corr % 2], line_alpha=0.45)
        )
        plot.add_tools(HoverTool(renderers=[lines], tooltips=[("antenna", "@name"), ("amplitude", "$data_y{0.000}")]))
        panels[name] = dict(json_item(plot))
    return panels
