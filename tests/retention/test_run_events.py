"""Old events of runs go and nothing that is known of products goes with them: on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import ASSET_EVENTS, FAILURE_EVENTS, PIPELINE_EVENTS
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_graphql.cli import execute_query
from typer.testing import CliRunner

from contimg_assets.retention import retention_job
from contimg_portal.cli import app
from contimg_resources.configurable import Observatory
from contimg_resources.event_sources import KINDS_OF_TYPE
from contimg_resources.retention.run_events import REMOVED_TYPES, RunEvents, RunEventTotals
from contimg_resources.settings_retention import RetentionSettings
from tests.retention.run_history import SETTINGS, apply_and_be_killed, in_days, known, make_history, observe, rows
from tests.retention.small_archive import build, environment

PROJECT = Path(__file__).resolve().parents[2]
NOTHING = RunEventTotals(0, 0, 0)
EVENTS_OF_RUN = """
query ($runId: ID!, $assetKey: AssetKeyInput!) {
  logsForRun(runId: $runId) {
    __typename
    ... on EventConnection { hasMore cursor events { __typename ... on MessageEvent { runId message timestamp stepKey } } }
  }
  pipelineRunOrError(runId: $runId) {
    __typename
    ... on Run {
      status startTime endTime tags { key value } assetSelection { path } executionPlan { steps { key } }
      stats {
        __typename
        ... on RunStatsSnapshot { enqueuedTime launchTime startTime endTime stepsSucceeded materializations }
      }
      stepStats {
        stepKey status startTime endTime attempts { startTime endTime } markers { startTime endTime }
        materializations { partition }
      }
      assetMaterializations { partition metadataEntries { label } }
    }
  }
  assetOrError(assetKey: $assetKey) {
    __typename
    ... on Asset {
      assetMaterializations(limit: 100) {
        partition runId tags { key value } metadataEntries { label } stepStats { startTime endTime }
        runOrError { __typename }
      }
    }
  }
}
"""


@dataclass
class History:
    """An instance with a history."""

    home: Path
    variables: dict[str, str]
    instance: dg.DagsterInstance
    runs: dict[str, list[str]]
    cursor: Any

    def known(self) -> dict[str, Any]:
        """What is known of it now."""
        return known(self.instance, self.cursor)


@pytest.fixture(params=["sqlite", "postgresql"])
def history(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[History]:
    """Runs that succeeded, failed, were canceled and are under way, 45 days old, and one of now."""
    home, variables = tmp_path / "home", environment(tmp_path, policies="")
    home.mkdir()
    if request.param == "sqlite":
        shutil.copy(PROJECT / "dagster.yaml", home)
    else:
        pytest.importorskip("dagster_postgres", reason="pip install -e '.[cluster]'")
        variables["CONTIMG_CLUSTER__POSTGRES_URL"] = request.getfixturevalue("postgres")
        storage = (PROJECT / "deploy" / "dagster.yaml").read_text().split("\n\n")[1]
        assert storage.startswith("storage:")
        (home / "dagster.yaml").write_text(storage)
    for name, value in (variables | {"DAGSTER_HOME": str(home)}).items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield History(home, variables, instance, *make_history(instance))


def test_what_is_known_stays_and_how_it_came_about_goes(history: History):
    """Everything that anybody asks of products, checks, runs and failures is as before; the old run's log is short."""
    before, rows_before = history.known(), rows(history.instance)
    assert all(before.values()), [name for name, value in before.items() if not value]
    assert before["requests"]["light_curves"] == {"2026-01-10"}
    untouched = {name: rows(history.instance, history.runs[name]) for name in history.runs if name != "succeeded"}
    events = RunEvents(history.instance, SETTINGS)
    planned = events.plan()
    assert rows(history.instance) == rows_before
    removed = events.apply()
    assert removed == planned
    assert removed.n_runs == len(history.runs["succeeded"])
    assert history.known() == before
    left = rows(history.instance)
    gone = set(rows_before) - set(left)
    assert set(left) <= set(rows_before)
    assert len(gone) == removed.n_events > 0.5 * len(rows(history.instance, history.runs["succeeded"]))
    assert sum(len(row[2]) for row in gone) == removed.n_bytes
    assert {row[1] for row in rows(history.instance, history.runs["succeeded"])} == {
        "ASSET_CHECK_EVALUATION",
        "ASSET_MATERIALIZATION",
        "ASSET_MATERIALIZATION_PLANNED",
        "PIPELINE_START",
        "PIPELINE_SUCCESS",
    }
    assert {name: rows(history.instance, history.runs[name]) for name in untouched} == untouched
    assert events.apply() == NOTHING
    assert rows(history.instance) == left


def test_failed_runs_stay_longer_and_runs_under_way_always(history: History):
    """After their own days failed and canceled runs keep what failed and why; what has not ended is whole after a century."""
    before = history.known()
    whole = {name: rows(history.instance, history.runs[name]) for name in ("under way", "recent")}
    failed = Counter(row[1] for row in rows(history.instance, history.runs["failed"]))
    RunEvents(history.instance, SETTINGS, now=in_days(20)).apply()  # 65 after they ended
    assert Counter(row[1] for row in rows(history.instance, history.runs["failed"])) == failed
    assert {name: rows(history.instance, history.runs[name]) for name in whole} == whole
    removed = RunEvents(history.instance, SETTINGS, now=in_days(50)).apply()
    assert removed.n_runs == len(["failed", "canceled", "recent"])
    left = Counter(row[1] for row in rows(history.instance, history.runs["failed"]))
    assert left["STEP_FAILURE"] == left["PIPELINE_FAILURE"] == 1
    assert None not in left
    assert left < failed
    RunEvents(history.instance, SETTINGS, now=in_days(36_500)).apply()
    assert rows(history.instance, history.runs["under way"]) == whole["under way"]
    assert history.known() == before


@pytest.mark.parametrize("is_within", [False, True], ids=["between", "within"])
def test_a_killed_removal_is_resumed(history: History, *, is_within: bool):
    """SIGKILL between two chunks, or before one that was deleted is committed: whole chunks are gone, the rest goes next time."""
    before, planned, n_rows = history.known(), RunEvents(history.instance, SETTINGS).plan(), len(rows(history.instance))
    process = multiprocessing.get_context("spawn").Process(
        target=apply_and_be_killed, args=(history.home, history.variables, 4), kwargs={"is_within": is_within}
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    n_left = len(rows(history.instance))
    assert n_rows - planned.n_events < n_left < n_rows
    assert history.known() == before
    assert RunEvents(history.instance, SETTINGS).apply().n_events == planned.n_events - (n_rows - n_left)
    assert len(rows(history.instance)) == n_rows - planned.n_events
    assert history.known() == before


def test_the_pages_of_an_old_run_answer(history: History):
    """GraphQL of the run's page and of the asset's: no errors; what was made is there, steps have no times any more."""
    RunEvents(history.instance, SETTINGS, now=in_days(36_500)).apply()
    with WorkspaceProcessContext(history.instance, EmptyWorkspaceTarget()) as workspace:
        for name in ("succeeded", "failed", "canceled", "under way", "recent"):
            variables = {"runId": history.runs[name][0], "assetKey": {"path": ["image"]}}
            answer = execute_query(workspace, EVENTS_OF_RUN, variables)
            assert "errors" not in answer, answer["errors"]
            log, run, asset = (answer["data"][part] for part in ("logsForRun", "pipelineRunOrError", "assetOrError"))
            assert log["__typename"] == "EventConnection"
            assert log["events"]
            assert run["stats"]["__typename"] == "RunStatsSnapshot"
            assert {one["partition"] for one in asset["assetMaterializations"]} >= {"2026-01-10T05:00"}
            if name == "succeeded":
                assert run["startTime"] < run["endTime"]
                assert [one["partition"] for one in run["assetMaterializations"]] == ["2026-01-10T05:00"] * 2
                assert {step["startTime"] for step in run["stepStats"]} == {None}


def test_by_default_everything_stays(history: History):
    """Nobody loses an event by installing; days of one kind of end say nothing of the other."""
    assert RunEvents(history.instance, RetentionSettings(), now=in_days(36_500)).plan() == NOTHING
    only_failed = RetentionSettings(failed_run_events_days=30)
    assert RunEvents(history.instance, only_failed).plan().n_runs == 2
    assert RunEvents(history.instance, RetentionSettings(run_events_days=1)).plan().n_runs == len(
        history.runs["succeeded"]
    )


def test_numbers_are_not_given_twice(history: History):
    """The newest event stays, whatever it is: cursors go by its number, and SQLite gives the number of the last row anew."""
    [run_id] = history.runs["recent"]
    exited = history.instance.report_engine_event("the process has exited", history.instance.get_run_by_id(run_id))
    assert exited.event_type in REMOVED_TYPES
    end = history.instance.event_log_storage.get_maximum_record_id()
    RunEvents(history.instance, SETTINGS, now=in_days(36_500)).apply()
    assert history.instance.event_log_storage.get_maximum_record_id() == end
    run_id = observe(history.instance, "2026-01-10T07:00")
    assert rows(history.instance, [run_id])[0][0] > end


def test_the_command_and_the_job_remove_them(history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`contimg retention plan` says how many, `apply` removes them; the job does so with its own run left whole."""
    build(tmp_path)
    monkeypatch.setenv("CONTIMG_RETENTION__RUN_EVENTS_DAYS", "30")
    n_rows = len(rows(history.instance))
    answers = []
    for command in ("plan", "apply", "plan"):
        result = CliRunner().invoke(app, ["retention", command, "--json"])
        assert result.exit_code == 0, result.output
        answers.append(json.loads(result.stdout))
    names = ("n_runs_with_old_events", "n_old_run_events", "old_run_event_bytes")
    planned, applied, after = ([answer[name] for name in names] for answer in answers)
    assert planned == applied
    assert planned[0] == len(history.runs["succeeded"])
    assert len(rows(history.instance)) == n_rows - applied[1]
    assert after == [0, 0, 0]
    monkeypatch.setenv("CONTIMG_RETENTION__FAILED_RUN_EVENTS_DAYS", "30")
    done = retention_job.execute_in_process(resources={"observatory": Observatory()}, instance=history.instance)
    assert done.success
    [output] = [event for event in done.all_node_events if event.event_type_value == "STEP_OUTPUT"]
    assert output.step_output_data.metadata["removed_run_events"].value > 0
    assert Counter(row[1] for row in rows(history.instance, [done.run_id]))["STEP_START"] == 1


def test_only_what_tells_how_a_run_went_is_named():
    """No type that statuses, ends of runs, dead letters or the stream of events are read from."""
    assert not REMOVED_TYPES & {*ASSET_EVENTS, *FAILURE_EVENTS, *PIPELINE_EVENTS, *KINDS_OF_TYPE}
