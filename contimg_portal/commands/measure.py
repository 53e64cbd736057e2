"""``contimg measure``: forced photometry of a catalogue on any FITS image.

What belongs here: reading the files, saying what was found. The measurement is ``science.photometry``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import polars as pl
import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from contimg_assets.science.images import SkyImage

_NOISE_BOX_BEAMS = 25.0
"""Side of the boxes in which noise and background are estimated when no map is given, in beams."""
_BRIGHT_SNR = 10.0
"""Least signal-to-noise of the sources that are compared with the catalogue."""

FitsImage = Annotated[Path | None, typer.Option(help="FITS image of the shape of IMAGE.")]


def measure(
    image: Annotated[Path, typer.Argument(help="FITS image in Jy/beam with BMAJ, BMIN, BPA.")],
    catalogue: Annotated[
        Path, typer.Option(help="Sources to measure: CSV, Parquet, FITS or VOTable with source_id, ra_deg, dec_deg.")
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write, one row per source on the image.")],
    rms: FitsImage = None,
    background: FitsImage = None,
    primary_beam: FitsImage = None,
    method: Annotated[
        Literal["gls", "matched_filter"], typer.Option(help="matched_filter suits white, uncorrelated noise.")
    ] = "gls",
    as_json: JsonOption = False,
) -> None:
    """Measure the flux density of every catalogue source on an image, detected or not.

    Noise and background maps that are not given are estimated from the image. With a primary beam, fluxes and
    errors are divided by it; local rms and background stay as in the image.
    """
    with one_screen_errors():
        from contimg_assets.science.images import SkyImage
        from contimg_assets.science.photometry.pixel_grid import matching_map
        from contimg_assets.science.photometry.primary_beam_correction import correct_for_primary_beam, primary_beam_at
        from contimg_resources.fits_images import read_image, read_plane
        from contimg_resources.products import atomic_write
        from contimg_resources.reference_catalogues import read_catalogue

        sources = read_catalogue(catalogue)
        sky = SkyImage(**read_image(image))
        rms_map, background_map, power = (
            None if path is None else matching_map(sky, read_plane(path), kind)
            for kind, path in (("rms", rms), ("background", background), ("primary beam", primary_beam))
        )
        stderr.print(f"measuring {sources.height} sources on {image}", highlight=False)
        measured = _measure(sky, rms_map, background_map, sources, method)
        if power is not None:
            at_sources = primary_beam_at(power, measured["x_pixel"].to_numpy(), measured["y_pixel"].to_numpy())
            measured = correct_for_primary_beam(measured, at_sources)
        named = sources[measured["source_index"]]
        table = pl.concat([named.select("source_id", "ra_deg", "dec_deg"), measured], how="horizontal")
        atomic_write(out, table.write_parquet)
    emit({"out": out, **_summary(sources.height, named, measured)}, as_json=as_json)


def _measure(
    sky: SkyImage,
    rms: NDArray[np.float32] | None,
    background: NDArray[np.float32] | None,
    sources: pl.DataFrame,
    method: Literal["gls", "matched_filter"],
) -> pl.DataFrame:
    from contimg_assets.science.imaging.noise import estimate_noise
    from contimg_assets.science.photometry.forced import PhotometrySettings, measure_forced
    from contimg_assets.science.photometry.noise_correlation import measure_noise_autocorrelation
    from contimg_assets.science.photometry.pixel_grid import pixel_beam

    if rms is None or background is None:
        noise = estimate_noise(sky.data, box_pixels=_NOISE_BOX_BEAMS * sky.beam_major_arcsec / sky.pixel_arcsec)
        rms = noise.rms if rms is None else rms
        background = noise.background if background is None else background
    return measure_forced(
        sky,
        rms,
        background,
        sources["ra_deg"].to_numpy(),
        sources["dec_deg"].to_numpy(),
        PhotometrySettings(method=method),
        noise_acf=measure_noise_autocorrelation(sky, rms, background, pixel_beam(sky)),
    )


def _summary(n_catalogue: int, named: pl.DataFrame, measured: pl.DataFrame) -> dict[str, Any]:
    from contimg_assets.science.photometry.flags import NAMES, UNRELIABLE

    snr = measured["peak_flux_jy_beam"] / measured["peak_flux_err_jy_beam"]
    catalogue_flux = named.select(pl.coalesce("peak_flux_jy_beam", "flux_jy")).to_series()
    bright = (snr >= _BRIGHT_SNR) & ((measured["flags"] & UNRELIABLE) == 0) & (catalogue_flux > 0)
    ratio = (measured["peak_flux_jy_beam"] / catalogue_flux).filter(bright.fill_null(value=False))
    return {
        "n_catalogue": n_catalogue,
        "n_measured": measured.height,
        "n_outside_image": n_catalogue - measured.height,
        "n_detected_5_sigma": int((snr >= 5.0).sum()),
        "median_rms_jy_beam": measured["local_rms_jy_beam"].fill_nan(None).median(),
        "median_chi2_reduced": measured["chi2_reduced"].fill_nan(None).median(),
        "n_compared_with_catalogue": ratio.len(),
        "median_flux_over_catalogue": ratio.median(),
        "flags": {name: int(((measured["flags"] & bit) != 0).sum()) for bit, name in NAMES.items()},
    }
