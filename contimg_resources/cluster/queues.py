"""Which queue a run waits in: one per kind of work, so that a host takes what it is good at.

What belongs here: the mapping from a run's assets to a queue and to a priority of the broker. What waits for what is decided by
sensors, how many run at once by Dagster's own queue.

A run is one task: its steps share one process, because a process per step costs 4-6 s on two cores and measurement sets would
travel. It waits in the queue of the last kind of work that it does, and days, which hold the store for long, in ``store``:
only workers on the host of the store listen there. All other runs write a few thousand rows each, in transactions of
milliseconds, through the shared data folder.
"""

from __future__ import annotations

from collections.abc import Iterable

QUEUES = ("ingest", "convert", "calibrate", "image", "photometry", "store")
"""All queues, in the order of the data."""
_QUEUE_OF_ASSET = {
    "reference_catalogue": "ingest",
    "raw_visibilities": "ingest",
    "measurement_set": "convert",
    "bandpass_table": "calibrate",
    "gain_table": "calibrate",
    "continuum_image": "image",
    "mosaic": "image",
    "blind_detections": "image",
    "forced_photometry": "photometry",
    "flux_scale": "photometry",
}
_QUEUE_OF_JOB = {
    "catalogue_job": "ingest",
    "bandpass_job": "calibrate",
    "observation_job": "image",
    "mosaic_job": "image",
}
_DECISIVE = ("store", "image", "photometry", "calibrate", "convert", "ingest")
"""Of several kinds in one run the first here names the queue: what takes longest, and what must be where."""
_STEPS = 9
"""Priorities of the broker are 0 (goes first) to 9: Redis has a list for each."""


def queue_of(job_name: str, assets: Iterable[str] | None) -> str:
    """Queue of a run.

    Parameters
    ----------
    job_name : str
    assets : iterable of str or None
        Keys of the selected assets; None for all of the job.
    """
    if assets is None:
        return _QUEUE_OF_JOB.get(job_name, "store")
    kinds = {_QUEUE_OF_ASSET.get(asset, "store") for asset in assets}
    return next((kind for kind in _DECISIVE if kind in kinds), "store")


def broker_priority(dagster_priority: str | None) -> int:
    """Priority on Redis, where the smaller number goes first, of a run's ``dagster/priority``, where the larger does."""
    try:
        wanted = int(dagster_priority or 0)
    except ValueError:
        wanted = 0
    return _STEPS - min(max(wanted // 10, 0), _STEPS)
