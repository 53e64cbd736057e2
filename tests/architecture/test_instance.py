"""dagster.yaml and workspace.yaml say what the design wants, in words that the installed Dagster understands."""

import tomllib

import dagster as dg
import pytest
import yaml


@pytest.fixture
def instance(project_root, tmp_path, monkeypatch):
    """A Dagster instance of our dagster.yaml in an empty home."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text((project_root / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def test_runs_and_pools_are_limited(instance):
    """As many runs as cores in the queue, one writer per pool, slots held by steps and not by runs."""
    concurrency = instance.get_concurrency_config()
    assert concurrency.run_queue_config.max_concurrent_runs == 2
    assert concurrency.pool_config.default_pool_limit == 1
    assert concurrency.pool_config.pool_granularity.value == "op"


def test_hung_and_killed_runs_are_noticed(instance):
    """Monitoring is on, runs have a longest time, and only lost processes are retried by the instance."""
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_runtime_seconds > 0
    assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
    assert instance.run_retries_enabled
    assert not instance.run_retries_retry_on_asset_or_op_failure


def test_freshness_is_evaluated_and_nothing_is_sent_home(instance):
    """Freshness policies run in the daemon; telemetry is off."""
    assert instance.freshness_enabled
    assert not instance.telemetry_enabled


def test_run_launcher_can_be_loaded(instance):
    """The launcher that dagster.yaml names exists and takes its configuration."""
    assert type(instance.run_launcher).__module__ == "contimg_resources.run_launcher"


def test_storages_keep_their_connections_and_their_places(instance, tmp_path):
    """Events of all runs share one file, where Dagster's own tools look for it; nothing new is opened per event."""
    with dg.DagsterInstance.from_config(str(tmp_path)) as other:
        other.report_runless_asset_event(dg.AssetMaterialization("image", partition="2026-01-10T05:50"))
    event = instance.get_latest_materialization_event(dg.AssetKey("image"))
    assert event is not None
    assert event.dagster_event.partition == "2026-01-10T05:50"
    assert (tmp_path / "history" / "event_log.db").is_file()
    assert (tmp_path / "history" / "runs.db").is_file()
    assert (tmp_path / "schedules" / "schedules.db").is_file()
    assert instance.event_log_storage.supports_global_concurrency_limits
    with instance.event_log_storage.index_connection() as first:
        kept = first.connection.dbapi_connection
    with instance.event_log_storage.index_connection() as second:
        assert second.connection.dbapi_connection is kept
        assert second.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_workspace_and_pyproject_name_the_same_code_location(project_root):
    """Dagster's commands read one or the other; both load the same module under the same name."""
    workspace = yaml.safe_load((project_root / "workspace.yaml").read_text())
    project = tomllib.loads((project_root / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    (location,) = workspace["load_from"]
    assert location["python_module"]["module_name"] == project["code_location_target_module"]
    assert location["python_module"]["location_name"] == project["code_location_name"]
