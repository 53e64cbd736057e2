"""Our errors become Dagster's failures and the observation's status, here and nowhere else.

What belongs here: the decision whether a retry can help, what the operator reads, what the store remembers, and how
long a stage took. What does not: noticing that something is wrong (science and resources raise).

=====================  ==============================  ========================================
error                  Dagster                         observation in the store
=====================  ==============================  ========================================
DataError              Failure, no retry               quarantined, reason code
RawFileError           Failure, no retry               quarantined, reason code
UncalibratedError      Failure, no retry               stays ready, reason ``uncalibrated``
other ResourceError    Failure, retry if transient     reason code only
OSError, disk full     Failure, retry                  reason ``disk_full`` / ``io_error``
anything else          Failure with traceback, none    reason ``software_error``
=====================  ==============================  ========================================
"""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime

import dagster as dg
import polars as pl

from contimg_assets.profiling import profiled_stage
from contimg_assets.science.errors import DataError
from contimg_assets.stages import observed_stage
from contimg_resources.errors import RawFileError, ResourceError, StoreError
from contimg_resources.store.connection import Store

PASSING_TROUBLE = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For errors that can pass; those that cannot raise a Failure that forbids retries."""


class UncalibratedError(DataError):
    """Raise when no calibration table is valid for an observation: it waits, it is not bad."""


@contextmanager
def dagster_failures(context: dg.AssetExecutionContext, store: Store) -> Iterator[None]:
    """Time and trace a stage of one partition and turn what it raises into a Dagster failure.

    Raises
    ------
    dagster.Failure
        For every error; its description is the four-part message, its metadata the reason code.
    """
    asset = context.asset_key.to_user_string()
    partition_key = context.partition_key if context.has_partition_key else ""
    began, started_at = time.perf_counter(), datetime.now(UTC).replace(tzinfo=None)
    try:
        with observed_stage(context, store) as usage, profiled_stage(context, store):
            yield
    except dg.Failure:
        raise
    except Exception as error:  # the one broad except: every error becomes a reasoned failure
        status, reason_code, retry = judge(error)
        _remember(store, partition_key, status, reason_code, context)
        raise dg.Failure(
            description=f"{type(error).__name__}: {error}",
            metadata={"reason_code": reason_code, "partition": partition_key, "retry_can_help": retry},
            allow_retries=retry,
        ) from error
    store.upsert(
        "stage_timing",
        pl.DataFrame(
            {
                "asset": [asset],
                "stage": ["whole"],
                "partition_key": [partition_key],
                "run_id": [context.run.run_id],
                "started_at": [started_at],
                "duration_s": [time.perf_counter() - began],
                **{name: [value] for name, value in asdict(usage).items()},
            }
        ),
    )


def judge(error: Exception) -> tuple[str | None, str, bool]:
    """New status of the observation (None = unchanged), reason code, and whether a retry can help."""
    if isinstance(error, UncalibratedError):
        return None, error.reason_code, False
    if isinstance(error, (DataError, RawFileError)):
        return "quarantined", error.reason_code, False
    if isinstance(error, ResourceError):
        return None, error.reason_code, error.transient
    if isinstance(error, OSError):
        return None, "disk_full" if error.errno == errno.ENOSPC else "io_error", True
    return None, "software_error", False


def _remember(
    store: Store, partition_key: str, status: str | None, reason_code: str, context: dg.AssetExecutionContext
) -> None:
    """Write status and reason of the observation in this partition, if there is one; never hide the first error."""
    try:
        with store.transaction() as connection:
            connection.execute(
                "UPDATE observation SET status = coalesce(?, status), reason_code = ? WHERE partition_key = ?"
                " AND reason_code IS DISTINCT FROM 'straggler'",
                [status, reason_code, partition_key],
            )
    except StoreError as error:
        context.log.warning(f"the store could not be told the reason {reason_code}: {error}")
