"""The code location: the only file that sees assets, resources and sensors together."""

import dagster as dg

from contimg_assets.calibration import bandpass_table
from contimg_assets.catalogue import reference_catalogue
from contimg_assets.checks.observations import raw_visibilities_checks
from contimg_assets.checks.store import store_agrees_with_products
from contimg_assets.jobs import (
    DAY_ASSETS,
    HOUR_ASSETS,
    OBSERVATION_ASSETS,
    bandpass_job,
    catalogue_job,
    daily_job,
    mosaic_job,
    observation_job,
    store_check_job,
)
from contimg_assets.observations import raw_visibilities
from contimg_assets.retention import retention_job
from contimg_resources.configurable import Observatory
from contimg_sensors.alerts import alerts, event_webhooks
from contimg_sensors.arrivals import incoming_observations
from contimg_sensors.automation import day_automation, hour_automation
from contimg_sensors.failures import dead_letter_retries, run_failures
from contimg_sensors.schedules import daily_science, daily_store_check, retention

defs = dg.Definitions(
    assets=[raw_visibilities, reference_catalogue, bandpass_table, *OBSERVATION_ASSETS, *HOUR_ASSETS, *DAY_ASSETS],
    asset_checks=[raw_visibilities_checks, store_agrees_with_products],
    jobs=[
        observation_job,
        bandpass_job,
        mosaic_job,
        daily_job,
        catalogue_job,
        retention_job,
        store_check_job,
    ],
    sensors=[
        incoming_observations,
        day_automation,
        hour_automation,
        run_failures,
        dead_letter_retries,
        alerts,
        event_webhooks,
    ],
    schedules=[daily_science, daily_store_check, retention],
    resources={"observatory": Observatory()},
    executor=dg.in_process_executor,
)
