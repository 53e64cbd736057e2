"""``contimg image``: images of any measurement set, as FITS.

What belongs here: choosing field, channels and calibration, and saying what came out. Imaging is ``science.imaging``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

if TYPE_CHECKING:
    import polars as pl

    from contimg_assets.science.imaging.products import ImageSet
    from contimg_assets.science.sky_model import SkyModel
    from contimg_assets.science.visibilities import Visibilities
    from contimg_resources.settings import Settings

_CHANNELS = re.compile(r"\d+(~\d+)?(;\d+(~\d+)?)*")


def _checked_channels(value: str | None) -> str | None:
    if value is not None and not _CHANNELS.fullmatch(value):
        raise typer.BadParameter("give ranges such as 4~6;50~59")
    return value


def image(  # noqa: PLR0917 - one parameter per option of the command line
    measurement_set: Annotated[Path, typer.Argument(help="Measurement set.")],
    out: Annotated[Path, typer.Option(help="Folder for the FITS files; replaced if it exists.")],
    field: Annotated[str | None, typer.Option(help="Name or number of the field; needed if there are several.")] = None,
    column: Annotated[Literal["DATA", "CORRECTED_DATA"], typer.Option(help="Visibilities to image.")] = "DATA",
    bandpass: Annotated[Path | None, typer.Option(help="Bandpass table, applied while reading.")] = None,
    gain: Annotated[Path | None, typer.Option(help="Gain table, applied while reading.")] = None,
    channels: Annotated[
        str | None,
        typer.Option(help="Channels, counted from 0 at the lowest frequency: '4~6;50~59'.", callback=_checked_channels),
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(help="Sources that are fitted where they are; CLEAN looks for the others. CSV, Parquet, FITS..."),
    ] = None,
    bands: Annotated[int, typer.Option(min=1, help="Number of sub-band images; 1 = the full band only.")] = 1,
    cell: Annotated[float | None, typer.Option(help="Pixel side, arcsec.", show_default="chosen from the data")] = None,
    pixels: Annotated[
        int | None, typer.Option(help="Side of the image, pixels.", show_default="covers the primary beam")
    ] = None,
    weighting: Annotated[
        Literal["briggs", "natural", "uniform"],
        typer.Option(help="natural has the lowest noise, uniform the narrowest beam."),
    ] = "briggs",
    robust: Annotated[float, typer.Option(min=-2, max=2, help="Of Briggs weighting, -2 uniform to 2 natural.")] = 0.5,
    uv_min: Annotated[float, typer.Option(min=0, help="Leave out shorter projected baselines, wavelengths.")] = 0.0,
    uv_max: Annotated[
        float | None,
        typer.Option(min=0, help="Leave out longer projected baselines, wavelengths.", show_default="none"),
    ] = None,
    self_calibration: Annotated[
        Literal["none", "phase", "amplitude"],
        typer.Option(help="Gains from the image itself, kept only if they lower the residual; amplitude: phase first."),
    ] = "none",
    iterations: Annotated[int, typer.Option(min=0, help="Limit of CLEAN components; 0 = dirty image.")] = 60_000,
    engine: Annotated[
        Literal["contimg", "wsclean", "tclean"] | None,
        typer.Option(help="What makes and deconvolves the images.", show_default="setting imaging.engine"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Image a measurement set: deconvolved image, residual, PSF, noise, background and primary beam, as FITS.

    The images are not corrected for the primary beam; each has its primary beam in a file beside it.
    """
    with one_screen_errors():
        from contimg_assets.science.imaging.self_calibration import make_self_calibrated_images
        from contimg_assets.science.imaging.settings import ImageSettings
        from contimg_assets.science.visibilities import Visibilities
        from contimg_resources.engines import imaging_engine
        from contimg_resources.fits_images import write_image_set
        from contimg_resources.machine import available_memory_bytes
        from contimg_resources.measurement_sets import read_measurement_set, weight_column
        from contimg_resources.reference_catalogues import read_catalogue
        from contimg_resources.settings import load_settings
        from contimg_resources.table_folders import scratch_beside

        chosen = load_settings()
        settings = ImageSettings(
            n_bands=bands,
            weighting=weighting,
            robust=robust,
            uv_min_wavelengths=uv_min,
            uv_max_wavelengths=uv_max,
            self_calibration=self_calibration,
            cell_arcsec=cell,
            n_pixels=pixels,
            max_iterations=iterations,
            n_threads=chosen.threads,
        )
        sources = None if catalogue is None else read_catalogue(catalogue)
        stderr.print(f"reading {measurement_set}", highlight=False)
        selected = int(field) if field is not None and field.isdigit() else field
        vis = Visibilities(**read_measurement_set(measurement_set, field=selected, column=column))
        vis = _calibrated(vis, measurement_set, [path for path in (bandpass, gain) if path is not None])
        if channels is not None:
            vis = _with_channels(vis, channels)
        stderr.print(f"imaging {vis.field_name}: {vis.vis.shape[0]} rows, {vis.vis.shape[1]} channels", highlight=False)
        # Once the data are in memory: what is left is what the images may take.
        settings = replace(settings, memory_bytes=available_memory_bytes())
        imaged = make_self_calibrated_images(
            vis,
            settings,
            None if sources is None else _sky(vis, sources, chosen),
            imaging_engine(engine or chosen.imaging.engine, scratch_beside(out)),
        )
        files = write_image_set(out, imaged.images.columns())
        weights = {"weights_from": weight_column(measurement_set)}
    emit(_summary(imaged.images, out, files) | weights | imaged.summary(), as_json=as_json, rows="planes")


def _calibrated(vis: Visibilities, measurement_set: Path, tables: list[Path]) -> Visibilities:
    """Visibilities with calibration tables applied."""
    if not tables:
        return vis
    from contimg_assets.science.calibration.apply import apply_solutions
    from contimg_assets.science.calibration.solutions import Solutions
    from contimg_resources.calibration_tables import read_calibration_table

    return apply_solutions(vis, [Solutions(**read_calibration_table(path, measurement_set)) for path in tables])


def _sky(vis: Visibilities, sources: pl.DataFrame, settings: Settings) -> SkyModel:
    """Catalogue sources and calibrators in view of the dishes."""
    from contimg_assets.science.field_model import field_sky_model
    from contimg_assets.science.flux_calibrators import PRIMARY_POSITIONS, with_listed
    from contimg_assets.science.primary_beam import airy_fwhm_deg
    from contimg_resources.calibrator_lists import read_calibrator_list

    radius_deg = 1.5 * float(airy_fwhm_deg(vis.frequency_hz[0], vis.dish_diameter_m))
    calibrators = with_listed(read_calibrator_list(settings, PRIMARY_POSITIONS))
    return field_sky_model(sources, vis.phase_centre_ra_deg, vis.phase_centre_dec_deg, radius_deg, calibrators)


def _with_channels(vis: Visibilities, ranges: str) -> Visibilities:
    """Visibilities of the channels named by ranges such as ``4~6;50~59``."""
    import numpy as np

    from contimg_assets.science.errors import DataError

    n_chan = vis.frequency_hz.size
    chosen = np.zeros(n_chan, dtype=bool)
    for part in ranges.split(";"):
        first, _, last = part.partition("~")
        chosen[int(first) : int(last or first) + 1] = True
        if int(last or first) >= n_chan or int(last or first) < int(first):
            raise DataError(
                f"channels {ranges} of {vis.source_name or vis.field_name}",
                got=f"{part}",
                expected=f"ascending ranges within 0~{n_chan - 1}",
                remedy="Correct --channels.",
                reason_code="wrong_channels",
            )
    return replace(vis, vis=vis.vis[:, chosen], flags=vis.flags[:, chosen], frequency_hz=vis.frequency_hz[chosen])


def _summary(images: ImageSet, out: Path, files: list[Path]) -> dict[str, Any]:
    import numpy as np

    return {
        "out": out,
        "engine": images.engine,
        "n_files": len(files),
        "n_pixels": list(images.full.restored.shape[::-1]),
        "cell_arcsec": float(np.abs(images.wcs.wcs.cdelt[1]) * 3600.0),
        "n_known_sources": images.n_known_sources,
        "n_clean_components": images.n_clean_components,
        "n_major_cycles": images.n_major_cycles,
        "has_diverged": images.has_diverged,
        "dynamic_range": images.dynamic_range,
        "planes": [
            {
                "band": plane.name,
                "frequency_mhz": plane.frequency_hz / 1e6,
                "major_arcsec": plane.beam.major_arcsec,
                "minor_arcsec": plane.beam.minor_arcsec,
                "pa_deg": plane.beam.pa_deg,
                "rms_jy_beam": plane.rms_jy_beam,
                "thermal_jy_beam": plane.thermal_rms_jy_beam,
                "peak_jy_beam": float(np.nanmax(plane.restored)),
            }
            for plane in images.planes
        ],
    }
