"""Which images a mosaic joins, reading them one at a time, and the numbers by which the result is judged.

What belongs here: what asset and command share between files and ``science.imaging.mosaic``. The asset is in ``imaging``.

A mosaic holds one strip, the one with most images: those that point more than a degree of declination elsewhere (the
telescope was turned) are left out, as are those that failed a blocking check. What is left out is named, never silent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.partitions import hour_window_range
from contimg_resources.products import Products, require
from contimg_resources.store.connection import Store

if TYPE_CHECKING:
    from contimg_assets.science.images import SkyImage
    from contimg_assets.science.imaging.mosaic import Mosaic, Tile

WIDEST_STRIP_DEG = 1.0
"""Distance in declination beyond which an image belongs to another strip."""
_MOST_OFFENDERS = 10
_IMAGES = """
    SELECT i.observation_id, i.partition_key, o.start_mjd, o.duration_s, o.pointing_ra_deg, o.pointing_dec_deg,
           (SELECT string_agg(c.check_name, ', ') FROM check_result c WHERE c.asset = 'continuum_image'
            AND c.partition_key = i.partition_key AND c.severity = 'ERROR' AND NOT c.passed) AS failed_checks
    FROM image i JOIN observation o USING (observation_id)
    WHERE i.band = 'full' AND i.partition_key >= ? AND i.partition_key < ?
    ORDER BY o.start_mjd
"""


@dataclass(frozen=True, slots=True)
class HourTiles:
    """The images of one hour: those a mosaic joins and those it leaves out."""

    used: pl.DataFrame
    """``observation_id``, ``partition_key``, ``start_mjd``, ``duration_s``..., in order of time."""
    left_out: list[str]
    """Observation and reason of each image that is not joined."""

    def folders_of(self, products: Products) -> list[Path]:
        """Image folders of the tiles that are joined."""
        keys = self.used["partition_key"]
        return [products.present(products.image_folder(key)) for key in keys]


def full_band_images(store: Store, first_window: str, window_after: str) -> pl.DataFrame:
    """Images of a range of observation windows in order of time, ``failed_checks`` null where no blocking check failed."""
    return store.query(_IMAGES, [first_window, window_after])


def tiles_of_hour(store: Store, hour: str) -> HourTiles:
    """Images of a UTC hour that can be joined, and the others with their reasons."""
    found = full_band_images(store, *hour_window_range(hour))
    sound = found.filter(pl.col("failed_checks").is_null())
    strip_deg = _strip_deg(sound["pointing_dec_deg"].drop_nulls().to_numpy())
    in_strip = (pl.col("pointing_dec_deg") - strip_deg).abs().fill_null(0.0) <= WIDEST_STRIP_DEG
    left_out = [
        f"{row['observation_id']}: failed {row['failed_checks']}"
        for row in found.filter(pl.col("failed_checks").is_not_null()).iter_rows(named=True)
    ] + [
        f"{row['observation_id']}: declination {row['pointing_dec_deg']:+.2f} deg, strip {strip_deg:+.2f} deg"
        for row in sound.filter(~in_strip).iter_rows(named=True)
    ]
    return HourTiles(sound.filter(in_strip), left_out)


def _strip_deg(declinations_deg: NDArray[np.float64]) -> float:
    """The pointing that most images share within the width of a strip, the earliest of equals; 0 without any."""
    if declinations_deg.size == 0:
        return 0.0
    n_near = (np.abs(declinations_deg[:, None] - declinations_deg) <= WIDEST_STRIP_DEG).sum(axis=1)
    return float(declinations_deg[np.argmax(n_near)])


def read_outlines(folders: Sequence[Path]) -> list[SkyImage]:
    """Shape, WCS and beam of the full-band image of each folder."""
    from contimg_assets.science.images import SkyImage
    from contimg_assets.science.imaging.mosaic import outline
    from contimg_resources.fits_images import read_image

    return [outline(SkyImage(**read_image(require(folder / "full_image.fits")))) for folder in folders]


def read_tiles(folders: Sequence[Path]) -> Iterator[Tile]:
    """Full-band image, rms, background and primary beam of each folder, read when it is asked for."""
    from contimg_assets.science.images import SkyImage
    from contimg_assets.science.imaging.mosaic import Tile
    from contimg_resources.fits_images import read_image, read_plane

    for folder in folders:
        yield Tile(
            image=SkyImage(**read_image(folder / "full_image.fits")),
            rms=read_plane(folder / "full_rms.fits"),
            primary_beam=read_plane(folder / "full_primary_beam.fits"),
            background=read_plane(folder / "full_background.fits"),
        )


def measure_mosaic(made: Mosaic, folders: Sequence[Path], tiles: HourTiles) -> dict[str, Any]:
    """Numbers of a mosaic for checks and metadata; None where there is nothing to measure."""
    from contimg_assets.science.imaging.mosaic_quality import blank_sky_scatter, compare_fluxes

    compared = compare_fluxes(made, read_tiles(folders))
    ratio = compared.mosaic_flux_jy / compared.tiles_flux_jy
    worst = np.argsort(-np.abs(ratio - 1.0))[:_MOST_OFFENDERS]
    n_y, n_x = made.image.data.shape
    return {
        "n_tiles": made.n_tiles,
        "n_pixels": f"{n_x} x {n_y}",
        "area_deg2": made.area_deg2,
        "rms_jy_beam": made.lowest_rms_jy_beam,
        "beam_major_arcsec": made.image.beam_major_arcsec,
        "beam_minor_arcsec": made.image.beam_minor_arcsec,
        "beam_pa_deg": made.image.beam_pa_deg,
        "is_convolved": made.is_convolved,
        "blank_sky_scatter": blank_sky_scatter(made),
        "flux_ratio": compared.median_ratio if ratio.size else None,
        "n_compared": int(ratio.size),
        "worst_sources": [f"{compared.ra_deg[k]:.4f} {compared.dec_deg[k]:+.4f}: {ratio[k]:.4f}" for k in worst],
        "left_out": tiles.left_out,
    }


def mosaic_row(made: Mosaic, tiles: HourTiles, folder: Path, hour: str) -> pl.DataFrame:
    """The row of table ``mosaic``."""
    image = made.image
    n_y, n_x = image.data.shape
    centre_ra_deg, centre_dec_deg = (float(v) for v in image.wcs.all_pix2world((n_x - 1) / 2, (n_y - 1) / 2, 0))
    last = tiles.used.row(-1, named=True)
    return pl.DataFrame(
        {
            "partition_key": [hour],
            "path": [str(folder / "mosaic.fits")],
            "weight_path": [str(folder / "weight.fits")],
            "n_tiles": [made.n_tiles],
            "first_mjd": [tiles.used["start_mjd"][0]],
            "last_mjd": [last["start_mjd"] + (last["duration_s"] or 0.0) / 86_400.0],
            "centre_ra_deg": [centre_ra_deg],
            "centre_dec_deg": [centre_dec_deg],
            "area_deg2": [made.area_deg2],
            "frequency_hz": [image.frequency_hz],
            "beam_major_arcsec": [image.beam_major_arcsec],
            "beam_minor_arcsec": [image.beam_minor_arcsec],
            "beam_pa_deg": [image.beam_pa_deg],
            "rms_jy_beam": [made.lowest_rms_jy_beam],
        }
    )
