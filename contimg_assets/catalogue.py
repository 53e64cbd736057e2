"""The catalogue group: the sources whose fluxes are measured, and the sky that calibration is solved against."""

import dagster as dg
import polars as pl

from contimg_assets.conventions import ASTRONOMERS
from contimg_assets.failures import PASSING_TROUBLE, dagster_failures
from contimg_assets.science.flux_calibrators import PRIMARY_POSITIONS, FluxCalibrator, with_listed
from contimg_resources.calibrator_lists import read_calibrator_list
from contimg_resources.configurable import Observatory
from contimg_resources.errors import CatalogueError, SettingsError

FIELD_RADIUS_DEG = 3.0
"""Catalogue sources this near to the middle of a drift enter its sky model: to the first null of the primary beam."""


def known_calibrators(observatory: Observatory) -> tuple[FluxCalibrator, ...]:
    """Calibrators with a spectrum: those of Perley & Butler (2017) and those that the setting ``calibrator_list`` adds."""
    return with_listed(read_calibrator_list(observatory.settings, PRIMARY_POSITIONS))


@dg.asset(
    group_name="catalogue",
    kinds={"parquet", "duckdb"},
    owners=[ASTRONOMERS],
    code_version="1",
    retry_policy=PASSING_TROUBLE,
)
def reference_catalogue(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """The reference catalogue in the platform's one shape: positions, fluxes at 1.4 GHz, spectral indices, sizes.

    Read from the file named by CONTIMG_CATALOGUE (CSV, Parquet, FITS or VOTable). Sources that are bright, compact
    and isolated are marked as references for the flux scale. Writes Parquet and table source. Read by gain_table,
    continuum_image, forced_photometry and flux_scale. Remade when the file changes.
    """
    from contimg_assets.science.flux_scale import select_references
    from contimg_resources.reference_catalogues import read_catalogue

    products, store = observatory.products, observatory.store
    with dagster_failures(context, store):
        path = observatory.settings.catalogue
        if path is None:
            raise SettingsError(
                "CONTIMG_CATALOGUE is not set",
                got="nothing",
                expected="a reference catalogue covering the declination of the observations",
                remedy="Set it to a CSV, Parquet, FITS or VOTable file with source_id, ra_deg, dec_deg, flux_jy.",
            )
        sources = read_catalogue(path)
        if sources.is_empty():
            raise CatalogueError(
                f"Catalogue {path} holds no source",
                got="a table without rows",
                expected="sources covering the declination of the observations",
                remedy="Set CONTIMG_CATALOGUE to a catalogue with sources.",
            )
        catalogue = select_references(sources)
        written = products.write_parquet("reference_catalogue", None, catalogue)
        store.upsert(
            "source",
            catalogue.select(
                "source_id",
                "ra_deg",
                "dec_deg",
                "spectral_index",
                "is_reference",
                "is_extended",
                "catalogue",
                catalogue_flux_jy="flux_jy",
            ),
        )
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(written)),
            "n_sources": catalogue.height,
            "n_references": int(catalogue["is_reference"].sum()),
            "n_without_flux": catalogue["flux_jy"].null_count(),
            "brightest": dg.MetadataValue.json(
                catalogue.top_k(10, by=pl.col("flux_jy")).select("source_id", "flux_jy").to_dicts()
            ),
        }
    )
