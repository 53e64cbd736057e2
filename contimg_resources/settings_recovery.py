"""What an operator may set about failures: time limits, retries of dead letters, breakers, the queue and its priorities.

What belongs here: the sections of the settings (``settings.py``) that only the machinery of failures reads. The retries of a
step and of a lost process are Dagster's: ``contimg_assets.failures`` and ``dagster.yaml``.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _limit(default_s: float) -> Any:
    return Field(
        default_s, gt=0, le=86_400, description="seconds after which this stage is ended with reason `timeout`"
    )


class TimeoutSettings(_Section):
    """Longest time of one partition of each stage, by asset key; a stage takes seconds to minutes when all is well."""

    reference_catalogue: float = _limit(1800.0)
    measurement_set: float = _limit(1800.0)
    bandpass_table: float = _limit(1800.0)
    gain_table: float = _limit(1800.0)
    continuum_image: float = _limit(3600.0)
    mosaic: float = _limit(3600.0)
    forced_photometry: float = _limit(1800.0)
    blind_detections: float = _limit(1800.0)
    blind_sources: float = _limit(1800.0)
    flux_scale: float = _limit(900.0)
    light_curves: float = _limit(3600.0)
    variability_statistics: float = _limit(3600.0)
    ese_candidates: float = _limit(3600.0)
    injection_recovery: float = _limit(3600.0)
    quality_report: float = _limit(1800.0)

    def of_stage(self, asset: str) -> float | None:
        """Limit of an asset, s; None for one that has none."""
        limit_s: float | None = getattr(self, asset, None)
        return limit_s


class DeadLetterSettings(_Section):
    """How dead letters are retried without a hand."""

    max_attempts: int = Field(4, ge=1, le=100, description="failed runs after which no automatic retry follows")
    base_delay_s: float = Field(300.0, gt=0, description="delay before the first automatic retry")
    growth: float = Field(4.0, ge=1, le=100, description="factor by which each delay exceeds the one before")
    longest_delay_s: float = Field(86_400.0, gt=0, description="no delay is longer")


class BreakerSettings(_Section):
    """When a stage is no longer asked for."""

    failures: int = Field(5, ge=1, le=1000, description="failures in a row that open the breaker of a stage")
    cool_down_s: float = Field(
        600.0, gt=0, le=86_400, description="how long it stays open before one probe is let through"
    )


def _split_positions(value: Any) -> Any:
    """Read ``187.70+12.39, 83.63-22.01`` as a list of right ascension and declination."""
    if not isinstance(value, str):
        return value
    positions = []
    for item in (part.strip() for part in value.split(",")):
        if item:
            cut = max(item.rfind("+"), item.rfind("-"))
            if cut <= 0:
                message = (
                    f"{item}: positions are typed as 187.70+12.39, 83.63-22.01 (right ascension, declination, deg)"
                )
                raise ValueError(message)
            positions.append([item[:cut].strip(), item[cut:]])
    return positions


def _require_on_sky(positions: list[tuple[float, float]]) -> list[tuple[float, float]]:
    wrong = [f"{ra:g}{dec:+g}" for ra, dec in positions if not (0 <= ra < 360 and -90 <= dec <= 90)]
    if wrong:
        message = f"{', '.join(wrong)}: right ascension must be within 0 to 360 deg, declination within -90 to 90 deg"
        raise ValueError(message)
    return positions


Positions = Annotated[
    list[tuple[float, float]], NoDecode, BeforeValidator(_split_positions), AfterValidator(_require_on_sky)
]


class QueueSettings(_Section):
    """What goes first, and how much may wait. Priorities are Dagster's: the larger goes first, backfills have 0."""

    most_waiting: int = Field(
        64,
        ge=1,
        le=100_000,
        description="runs waiting in the queue at which no more are requested; transits may exceed it",
    )
    backlog_limit_h: float = Field(
        6.0, gt=0, description="an observation that waits longer than this is logged and alerts"
    )
    live_age_h: float = Field(24.0, gt=0, description="observations younger than this are live, older ones catch up")
    target_of_opportunity_priority: int = Field(90, ge=1, le=1000)
    calibrator_priority: int = Field(60, ge=1, le=1000, description="of live transits and their bandpass")
    live_priority: int = Field(35, ge=1, le=1000, description="of other live observations")
    targets_of_opportunity: Positions = Field(
        [], description="positions, deg: 187.70+12.39, 83.63-22.01 (TOML: a list of pairs); their observations go first"
    )
    target_radius_deg: float = Field(1.5, gt=0, le=20, description="an observation this near to a target is one of it")
