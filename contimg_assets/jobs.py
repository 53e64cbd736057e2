"""The jobs people, sensors and schedules launch: one observation, bandpass, hour or day, the catalogue, the check of the store.

All run in one process: a step process costs 4-6 s on two cores. Parallelism comes from runs in the queue.
"""

import dagster as dg

from contimg_assets.blind import blind_detections, blind_sources
from contimg_assets.calibration import bandpass_table, gain_table
from contimg_assets.catalogue import reference_catalogue
from contimg_assets.checks.observations import raw_visibilities_checks
from contimg_assets.checks.store import store_agrees_with_products
from contimg_assets.imaging import continuum_image, mosaic
from contimg_assets.observations import measurement_set
from contimg_assets.photometry import flux_scale, forced_photometry
from contimg_assets.quality import injection_recovery, quality_report
from contimg_assets.variability import ese_candidates, light_curves, variability_statistics

OBSERVATION_ASSETS = [measurement_set, gain_table, continuum_image, forced_photometry, flux_scale]
DAY_ASSETS = [
    light_curves,
    variability_statistics,
    ese_candidates,
    blind_sources,
    injection_recovery,
    quality_report,
]
HOUR_ASSETS = [mosaic, blind_detections]

observation_job = dg.define_asset_job(
    "observation_job",
    selection=dg.AssetSelection.assets(*OBSERVATION_ASSETS) | dg.AssetSelection.checks(raw_visibilities_checks),
    description="Raw files of one observation to scaled fluxes of every catalogue source in the beam.",
)
bandpass_job = dg.define_asset_job(
    "bandpass_job",
    selection=dg.AssetSelection.assets(bandpass_table),
    description="The bandpass of one day's calibrator transit.",
)
mosaic_job = dg.define_asset_job(
    "mosaic_job",
    selection=dg.AssetSelection.assets(*HOUR_ASSETS),
    description="The images of one UTC hour as one, with its weight map, and what it shows outside the catalogue.",
    tags={"contimg/cadence": "hour"},
)
daily_job = dg.define_asset_job(
    "daily_job",
    selection=dg.AssetSelection.assets(*DAY_ASSETS),
    description="Light curves, statistics, candidates, sources outside the catalogue, injections and the report of one UTC day.",
    tags={"contimg/cadence": "day"},
)
catalogue_job = dg.define_asset_job(
    "catalogue_job",
    selection=dg.AssetSelection.assets(reference_catalogue) - dg.AssetSelection.checks(store_agrees_with_products),
    description="The reference catalogue.",
)
store_check_job = dg.define_asset_job(
    "store_check_job",
    selection=dg.AssetSelection.checks(store_agrees_with_products),
    description="Whether the store agrees with itself and with the products.",
)
