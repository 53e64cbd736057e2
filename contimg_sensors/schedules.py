"""What happens by the clock: the day's science once more after it has ended, complete or not, the check of the store, archiving."""

import dagster as dg

from contimg_assets.jobs import daily_job, store_check_job
from contimg_assets.retention import retention_job

daily_science = dg.build_schedule_from_partitioned_job(
    daily_job,
    name="daily_science",
    hour_of_day=1,
    minute_of_hour=30,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=(
        "At 01:30 UTC, the science of the day before. Off by default: the automation sensor follows the data; switch it on"
        " where the night's last observations may fail and the day must be closed regardless."
    ),
)

daily_store_check = dg.ScheduleDefinition(
    name="daily_store_check",
    job=store_check_job,
    cron_schedule="40 4 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    tags={"dagster/priority": "1"},
    description="At 04:40 UTC, whether the store agrees with itself and with the products; alert store_inconsistent if not.",
)

retention = dg.ScheduleDefinition(
    name="retention",
    job=retention_job,
    cron_schedule="0 12 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=(
        "At noon UTC, archive and remove what the policies of CONTIMG_RETENTION__POLICIES say, and remove events of runs that"
        " are older than CONTIMG_RETENTION__RUN_EVENTS_DAYS. Off by default; look at `contimg retention plan` before"
        " switching it on."
    ),
)
