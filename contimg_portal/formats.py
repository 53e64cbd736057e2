"""How numbers, times and positions are written for people: one way each, with the missing shown as a dash."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

MISSING = "–"
_MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)
_AGE_STEPS = ((90.0, 1.0, "s"), (5400.0, 60.0, "min"), (172_800.0, 3600.0, "h"), (math.inf, 86_400.0, "d"))
_BYTE_STEPS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def from_mjd(mjd: float) -> datetime:
    """UTC time of a modified Julian date."""
    return _MJD_EPOCH + timedelta(days=mjd)


def as_time(when: float | datetime | None) -> datetime | None:
    """UTC time of an MJD or of a time (without zone: UTC); None for what is missing."""
    if when is None or (isinstance(when, float) and not math.isfinite(when)):
        return None
    if isinstance(when, datetime):
        return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return from_mjd(when)


def utc(when: float | datetime | None) -> str:
    """Time to the minute, e.g. ``2026-01-25 22:26``; takes an MJD or a time (without zone: UTC)."""
    time = as_time(when)
    return MISSING if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def age(when: float | datetime | None, now: datetime) -> str:
    """How long ago, in the unit that suits, e.g. ``12 min ago``."""
    time = as_time(when)
    if time is None:
        return "no data yet"
    seconds = (now - time).total_seconds()
    unit_s, unit = next((unit_s, unit) for limit_s, unit_s, unit in _AGE_STEPS if abs(seconds) < limit_s)
    return f"{seconds / unit_s:.0f} {unit} ago" if seconds >= 0 else f"in {-seconds / unit_s:.0f} {unit}"


def number(value: float | None, digits: int = 3) -> str:
    """Number with that many significant digits; whole numbers as they are."""
    if value is None or not math.isfinite(value):
        return MISSING
    if isinstance(value, int):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
        return f"{value:.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def right_ascension(ra_deg: float | None) -> str:
    """Right ascension as ``hh:mm:ss.ss``."""
    if ra_deg is None:
        return MISSING
    hundredths = round(ra_deg % 360.0 / 15.0 * 360_000.0) % 8_640_000
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest / 100:05.2f}"


def declination(dec_deg: float | None) -> str:
    """Declination as ``±dd:mm:ss.s``."""
    if dec_deg is None:
        return MISSING
    tenths = round(abs(dec_deg) * 36_000.0)
    minutes, rest = divmod(tenths, 600)
    return f"{'-' if dec_deg < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}:{rest / 10:04.1f}"


def byte_count(n_bytes: int | None) -> str:
    """Size of a file in the unit that suits, e.g. ``1.10 MB``."""
    if n_bytes is None:
        return MISSING
    size, unit = next((n_bytes / factor, unit) for factor, unit in _BYTE_STEPS if n_bytes >= factor or factor == 1)
    return f"{size:.0f} B" if unit == "B" else f"{number(size)} {unit}"


def duration(seconds: float | None) -> str:
    """Span of time in the unit that suits, e.g. ``2.5 min``."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    unit_s, unit = next((unit_s, unit) for limit_s, unit_s, unit in _AGE_STEPS if seconds < limit_s)
    return f"{number(seconds / unit_s)} {unit}"


def to_mjd(when: datetime) -> float:
    """Modified Julian date of a time with zone."""
    return (when - _MJD_EPOCH) / timedelta(days=1)
