"""What all assets of one cadence share: partitions, owners, retries, freshness.

Freshness limits follow the telescope: an observation every 309 s, a mosaic every hour, a calibrator transit and a set of
light curves every sidereal day. They look at the newest materialization; whether the *data* are recent is for the checks.
"""

from datetime import timedelta
from typing import Any

import dagster as dg

from contimg_assets.failures import PASSING_TROUBLE
from contimg_assets.partitions import days, hours, observations

OBSERVERS = "team:operators"
ASTRONOMERS = "team:astronomers"

OBSERVATION_FRESHNESS = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(hours=6), warn_window=timedelta(minutes=30)
)
HOUR_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=9), warn_window=timedelta(hours=3))
DAY_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=50), warn_window=timedelta(hours=26))

_updated = dg.AutomationCondition.any_deps_updated()
_made_by_backfill = dg.AutomationCondition.newly_updated() & dg.AutomationCondition.executed_with_tags(
    tag_keys={"dagster/backfill"}
)
_new_data = _updated.since((dg.AutomationCondition.newly_requested() | _made_by_backfill) & ~_updated)
"""True from an update on until a request answers it. What was updated between the same two ticks as the answer may have come
too late for its run, and stays. That a partition was made is no answer, for its run may have read before the update; that a
backfill made it is one, for a backfill makes what it depends on first."""

_is_settled = ~dg.AutomationCondition.any_deps_in_progress() & ~dg.AutomationCondition.in_progress()

FOLLOWS_THE_DAY = (_new_data & _is_settled).with_label("new data of the day, nothing under way")
"""Request a day once data it depends on changed and none is being made. ``eager()`` would look at the newest day only and wait
for windows in which no observation ever began."""


FOLLOWS_THE_HOUR = (_new_data & _is_settled).with_label("new image of the hour, none under way")
"""Request an hour once one of its images changed and none is being made: the mosaic grows with its hour."""


def follows_settled(*keys: str) -> "dg.AutomationCondition[dg.AssetKey]":
    """Request a day once some of its dependencies changed, but not while any other is being made."""
    followed = _new_data.allow(dg.AssetSelection.assets(*keys)) & _is_settled
    return followed.with_label(f"new {', '.join(keys)}, nothing under way")


def follows_only(*keys: str) -> "dg.AutomationCondition[dg.AssetKey]":
    """``FOLLOWS_THE_DAY`` looking at some of the dependencies only: a new catalogue does not remake every day."""
    return FOLLOWS_THE_DAY.allow(dg.AssetSelection.assets(*keys))


def per_observation(group: str, kinds: set[str], code_version: str) -> dict[str, Any]:
    """Arguments of an asset with one partition per observation."""
    return _arguments(group, kinds, code_version) | {
        "partitions_def": observations,
        "owners": [OBSERVERS],
        "freshness_policy": OBSERVATION_FRESHNESS,
    }


def per_hour(group: str, kinds: set[str], code_version: str) -> dict[str, Any]:
    """Arguments of an asset with one partition per UTC hour."""
    return _arguments(group, kinds, code_version) | {
        "partitions_def": hours,
        "owners": [OBSERVERS],
        "freshness_policy": HOUR_FRESHNESS,
    }


def per_day(group: str, kinds: set[str], code_version: str) -> dict[str, Any]:
    """Arguments of an asset with one partition per UTC day."""
    return _arguments(group, kinds, code_version) | {
        "partitions_def": days,
        "owners": [ASTRONOMERS],
        "freshness_policy": DAY_FRESHNESS,
    }


def _arguments(group: str, kinds: set[str], code_version: str) -> dict[str, Any]:
    return {"group_name": group, "kinds": kinds, "code_version": code_version, "retry_policy": PASSING_TROUBLE}
