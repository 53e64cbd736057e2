"""Sources outside the catalogue: what each mosaic shows of them, and what they do from day to day.

What belongs here: the two assets. Detection, association and identity are ``science.photometry.blind``, ``blind_association`` and
``blind_sources``; what good means is ``checks.blind``. They keep tables of their own: a source found today
must not change what the catalogue's photometry of an earlier observation holds.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl
import structlog

from contimg_assets.catalogue import FIELD_RADIUS_DEG, reference_catalogue
from contimg_assets.checks import blind as checks
from contimg_assets.checks.judgement import nothing_to_judge
from contimg_assets.conventions import follows_settled, per_day, per_hour
from contimg_assets.failures import dagster_failures
from contimg_assets.imaging import continuum_image, mosaic
from contimg_assets.mosaic_tiles import full_band_images
from contimg_assets.partitions import day_mjd_range, day_window_range, this_and_previous_day
from contimg_assets.photometry import FULL_BAND, flux_scale, measure_band, sources_in_beam
from contimg_assets.pictures import markdown_image
from contimg_assets.provenance import provenance, with_provenance
from contimg_assets.source_pictures import detection_counts
from contimg_resources.configurable import Observatory
from contimg_resources.store.connection import Store

_LOG = structlog.get_logger(__name__)

_BRIGHT_SNR = 10.0
"""Catalogue sources this bright in the mosaic must be found."""
_MOST_LISTED = 10
_DETECTION_COLUMNS = (
    "ra_deg",
    "dec_deg",
    "ra_err_arcsec",
    "dec_err_arcsec",
    "peak_flux_jy_beam",
    "peak_flux_err_jy_beam",
    "snr",
    "local_rms_jy_beam",
    "chi2_reduced",
    "n_pixels",
    "flags",
    "kind",
    "catalogue_source_id",
    "separation_arcsec",
)


@dg.asset(
    deps=[mosaic, reference_catalogue],
    check_specs=checks.BLIND_DETECTIONS,
    automation_condition=follows_settled("mosaic"),
    output_required=False,
    **per_hour("photometry", {"parquet", "duckdb"}, code_version="1"),
)
def blind_detections(
    context: dg.AssetExecutionContext, observatory: Observatory
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Point sources above 5 sigma in the mosaic of one UTC hour that the catalogue does not know.

    Local maxima are fitted with the restoring beam, blends together, and measured as forced photometry measures; the noise is
    that of the weight map. A detection farther from every catalogue source than both position errors allow is ``new``, or
    ``near_catalogued`` within a beam of one, or an ``artefact`` if a negative peak of like height is near. The same search of the
    image with its sign turned counts the false ones. Writes Parquet and table blind_detection: position and errors,
    ``peak_flux_jy_beam``, ``snr``, ``kind``. Read by blind_sources. Remade when the mosaic is.
    """
    from contimg_assets.science.images import SkyImage
    from contimg_assets.science.imaging.mosaic import rms_of_weights
    from contimg_assets.science.photometry.blind import BlindSettings, detect_sources
    from contimg_assets.science.photometry.blind_association import CATALOGUED, associate
    from contimg_resources.fits_images import read_image, read_plane

    hour, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store):
        made = store.query("SELECT first_mjd, last_mjd FROM mosaic WHERE partition_key = ?", [hour])
        if made.is_empty():
            _LOG.info("nothing_to_do", why="no mosaic of this hour")
            yield from nothing_to_judge(checks.BLIND_DETECTIONS)
            return
        folder = products.present(products.mosaic_folder(hour))
        image = SkyImage(**read_image(folder / "mosaic.fits"))
        rms = rms_of_weights(read_plane(folder / "weight.fits"))
        catalogue = products.read_parquet("reference_catalogue", None)
        settings = BlindSettings(threshold_snr=observatory.settings.photometry.blind_threshold_snr)
        found = detect_sources(image, rms, None, settings)
        told = associate(found.table, image, catalogue)
        summary = {
            "threshold_snr": settings.threshold_snr,
            "n_detections": told.height,
            **{f"n_{kind}": int((told["kind"] == kind).sum()) for kind in checks.KINDS},
            "n_negative": found.negatives.height,
            "expected_false": found.expected_false,
            "n_at_edge": found.n_at_edge,
            **bright_sources_found(image, rms, catalogue, told),
        }
        mjd = float(made.select((pl.col("first_mjd") + pl.col("last_mjd")) / 2.0).item())
        rows = detection_rows(told.filter(pl.col("kind") != CATALOGUED), image, hour, mjd)
        path = products.write_parquet("blind_detections", hour, rows, made_by=provenance(context))
        store.replace("blind_detection", with_provenance(rows, context), partition_key=hour)
        results = checks.judge_detections(store, context, summary)
    picture = detection_counts(told, found.negatives, found.expected_false, settings.threshold_snr, title=hour)
    yield dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(path)),
            **{name: value for name, value in summary.items() if isinstance(value, (int, float))},
            "counts": dg.MetadataValue.md(markdown_image(picture, "detections and false ones")),
            "brightest": dg.MetadataValue.json(
                rows.filter(kind="new").head(_MOST_LISTED).select("detection_id", "snr", "peak_flux_jy_beam").to_dicts()
            ),
        },
        check_results=results,
    )


def detection_rows(detections: pl.DataFrame, image: Any, hour: str, mjd: float) -> pl.DataFrame:
    """Rows of table ``blind_detection``; a detection is named after its hour and position."""
    return detections.select(
        pl.format(
            "{}_{}_{}",
            pl.lit(hour),
            pl.col("ra_deg").round(5).cast(pl.String),
            pl.col("dec_deg").round(5).cast(pl.String),
        ).alias("detection_id"),
        *_DETECTION_COLUMNS,
        mjd=pl.lit(mjd),
        frequency_hz=pl.lit(image.frequency_hz),
        beam_major_arcsec=pl.lit(image.beam_major_arcsec),
    )


def bright_sources_found(image: Any, rms: Any, catalogue: pl.DataFrame, told: pl.DataFrame) -> dict[str, Any]:
    """How many catalogue sources that are bright in the mosaic, by forced photometry, were detected."""
    from contimg_assets.science.photometry.flags import UNRELIABLE
    from contimg_assets.science.photometry.forced import measure_forced

    forced = measure_forced(image, rms, None, catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy())
    bright = forced.filter(
        (pl.col("flags") & UNRELIABLE) == 0,
        pl.col("peak_flux_jy_beam") >= _BRIGHT_SNR * pl.col("peak_flux_err_jy_beam"),
    )
    names = catalogue["source_id"].gather(bright["source_index"])
    missed = names.filter(~names.is_in(told.filter(kind="catalogued")["catalogue_source_id"].to_list()))
    return {
        "n_bright": bright.height,
        "found_fraction": 1.0 - missed.len() / bright.height if bright.height else None,
        "missed": missed.head(_MOST_LISTED).to_list(),
    }


@dg.asset(
    deps=[
        blind_detections,
        dg.AssetDep(continuum_image, partition_mapping=this_and_previous_day),
        flux_scale,
        reference_catalogue,
    ],
    check_specs=checks.BLIND_SOURCES,
    automation_condition=follows_settled("blind_detections"),
    **per_day("photometry", {"parquet", "duckdb"}, code_version="1"),
)
def blind_sources(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """Sources outside the catalogue as of the end of the day, followed by forced photometry of every full-band image.

    Detections of all mosaics up to the end of the day are taken in order of time and joined by position, so that a source keeps
    the name of its first detection. Each is measured on the day's images, detected or not; a source first detected today also
    on those of the day before, as they are in the store. Fluxes are divided by the flux scale. Steady sources are ``new``, others
    ``variable`` or, if absent at some epoch, ``transient``. Writes Parquet and tables blind_association, blind_photometry
    and blind_source. Read by people. Remade when detections of the day change; after a backfill of earlier hours, make the
    later days again.
    """
    from contimg_assets.science.photometry.blind_sources import identify

    day, products, store = context.partition_key, observatory.products, observatory.store
    start, end = day_mjd_range(day)
    with dagster_failures(context, store):
        identified = identify(store.query("SELECT * FROM blind_detection WHERE mjd < ?", [end]))
        fluxes = follow(observatory, identified, day)
        rows = source_rows(store, identified, fluxes, day)
        own = identified.filter(pl.col("mjd") >= start, pl.col("source_id").is_not_null()).select(
            "detection_id", "source_id"
        )
        products.write_parquet("blind_association", day, own, made_by=provenance(context))
        products.write_parquet("blind_photometry", day, fluxes, made_by=provenance(context))
        path = products.write_parquet("blind_sources", day, rows, made_by=provenance(context))
        store.replace("blind_association", with_provenance(own, context), partition_key=day)
        store.replace("blind_photometry", with_provenance(fluxes, context), partition_key=day)
        store.replace("blind_source", with_provenance(rows, context), partition_key=day)
        results = checks.judge_sources(
            store, context, rows.filter(pl.col("first_mjd") >= start), fluxes.filter(pl.col("mjd") >= start)
        )
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(path)),
            "n_sources": rows.height,
            "n_first_seen_today": int((rows["first_mjd"] >= start).sum()),
            "n_fluxes": fluxes.height,
            "kinds": dg.MetadataValue.json(dict(rows["kind"].value_counts().sort("kind").iter_rows())),
            "most_significant": dg.MetadataValue.json(
                rows.sort("max_snr", "source_id", descending=True)
                .head(_MOST_LISTED)
                .select("source_id", "kind", "n_detections", "max_snr", "weighted_mean_flux_jy")
                .to_dicts()
            ),
        },
        check_results=results,
    )


def follow(observatory: Observatory, identified: pl.DataFrame, day: str) -> pl.DataFrame:
    """Rows of table ``blind_photometry``: forced fluxes of all sources on the day's images, of today's on the day before's."""
    from contimg_assets.science.photometry.blind_sources import blind_sources as sources_of
    from contimg_resources.store.frames import empty_frame
    from contimg_resources.store.schema import TABLES

    store, products = observatory.store, observatory.products
    sources = sources_of(identified)
    catalogue = products.read_parquet("reference_catalogue", None)
    images = full_band_images(store, *day_window_range(day, days_before=1)).filter(pl.col("failed_checks").is_null())
    level, start = observatory.settings.photometry.beam_level, day_mjd_range(day)[0]
    table = TABLES["blind_photometry"]
    empty = empty_frame(table).drop("partition_key", "run_id", "code_version")
    frames = [empty]
    for image in images.iter_rows(named=True):
        is_today = image["partition_key"] >= day
        targets = near_pointing(sources if is_today else sources.filter(pl.col("first_mjd") >= start), image)
        folder = products.image_folder(image["partition_key"])
        if targets.height and (is_today or products.holds(folder)):
            measured = measure_sources(products.present(folder), targets, catalogue, level)
            frames.append(
                measured.with_columns(
                    observation_id=pl.lit(image["observation_id"]),
                    mjd=pl.lit(image["start_mjd"] + (image["duration_s"] or 0.0) / 172_800.0),
                )
            )
    rows = pl.concat(frames, how="diagonal_relaxed").drop("flux_scale_factor", "flux_jy", "flux_err_jy")
    factors = store.query("SELECT observation_id, band, factor AS flux_scale_factor FROM flux_scale")
    factor = pl.col("flux_scale_factor")
    return (
        rows.join(factors, on=["observation_id", "band"], how="left")
        .with_columns(
            flux_jy=pl.col("peak_flux_jy_beam") / factor, flux_err_jy=pl.col("peak_flux_err_jy_beam") / factor.abs()
        )
        .select(empty.columns)
        .sort("observation_id", "source_id", "band")
    )


def near_pointing(sources: pl.DataFrame, image: dict[str, Any]) -> pl.DataFrame:
    """Sources that may lie in an image's beam; all of them where its pointing is not known."""
    from contimg_assets.science.coordinates import separation_deg

    if image["pointing_ra_deg"] is None or image["pointing_dec_deg"] is None or sources.is_empty():
        return sources
    apart = separation_deg(
        sources["ra_deg"].to_numpy(), sources["dec_deg"].to_numpy(), image["pointing_ra_deg"], image["pointing_dec_deg"]
    )
    return sources.filter(pl.Series(apart <= FIELD_RADIUS_DEG))


def measure_sources(folder: Any, sources: pl.DataFrame, catalogue: pl.DataFrame, level: float) -> pl.DataFrame:
    """Forced fluxes of sources on one full-band image, deblended against the catalogue and each other."""
    from contimg_assets.science.images import SkyImage
    from contimg_resources.fits_images import read_image, read_plane

    image = SkyImage(**read_image(folder / f"{FULL_BAND}_image.fits"))
    maps = {kind: read_plane(folder / f"{FULL_BAND}_{kind}.fits") for kind in ("rms", "background", "primary_beam")}
    inside = sources_in_beam(image, maps["primary_beam"], sources, level)
    return measure_band(image, maps, inside, catalogue).with_columns(band=pl.lit(FULL_BAND))


def source_rows(store: Store, identified: pl.DataFrame, fluxes: pl.DataFrame, day: str) -> pl.DataFrame:
    """Rows of table ``blind_source``: those detected or measured on the day, with their kind from all fluxes so far."""
    from contimg_assets.science.photometry.blind_sources import blind_sources as sources_of
    from contimg_assets.science.photometry.blind_sources import source_kinds

    start, end = day_mjd_range(day)
    columns = ("source_id", "flux_jy", "flux_err_jy")
    earlier = store.query(
        "SELECT source_id, flux_jy, flux_err_jy FROM blind_photometry WHERE partition_key < ? AND band = ?"
        " ORDER BY source_id, observation_id",
        [day, FULL_BAND],
    )
    kinds = source_kinds(pl.concat([earlier, fluxes.select(columns)], how="vertical_relaxed"))
    touched = {*fluxes["source_id"], *identified.filter(pl.col("mjd") >= start)["source_id"].drop_nulls()}
    return (
        sources_of(identified)
        .filter(pl.col("source_id").is_in(sorted(touched)))
        .join(kinds, on="source_id", how="left", maintain_order="left")
        .with_columns(kind=pl.col("kind").fill_null("new"), as_of_mjd=pl.lit(end))
    )
