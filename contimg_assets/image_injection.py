"""Sources put into a sample of a day's images: which images, and reading them.

What belongs here: the part of asset ``injection_recovery`` that touches files. Injecting and counting is
``science.photometry.image_injection``.
"""

import zlib

import numpy as np
import polars as pl

from contimg_assets.mosaic_tiles import full_band_images
from contimg_assets.partitions import day_window_range
from contimg_assets.photometry import FULL_BAND
from contimg_resources.configurable import Observatory

IMAGES_PER_DAY = 3
"""At 20 sources per bin and image, a completeness of one half is known to 0.065."""


def recover_from_images(observatory: Observatory, day: str) -> pl.DataFrame:
    """Rows of table ``image_injection`` of a day: recovery by signal-to-noise in a sample of its full-band images.

    The sample is drawn by the name of the day among its images that failed no blocking check and are still on disk.
    """
    from contimg_assets.science.images import SkyImage
    from contimg_assets.science.photometry.blind import BlindSettings
    from contimg_assets.science.photometry.image_injection import (
        RECOVERED_COLUMNS,
        ImageInjectionSettings,
        ImageMaps,
        inject_and_recover,
        summarise_recovery,
    )
    from contimg_resources.fits_images import read_image, read_plane

    products, chosen = observatory.products, observatory.settings.photometry
    settings = ImageInjectionSettings(
        beam_level=chosen.beam_level, blind=BlindSettings(threshold_snr=chosen.blind_threshold_snr)
    )
    rng = np.random.default_rng(zlib.crc32(f"image injection {day}".encode()))
    sound = full_band_images(observatory.store, *day_window_range(day)).filter(pl.col("failed_checks").is_null())
    keys = [key for key in sound["partition_key"] if products.holds(products.image_folder(key))]
    sample = sorted(rng.choice(keys, size=min(IMAGES_PER_DAY, len(keys)), replace=False).tolist()) if keys else []
    recovered = [pl.DataFrame(schema=RECOVERED_COLUMNS)]
    for key in sample:
        folder = products.present(products.image_folder(key))
        maps = ImageMaps(
            SkyImage(**read_image(folder / f"{FULL_BAND}_image.fits")),
            *(read_plane(folder / f"{FULL_BAND}_{kind}.fits") for kind in ("rms", "background", "primary_beam")),
        )
        recovered.append(inject_and_recover(maps, products.read_parquet("reference_catalogue", None), rng, settings))
    return summarise_recovery(pl.concat(recovered), settings).with_columns(
        as_of=pl.lit(day), n_images=pl.lit(len(sample), dtype=pl.Int32)
    )
