"""When observations are processed: arrivals in the incoming folder, and the calibrator transits among them.

What belongs here: looking, deciding, requesting. Reading and remembering files is ``contimg_assets.arrivals``. Run keys name
the observation and its files, so the same files never run twice, and a file that completes an observation late does.

The order of things for one sidereal day: the transit's measurement set is made as soon as it is complete; the bandpass
follows; all other observations, and the rest of the transit's, wait for that bandpass up to a limit
(``CONTIMG_CALIBRATION_WAIT_S`` after completion) and then go with the nearest valid one.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl

from contimg_assets.arrivals import catalogue_version, observe_arrivals
from contimg_assets.jobs import bandpass_job, catalogue_job, observation_job
from contimg_resources.configurable import Observatory

_MOST_RUNS_PER_TICK = 24
"""Creating runs costs 0.2 s each and a tick must end within a minute."""


@dg.sensor(
    jobs=[observation_job, bandpass_job, catalogue_job],
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def incoming_observations(context: dg.SensorEvaluationContext, observatory: Observatory) -> dg.SensorResult:
    """Watch the incoming folder, group sub-bands into observations, and request one run per complete observation.

    New files are recorded in tables raw_file and observation, each observation is reported as a materialization
    of raw_visibilities, and runs are requested once a bandpass is at hand.
    """
    arrived = observe_arrivals(observatory)
    requests = [*_catalogue_requests(observatory), *_observation_requests(observatory), *_bandpass_requests(observatory)]
    context.log.info(f"{len(arrived)} observations changed, {len(requests)} runs considered")
    return dg.SensorResult(
        run_requests=requests[:_MOST_RUNS_PER_TICK],
        asset_events=arrived,
    )
