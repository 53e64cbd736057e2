"""The imaging group: images of each observation, full band and sub-bands, and the mosaic of each hour.

What belongs here: the assets and the numbers by which an image is judged; which images a mosaic joins is
``mosaic_tiles``. Imaging is ``science.imaging``, FITS is ``contimg_resources.fits_images``; what good means is
``checks.imaging``.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import structlog

from contimg_assets.calibration import gain_table
from contimg_assets.calibration_registry import tables_used
from contimg_assets.catalogue import FIELD_RADIUS_DEG, known_calibrators, reference_catalogue
from contimg_assets.checks import imaging as checks
from contimg_assets.checks.judgement import nothing_to_judge
from contimg_assets.conventions import FOLLOWS_THE_HOUR, per_hour, per_observation
from contimg_assets.failures import dagster_failures
from contimg_assets.mosaic_tiles import measure_mosaic, mosaic_row, read_outlines, read_tiles, tiles_of_hour
from contimg_assets.observations import measurement_set
from contimg_assets.pictures import image_pair, markdown_image, mosaic_picture
from contimg_assets.provenance import with_provenance
from contimg_assets.recipes import of_continuum_image
from contimg_resources.configurable import Observatory
from contimg_resources.machine import available_memory_bytes
from contimg_resources.settings import Settings
from contimg_resources.tracing import span

_LOG = structlog.get_logger(__name__)

_FEWEST_MATCHES = 3
"""Sources needed before position and flux are compared with the catalogue."""


def image_settings(settings: Settings) -> Any:
    """Imaging settings of science from those of the operator."""
    from contimg_assets.science.imaging.settings import ImageSettings

    chosen = settings.imaging
    return ImageSettings(
        n_bands=chosen.n_bands,
        weighting=chosen.weighting,
        robust=chosen.robust,
        uv_min_wavelengths=chosen.uv_min_wavelengths,
        uv_max_wavelengths=chosen.uv_max_wavelengths,
        self_calibration=chosen.self_calibration,
        memory_bytes=available_memory_bytes(),
        cell_arcsec=chosen.cell_arcsec,
        n_pixels=chosen.n_pixels,
        max_iterations=chosen.max_iterations,
        n_threads=settings.threads,
    )


@dg.asset(
    deps=[measurement_set, gain_table, reference_catalogue],
    check_specs=checks.CONTINUUM_IMAGE,
    **per_observation("imaging", {"fits"}, code_version="3"),
)
def continuum_image(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """Deconvolved images of one observation: full band and sub-bands, with noise, background and primary beam maps.

    Bandpass and gains are applied while the measurement set is read; weights and uv range as set (Briggs, all baselines),
    w-gridding; catalogue sources are fitted at their positions in every sub-band, and a CLEAN of all sub-bands together
    finds the others; restored with the fitted beam, not corrected for the primary beam. With self-calibration switched
    on, its steps are in the metadata: tried, kept, residual before and after (Jy/beam). Metadata calibration_tables names the
    tables by content hash with their status: one superseded or rejected since the gains chose it is applied all the same.
    ``imaging.engine`` hands gridding and CLEAN to WSClean or CASA's tclean, which find all sources themselves. Writes FITS files
    and one row per band of table image: beam, rms, thermal rms (Jy/beam), dynamic range, offset from the catalogue (arcsec).
    Read by forced_photometry. Remade when measurement set, gains or catalogue change.
    """
    from contimg_assets.science.calibration.engine_solutions import apply_solutions_with
    from contimg_assets.science.calibration.solutions import Solutions
    from contimg_assets.science.coordinates import separation_deg
    from contimg_assets.science.field_model import field_sky_model
    from contimg_assets.science.imaging.self_calibration import make_self_calibrated_images
    from contimg_assets.science.visibilities import Visibilities
    from contimg_resources.calibration_tables import read_calibration_table
    from contimg_resources.engines import calibration_engine, imaging_engine
    from contimg_resources.fits_images import write_image_set
    from contimg_resources.measurement_sets import read_measurement_set

    partition_key, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store) as stage:
        if unchanged := stage.unchanged(of_continuum_image(observatory, partition_key)):
            return unchanged
        vis = Visibilities(**read_measurement_set(products.present(products.measurement_set(partition_key))))
        used = tables_used(observatory, partition_key)
        tables = [Solutions(**read_calibration_table(products.present(row["path"]))) for row in used]
        out_of_use = [row["path"] for row in used if row["status"] != "active"]
        if out_of_use:
            _LOG.warning("calibration_tables_out_of_use", paths=out_of_use, remedy="contimg rebuild --out-of-use")
        applying = calibration_engine(observatory.settings.calibration.engine, products.scratch("apply"))
        with span("apply", n_tables=len(tables)):
            calibrated = apply_solutions_with(applying, vis, tables, n_threads=observatory.settings.threads)
        catalogue = products.read_parquet("reference_catalogue", None)
        apart = separation_deg(
            vis.phase_centre_ra_deg,
            vis.phase_centre_dec_deg,
            catalogue["ra_deg"].to_numpy(),
            catalogue["dec_deg"].to_numpy(),
        )
        near = catalogue.filter(pl.Series(apart <= FIELD_RADIUS_DEG))
        centre_deg = vis.phase_centre_ra_deg, vis.phase_centre_dec_deg
        sky = field_sky_model(catalogue, *centre_deg, FIELD_RADIUS_DEG, known_calibrators(observatory))
        engine = imaging_engine(observatory.settings.imaging.engine, products.scratch("imaging"))
        with span("grid", what="grid and clean", engine=observatory.settings.imaging.engine):
            imaged = make_self_calibrated_images(calibrated, image_settings(observatory.settings), sky, engine)
        images = imaged.images
        folder = products.image_folder(partition_key)
        write_image_set(folder, images.columns())
        observation_id = store.query(
            "SELECT observation_id FROM observation WHERE partition_key = ?", [partition_key]
        ).item()
        with span("measure", what="image"):
            summary = measure_image(images, near, calibrated, observatory.telescope.sefd_jy) | imaged.summary()
        rows = image_rows(images, summary, str(products.noted(folder)), observation_id)
        store.replace("image", with_provenance(rows, context), partition_key=partition_key)
        products.write_json(products.document("continuum_image", partition_key, ".json"), summary)
        results = checks.judge_image(store, context, summary)
    full = images.full
    picture = image_pair(full, images.wcs, near["ra_deg"].to_numpy(), near["dec_deg"].to_numpy(), title=observation_id)
    return dg.MaterializeResult(
        metadata={
            "folder": dg.MetadataValue.path(str(folder)),
            "engine": images.engine,
            "calibration_tables": dg.MetadataValue.json(used),
            **{name: value for name, value in summary.items() if value is not None},
            "images": dg.MetadataValue.md(markdown_image(picture, "dirty and clean image")),
            "bands": dg.MetadataValue.json(
                rows.select("band", "frequency_hz", "rms_jy_beam", "beam_major_arcsec").to_dicts()
            ),
            "n_pixels": f"{full.restored.shape[1]} x {full.restored.shape[0]}",
        },
        check_results=results,
        data_version=stage.data_version,
    )


def measure_image(images: Any, near: pl.DataFrame, vis: Any, nominal_sefd_jy: float) -> dict[str, Any]:
    """Numbers of the full-band image for checks, report and store; None where there is nothing to measure."""
    from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
    from contimg_assets.science.crossmatch import astrometric_offset
    from contimg_assets.science.flux_scale import band_flux_jy
    from contimg_assets.science.imaging.thermal import measured_sefd_jy, radiometer_rms_jy
    from contimg_assets.science.photometry.positions import fit_positions
    from contimg_assets.science.photometry.primary_beam_correction import primary_beam_at

    full, sky = images.full, images.sky_image(images.full)
    ra_deg, dec_deg = near["ra_deg"].to_numpy(), near["dec_deg"].to_numpy()
    fitted = fit_positions(sky, full.rms, full.background, ra_deg, dec_deg)
    source = fitted["source_index"].to_numpy()
    offset = astrometric_offset(
        fitted["ra_deg"].to_numpy(), fitted["dec_deg"].to_numpy(), ra_deg[source], dec_deg[source]
    )
    x, y = images.wcs.all_world2pix(ra_deg[source], dec_deg[source], 0)
    expected_jy = band_flux_jy(
        near["flux_jy"].to_numpy()[source],
        near["spectral_index"].cast(pl.Float64).fill_null(np.nan).to_numpy()[source],
        full.frequency_hz,
    ) * primary_beam_at(full.primary_beam, x, y)
    enough = offset.n_sources >= _FEWEST_MATCHES
    longest_m = float(np.max(np.linalg.norm(vis.uvw_m[:, :2], axis=1)))
    resolution_arcsec = float(np.rad2deg(SPEED_OF_LIGHT_M_S / full.frequency_hz / longest_m) * 3600.0)
    return {
        "frequency_hz": full.frequency_hz,
        "rms_jy_beam": full.rms_jy_beam,
        "thermal_rms_jy_beam": full.thermal_rms_jy_beam,
        "radiometer_rms_jy_beam": radiometer_rms_jy(vis, nominal_sefd_jy),
        "sefd_jy": measured_sefd_jy(vis),
        "nominal_sefd_jy": nominal_sefd_jy,
        "dynamic_range": images.dynamic_range,
        "beam_major_arcsec": full.beam.major_arcsec,
        "beam_minor_arcsec": full.beam.minor_arcsec,
        "beam_pa_deg": full.beam.pa_deg,
        "beam_over_resolution": full.beam.minor_arcsec / resolution_arcsec,
        "n_antennas": vis.n_antennas_with_data,
        "n_known_sources": images.n_known_sources,
        "n_clean_components": images.n_clean_components,
        "n_major_cycles": images.n_major_cycles,
        "has_diverged": images.has_diverged,
        "n_matched": offset.n_sources,
        "astrometry_ra_arcsec": offset.ra_arcsec if enough else None,
        "astrometry_dec_arcsec": offset.dec_arcsec if enough else None,
        "offset_beams": offset.total_arcsec / full.beam.minor_arcsec if enough else None,
        "flux_ratio": float(np.median(fitted["peak_flux_jy_beam"].to_numpy() / expected_jy)) if enough else None,
    }


def image_rows(images: Any, summary: dict[str, Any], folder: str, observation_id: str) -> pl.DataFrame:
    """Rows of table ``image``: one per band."""
    return pl.DataFrame(
        [
            {
                "observation_id": observation_id,
                "band": plane.name,
                "path": f"{folder}/{plane.name}_image.fits",
                "frequency_hz": plane.frequency_hz,
                "beam_major_arcsec": plane.beam.major_arcsec,
                "beam_minor_arcsec": plane.beam.minor_arcsec,
                "beam_pa_deg": plane.beam.pa_deg,
                "rms_jy_beam": plane.rms_jy_beam,
                "thermal_rms_jy_beam": plane.thermal_rms_jy_beam,
                "dynamic_range": float(np.nanmax(plane.restored)) / plane.rms_jy_beam,
                "n_clean_components": images.n_clean_components,
                "astrometry_ra_arcsec": summary["astrometry_ra_arcsec"],
                "astrometry_dec_arcsec": summary["astrometry_dec_arcsec"],
                "n_antennas": summary["n_antennas"],
            }
            for plane in images.planes
        ],
        infer_schema_length=None,
    )


@dg.asset(
    deps=[continuum_image],
    check_specs=checks.MOSAIC,
    automation_condition=FOLLOWS_THE_HOUR,
    output_required=False,
    **per_hour("imaging", {"fits", "duckdb"}, code_version="1"),
)
def mosaic(
    context: dg.AssetExecutionContext, observatory: Observatory
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """The full-band images of one UTC hour as one image, corrected for the primary beam, with its weight map.

    Each image is reprojected to one grid and weighted by PB^2 / sigma^2, sigma from its rms map; different restoring
    beams are brought to a common one first. Blank where the noise is 5 times that of the best tile's centre, and where
    only the edge of one tile contributes. Images that failed a blocking check or lie on another declination are left out
    and named. Writes ``mosaic.fits`` (Jy/beam), ``weight.fits`` ((Jy/beam)^-2: the noise is 1 / sqrt(weight)) and one
    row of table mosaic. For eyes and for blind detection: nothing is computed from it, fluxes come from forced_photometry.
    Remade when an image of its hour is.
    """
    from contimg_assets.science.imaging.mosaic import MosaicSettings, make_mosaic
    from contimg_resources.fits_images import write_mosaic
    from contimg_resources.table_folders import replaced_folder

    hour, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store):
        tiles = tiles_of_hour(store, hour)
        folders, folder = tiles.folders_of(products), products.mosaic_folder(hour)
        if not folders:
            _LOG.info("nothing_to_do", why="no image to join in this hour")
            yield from nothing_to_judge(checks.MOSAIC)
            return
        made = make_mosaic(
            read_outlines(folders), read_tiles(folders), MosaicSettings(n_threads=observatory.settings.threads)
        )
        products.check_free_space(made.image.data.nbytes + made.weights.nbytes)
        with replaced_folder(folder) as temporary:
            temporary.mkdir()
            write_mosaic(temporary / "mosaic.fits", temporary / "weight.fits", made.columns())
        summary = measure_mosaic(made, folders, tiles)
        store.upsert("mosaic", with_provenance(mosaic_row(made, tiles, products.noted(folder), hour), context))
        products.write_json(products.document("mosaic", hour, ".json"), summary)
        results = checks.judge_mosaic(store, context, summary)
    yield dg.MaterializeResult(
        metadata={
            "folder": dg.MetadataValue.path(str(folder)),
            **{name: value for name, value in summary.items() if isinstance(value, (int, float, str))},
            "tiles": dg.MetadataValue.json(tiles.used["observation_id"].to_list()),
            "left_out": dg.MetadataValue.json(summary["left_out"]),
            "image": dg.MetadataValue.md(markdown_image(mosaic_picture(made, title=hour), "mosaic and its noise")),
        },
        check_results=results,
    )
