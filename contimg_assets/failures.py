"""Our errors become Dagster's failures and the observation's status, here and nowhere else.

What belongs here: the decision whether a retry can help, what the operator reads, what the store remembers, and how
long a stage took and may take. What does not: noticing that something is wrong (science and resources raise), and what
follows for other runs (dead letters and breakers, ``contimg_sensors.failures``).

=========================  =========  ==========  =========  ============================================
error                      in the run  later       platform   observation in the store
=========================  =========  ==========  =========  ============================================
DataError, RawFileError    no          no          no         quarantined, reason code
UncalibratedError          no          no          no         stays ready, reason ``uncalibrated``
ProductMissingError        no          no          no         reason ``product_missing``
transient ResourceError    retried     retried     yes        reason code (``store_busy``, ``disk_full``...)
other ResourceError        no          no          yes        reason code (``casatask_failed``...)
StageTimeoutError          no          retried     yes        reason ``timeout``
BreakerOpenError           no          retried     no count   reason ``breaker_open``
OSError that can pass      retried     retried     yes        ``disk_full``, ``io_error``, ``too_many_files``
OSError that cannot        no          no          yes        ``file_missing``, ``no_permission``
MemoryError                retried     retried     yes        reason ``out_of_memory``
Dagster's database away    retried     retried     no         reason ``instance_unreachable``
anything else              no          no          yes        reason ``software_error``
=========================  =========  ==========  =========  ============================================

*In the run*: Dagster's retry policy of the step. *Later*: the sensor ``dead_letter_retries``. *Platform*: the failure says
something about the platform and counts for the breaker of its stage; one bad observation does not. A process that is
killed or crashes raises nothing here: the run is lost, Dagster retries it (``dagster.yaml``), and its dead letter says
``process_lost``. CASA and WSClean are processes of their own: their crash is a transient ResourceError (``engine_crashed``). What
Dagster's automation requests of a stage whose breaker is not closed ends before it begins: its dead letter is retried when the
breaker lets it.
"""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import dagster as dg
import polars as pl
import sqlalchemy as db

from contimg_assets.profiling import profiled_stage
from contimg_assets.provenance import code_version
from contimg_assets.publishing import publish_after_stage
from contimg_assets.science.errors import DataError
from contimg_assets.stages import observed_stage
from contimg_assets.unchanged import Stage
from contimg_resources.deadlines import time_limit
from contimg_resources.errors import (
    BreakerOpenError,
    DiskFullError,
    ProductMissingError,
    RawFileError,
    ResourceError,
    StageTimeoutError,
    StoreError,
)
from contimg_resources.full_disks import FULL_DISK_ERRORS
from contimg_resources.settings import load_settings
from contimg_resources.store.breakers import CLOSED, breakers
from contimg_resources.store.connection import Store
from contimg_resources.store.makings import MADE, SKIPPED
from contimg_resources.store.records import keep_rows

PASSING_TROUBLE = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For errors that can pass; those that cannot raise a Failure that forbids retries."""

_BY_AUTOMATION = "dagster/from_automation_condition"
"""Run tag of what Dagster's automation conditions request."""
_TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_OS_REASONS = (
    (
        FULL_DISK_ERRORS,
        "disk_full",
        True,
        "Free space: measurement sets are the largest products, and are made again from the raw files.",
    ),
    ({errno.ENOMEM}, "out_of_memory", True, "Lower CONTIMG_THREADS or the runs at once in dagster.yaml."),
    (_TOO_MANY_FILES, "too_many_files", True, "Raise the limit of open files (ulimit -n) of Dagster's daemon."),
    (_NO_PERMISSION, "no_permission", False, "Correct owner and permissions of the path in the message."),
    (
        _MISSING,
        "file_missing",
        False,
        "Make the product that is missing, or bring the file back (contimg retention restore DAY).",
    ),
)
"""Reason, whether it can pass, and remedy by kind of OSError; any other may be the disk's or the network's bad moment."""


class UncalibratedError(DataError):
    """Raise when no calibration table is valid for an observation: it waits, it is not bad."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an error."""

    reason_code: str
    remedy: str
    status: str | None = None
    """New status of the observation; None leaves it."""
    retry_now: bool = False
    """Whether Dagster's retry policy may run the step again at once."""
    retry_later: bool = False
    """Whether a retry after minutes or hours can help without anybody doing anything."""
    is_platform: bool = True
    """Whether it says something about the platform, not about one observation: breakers count only such failures."""


INSTANCE_UNREACHABLE = Verdict(
    "instance_unreachable",
    "Look at Dagster's database: PostgreSQL, or the disk of DAGSTER_HOME. The run is started again by itself.",
    retry_now=True,
    retry_later=True,
    is_platform=False,
)
"""Of a run whose statement was under way when the server died; whatever its stage did has nothing to do with it."""


@contextmanager
def dagster_failures(context: dg.AssetExecutionContext, store: Store) -> Iterator[Stage]:
    """Time and trace a stage of one partition, end it when it takes too long, and turn what it raises into a Dagster failure.

    Yields
    ------
    Stage
        By it an asset learns that there is no work, which is then noted as such and not among the times of those that worked.

    Raises
    ------
    dagster.Failure
        For every error; its description is the four-part message, its metadata the reason code and the `Verdict`.
    """
    asset = context.asset_key.to_user_string()
    partition_key = context.partition_key if context.has_partition_key else ""
    began, started_at = time.perf_counter(), datetime.now(UTC).replace(tzinfo=None)
    stage = Stage.of_run(context, store)
    try:
        settings = load_settings()
        limit_s = settings.timeouts.of_stage(asset)
        if _BY_AUTOMATION in context.run.tags:
            _refuse_behind_breaker(store, asset)
        with observed_stage(context, store) as usage, profiled_stage(context), time_limit(asset, limit_s):
            yield stage
            made_from = {} if stage.is_skipped else stage.made_from()
    except dg.Failure:
        raise
    except Exception as error:  # the one broad except: every error becomes a reasoned failure
        verdict = judge(error)
        _remember(store, partition_key, verdict, context)
        raise dg.Failure(
            description=f"{type(error).__name__}: {error}",
            metadata={
                "reason_code": verdict.reason_code,
                "partition": partition_key,
                "error_class": type(error).__name__,
                "remedy": verdict.remedy,
                "retry_can_help": verdict.retry_later,
                "is_platform": verdict.is_platform,
            },
            allow_retries=verdict.retry_now,
        ) from error
    store.upsert(
        "stage_timing",
        pl.DataFrame(
            {
                "asset": [asset],
                "stage": [SKIPPED if stage.is_skipped else MADE],
                "partition_key": [partition_key],
                "run_id": [context.run.run_id],
                "code_version": [code_version(context)],
                "started_at": [started_at],
                "duration_s": [time.perf_counter() - began],
                **{name: [value] for name, value in (asdict(usage) | made_from).items()},
            },
            schema_overrides=dict.fromkeys(made_from, pl.String),
        ),
    )
    publish_after_stage(settings, asset, partition_key or None)


def _refuse_behind_breaker(store: Store, asset: str) -> None:
    """Stop before a stage whose breaker is not closed: automation knows nothing of breakers, and asks once for each change."""
    for one in breakers(store):
        if one.stage == asset and one.state != CLOSED:
            raise BreakerOpenError(
                f"{asset} is not started: its breaker is {one.state}",
                got=one.reason or one.state,
                expected="a closed breaker",
                remedy="Nothing is lost: this dead letter is the probe, or is retried once the stage works again."
                " Mend what the reason names; a retry asked for by hand goes at once.",
            )


def judge(error: Exception) -> Verdict:
    """Decide what follows from an error; see the table of the module."""
    if isinstance(error, (DataError, RawFileError)):
        status = None if isinstance(error, UncalibratedError) else "quarantined"
        return Verdict(error.reason_code, error.remedy, status=status, is_platform=False)
    if isinstance(error, ResourceError):
        return Verdict(
            error.reason_code,
            error.remedy,
            # A timeout would last as long again, a breaker stays open for minutes.
            retry_now=error.transient and not isinstance(error, (StageTimeoutError, BreakerOpenError)),
            retry_later=error.transient,
            is_platform=not isinstance(error, ProductMissingError),
        )
    if isinstance(error, MemoryError):
        remedy = "Lower CONTIMG_THREADS or the runs at once in dagster.yaml, or give the machine more memory."
        return Verdict("out_of_memory", remedy, retry_now=True, retry_later=True)
    if isinstance(error, (db.exc.OperationalError, db.exc.InterfaceError)):
        return INSTANCE_UNREACHABLE
    if isinstance(error, OSError):
        return _judge_os_error(error)
    return Verdict("software_error", "A bug: the run's log has the traceback. Correct it, then retry.")


def _judge_os_error(error: OSError) -> Verdict:
    for numbers, reason_code, can_pass, remedy in _OS_REASONS:
        if error.errno in numbers:
            return Verdict(reason_code, remedy, retry_now=can_pass, retry_later=can_pass)
    return Verdict(
        "io_error", "Look at the disk or the network of the path in the message.", retry_now=True, retry_later=True
    )


def _remember(store: Store, partition_key: str, verdict: Verdict, context: dg.AssetExecutionContext) -> None:
    """Write status and reason of the observation in this partition, if there is one; never hide the first error."""
    try:
        with store.transaction() as connection:
            connection.execute(
                "UPDATE observation SET status = coalesce(?, status), reason_code = ? WHERE partition_key = ?"
                " AND reason_code IS DISTINCT FROM 'straggler'",
                [verdict.status, verdict.reason_code, partition_key],
            )
            keep_rows(connection, "observation", [partition_key])
    except (StoreError, DiskFullError) as error:
        context.log.warning(f"the store could not be told the reason {verdict.reason_code}: {error}")
