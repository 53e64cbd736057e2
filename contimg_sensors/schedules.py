"""What happens by the clock: the day's science once more after the day has ended, complete or not; archiving and removing."""

import dagster as dg

from contimg_assets.jobs import daily_job
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

retention = dg.ScheduleDefinition(
    name="retention",
    job=retention_job,
    cron_schedule="0 12 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=(
        "At noon UTC, archive and remove what the policies of CONTIMG_RETENTION__POLICIES say. Off by default; look at"
        " `contimg retention plan` before switching it on."
    ),
)
