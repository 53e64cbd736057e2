"""What follows without a hand: the automation sensors over the day's assets and over the hour's mosaic.

The conditions themselves stand with the assets (``contimg_assets.conventions``). Per-observation work is not automated
by conditions but requested by the ingest sensor: a tick over fragmented five-minute partitions costs seconds.
"""

import dagster as dg

DAY_GROUPS = ("variability", "quality")

day_automation = dg.AutomationConditionSensorDefinition(
    "day_automation",
    target=dg.AssetSelection.groups(*DAY_GROUPS) | dg.AssetSelection.assets("blind_sources"),
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    emit_backfills=False,
    run_tags={"contimg/cadence": "day", "dagster/priority": "40"},
    description="Requests light curves, statistics, candidates, injections and the report of every day with new photometry.",
)
"""Runs, not backfills: a range run would lose the partition of its check results."""

hour_automation = dg.AutomationConditionSensorDefinition(
    "hour_automation",
    target=dg.AssetSelection.assets("mosaic", "blind_detections"),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    emit_backfills=False,
    run_tags={"contimg/cadence": "hour", "dagster/priority": "5"},
    description="Requests mosaic and blind detections of every hour with new images, after everything that leads to candidates.",
)
"""Last in the queue: nothing waits for a mosaic, and an hour whose images arrive while it waits is made once."""
