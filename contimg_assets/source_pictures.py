"""Pictures of sources over time: flux ratios, light curves, the eta-V plane, completeness.

What belongs here: how tables of measurements are drawn, for metadata and the daily report. What does not: the
statistics and fits themselves (``science``), pictures of one observation (``pictures``), colours and sizes
(``canvas``). Tables come as polars frames with the column names of the store.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from contimg_assets.canvas import BLUE, GREEN, GREY, VERMILLION, band_colours, render_png, say_instead

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PERCENT_BAND = 3.0
"""Half width of the shaded band of flux ratios, per cent: the accuracy the platform promises."""


def flux_ratio_plot(measured: pl.DataFrame, *, title: str = "") -> bytes:
    """Measured over catalogue flux density against catalogue flux density, reference sources marked.

    Parameters
    ----------
    measured : polars.DataFrame
        One row per source: ``catalogue_flux_jy``, ``flux_jy``, ``flux_err_jy``, ``is_reference``.
    title : str
        What the picture is of, e.g. the observation.
    """
    usable = measured.filter(pl.col("catalogue_flux_jy") > 0, pl.col("flux_err_jy") > 0, pl.col("flux_jy").is_finite())
    ratio = usable["flux_jy"] / usable["catalogue_flux_jy"]
    usable = usable.with_columns(ratio=ratio, ratio_err=usable["flux_err_jy"] / usable["catalogue_flux_jy"])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlabel("catalogue flux density (Jy)")
        axes.set_ylabel("measured / catalogue")
        axes.set_title(title)
        if usable.is_empty():
            say_instead(axes, "no catalogue source was measured")
            return
        band = 0.01 * _PERCENT_BAND
        axes.axhspan(1.0 - band, 1.0 + band, color=GREEN, alpha=0.12, label=f"± {_PERCENT_BAND:.0f} %", linewidth=0)
        axes.axhline(1.0, color="black", linewidth=0.8)
        for is_reference, colour, marker, name in ((False, GREY, "o", "other"), (True, BLUE, "D", "reference")):
            part = usable.filter(pl.col("is_reference") == is_reference)
            axes.errorbar(
                part["catalogue_flux_jy"],
                part["ratio"],
                part["ratio_err"],
                fmt=marker,
                color=colour,
                markersize=4,
                elinewidth=0.8,
                label=f"{name} ({part.height})",
                alpha=0.9,
            )
        references = usable.filter("is_reference")
        median = (references if references.height else usable)["ratio"].median()
        axes.axhline(float(str(median)), color=BLUE, linestyle="--", label=f"median {float(str(median)):.3f}")
        _logarithmic(axes, "x")
        low, high = np.quantile(usable["ratio"], [0.05, 0.95])
        margin = max(0.25, 0.5 * float(high - low))
        axes.set_ylim(min(float(low), 1.0) - margin, max(float(high), 1.0) + margin)
        axes.legend(loc="upper right", ncols=4)

    return render_png(draw, height_inch=4.0)


def light_curve_plot(points: pl.DataFrame, fits: pl.DataFrame | None = None, *, title: str = "") -> bytes:
    """Light curve of one source, one panel per band, the lens fit drawn over it.

    Parameters
    ----------
    points : polars.DataFrame
        ``band``, ``mjd``, ``flux_jy``, ``flux_err_jy``.
    fits : polars.DataFrame, optional
        ``band``, ``mjd``, ``flux_jy``: the fitted curve, in the order it is drawn.
    title : str
        Name of the source and what was found.
    """
    bands = sorted(points["band"].unique(), key=lambda band: (band != "full", band))
    colours = band_colours(bands)

    def draw(figure: Figure) -> None:
        figure.subplots_adjust(top=1.0 - 0.55 / figure.get_figheight(), hspace=0.3)
        panels = figure.subplots(max(len(bands), 1), 1, sharex=True, squeeze=False)[:, 0]
        if not bands:
            say_instead(panels[0], "no measurement of this source")
        for axes, band in zip(panels, bands, strict=False):
            part = points.filter(band=band).sort("mjd")
            axes.errorbar(
                part["mjd"],
                part["flux_jy"],
                part["flux_err_jy"],
                fmt="o",
                color=colours[band],
                markersize=3.5,
                elinewidth=0.9,
            )
            if fits is not None:
                curve = fits.filter(band=band)
                axes.plot(curve["mjd"], curve["flux_jy"], color=VERMILLION, label="lens fit")
            axes.set_title("full band" if band == "full" else band, fontsize=9, pad=2)
            axes.margins(x=0.02, y=0.12)
        if fits is not None and bands:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="upper right")
        panels[-1].set_xlabel("MJD (UTC, days)")
        figure.supylabel("flux density (Jy)", fontsize=10)
        figure.suptitle(title, fontsize=10.5)

    return render_png(draw, height_inch=1.4 + 1.25 * max(len(bands), 1))


def eta_v_plane(statistics: pl.DataFrame, candidates: Collection[str] = ()) -> bytes:
    """Significance of variability (eta) against its amplitude (V), candidates named.

    Parameters
    ----------
    statistics : polars.DataFrame
        One row per source: ``source_id``, ``eta``, ``modulation_index``.
    candidates : collection of str
        ``source_id`` of the sources to name.
    """
    usable = statistics.filter(
        pl.col("eta").is_finite(),
        pl.col("modulation_index").is_finite(),
        pl.col("eta") > 0,
        pl.col("modulation_index") > 0,
    )
    chosen = pl.col("source_id").is_in(list(candidates))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlabel("eta: reduced chi-square about the weighted mean")
        axes.set_ylabel("V: modulation index")
        if usable.is_empty():
            say_instead(axes, "no source has enough epochs for statistics")
            return
        axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":", label="eta of a constant source")
        others, named = usable.filter(~chosen), usable.filter(chosen)
        axes.plot(others["eta"], others["modulation_index"], "o", color=BLUE, markersize=4, alpha=0.7, label="sources")
        axes.plot(named["eta"], named["modulation_index"], "*", color=VERMILLION, markersize=11, label="candidates")
        _logarithmic(axes, "x", "y")
        _name_points(axes, named)
        axes.set_title(f"{usable.height} sources, {named.height} candidates")
        axes.legend(loc="upper left")
        axes.margins(x=0.12, y=0.12)

    return render_png(draw, height_inch=4.6)


def _logarithmic(axes: Axes, *which: str) -> None:
    """Logarithmic axes whose ticks are plain numbers: typeset powers of ten cost more than the rest of the picture."""
    from matplotlib.ticker import LogLocator

    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.minorticks_off()


def _name_points(axes: Axes, named: pl.DataFrame) -> None:
    for source_id, eta, modulation_index in named.select("source_id", "eta", "modulation_index").iter_rows():
        axes.annotate(str(source_id), (eta, modulation_index), (7, 3), textcoords="offset points", fontsize=9)


def completeness_grid(recovery: pl.DataFrame) -> bytes:
    """Fraction of injected events recovered, by depth and duration, with the number injected in each cell.

    Parameters
    ----------
    recovery : polars.DataFrame
        Table ``injection_recovery`` of one day: ``depth_bin``, ``duration_bin``, ``n_injected``, ``completeness``.
        Bins sort in the order of their first number.
    """
    depths = _in_order(recovery, "depth_bin")
    durations = _in_order(recovery, "duration_bin")
    grid = np.full((len(depths), len(durations)), np.nan)
    injected = np.zeros(grid.shape, dtype=np.int64)
    for depth, duration, n, completeness in recovery.select(
        "depth_bin", "duration_bin", "n_injected", "completeness"
    ).iter_rows():
        cell = depths.index(str(depth)), durations.index(str(duration))
        injected[cell], grid[cell] = n, np.nan if completeness is None else completeness

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlabel("duration (days)")
        axes.set_ylabel("depth (fraction of the flux density)")
        if not grid.size:
            say_instead(axes, "no event was injected")
            return
        shown = axes.imshow(grid, origin="lower", aspect="auto", cmap="cividis", vmin=0.0, vmax=1.0)
        axes.grid(visible=False)
        axes.set_xticks(range(len(durations)), durations)
        axes.set_yticks(range(len(depths)), depths)
        for (row, column), completeness in np.ndenumerate(grid):
            if injected[row, column]:
                text = f"{100 * completeness:.0f} %\nof {injected[row, column]}"
                colour = "black" if completeness > 0.55 else "white"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
        figure.colorbar(shown, ax=axes, pad=0.01).set_label("completeness")
        axes.set_title(f"{int(injected.sum())} events injected")

    return render_png(draw, height_inch=4.4)


def detection_counts(
    detections: pl.DataFrame, negatives: pl.DataFrame, expected_false: float, threshold_snr: float, *, title: str = ""
) -> bytes:
    """Number of detections above a signal-to-noise, known and outside the catalogue, beside the false ones.

    Parameters
    ----------
    detections : polars.DataFrame
        ``snr``, ``kind``.
    negatives : polars.DataFrame
        ``snr`` of the detections of the turned image, all false.
    expected_false : float
        Detections that noise would make above the threshold.
    threshold_snr : float
    title : str
        What the picture is of.
    """
    is_known = pl.col("kind") == "catalogued"
    parts = {
        "in the catalogue": (GREY, detections.filter(is_known)["snr"]),
        "outside the catalogue": (BLUE, detections.filter(~is_known)["snr"]),
        "image with its sign turned": (VERMILLION, negatives["snr"]),
    }

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlabel("signal-to-noise")
        axes.set_ylabel("detections above")
        axes.set_title(title)
        for name, (colour, snr) in parts.items():
            ordered = snr.sort(descending=True).to_numpy()
            axes.step(
                ordered, np.arange(1, ordered.size + 1), color=colour, label=f"{name} ({ordered.size})", where="pre"
            )
        axes.plot(
            [threshold_snr],
            [max(expected_false, 1e-3)],
            "D",
            color="black",
            label=f"noise: {expected_false:.2g} expected",
        )
        _logarithmic(axes, "x", "y")
        axes.legend(loc="upper right")

    return render_png(draw, height_inch=4.0)


def image_injection_plot(recovery: pl.DataFrame) -> bytes:
    """Completeness of blind detection, and forced and blind flux over truth, by signal-to-noise.

    Parameters
    ----------
    recovery : polars.DataFrame
        Table ``image_injection`` of one day, in order of brightness.
    """
    shown = recovery.filter(pl.col("n_injected") > 0)

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        if shown.is_empty():
            say_instead(upper, "no source was injected into an image")
            return
        at = np.arange(shown.height)
        upper.bar(at, shown["completeness"].to_numpy(), color=BLUE, alpha=0.7)
        for k, (found, injected) in enumerate(shown.select("n_detected", "n_injected").iter_rows()):
            upper.text(k, 0.03, f"{found} of {injected}", ha="center", fontsize=9)
        upper.set_ylabel("detected")
        upper.set_ylim(0.0, 1.05)
        ratio, error, blind = (
            shown[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
            for name in ("forced_flux_ratio", "forced_flux_ratio_err", "blind_flux_ratio")
        )
        lower.axhline(1.0, color="black", linewidth=0.8)
        lower.errorbar(at, ratio, error, fmt="o", color=BLUE, label="forced photometry")
        lower.plot(at, blind, "^", color=VERMILLION, label="detections (selected by noise)")
        lower.set_ylabel("measured / injected")
        lower.set_xticks(at, shown["snr_bin"].to_list())
        lower.set_xlabel("injected signal-to-noise")
        lower.legend(loc="upper right")

    return render_png(draw, height_inch=4.6)


def _in_order(recovery: pl.DataFrame, column: str) -> list[str]:
    """Labels of bins, ordered by the first number in each."""
    first = pl.col(column).cast(pl.String).str.extract(r"([0-9.]+)").cast(pl.Float64, strict=False)
    ordered = recovery.select(label=pl.col(column).cast(pl.String), first=first).unique("label").sort("first", "label")
    return [str(label) for label in ordered["label"]]
