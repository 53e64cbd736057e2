"""Retention as a job of Dagster: one op that does what `contimg retention apply` does.

What belongs here: the op and its job. The rules and the work are ``contimg_resources.retention``; when it happens is
``contimg_sensors.schedules``.
"""

import dagster as dg

from contimg_resources.configurable import Observatory
from contimg_resources.instance_view import partitions_under_way
from contimg_resources.retention.execution import Retention
from contimg_resources.retention.run_events import RunEvents


@dg.op
def apply_retention(context: dg.OpExecutionContext, observatory: Observatory) -> None:
    """Remove old events of runs, archive and remove products as the settings CONTIMG_RETENTION__… say; without them do nothing."""
    events = RunEvents(context.instance, observatory.settings.retention).apply()
    retention = Retention(
        observatory.settings, observatory.store, running=lambda: partitions_under_way(context.instance)
    )
    outcome = retention.apply()
    context.add_output_metadata(
        {
            "archived": outcome.n_archived,
            "archived_bytes": outcome.archived_bytes,
            "removed": outcome.n_removed,
            "removed_bytes": outcome.removed_bytes,
            "resumed": outcome.n_resumed,
            "removed_run_events": events.n_events,
            "removed_run_event_bytes": events.n_bytes,
        }
    )
    if outcome.problems:
        raise dg.Failure(
            description=f"{len(outcome.problems)} products could not be archived or removed; they are still there",
            metadata={"problems": dg.MetadataValue.md("\n".join(f"* {text}" for text in outcome.problems))},
            allow_retries=False,
        )


@dg.job
def retention_job() -> None:
    """Archive and remove products by policy, and remove old events of runs."""
    apply_retention()
