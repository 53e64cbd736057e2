"""``contimg mosaic``: overlapping images of single pointings as one image with its weight map.

What belongs here: finding the maps that belong to each image, and saying what came out. Adding up is
``science.imaging.mosaic``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

if TYPE_CHECKING:
    from contimg_assets.science.imaging.mosaic import Mosaic, Tile

_NOISE_BOX_BEAMS = 25.0
"""Side of the boxes in which the noise is estimated where there is no map, in beams."""


def mosaic(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES",
            help="FITS images in Jy/beam, or folders made by `contimg image` (their full band). Of X_image.fits,"
            " X_primary_beam.fits, X_rms.fits and X_background.fits beside it are used.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="M.fits", help="Mosaic to write, Jy/beam.")],
    weights: Annotated[
        Path | None, typer.Option(help="Weight map to write, (Jy/beam)^-2.", show_default="M_weight.fits")
    ] = None,
    edge: Annotated[float, typer.Option(min=0.01, max=1.0, help="Images contribute down to this primary beam.")] = 0.2,
    single: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Where one image contributes alone: down to this.")
    ] = 0.5,
    as_json: JsonOption = False,
) -> None:
    """Join images, weighted by PB^2 / sigma^2; the noise of the result is 1 / sqrt(weight).

    An image without a primary beam beside it is taken as corrected for it already; without an rms map its local noise is
    estimated. Images with different restoring beams are convolved to a common one.
    """
    with one_screen_errors():
        from contimg_assets.science.images import SkyImage
        from contimg_assets.science.imaging.mosaic import MosaicSettings, make_mosaic, outline
        from contimg_resources.fits_images import read_image, write_mosaic
        from contimg_resources.settings import load_settings

        files = [path / "full_image.fits" if path.is_dir() else path for path in images]
        weight_path = weights or out.with_name(f"{out.stem}_weight.fits")
        frames = [outline(SkyImage(**read_image(file))) for file in files]
        settings = MosaicSettings(edge_response=edge, single_response=single, n_threads=load_settings().threads)
        made = make_mosaic(frames, _read(files), settings)
        write_mosaic(out, weight_path, made.columns())
    emit({"out": out, "weights": weight_path, **_summary(made)}, as_json=as_json)


def _read(files: list[Path]) -> Iterator[Tile]:
    """Each image with the maps beside it, read when it is asked for."""
    import numpy as np

    from contimg_assets.science.images import SkyImage
    from contimg_assets.science.imaging.mosaic import Tile
    from contimg_assets.science.imaging.noise import estimate_noise
    from contimg_resources.fits_images import read_image, read_plane

    for file in files:
        image = SkyImage(**read_image(file))
        maps = {
            kind: read_plane(path) if path.exists() else None
            for kind in ("rms", "background", "primary_beam")
            for path in [_beside(file, kind)]
        }
        used = ", ".join(kind for kind, plane in maps.items() if plane is not None) or "no maps"
        stderr.print(f"adding {file} with {used}", highlight=False)
        rms, power = maps["rms"], maps["primary_beam"]
        if rms is None:
            rms = estimate_noise(
                image.data, box_pixels=_NOISE_BOX_BEAMS * image.beam_major_arcsec / image.pixel_arcsec
            ).rms
        yield Tile(image, rms, np.ones_like(image.data) if power is None else power, maps["background"])


def _beside(file: Path, kind: str) -> Path:
    """The map of that kind of an image; the image itself is never its own map."""
    name = file.name.removesuffix("_image.fits")
    return file.with_name(f"{name}_{kind}.fits" if name != file.name else f"{file.stem}_{kind}.fits")


def _summary(made: Mosaic) -> dict[str, Any]:
    image = made.image
    return {
        "n_tiles": made.n_tiles,
        "n_pixels": list(image.data.shape[::-1]),
        "cell_arcsec": image.pixel_arcsec,
        "area_deg2": made.area_deg2,
        "lowest_rms_jy_beam": made.lowest_rms_jy_beam,
        "beam_major_arcsec": image.beam_major_arcsec,
        "beam_minor_arcsec": image.beam_minor_arcsec,
        "beam_pa_deg": image.beam_pa_deg,
        "is_convolved": made.is_convolved,
    }
