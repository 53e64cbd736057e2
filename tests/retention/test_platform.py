"""Retention in the platform: as a job of Dagster, and raw files that come back are not processed again."""

from __future__ import annotations

import dagster as dg
import pytest

from contimg_assets.arrivals import watch_arrivals
from contimg_assets.definitions import defs
from contimg_assets.retention import retention_job
from contimg_resources.configurable import Observatory
from contimg_resources.folder_watch import FolderWatch
from contimg_resources.instance_view import partitions_under_way
from contimg_resources.retention.restoration import restore_day
from tests.retention.small_archive import NOW, OLD, build, environment, files, retention


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A small installation; its folder."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    build(tmp_path)
    return tmp_path


def test_the_schedule_is_off_until_somebody_switches_it_on():
    """Nobody loses a product by installing."""
    [schedule] = [schedule for schedule in defs.schedules if schedule.name == "retention"]
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert schedule.job_name == "retention_job"


def test_the_job_does_what_the_command_does(site):
    """Products of the old observation are archived and removed; a second run finds nothing to do."""
    before = files(site)
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            done = retention_job.execute_in_process(resources={"observatory": Observatory()}, instance=instance)
            assert done.success
    assert len(files(site)) < len(before)
    assert {item.action for item in retention().plan()} == {"keep"}


def test_a_run_that_waits_is_known_by_its_partition(site):
    """So that what it reads stays."""
    with dg.DagsterInstance.ephemeral() as instance:
        for tags in ({"dagster/partition": OLD}, {}):
            instance.add_run(
                dg.DagsterRun("observation_job", tags=tags, status=dg.DagsterRunStatus.STARTED, run_id=f"r{len(tags)}")
            )
        assert partitions_under_way(instance) == [OLD]


def test_raw_files_that_come_back_are_not_processed_again(site):
    """The sensor knows them by name, size and time: the observation stays processed, and none is judged anew."""
    working = retention()
    watch = FolderWatch(site / "incoming", settle_s=0.0)
    observatory = Observatory()

    def state():
        watch_arrivals(observatory, watch, now=NOW, patience_s=0.0)
        return working.store.query(
            "SELECT f.path, f.status, o.status, o.reason_code FROM raw_file f JOIN observation o USING (observation_id)"
            " WHERE o.partition_key = ? ORDER BY ALL",
            [OLD],
        ).rows()

    before = state()
    working.apply()
    assert not list((site / "incoming").glob(f"{OLD}*"))
    assert state() == before
    restore_day(working, OLD[:10])
    assert len(list((site / "incoming").glob(f"{OLD}*"))) == 2
    assert state() == before
    assert {row[2] for row in before} == {"processed"}
