"""What follows without a hand once a day has new observations: the automation sensor over the day's assets.

The conditions themselves stand with the assets (``contimg_assets.conventions``). Per-observation work is not automated
by conditions but requested by the ingest sensor: a tick over fragmented five-minute partitions costs seconds.
"""

import dagster as dg

DAY_GROUPS = ("variability", "quality")

day_automation = dg.AutomationConditionSensorDefinition(
    "day_automation",
    target=dg.AssetSelection.groups(*DAY_GROUPS),
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    emit_backfills=False,
    run_tags={"contimg/cadence": "day", "dagster/priority": "40"},
    description="Requests light curves, statistics, candidates, injections and the report of every day with new photometry.",
)
"""Runs, not backfills: a range run would lose the partition of its check results."""
