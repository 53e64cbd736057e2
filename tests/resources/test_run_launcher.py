"""Runs are forks of a warm process: they run, are seen to live and die, and can be ended."""

import os
import signal
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.launcher import LaunchRunContext, WorkerStatus

from contimg_resources.run_launcher import WarmRunLauncher

JOB_FILE = """
import os
import time

import dagster as dg


@dg.op(config_schema={"marker": str, "seconds": float})
def work(context):
    open(context.op_config["marker"], "w").write(str(os.getpid()))
    time.sleep(context.op_config["seconds"])


@dg.job(executor_def=dg.in_process_executor)
def small_job():
    work()


defs = dg.Definitions(jobs=[small_job])
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An instance of our dagster.yaml whose launcher preloads Dagster only, in a folder that it names itself."""
    folder = tmp_path_factory.mktemp("home")
    text = (Path(__file__).parents[2] / "dagster.yaml").read_text().replace("[contimg_assets.warm]", "[dagster]")
    (folder / "dagster.yaml").write_text(text.replace("{ env: DAGSTER_HOME }", f'"{folder}"'))
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance


def launch(instance: dg.DagsterInstance, folder: Path, seconds: float, job_file: str = JOB_FILE) -> dg.DagsterRun:
    """Start the job that leaves its process id and sleeps."""
    (folder / "small.py").write_text(job_file)
    job = ReconstructableRepository.for_file(str(folder / "small.py"), "defs").get_reconstructable_job("small_job")
    run = instance.create_run_for_job(
        job.get_definition(),
        run_config={"ops": {"work": {"config": {"marker": str(folder / "pid"), "seconds": seconds}}}},
        job_code_origin=job.get_python_origin(),
    )
    launcher = instance.run_launcher
    assert isinstance(launcher, WarmRunLauncher)
    launcher.launch_run(LaunchRunContext(run, workspace=None))
    return run


def wait_for(condition, seconds: float = 40.0):
    """Poll until a condition holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing after {seconds} s")


def test_a_run_succeeds_in_a_process_of_its_own(home, tmp_path):
    """The step ran in neither this process nor the fork server that this process started."""
    run = launch(home, tmp_path, 0.0)
    wait_for(lambda: home.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.SUCCESS)
    pid = int((tmp_path / "pid").read_text())
    assert pid != os.getpid()
    assert home.get_run_by_id(run.run_id).tags["contimg/worker"].startswith(f"{pid}:")


def test_a_killed_run_is_found_dead(home, tmp_path):
    """While the process lives its run is healthy; after SIGKILL run monitoring is told that it is gone."""
    run = launch(home, tmp_path, 60.0)
    pid = wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    stored = home.get_run_by_id(run.run_id)
    assert home.run_launcher.check_run_worker_health(stored).status == WorkerStatus.RUNNING
    os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: home.run_launcher.check_run_worker_health(stored).status == WorkerStatus.FAILED)


def test_a_run_can_be_ended(home, tmp_path):
    """Termination interrupts the step and the run ends as cancelled."""
    run = launch(home, tmp_path, 60.0)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    assert home.run_launcher.terminate(run.run_id)
    wait_for(lambda: home.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELED)
    assert not home.run_launcher.terminate(run.run_id)
