"""The photometry group: fluxes at catalogue positions in each observation, and the flux scale they are put on.

What belongs here: the two assets. Measuring is ``science.photometry``, the scale ``science.flux_scale``; what good
means is ``checks.photometry``.
"""

import zlib
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from contimg_assets.catalogue import reference_catalogue
from contimg_assets.checks import photometry as checks
from contimg_assets.conventions import per_observation
from contimg_assets.failures import dagster_failures
from contimg_assets.flux_scaling import flux_scales, reference_measurements
from contimg_assets.imaging import continuum_image
from contimg_assets.pictures import markdown_image
from contimg_assets.provenance import provenance, with_provenance
from contimg_assets.recipes import of_flux_scale, of_forced_photometry
from contimg_assets.source_pictures import flux_ratio_plot
from contimg_resources.configurable import Observatory
from contimg_resources.store.connection import Store
from contimg_resources.store.records import keep_rows
from contimg_resources.tracing import span

FULL_BAND = "full"
MEASURED_COLUMNS = (
    "peak_flux_jy_beam",
    "peak_flux_err_jy_beam",
    "local_rms_jy_beam",
    "background_jy_beam",
    "primary_beam",
    "chi2_reduced",
    "blend_id",
    "flags",
)


@dg.asset(
    deps=[continuum_image, reference_catalogue],
    check_specs=checks.FORCED_PHOTOMETRY,
    **per_observation("photometry", {"parquet", "duckdb"}, code_version="1"),
)
def forced_photometry(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """Flux density of every catalogue source inside the beam's 20 % level, in every band, detected or not.

    Generalised least squares with the noise correlation of the restoring beam at each catalogue position, blends solved
    together. Fluxes are corrected for the drift-averaged primary beam; local rms and background are as in the image.
    A non-detection keeps its measured value, which may be negative; a sub-band whose image is gone has no rows and is named
    in the metadata. Writes Parquet and table forced_photometry, one row
    per source and band: ``peak_flux_jy_beam``, ``peak_flux_err_jy_beam``, ``local_rms_jy_beam``, ``primary_beam``...
    Read by flux_scale and light_curves. Remade when the images or the catalogue change.
    """
    partition_key, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store) as stage:
        if unchanged := stage.unchanged(of_forced_photometry(observatory, partition_key)):
            return unchanged
        catalogue = products.read_parquet("reference_catalogue", None)
        observation = store.query(
            "SELECT observation_id, start_mjd + duration_s / 172800.0 AS mjd FROM observation WHERE partition_key = ?",
            [partition_key],
        ).row(0, named=True)
        folder = products.present(products.image_folder(partition_key))
        level = observatory.settings.photometry.beam_level
        rng = np.random.default_rng(zlib.crc32(partition_key.encode()))
        with span("measure", what="photometry"):
            measured, quality = measure_bands(folder, catalogue, level, rng)
        imaged = store.query("SELECT band FROM image WHERE partition_key = ? ORDER BY band", [partition_key])["band"]
        quality["missing_bands"] = ", ".join(band for band in imaged if band not in set(measured["band"]))
        rows = measured.with_columns(
            observation_id=pl.lit(observation["observation_id"]), mjd=pl.lit(observation["mjd"])
        )
        path = products.write_parquet("forced_photometry", partition_key, rows, made_by=provenance(context))
        store.replace("forced_photometry", with_provenance(rows, context), partition_key=partition_key)
        full = rows.filter(band=FULL_BAND)
        results = checks.judge_photometry(store, context, rows, quality)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(path)),
            "n_sources": full.height,
            "missing_bands": quality["missing_bands"] or "none",
            "n_detected_5_sigma": int((full["peak_flux_jy_beam"] > 5 * full["peak_flux_err_jy_beam"]).sum()),
            "median_error_jy": float(np.nanmedian(full["peak_flux_err_jy_beam"].to_numpy())),
            "brightest": dg.MetadataValue.json(
                full.sort("peak_flux_jy_beam", descending=True, nulls_last=True)
                .head(10)
                .select("source_id", "peak_flux_jy_beam", "peak_flux_err_jy_beam")
                .to_dicts()
            ),
        },
        check_results=results,
        data_version=stage.data_version,
    )


def measure_bands(
    folder: Path, catalogue: pl.DataFrame, level: float, rng: np.random.Generator
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Measure all bands of an image folder; return rows and the numbers by which the full band's quality is judged.

    The full band decides which sources are inside; every band then has the same sources.
    """
    from contimg_assets.science.images import SkyImage
    from contimg_resources.fits_images import list_bands, read_image, read_plane

    frames: list[pl.DataFrame] = []
    quality: dict[str, Any] = {}
    inside = catalogue.clear()
    for band in list_bands(folder):
        image = SkyImage(**read_image(folder / f"{band}_image.fits"))
        maps = {kind: read_plane(folder / f"{band}_{kind}.fits") for kind in ("rms", "background", "primary_beam")}
        if band == FULL_BAND:
            inside = sources_in_beam(image, maps["primary_beam"], catalogue, level)
            quality = photometry_quality(image, maps, inside, catalogue, rng)
        frames.append(measure_band(image, maps, inside, catalogue).with_columns(band=pl.lit(band)))
    return pl.concat(frames), quality


def photometry_quality(
    image: Any, maps: dict[str, Any], inside: pl.DataFrame, catalogue: pl.DataFrame, rng: np.random.Generator
) -> dict[str, Any]:
    """Numbers for the checks: agreement of two estimators, and flux over error at blank positions."""
    from contimg_assets.science.photometry.blank_sky import blank_sky_pull
    from contimg_assets.science.photometry.comparison import compare_methods

    methods = compare_methods(
        image, maps["rms"], maps["background"], inside["ra_deg"].to_numpy(), inside["dec_deg"].to_numpy()
    )
    pull, n_blank = blank_sky_pull(
        image, maps["rms"], maps["background"], catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy(), rng
    )
    return {
        "n_inside": inside.height,
        "blank_pull": pull,
        "n_blank": n_blank,
        "methods_ratio": methods.median_ratio,
        "n_bright": methods.n_bright,
    }


def sources_in_beam(image: Any, primary_beam: Any, catalogue: pl.DataFrame, level: float) -> pl.DataFrame:
    """Catalogue sources on the image where the primary beam is above a level, with their distance from its centre."""
    from contimg_assets.science.coordinates import separation_deg
    from contimg_assets.science.photometry.pixel_grid import pixel_positions
    from contimg_assets.science.photometry.primary_beam_correction import primary_beam_at

    index, x, y = pixel_positions(image, catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy())
    inside = primary_beam_at(primary_beam, x, y) >= level
    chosen = catalogue[index[inside]]
    centre = image.wcs.wcs.crval
    apart = separation_deg(chosen["ra_deg"].to_numpy(), chosen["dec_deg"].to_numpy(), centre[0], centre[1])
    return chosen.with_columns(separation_from_centre_deg=pl.Series(apart))


def measure_band(image: Any, maps: dict[str, Any], inside: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """Rows of table ``forced_photometry`` of one band, deblended against the whole catalogue."""
    from contimg_assets.science.photometry.forced import measure_forced
    from contimg_assets.science.photometry.primary_beam_correction import correct_for_primary_beam, primary_beam_at

    measured = measure_forced(
        image,
        maps["rms"],
        maps["background"],
        inside["ra_deg"].to_numpy(),
        inside["dec_deg"].to_numpy(),
        neighbours_ra_deg=catalogue["ra_deg"].to_numpy(),
        neighbours_dec_deg=catalogue["dec_deg"].to_numpy(),
    )
    power = primary_beam_at(maps["primary_beam"], measured["x_pixel"].to_numpy(), measured["y_pixel"].to_numpy())
    corrected = correct_for_primary_beam(measured, power).select(*MEASURED_COLUMNS)
    targets = inside[measured["source_index"].to_numpy()].select("source_id", "separation_from_centre_deg")
    return pl.concat([targets, corrected], how="horizontal").with_columns(frequency_hz=pl.lit(image.frequency_hz))


@dg.asset(
    deps=[forced_photometry, reference_catalogue],
    check_specs=checks.FLUX_SCALE,
    **per_observation("photometry", {"duckdb"}, code_version="2"),
)
def flux_scale(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """What the fluxes of one observation must be divided by to be on the scale of the catalogue, per band.

    Robust weighted mean of measured over catalogue flux of bright, compact, isolated sources, or a plane across the field
    where it predicts left-out references better. Where the references give no factor (too few, outside 0.5 to 2, too
    scattered) other catalogue sources are asked (method ``catalogue_flux``); failing them the factor is 1 and method
    ``unit`` says why. It knows of no other observation; light_curves learns from all of them. Writes tables flux_scale:
    ``factor``, ``factor_err``, ``n_references``, ``scatter``, ``method``, gradients and cross-validated errors; and
    flux_reference, the raw measurements of the references. Read by light_curves; with it the observation is processed.
    Remade when its photometry is.
    """
    partition_key, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store) as stage:
        if unchanged := stage.unchanged(of_flux_scale(observatory, partition_key)):
            mark_processed(store, partition_key)
            return unchanged
        catalogue = products.read_parquet("reference_catalogue", None)
        measured = products.read_parquet("forced_photometry", partition_key)
        with span("solve", kind="flux_scale"):
            rows = flux_scales(measured, catalogue, observatory.settings.photometry.minimum_references)
        references = with_provenance(reference_measurements(measured, catalogue), context)
        store.replace("flux_reference", references, partition_key=partition_key)
        store.replace("flux_scale", with_provenance(rows, context), partition_key=partition_key)
        results = checks.judge_flux_scale(store, context, rows)
        mark_processed(store, partition_key)
    full = rows.row(by_predicate=pl.col("band") == FULL_BAND, named=True)
    picture = flux_ratio_plot(ratio_table(measured, catalogue), title=full["observation_id"])
    return dg.MaterializeResult(
        metadata={
            **{
                name: value
                for name, value in full.items()
                if name not in {"observation_id", "band"} and value is not None
            },
            "bands": dg.MetadataValue.json(rows.drop("observation_id").to_dicts()),
            "ratios": dg.MetadataValue.md(markdown_image(picture, "flux ratios to the catalogue")),
        },
        check_results=results,
        data_version=stage.data_version,
    )


def ratio_table(measured: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """Full-band fluxes beside those of the catalogue at the same frequency, for the picture."""
    from contimg_assets.science.flux_scale import band_flux_jy

    full = measured.filter(band=FULL_BAND)
    joined = full.join(
        catalogue.select("source_id", "flux_jy", "spectral_index", "is_reference"),
        on="source_id",
        how="left",
        maintain_order="left",
    )
    alpha = joined["spectral_index"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    expected = band_flux_jy(joined["flux_jy"].to_numpy(), alpha, float(joined["frequency_hz"][0]))
    return joined.select("is_reference", flux_jy="peak_flux_jy_beam", flux_err_jy="peak_flux_err_jy_beam").with_columns(
        catalogue_flux_jy=pl.Series(expected)
    )


def mark_processed(store: Store, partition_key: str) -> None:
    """The observation's photometry is scaled: it is processed, and any earlier trouble is over."""
    with store.transaction() as connection:
        connection.execute(
            "UPDATE observation SET status = 'processed',"
            " reason_code = CASE WHEN reason_code = 'missing_subbands' THEN reason_code END WHERE partition_key = ?"
            " AND reason_code IS DISTINCT FROM 'straggler'",
            [partition_key],
        )
        keep_rows(connection, "observation", [partition_key])
