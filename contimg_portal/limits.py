"""When a page turns amber and red: ages and numbers against the limits of the settings.

What belongs here: the judgement good, amber or red of one element of the overview. Which element it is and how its age
is written is the template's.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from contimg_portal.formats import as_time
from contimg_resources.settings_portal import PageSettings

CADENCES = {
    "mosaic": "hour",
    "blind_detections": "hour",
    "bandpass_table": "day",
    "light_curves": "day",
    "variability_statistics": "day",
    "ese_candidates": "day",
    "blind_sources": "day",
    "injection_recovery": "day",
    "image_injection": "day",
    "quality_report": "day",
    "reference_catalogue": "none",
}
"""How often an asset is made; those not named are made for every observation, the catalogue when somebody wants it."""


def level(value: float | None, amber: float, red: float) -> str:
    """``good`` up to the first limit, ``amber`` up to the second, ``red`` beyond; ``unknown`` without a value."""
    if value is None or not math.isfinite(value):
        return "unknown"
    return "red" if value > red else "amber" if value > amber else "good"


def age_level(when: float | datetime | None, cadence: str, settings: PageSettings, now: datetime) -> str:
    """Level of an age by cadence (observation, hour, day; others have no limit)."""
    time = as_time(when)
    if time is None:
        return "unknown"
    if cadence not in {"observation", "hour", "day"}:
        return "good"
    age_h = (now - time.astimezone(UTC)).total_seconds() / 3600.0
    return level(age_h, getattr(settings, f"{cadence}_amber_h"), getattr(settings, f"{cadence}_red_h"))


def asset_level(asset: str, made_at: datetime | None, settings: PageSettings, now: datetime) -> str:
    """Level of the time since an asset was last made."""
    return age_level(made_at, CADENCES.get(asset, "observation"), settings, now)
