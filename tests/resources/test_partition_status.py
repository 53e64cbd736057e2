"""The status of partitions started by us is the one Dagster would have reckoned."""

import dagster as dg
import numpy as np
import pytest
from dagster._core.storage.partition_status_cache import (
    AssetStatusCacheValue,
    get_and_update_asset_status_cache_value,
)

from contimg_resources.partition_status import start_status, subset_of_keys, window_step_s

WINDOWS = dg.TimeWindowPartitionsDefinition(
    start="2026-01-10T00:00", end="2026-01-12T00:00", fmt="%Y-%m-%dT%H:%M", cron_schedule="*/5 * * * *"
)
KEY = dg.AssetKey("image")
FOREIGN = {"2026-01-09T23:55", "2026-01-12T00:00", "2026-01-10T00:03", "2026-01-10", "2026-1-10T00:05", "", "x"}
"""Before, after, off the grid, and not in the format."""


@pytest.fixture
def instance(project_root, tmp_path, monkeypatch):
    """A Dagster instance of our dagster.yaml in an empty home."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text((project_root / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


@dg.asset(partitions_def=WINDOWS)
def image(context: dg.AssetExecutionContext) -> None:
    """Made in all windows but those of 05:00."""
    if context.partition_key.endswith("T05:00"):
        raise ValueError(context.partition_key)


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5, 1.0])
def test_keys_become_the_ranges_that_dagster_makes_of_them(fraction: float, rng: np.random.Generator):
    """Whatever is missing, in any order, with keys among them that are of no window."""
    keys = np.array(WINDOWS.get_partition_keys())
    chosen = {str(key) for key in keys[rng.random(keys.size) < fraction]}
    found = subset_of_keys(WINDOWS, chosen | FOREIGN, 300)
    told = WINDOWS.empty_subset().with_partition_keys(WINDOWS.filter_valid_partition_keys(chosen | FOREIGN))
    assert found.included_time_windows == told.included_time_windows
    assert found.num_partitions == told.num_partitions == len(chosen)
    assert set(WINDOWS.deserialize_subset(found.serialize()).get_partition_keys()) == chosen


@pytest.mark.parametrize(
    ("partitions_def", "step_s"),
    [
        pytest.param(WINDOWS, 300, id="minutes"),
        pytest.param(None, None, id="none"),
        pytest.param(dg.StaticPartitionsDefinition(["a"]), None, id="static"),
        pytest.param(dg.HourlyPartitionsDefinition("2026-01-10-00:00"), None, id="hours"),
        pytest.param(
            dg.TimeWindowPartitionsDefinition(start="2026", fmt="%Y", cron_schedule="*/7 * * * *"), None, id="uneven"
        ),
        pytest.param(
            dg.TimeWindowPartitionsDefinition(
                start="2026", fmt="%Y", cron_schedule="*/5 * * * *", timezone="America/Los_Angeles"
            ),
            None,
            id="local time",
        ),
    ],
)
def test_only_plain_windows_are_reckoned_here(partitions_def: dg.PartitionsDefinition | None, step_s: int | None):
    """All others are left to Dagster."""
    assert window_step_s(partitions_def) == step_s


def test_the_status_is_dagsters_own(instance: dg.DagsterInstance):
    """Materialized, failed and in progress: what is started here and brought up to date equals what Dagster makes alone."""
    for window in ("2026-01-10T04:55", "2026-01-10T05:00", "2026-01-11T05:00"):
        dg.materialize([image], partition_key=window, instance=instance, raise_on_error=False)
    for window in ("2026-01-10T00:00", "2026-01-10T00:05", "2026-01-11T05:00", "2026-01-09T23:55"):
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition=window))
    job = dg.Definitions(assets=[image], jobs=[dg.define_asset_job("image_job", [image])]).resolve_job_def("image_job")
    instance.create_run_for_job(job, tags={"dagster/partition": "2026-01-11T06:00"})
    alone = get_and_update_asset_status_cache_value(instance, KEY, WINDOWS)
    instance.event_log_storage.wipe_asset_cached_status(KEY)
    assert start_status(instance, KEY, WINDOWS)
    assert not start_status(instance, KEY, WINDOWS)
    ours = get_and_update_asset_status_cache_value(instance, KEY, WINDOWS)
    assert alone is not None
    assert ours == alone
    assert set(ours.deserialize_failed_partition_subsets(WINDOWS).get_partition_keys()) == {"2026-01-10T05:00"}
    assert set(ours.deserialize_in_progress_partition_subsets(WINDOWS).get_partition_keys()) == {"2026-01-11T06:00"}


def test_automation_and_pages_get_it_from_the_storage(instance: dg.DagsterInstance):
    """Asked through a context that has seen the asset before, and again after the season's start has moved."""
    for window in ("2026-01-10T00:00", "2026-01-11T00:05"):
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition=window))
    later = dg.TimeWindowPartitionsDefinition(
        start="2026-01-11T00:00", end="2026-01-12T00:00", fmt="%Y-%m-%dT%H:%M", cron_schedule="*/5 * * * *"
    )
    defs = dg.Definitions(assets=[image])
    for partitions_def, expected in ((WINDOWS, 2), (later, 1), (later, 1)):
        view = _view(instance, defs)
        (status,) = instance.event_log_storage.get_asset_status_cache_values([(KEY, partitions_def)], view)
        assert isinstance(status, AssetStatusCacheValue)
        assert len(status.deserialize_materialized_partition_subsets(partitions_def)) == expected


def _view(instance: dg.DagsterInstance, defs: dg.Definitions):
    from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView
    from dagster._core.storage.event_log.base import AssetRecord

    view = AssetGraphView.for_test(defs, instance)
    assert AssetRecord.blocking_get(view, KEY) is not None
    return view
