"""What follows from each kind of error, and stages that make do with less."""

import errno

import dagster as dg
import numpy as np
import polars as pl
import pytest
import sqlalchemy as db

from contimg_assets.arrivals import observe_arrivals
from contimg_assets.failures import PASSING_TROUBLE, UncalibratedError, judge
from contimg_assets.science.errors import DataError
from contimg_resources import errors
from contimg_resources.settings_recovery import TimeoutSettings
from contimg_sensors.failures import retry_request
from contimg_sensors.run_events import failures_of_run


def data_error(kind: type[DataError] = DataError) -> DataError:
    """An error of the data."""
    return kind("w", got="g", expected="e", remedy="r", reason_code="all_flagged")


@pytest.mark.parametrize(
    ("error", "reason_code", "now", "later", "is_platform", "status"),
    [
        (data_error(), "all_flagged", False, False, False, "quarantined"),
        (errors.RawFileError("w", remedy="r"), "unreadable_file", False, False, False, "quarantined"),
        (data_error(UncalibratedError), "all_flagged", False, False, False, None),
        (errors.ProductMissingError("w", remedy="r"), "product_missing", False, False, False, None),
        (errors.StoreBusyError("w", remedy="r"), "store_busy", True, True, True, None),
        (errors.DiskFullError("w", remedy="r"), "disk_full", True, True, True, None),
        (errors.CasaError("w", remedy="r"), "casa_failed", False, False, True, None),
        (errors.StageTimeoutError("w", remedy="r"), "timeout", False, True, True, None),
        (errors.CircuitOpenError("w", remedy="r"), "service_unavailable", True, True, True, None),
        (OSError(errno.ENOSPC, "full"), "disk_full", True, True, True, None),
        (OSError(errno.EDQUOT, "quota"), "disk_full", True, True, True, None),
        (OSError(errno.EFBIG, "file too large"), "disk_full", True, True, True, None),
        (errors.EngineError("w", remedy="r"), "engine_failed", False, False, True, None),
        (errors.EngineCrashError("w", remedy="r"), "engine_crashed", True, True, True, None),
        (OSError(errno.ENOMEM, "memory"), "out_of_memory", True, True, True, None),
        (OSError(errno.EMFILE, "files"), "too_many_files", True, True, True, None),
        (OSError(errno.EIO, "disk"), "io_error", True, True, True, None),
        (OSError(errno.ESTALE, "nfs"), "io_error", True, True, True, None),
        (ConnectionResetError("peer"), "io_error", True, True, True, None),
        (PermissionError(errno.EACCES, "no"), "no_permission", False, False, True, None),
        (OSError(errno.EROFS, "read-only"), "no_permission", False, False, True, None),
        (FileNotFoundError(errno.ENOENT, "none"), "file_missing", False, False, True, None),
        (MemoryError(), "out_of_memory", True, True, True, None),
        (np.exceptions.AxisError("axis"), "software_error", False, False, True, None),
        (RuntimeError("casacore"), "software_error", False, False, True, None),
        (db.exc.OperationalError("INSERT", {}, Exception("gone")), "instance_unreachable", True, True, False, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_error_has_its_consequences(error, reason_code, now, later, is_platform, status):
    """Reason code, retries at once and later, whether it counts for breakers, and what becomes of the observation."""
    verdict = judge(error)
    assert verdict.reason_code == reason_code
    assert (verdict.retry_now, verdict.retry_later, verdict.is_platform) == (now, later, is_platform)
    assert verdict.status == status
    assert verdict.remedy


def test_a_step_that_the_database_ended_is_retried_and_no_fault_of_its_stage():
    """Dagster's own statement failed, so nothing of ours could say what kind of failure it is."""

    @dg.asset
    def image() -> None:
        raise db.exc.OperationalError("INSERT INTO event_logs", {}, Exception("server closed the connection"))

    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([image], instance=instance, raise_on_error=False).dagster_run
        ended = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)[0]
        (found,) = failures_of_run(instance, instance.get_run_by_id(run.run_id), ended, TimeoutSettings())
    assert (found.asset, found.reason_code, found.retry_helps, found.is_platform) == (
        "image",
        "instance_unreachable",
        True,
        False,
    )


def test_a_retry_from_the_first_stage_on_checks_the_raw_files_too():
    """Their checks belong to no stage: a run killed before them left them undone. From a later stage on they are as they were."""
    letter = {"letter_id": "a", "asset": "measurement_set", "partition_key": "2026-01-10T05:55"}
    assert retry_request(letter).asset_selection is None
    assert dg.AssetKey("measurement_set") not in retry_request(letter | {"asset": "gain_table"}).asset_selection


def test_every_asset_that_is_made_is_retried_and_has_a_time_limit():
    """Exponential delays with jitter, and a limit of its own among the settings."""
    from contimg_assets.definitions import defs

    limits = TimeoutSettings()
    for asset in defs.assets:
        if not isinstance(asset, dg.AssetsDefinition) or not asset.is_executable:
            continue
        name = asset.key.to_user_string()
        assert asset.op.retry_policy == PASSING_TROUBLE, name
        assert limits.of_stage(name) is not None, name
    assert PASSING_TROUBLE.backoff == dg.Backoff.EXPONENTIAL
    assert PASSING_TROUBLE.jitter is not None


def test_photometry_goes_on_without_a_sub_band_and_fluxes_without_a_scale(telescope, monkeypatch: pytest.MonkeyPatch):
    """Both are made and both say so: the metadata name the missing band; the scale is 1 with method unit and its reason."""
    observe_arrivals(telescope.observatory)
    transit, _ = telescope.partitions()
    assert telescope.run("catalogue_job").success
    assert telescope.run("observation_job", transit, ["measurement_set"]).success
    assert telescope.run("bandpass_job", transit[:10]).success
    assert telescope.run("observation_job", transit, ["gain_table", "continuum_image"]).success
    for path in telescope.observatory.products.image_folder(transit).glob("band2_*"):
        path.unlink()
    monkeypatch.setenv("CONTIMG_PHOTOMETRY__MINIMUM_REFERENCES", "1000")
    result = telescope.run("observation_job", transit, ["forced_photometry", "flux_scale"])
    assert result.success
    assert set(telescope.rows("forced_photometry")["band"]) == {"full", "band0", "band1", "band3"}
    [made] = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey("forced_photometry")]
    assert made.materialization.metadata["missing_bands"].value == "band2"
    scale = telescope.rows("flux_scale").filter(pl.col("band") == "full")
    assert scale["factor"].to_list() == [1.0]
    assert scale["method"][0].startswith("unit: ")
