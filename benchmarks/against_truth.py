"""Images against the simulated sky: what every source measures, and what it should.

What belongs here: one table per image, for whichever benchmark makes one. Which sources count is the benchmark's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from full_observation import TRUTH

if TYPE_CHECKING:
    import polars as pl


def measured_sources(image_path: Path, beam_path: Path) -> pl.DataFrame:
    """Every simulated source in an image.

    Parameters
    ----------
    image_path : Path
        Restored image, Jy/beam.
    beam_path : Path
        Drift-averaged primary beam: what an image of the same data shows of a source.

    Returns
    -------
    polars.DataFrame
        ``source_id``, ``expected_jy`` and ``measured_jy`` (peaks, Jy/beam), ``err_jy``, ``primary_beam``, ``offset_beams`` (fitted
        position from the true one in minor axes of the beam; null below 10 sigma) and its standard error.
    """
    import numpy as np
    import polars as pl

    from contimg_assets.science.coordinates import separation_deg
    from contimg_assets.science.flux_scale import band_flux_jy
    from contimg_assets.science.images import SkyImage
    from contimg_assets.science.imaging.noise import estimate_noise
    from contimg_assets.science.photometry.forced import measure_forced
    from contimg_assets.science.photometry.positions import fit_positions
    from contimg_assets.science.photometry.primary_beam_correction import primary_beam_at
    from contimg_resources.fits_images import read_image

    truth = pl.read_parquet(TRUTH / "truth_sources.parquet")
    ra_deg, dec_deg = truth["ra_deg"].to_numpy(), truth["dec_deg"].to_numpy()
    image, beam = SkyImage(**read_image(image_path)), SkyImage(**read_image(beam_path))
    maps = estimate_noise(image.data, box_pixels=25 * image.beam_major_arcsec / image.pixel_arcsec)
    power = primary_beam_at(beam.data, *beam.wcs.all_world2pix(ra_deg, dec_deg, 0))
    sources = truth.select("source_id").with_columns(
        primary_beam=power,
        expected_jy=power
        * band_flux_jy(truth["flux_jy"].to_numpy(), truth["spectral_index"].to_numpy(), image.frequency_hz),
    )
    forced = measure_forced(image, maps.rms, maps.background, ra_deg, dec_deg)
    fitted = fit_positions(image, maps.rms, maps.background, ra_deg, dec_deg)
    at = fitted["source_index"].to_numpy()
    apart_deg = separation_deg(fitted["ra_deg"].to_numpy(), fitted["dec_deg"].to_numpy(), ra_deg[at], dec_deg[at])
    ids = truth["source_id"].to_numpy()
    measured = pl.DataFrame(
        {
            "source_id": ids[forced["source_index"].to_numpy()],
            "measured_jy": forced["peak_flux_jy_beam"],
            "err_jy": forced["peak_flux_err_jy_beam"],
        }
    )
    err_arcsec = np.hypot(fitted["ra_err_arcsec"].to_numpy(), fitted["dec_err_arcsec"].to_numpy())
    places_found = pl.DataFrame(
        {
            "source_id": ids[at],
            "offset_beams": apart_deg * 3600.0 / image.beam_minor_arcsec,
            "offset_err_beams": err_arcsec / image.beam_minor_arcsec,
        }
    )
    found = sources.join(measured, on="source_id").join(places_found, on="source_id", how="left")
    return found.filter(np.isfinite(found["expected_jy"].to_numpy()), pl.col("measured_jy").is_not_null())
