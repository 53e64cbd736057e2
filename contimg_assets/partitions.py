"""What one observation, one hour and one day is, as Dagster partitions.

Group starts of the telescope are at least 308 s apart, so a window of 5 minutes holds at most one observation. Windows
of time map by time: a day depends on its own observations, and any range can be backfilled. Rejected: dynamic
partitions named after observations, which have no time range and no mapping to days.

The season (first and last day) is a setting and is read once, when the definitions are loaded: partitions must be known
then. Windows exist once they are over; hours and days exist from their start, because mosaics grow, the bandpass is
solved and light curves are extended before they end.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from contimg_resources.settings import load_settings

WINDOW = timedelta(minutes=5)
"""Length of an observation's partition."""
OBSERVATION_FORMAT = "%Y-%m-%dT%H:%M"
HOUR_FORMAT = "%Y-%m-%d-%H:%M"
DAY_FORMAT = "%Y-%m-%d"
_MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)

_season = load_settings()
_start = _season.season_start.isoformat()
_end = (_season.season_end + timedelta(days=1)).isoformat() if _season.season_end else None

observations = dg.TimeWindowPartitionsDefinition(
    start=f"{_start}T00:00",
    end=f"{_end}T00:00" if _end else None,
    fmt=OBSERVATION_FORMAT,
    cron_schedule="*/5 * * * *",
)
"""Windows of 5 minutes; a window's key is its start."""

hours = dg.TimeWindowPartitionsDefinition(
    start=f"{_start}-00:00",
    end=f"{_end}-00:00" if _end else None,
    fmt=HOUR_FORMAT,
    cron_schedule="0 * * * *",
    end_offset=0 if _end else 1,
)
"""UTC hours, the present one included."""

days = dg.TimeWindowPartitionsDefinition(
    start=_start, end=_end, fmt=DAY_FORMAT, cron_schedule="0 0 * * *", end_offset=0 if _end else 1
)
"""UTC days, the present one included."""

this_and_previous_day = dg.TimeWindowPartitionMapping(start_offset=-1, allow_nonexistent_upstream_partitions=True)
"""Gains may use the bandpass of their own day or of the day before."""

REFERENCE_HISTORY_D = 60
"""Days before a day from whose photometry its flux references are learned."""

day_and_reference_history = dg.TimeWindowPartitionMapping(
    start_offset=-REFERENCE_HISTORY_D, allow_nonexistent_upstream_partitions=True
)
"""Light curves of a day use the raw photometry of the references on the days before."""


def utc_of_mjd(mjd: float) -> datetime:
    """Aware UTC datetime of a Modified Julian Date."""
    return _MJD_EPOCH + timedelta(days=mjd)


def mjd_of_utc(when: datetime) -> float:
    """Modified Julian Date of an aware datetime."""
    return (when - _MJD_EPOCH) / timedelta(days=1)


def observation_partition(start_mjd: float) -> str:
    """Key of the window that holds an observation's start."""
    start = utc_of_mjd(start_mjd)
    return start.replace(minute=start.minute - start.minute % 5).strftime(OBSERVATION_FORMAT)


def day_partition(start_mjd: float) -> str:
    """Key of the UTC day that holds a time."""
    return utc_of_mjd(start_mjd).strftime(DAY_FORMAT)


def day_mjd_range(day: str) -> tuple[float, float]:
    """First and last instant of a UTC day as MJD, the end exclusive."""
    start = mjd_of_utc(datetime.strptime(day, DAY_FORMAT).replace(tzinfo=UTC))
    return start, start + 1.0


def hour_window_range(hour: str) -> tuple[str, str]:
    """Keys of the first window of a UTC hour and of the first window after it."""
    start = datetime.strptime(hour, HOUR_FORMAT).replace(tzinfo=UTC)
    return start.strftime(OBSERVATION_FORMAT), (start + timedelta(hours=1)).strftime(OBSERVATION_FORMAT)


def day_window_range(day: str, *, days_before: int = 0) -> tuple[str, str]:
    """Keys of the first window of a UTC day, or of one so many days before, and of the first window after the day."""
    start = datetime.strptime(day, DAY_FORMAT).replace(tzinfo=UTC)
    first, after = start - timedelta(days=days_before), start + timedelta(days=1)
    return first.strftime(OBSERVATION_FORMAT), after.strftime(OBSERVATION_FORMAT)


def window_mjd_range(partition_key: str) -> tuple[float, float]:
    """First and last instant of an observation's window as MJD, the end exclusive."""
    start = datetime.strptime(partition_key, OBSERVATION_FORMAT).replace(tzinfo=UTC)
    return mjd_of_utc(start), mjd_of_utc(start + WINDOW)
