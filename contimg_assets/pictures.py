"""Pictures of one observation for people: PNG bytes for the metadata of materializations and for the daily report.

What belongs here: how visibilities, calibration tables and images are drawn; sources over time are in
``source_pictures``. What does not: numbers that a check or a table needs (``science``), which picture an asset shows
(the asset), colours and sizes (``canvas``). Every function takes what the asset has in hand and
returns a PNG about 900 pixels wide and below 150 kB, since Dagster keeps metadata in its event log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contimg_assets.canvas import (
    BLUE,
    GREY,
    ORANGE,
    SERIES_COLOURS,
    SKY,
    VERMILLION,
    data_uri,
    render_png,
    say_instead,
)

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from contimg_assets.science.calibration.solutions import Solutions
    from contimg_assets.science.imaging.mosaic import Mosaic
    from contimg_assets.science.imaging.products import ImagePlane
    from contimg_assets.science.visibilities import Visibilities

_IMAGE_PIXELS = 320
"""Images are reduced to at most about this many pixels a side before they are drawn."""
_N_IMAGE_COLOURS = 48
"""Steps of the colour scale of images: enough for the eye, few enough for noise to compress."""
_N_ODD_ANTENNAS = 3
"""So many antennas that differ most from the others are drawn in colour and named."""


def markdown_image(png: bytes, alt: str) -> str:
    """Markdown that shows a picture in Dagster's UI without a file or a server."""
    return f"![{alt}]({data_uri(png)})"


def _block_maximum(data: NDArray[np.float32], most_pixels: int = _IMAGE_PIXELS) -> NDArray[np.float32]:
    """Reduce an image so that no point source vanishes between the pixels that are kept; blocks of blank pixels are 0."""
    step = -(-max(data.shape) // most_pixels)
    n_y, n_x = (step * (size // step) for size in data.shape)
    blocks = np.nan_to_num(data[:n_y, :n_x]).reshape(n_y // step, step, n_x // step, step)
    return np.asarray(blocks.max(axis=(1, 3)), dtype=np.float32)


def image_pair(
    plane: ImagePlane, wcs: WCS, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], *, title: str = ""
) -> bytes:
    """Dirty and restored image side by side, catalogue positions circled, restoring beam in the corner.

    Parameters
    ----------
    plane : ImagePlane
    wcs : WCS
        Celestial WCS of the plane.
    ra_deg, dec_deg : array of float, shape (n_source,)
        Catalogue positions, ICRS, deg; those outside the image are not drawn.
    title : str
        What the picture is of, e.g. the observation.
    """
    import matplotlib as mpl
    from matplotlib.colors import AsinhNorm
    from matplotlib.patches import Ellipse

    n_y, n_x = plane.restored.shape
    x, y = wcs.world_to_pixel_values(np.asarray(ra_deg), np.asarray(dec_deg))
    inside = (x >= 0) & (x < n_x) & (y >= 0) & (y < n_y)
    cell_arcmin = float(np.sqrt(np.abs(np.linalg.det(wcs.pixel_scale_matrix))) * 60.0)
    half_x, half_y = 0.5 * n_x * cell_arcmin, 0.5 * n_y * cell_arcmin
    sigma = max(plane.rms_jy_beam, 1e-9)
    colours = mpl.colormaps["inferno"].resampled(_N_IMAGE_COLOURS)
    brightest = max(float(np.nanmax(plane.restored)), 10.0 * sigma)
    norm = AsinhNorm(linear_width=4.0 * sigma, vmin=-4.0 * sigma, vmax=brightest)

    def draw(figure: Figure) -> None:
        figure.subplots_adjust(top=0.86)
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, data, name in zip(panels, (plane.dirty, plane.restored), ("dirty", "restored"), strict=True):
            extent = (half_x, -half_x, -half_y, half_y)
            shown = axes.imshow(
                _block_maximum(data), origin="lower", cmap=colours, norm=norm, extent=extent, interpolation="nearest"
            )
            axes.grid(visible=False)
            axes.set_title(name)
            axes.set_xlabel("offset in right ascension (arcmin)")
            axes.scatter(
                half_x - (x[inside] + 0.5) * cell_arcmin,
                (y[inside] + 0.5) * cell_arcmin - half_y,
                s=80,
                facecolors="none",
                edgecolors=SKY,
                linewidths=0.8,
            )
        panels[0].set_ylabel("offset in declination (arcmin)")
        # Data coordinates grow to the east, so north through east is a clockwise rotation in them.
        beam = Ellipse(
            (0.86 * half_x, -0.86 * half_y),
            plane.beam.minor_arcsec / 60.0,
            plane.beam.major_arcsec / 60.0,
            angle=-plane.beam.pa_deg,
            facecolor="white",
            edgecolor="white",
        )
        panels[1].add_patch(beam)
        bar = figure.colorbar(shown, ax=panels, shrink=0.9, pad=0.01, label="Jy/beam")
        bar.set_ticks(_brightness_ticks(4.0 * sigma, brightest), minor=False)
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.minorticks_off()
        figure.suptitle(
            f"{title}{', ' if title else ''}{plane.frequency_hz / 1e6:.0f} MHz, beam {plane.beam.major_arcsec:.0f} x "
            f"{plane.beam.minor_arcsec:.0f} arcsec, rms {1e3 * plane.rms_jy_beam:.3g} mJy/beam "
            f"(thermal {1e3 * plane.thermal_rms_jy_beam:.3g}), {int(inside.sum())} catalogue sources circled",
            fontsize=9.5,
        )

    return render_png(draw, height_inch=4.8)


def mosaic_picture(mosaic: Mosaic, *, title: str = "") -> bytes:
    """A mosaic above the map of its noise, blank sky white, with the restoring beam named.

    Parameters
    ----------
    mosaic : Mosaic
    title : str
        What the picture is of, e.g. the hour.
    """
    import matplotlib as mpl
    from matplotlib.colors import AsinhNorm

    image, sigma = mosaic.image, mosaic.lowest_rms_jy_beam
    n_y, n_x = image.data.shape
    step = -(-max(n_y, n_x) // (2 * _IMAGE_PIXELS))
    reduced = _block_maximum(image.data, 2 * _IMAGE_PIXELS)
    noise = mosaic.rms[::step, ::step][: reduced.shape[0], : reduced.shape[1]]
    shown_data = np.where(np.isfinite(noise), reduced, np.nan)
    half_x, half_y = (0.5 * n * image.pixel_arcsec / 3600.0 for n in (n_x, n_y))
    brightest = max(float(np.nanmax(image.data)), 10.0 * sigma)
    colours = mpl.colormaps["inferno"].resampled(_N_IMAGE_COLOURS)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        extent = (half_x, -half_x, -half_y, half_y)
        norm = AsinhNorm(linear_width=4.0 * sigma, vmin=-4.0 * sigma, vmax=brightest)
        sky = panels[0].imshow(
            shown_data, origin="lower", cmap=colours, norm=norm, extent=extent, interpolation="nearest"
        )
        depth = panels[1].imshow(1e3 * noise, origin="lower", cmap="cividis_r", extent=extent, interpolation="nearest")
        bar = figure.colorbar(sky, ax=panels[0], pad=0.01, label="Jy/beam")
        bar.set_ticks(_brightness_ticks(4.0 * sigma, brightest), minor=False)
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.minorticks_off()
        figure.colorbar(depth, ax=panels[1], pad=0.01, label="noise (mJy/beam)")
        for axes in panels:
            axes.grid(visible=False)
            axes.set_ylabel("north (deg)")
        panels[1].set_xlabel("east (deg)")
        figure.suptitle(
            f"{title}{', ' if title else ''}{mosaic.n_tiles} tile{'s' if mosaic.n_tiles != 1 else ''}, beam "
            f"{image.beam_major_arcsec:.0f} x {image.beam_minor_arcsec:.0f} arcsec, best noise {1e3 * sigma:.3g} mJy/beam, "
            f"{mosaic.area_deg2:.1f} square degrees",
            fontsize=9.5,
        )

    return render_png(draw, height_inch=7.0)


@dataclass(frozen=True, slots=True, eq=False)
class SheetImage:
    """One of the images on a sheet."""

    title: str
    data: NDArray[np.float32]
    """Jy/beam, north up, NaN where blank; as many pixels as are shown."""
    rms_jy_beam: float
    """NaN when unknown."""


def image_sheet(images: Sequence[SheetImage], n_columns: int) -> bytes:
    """Images side by side, each on its own scale, with its name and noise above it."""
    import matplotlib as mpl
    from matplotlib.colors import AsinhNorm

    colours = mpl.colormaps["inferno"].resampled(_N_IMAGE_COLOURS)
    n_columns = min(n_columns, len(images))
    n_rows = -(-len(images) // n_columns)

    def draw(figure: Figure) -> None:
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, hspace=0.25)
        for axes in figure.subplots(n_rows, n_columns, squeeze=False).flat[len(images) :]:
            axes.set_visible(False)
        for axes, image in zip(figure.axes, images, strict=False):
            sigma = image.rms_jy_beam if image.rms_jy_beam > 0 else max(float(np.nanstd(image.data)), 1e-9)
            brightest = max(float(np.nanmax(image.data, initial=0.0)), 10.0 * sigma)
            norm = AsinhNorm(linear_width=4.0 * sigma, vmin=-4.0 * sigma, vmax=brightest)
            axes.imshow(image.data, origin="lower", cmap=colours, norm=norm, interpolation="nearest")
            axes.set_axis_off()
            noise = f", rms {1e3 * image.rms_jy_beam:.3g} mJy/beam" if image.rms_jy_beam > 0 else ""
            axes.set_title(f"{image.title}{noise}", fontsize=7.5)

    tallest = max(image.data.shape[0] / image.data.shape[1] for image in images)
    return render_png(draw, height_inch=0.4 + n_rows * (0.2 + 8.6 / n_columns * tallest))


def _brightness_ticks(faintest: float, brightest: float) -> list[float]:
    """Zero and the powers of ten, and three times them, between two brightnesses."""
    decades = 10.0 ** np.arange(np.floor(np.log10(faintest)), np.ceil(np.log10(brightest)) + 1.0)
    ticks = np.sort(np.concatenate([decades, 3.0 * decades]))
    return [0.0, *(float(tick) for tick in ticks if faintest <= tick <= brightest)]


def _odd_antennas(gains: NDArray[np.complex128]) -> list[int]:
    """Antennas whose amplitude over frequency differs most from the median antenna, worst first."""
    amplitude = np.abs(gains)
    typical = _median_of_antennas(amplitude)
    distance = np.nan_to_num(np.nanmedian(np.abs(amplitude / typical - 1.0), axis=(1, 2)))
    return [int(antenna) for antenna in np.argsort(-distance)[:_N_ODD_ANTENNAS] if distance[antenna] > 0.0]


def _median_of_antennas(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over the first axis without NaN; NaN where all are (a channel that is flagged everywhere)."""
    known = ~np.isnan(values).all(axis=0)
    median = np.full(values.shape[1:], np.nan)
    median[known] = np.nanmedian(values[:, known], axis=0)
    return median


def _unflagged_gains(solutions: Solutions) -> tuple[NDArray[np.complex128], NDArray[np.intp]]:
    """Gains with NaN where flagged, and the indices of the antennas that have any."""
    gains = np.where(solutions.flags, np.nan + 0j, solutions.gains)
    return gains, np.flatnonzero(~np.all(solutions.flags, axis=(0, 2, 3)))


def bandpass_plot(solutions: Solutions) -> bytes:
    """Amplitude and phase of the first bandpass in the table against frequency, every antenna one line."""
    gains, antennas = _unflagged_gains(solutions)

    def draw(figure: Figure) -> None:
        n_corr = len(solutions.correlations)
        panels = figure.subplots(2, n_corr, sharex=True, sharey="row", squeeze=False)
        if not antennas.size:
            say_instead(panels[0, 0], "every solution is flagged")
            return
        shown = gains[0, antennas]
        odd = _odd_antennas(shown)
        frequency_mhz = solutions.frequency_hz / 1e6
        for corr, (above, below) in enumerate(panels.T):
            for axes, values in ((above, np.abs(shown[..., corr])), (below, np.rad2deg(np.angle(shown[..., corr])))):
                axes.plot(frequency_mhz, values.T, color=GREY, linewidth=0.5, alpha=0.6)
                for colour, antenna in zip((VERMILLION, BLUE, ORANGE), odd, strict=False):
                    name = solutions.antenna_names[antennas[antenna]]
                    axes.plot(frequency_mhz, values[antenna], color=colour, linewidth=1.0, label=f"antenna {name}")
            above.plot(frequency_mhz, _median_of_antennas(np.abs(shown[..., corr])), "k", label="median")
            above.set_title(f"{solutions.correlations[corr]}, {antennas.size} antennas")
            above.set_ylim(bottom=0.0)
            below.set_ylim(-185.0, 185.0)
            below.set_yticks([-180, -90, 0, 90, 180])
            below.set_xlabel("frequency (MHz)")
        panels[0, 0].set_ylabel("gain amplitude")
        panels[1, 0].set_ylabel("gain phase (deg)")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", ncols=len(labels))

    return render_png(draw, height_inch=5.2)


def gain_plot(solutions: Solutions) -> bytes:
    """Amplitude and phase of each antenna's gain: median over time with the range over time as a bar."""
    gains, antennas = _unflagged_gains(solutions)

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True)
        if not antennas.size:
            say_instead(above, "every solution is flagged")
            return
        per_time = np.nanmean(gains[:, antennas], axis=2) if gains.shape[2] > 1 else gains[:, antennas, 0]
        position = np.arange(antennas.size, dtype=np.float64)
        for corr, name in enumerate(solutions.correlations):
            at = position + 0.2 * (corr - 0.5 * (len(solutions.correlations) - 1))
            gain = per_time[..., corr]
            for axes, values in ((above, np.abs(gain)), (below, _continuous_phase_deg(gain))):
                colour = SERIES_COLOURS[corr % len(SERIES_COLOURS)]
                _range_bars(axes, at, values, colour=colour, label=name if axes is above else "")
        lacking = len(solutions.antenna_names) - antennas.size
        above.set_title(
            f"{antennas.size} antennas solved, {lacking} without solution, {solutions.time_mjd.size} solution interval"
            f"{'s' if solutions.time_mjd.size != 1 else ''}"
        )
        above.set_ylabel("gain amplitude")
        above.set_ylim(bottom=0.0)
        figure.legend(loc="upper right", ncols=len(solutions.correlations))
        below.set_ylabel("gain phase (deg)")
        below.set_yticks([-180, -90, 0, 90, 180])
        below.set_xlabel("antenna")
        every = -(-antennas.size // 32)
        below.set_xticks(position[::every], [solutions.antenna_names[a] for a in antennas[::every]], fontsize=8)

    return render_png(draw, height_inch=4.8)


def _continuous_phase_deg(gain: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Phases over the first axis without jumps of a turn: each within half a turn of the mean gain's phase."""
    mean = np.nansum(gain, axis=0)
    return np.asarray(np.rad2deg(np.angle(mean) + np.angle(gain * np.conj(mean))), dtype=np.float64)


def _range_bars(axes: Axes, at: NDArray[np.float64], values: NDArray[np.float64], *, colour: str, label: str) -> None:
    """Median over the first axis as a point, its whole range as a bar; columns without data are left out."""
    measured = np.flatnonzero(~np.all(np.isnan(values), axis=0))
    at, values = at[measured], values[:, measured]
    axes.vlines(at, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=colour, linewidth=1.0, alpha=0.6)
    axes.plot(at, np.nanmedian(values, axis=0), "o", color=colour, markersize=3.5, label=label)


def _flagged_fractions(visibilities: Visibilities) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fraction flagged, shape (n_time, n_chan), and of each antenna slot, shape (n_ant,), NaN without data."""
    first_rows = np.flatnonzero(np.diff(visibilities.time_mjd, prepend=-np.inf) > 0)
    blocks = np.split(visibilities.flags, first_rows[1:])
    waterfall = np.array([block.mean(axis=(0, 2)) for block in blocks])
    of_row = np.concatenate([block.mean(axis=(1, 2)) for block in blocks])
    n_rows, flagged = np.zeros((2, visibilities.n_antennas))
    for antenna in (visibilities.antenna1, visibilities.antenna2):
        n_rows += np.bincount(antenna, minlength=visibilities.n_antennas)
        flagged += np.bincount(antenna, weights=of_row, minlength=visibilities.n_antennas)
    return waterfall, np.divide(flagged, n_rows, out=np.full(n_rows.shape, np.nan), where=n_rows > 0)


def flagging_waterfall(visibilities: Visibilities) -> bytes:
    """Fraction flagged over time and frequency, and per antenna."""
    waterfall, of_antenna = _flagged_fractions(visibilities)
    antennas = visibilities.existing_antennas
    half_width_hz = 0.5 * visibilities.channel_width_hz
    lowest_mhz = (visibilities.frequency_hz[0] - half_width_hz) / 1e6
    highest_mhz = (visibilities.frequency_hz[-1] + half_width_hz) / 1e6
    elapsed_d = visibilities.time_mjd[-1] - visibilities.time_mjd[0] + float(visibilities.exposure_s[-1]) / 86_400.0

    def draw(figure: Figure) -> None:
        figure.subplots_adjust(hspace=0.42)
        above, below = figure.subplots(2, 1, height_ratios=(3, 2))
        extent = (lowest_mhz, highest_mhz, elapsed_d * 1440.0, 0.0)
        shown = above.imshow(waterfall, aspect="auto", cmap="cividis", vmin=0.0, vmax=1.0, extent=extent)
        above.grid(visible=False)
        above.set_title(f"{100.0 * float(visibilities.flags.mean()):.1f} % of the visibilities flagged")
        above.set_xlabel("frequency (MHz)")
        above.set_ylabel("time since start (min)")
        figure.colorbar(shown, ax=above, pad=0.01).set_label("fraction flagged")
        fraction = of_antenna[antennas]
        below.bar(np.arange(antennas.size), fraction, color=np.where(fraction > 0.9, VERMILLION, BLUE), width=0.8)
        every = -(-antennas.size // 32)
        names = [visibilities.antenna_names[a] for a in antennas[::every]]
        below.set_xticks(np.arange(antennas.size)[::every], names, fontsize=8)
        below.set_ylim(0.0, 1.0)
        below.set_xlabel("antenna")
        below.set_ylabel("fraction flagged")

    return render_png(draw, height_inch=5.2)
