"""``contimg detect``: point sources of any FITS image, and which of them a catalogue does not know.

What belongs here: reading the files, saying what was found. Detection is ``science.photometry.blind``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from contimg_assets.science.images import SkyImage

_NOISE_BOX_BEAMS = 25.0
"""Side of the boxes in which noise and background are estimated when no map is given, in beams."""
_MOST_LISTED = 20

FitsImage = Annotated[Path | None, typer.Option(help="FITS image of the shape of IMAGE.")]


def detect(
    image: Annotated[Path, typer.Argument(help="FITS image in Jy/beam with BMAJ, BMIN, BPA.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write, one row per detection.")],
    catalogue: Annotated[
        Path | None, typer.Option(help="Known sources: CSV, Parquet, FITS or VOTable. Without it everything is new.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weight map of a mosaic, (Jy/beam)^-2: the noise is 1 / sqrt(weight).")
    ] = None,
    rms: FitsImage = None,
    background: FitsImage = None,
    threshold: Annotated[float, typer.Option(min=3.0, help="Least flux over error.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Find the point sources of an image, blends told apart, and name those outside a catalogue.

    Noise and background maps that are not given are estimated from the image; a mosaic with weights has no background. The image
    with its sign turned is searched too: what is found there is false.
    """
    if rms is not None and weights is not None:
        raise typer.BadParameter("give the noise once, as --rms or as --weights", param_hint="--weights")
    with one_screen_errors():
        from contimg_assets.science.images import SkyImage
        from contimg_assets.science.photometry.blind import BlindSettings, detect_sources
        from contimg_assets.science.photometry.blind_association import associate
        from contimg_resources.fits_images import read_image
        from contimg_resources.products import atomic_write
        from contimg_resources.reference_catalogues import COLUMNS, read_catalogue

        known = pl.DataFrame(schema=COLUMNS) if catalogue is None else read_catalogue(catalogue)
        sky = SkyImage(**read_image(image))
        noise, level = _maps(sky, rms, weights, background)
        stderr.print(f"searching {image} above {threshold:g} sigma", highlight=False)
        found = detect_sources(sky, noise, level, BlindSettings(threshold_snr=threshold))
        told = associate(found.table, sky, known)
        atomic_write(out, told.write_parquet)
    outside = told.filter(pl.col("kind") != "catalogued")
    columns = ("ra_deg", "dec_deg", "peak_flux_jy_beam", "snr", "kind")
    emit(
        {
            "out": out,
            "n_detections": told.height,
            "kinds": dict(told["kind"].value_counts().sort("kind").iter_rows()),
            "n_false_expected": found.expected_false,
            "n_false_in_turned_image": found.negatives.height,
            "n_left_out_at_edges": found.n_at_edge,
            "outside_the_catalogue": outside.head(_MOST_LISTED).select(columns).to_dicts(),
        },
        as_json=as_json,
        rows="outside_the_catalogue",
    )


def _maps(
    sky: SkyImage, rms: Path | None, weights: Path | None, background: Path | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Noise and background of an image: as given, estimated where they are not."""
    from contimg_assets.science.imaging.mosaic import rms_of_weights
    from contimg_assets.science.imaging.noise import estimate_noise
    from contimg_resources.fits_images import read_plane

    given: dict[str, Any] = {}
    if background is not None:
        given["background"] = read_plane(background)
    if weights is not None:
        return rms_of_weights(read_plane(weights)), given.get("background")
    if rms is not None:
        given["rms"] = read_plane(rms)
    if len(given) < 2:
        noise = estimate_noise(sky.data, box_pixels=_NOISE_BOX_BEAMS * sky.beam_major_arcsec / sky.pixel_arcsec)
        given = {"rms": noise.rms, "background": noise.background} | given
    return given["rms"], given["background"]
