"""Failed runs in a real instance: their letters, retries, breakers, and the way back."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from typer.testing import CliRunner

from contimg_assets.jobs import OBSERVATION_ASSETS
from contimg_portal.cli import app
from contimg_resources.store import breakers, dead_letters
from contimg_sensors.arrivals import incoming_observations
from contimg_sensors.failures import dead_letter_retries, run_failures

CATALOGUE = dg.RunRequest(job_name="catalogue_job")
GOOD = "source_id,ra_deg,dec_deg,flux_jy\na,80.0,16.0,1.0\nb,81.0,16.5,0.5\n"


def command(*arguments: str, code: int = 0) -> dict:
    """Run ``contimg dead-letters`` with JSON output."""
    result = CliRunner().invoke(app, ["dead-letters", *arguments, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code == 0 else {}


def now() -> datetime:
    """UTC without zone, as in the store."""
    return datetime.now(UTC).replace(tzinfo=None)


def status(letter: str) -> str:
    """Status of a letter as the command shows it."""
    return command("show", letter)["status"]


def test_a_letter_goes_through_all_its_states_by_command(platform, monkeypatch):
    """Pending, retrying, failed, retrying, resolved: each seen by command, each with who and why, all in the history."""
    catalogue = platform.root / "catalogue.csv"
    catalogue.write_text("source_id,ra_deg,dec_deg,flux_jy\n")
    monkeypatch.setenv("CONTIMG_CATALOGUE", str(catalogue))
    assert not platform.run(CATALOGUE).success
    platform.tick(run_failures)
    [listed] = command("list")["letters"]
    letter = listed["letter_id"]
    assert letter == "reference_catalogue@all"
    assert (listed["status"], listed["reason_code"], listed["n_attempts"]) == ("pending", "catalogue_unusable", 1)
    assert "holds no source" in listed["message"]
    assert listed["next_retry_at"] is None  # nobody but a person can mend a catalogue
    assert isinstance(platform.tick(dead_letter_retries).skip_reason, dg.SkipReason)

    command("retry", letter, "--by", "ada", "--reason", "try once more")
    assert status(letter) == "retrying"
    [request] = platform.tick(dead_letter_retries).run_requests
    assert not platform.tick(dead_letter_retries).run_requests
    assert not platform.run(request).success
    platform.tick(run_failures)
    assert status(letter) == "failed"
    assert command("show", letter)["n_attempts"] == 2

    catalogue.write_text(GOOD)
    command("retry", letter, "--by", "ada", "--reason", "the catalogue has sources now")
    command("retry", letter, "--by", "bob", "--reason", "too", code=1)
    [request] = platform.tick(dead_letter_retries).run_requests
    assert platform.run(request).success
    platform.tick(run_failures)
    shown = command("show", letter)
    assert (shown["status"], shown["resolution"]) == ("resolved", "made")
    kinds = [event["kind"] for event in shown["events"]]
    retried = ["retry_requested", "retry_started"]
    assert kinds == ["failed", *retried, "failed", *retried, "resolved"]
    asked = [(event["by"], event["detail"]) for event in shown["events"] if event["kind"] == "retry_requested"]
    assert asked == [("ada", "try once more"), ("ada", "the catalogue has sources now")]
    started = [event["detail"] for event in shown["events"] if event["kind"] == "retry_started"]
    assert started == ["code version 1", "code version 1"]
    assert command("list")["n_letters"] == 0
    assert command("list", "--status", "resolved")["n_letters"] == 1
    summary = command("summary", "--hours", "1")
    assert [(row["stage"], row["reason_code"], row["n_failures"], row["n_open"]) for row in summary["causes"]] == [
        ("reference_catalogue", "catalogue_unusable", 2, 0)
    ]


def test_a_letter_can_be_closed_by_hand(platform, monkeypatch):
    """Whoever closes it is remembered; it opens again, with its history, when the partition fails again."""
    monkeypatch.setenv("CONTIMG_CATALOGUE", str(platform.root / "none.csv"))
    platform.run(CATALOGUE)
    platform.tick(run_failures)
    letter = "reference_catalogue@all"
    command("resolve", letter, "--by", " ", "--reason", "nothing", code=1)
    command("resolve", letter, "--by", "ada", "--reason", "not needed")
    shown = command("show", letter)
    assert (shown["status"], shown["resolved_by"], shown["resolution"]) == ("resolved", "ada", "not needed")
    command("retry", letter, "--by", "ada", "--reason", "again", code=1)
    platform.run(CATALOGUE)
    platform.tick(run_failures)
    shown = command("show", letter)
    assert (shown["status"], shown["n_attempts"], shown["resolved_by"]) == ("pending", 1, None)
    assert [event["kind"] for event in shown["events"]] == ["failed", "resolved", "failed"]
    command("show", "measurement_set@2026-01-10T00:00", code=1)


def test_what_can_pass_is_retried_by_itself_with_growing_delay(platform, monkeypatch):
    """A stage over its limit ends with reason timeout and is retried after delays, each longer, until its attempts are used up."""
    catalogue = platform.root / "catalogue.csv"
    catalogue.write_text(GOOD)
    monkeypatch.setenv("CONTIMG_CATALOGUE", str(catalogue))
    assert platform.run(CATALOGUE).success
    dead_server = "contimg_resources.reference_catalogues.read_catalogue"
    monkeypatch.setattr(dead_server, lambda _: time.sleep(60))
    monkeypatch.setenv("CONTIMG_TIMEOUTS__REFERENCE_CATALOGUE", "0.2")
    monkeypatch.setenv("CONTIMG_DEAD_LETTERS__MAX_ATTEMPTS", "3")
    monkeypatch.setenv("CONTIMG_DEAD_LETTERS__BASE_DELAY_S", "100")
    letter = "reference_catalogue@all"
    delays, request = [], CATALOGUE
    for _ in range(2):
        assert not platform.run(request).success
        platform.tick(run_failures)
        found = dead_letters.letter(platform.store, letter)
        assert (found["status"], found["reason_code"], found["error_class"]) == (
            "pending",
            "timeout",
            "StageTimeoutError",
        )
        delays.append((found["next_retry_at"] - found["last_at"]).total_seconds())
        assert not platform.tick(dead_letter_retries).run_requests
        with platform.store.transaction() as connection:  # time passes
            connection.execute("UPDATE dead_letter SET next_retry_at = ?", [now()])
        [request] = platform.tick(dead_letter_retries).run_requests
    assert delays == [100.0, 400.0]
    platform.run(request)
    platform.tick(run_failures)
    assert status(letter) == "failed"
    assert not platform.tick(dead_letter_retries).run_requests


def test_a_cancelled_retry_gives_the_letter_back(platform, monkeypatch):
    """A retry whose run was cancelled waits for a person again; one whose run never began is due again."""
    monkeypatch.setenv("CONTIMG_CATALOGUE", str(platform.root / "none.csv"))
    platform.run(CATALOGUE)
    platform.tick(run_failures)
    letter = "reference_catalogue@all"
    command("retry", letter, "--by", "ada", "--reason", "once more")
    [request] = platform.tick(dead_letter_retries).run_requests
    run = platform.instance.create_run_for_job(_catalogue_job(), tags=request.tags)
    platform.tick(run_failures)
    assert command("show", letter)["retry_run_id"] == run.run_id
    platform.instance.report_run_canceled(run)
    monkeypatch.setattr("contimg_sensors.failures._SETTLED_AFTER", timedelta(seconds=-60))  # time passes
    platform.tick(run_failures)
    assert status(letter) == "pending"
    command("retry", letter, "--by", "ada", "--reason", "once more")
    assert len(platform.tick(dead_letter_retries).run_requests) == 1
    monkeypatch.setattr("contimg_sensors.failures._CLOCKS", timedelta(0))
    monkeypatch.setattr("contimg_sensors.failures._LOST_AFTER", timedelta(seconds=-60))
    platform.tick(run_failures)
    assert (status(letter), command("show", letter)["events"][-1]["detail"]) == ("pending", "the run never began")
    assert len(platform.tick(dead_letter_retries).run_requests) == 1


def _catalogue_job() -> dg.JobDefinition:
    from contimg_assets.definitions import defs

    return defs.resolve_job_def("catalogue_job")


def test_a_lost_process_is_named_and_left_to_dagster_first(platform):
    """Of a run whose process is gone, the stage under way gets the letter, ``process_lost``; Dagster's own retry comes first."""
    run = platform.instance.create_run_for_job(_catalogue_job())
    platform.instance.report_run_failed(run, "Detected run worker status FAILED: The process of the run is gone.")
    assert platform.instance.get_run_by_id(run.run_id).tags["dagster/will_retry"] == "true"
    platform.tick(run_failures)
    found = dead_letters.letter(platform.store, "reference_catalogue@all")
    assert (found["status"], found["reason_code"]) == ("retrying", "process_lost")
    assert "process of the run is gone" in found["message"]
    run = platform.instance.create_run_for_job(_catalogue_job(), tags={"dagster/max_retries": "0"})
    platform.instance.report_run_failed(run, "Exceeded maximum runtime of 7200 seconds.")
    platform.tick(run_failures)
    found = dead_letters.letter(platform.store, "reference_catalogue@all")
    assert (found["status"], found["reason_code"], found["n_attempts"]) == ("pending", "timeout", 2)
    assert found["next_retry_at"] > found["last_at"]


def test_bad_observations_open_no_breaker(platform, monkeypatch):
    """Six observations whose products are missing fail, each with its letter, and imaging is still asked for."""
    monkeypatch.setenv("CONTIMG_CATALOGUE", str(platform.root / "catalogue.csv"))
    for hour in range(6):
        request = dg.RunRequest(
            job_name="observation_job",
            partition_key=f"2026-01-10T{hour:02d}:00",
            asset_selection=[dg.AssetKey("continuum_image")],
        )
        assert not platform.run(request).success
    platform.tick(run_failures)
    assert platform.rows("SELECT reason_code, count(*) FROM dead_letter GROUP BY 1") == [("product_missing", 6)]
    assert breakers.breakers(platform.store) == []


def calibrated(platform) -> list[dg.RunRequest]:
    """Run what the sensor asks for until the day's bandpass is solved; return its requests for the eight observations."""
    for _ in range(3):  # the catalogue; the transit's measurement set; its bandpass
        for request in platform.tick(incoming_observations).run_requests:
            assert platform.run(request).success
    wanted = platform.tick(incoming_observations).run_requests
    assert len(wanted) == 8
    partitions = [request.partition_key for request in wanted]
    assert partitions == sorted(partitions)
    return wanted


def conversion_goes_on(platform, partitions: list[str]) -> None:
    """The sensor asks for what comes before imaging, once, and then says what it holds back."""
    cut = platform.tick(incoming_observations)
    assert [request.partition_key for request in cut.run_requests] == partitions
    for request in cut.run_requests:
        assert [key.to_user_string() for key in request.asset_selection] == ["measurement_set", "gain_table"]
        assert platform.run(request).success
    held = platform.tick(incoming_observations)
    assert not held.run_requests
    assert "breaker of continuum_image open" in held.skip_reason.skip_message
    assert platform.rows("SELECT detail FROM heartbeat WHERE name = 'gate'")[0][0].startswith("breaker of")


@pytest.mark.timeout(900)
def test_broken_imaging_opens_its_breaker_and_the_backlog_drains_in_order(observing, monkeypatch, tmp_path):
    """Five failures of imaging open it within a tick; conversion goes on; a probe of repaired imaging closes it; all is made."""
    platform = observing
    monkeypatch.setenv("CONTIMG_BREAKERS__COOL_DOWN_S", "3600")
    monkeypatch.setenv("CONTIMG_CALIBRATION_WAIT_S", "86400")
    wanted = calibrated(platform)
    partitions = [request.partition_key for request in wanted]

    with monkeypatch.context() as broken:
        broken.setenv("CONTIMG_IMAGING__ENGINE", "wsclean")
        broken.setenv("PATH", str(tmp_path))  # where there is no WSClean
        for request in wanted[:5]:
            assert not platform.run(request).success
        platform.tick(run_failures)
        [breaker] = breakers.breakers(platform.store)
        assert (breaker.stage, breaker.state, breaker.n_failures) == ("continuum_image", "open", 5)
        conversion_goes_on(platform, partitions[5:])

        monkeypatch.setenv("CONTIMG_BREAKERS__COOL_DOWN_S", "0.001")  # the cool-down is over
        platform.tick(run_failures)
        probe = platform.tick(incoming_observations)
        assert [request.partition_key for request in probe.run_requests] == partitions[5:6]
        assert not platform.tick(incoming_observations).run_requests  # one probe
        assert not platform.tick(dead_letter_retries).run_requests
        assert not platform.run(probe.run_requests[0]).success
        monkeypatch.setenv("CONTIMG_BREAKERS__COOL_DOWN_S", "3600")
        platform.tick(run_failures)
        assert breakers.breakers(platform.store)[0].state == "open"

    monkeypatch.setenv("CONTIMG_BREAKERS__COOL_DOWN_S", "0.001")
    platform.tick(run_failures)
    [probe] = platform.tick(dead_letter_retries).run_requests  # the oldest dead letter this time
    assert probe.partition_key == partitions[0]
    assert platform.run(probe).success
    platform.tick(run_failures)
    assert breakers.breakers(platform.store)[0].state == "closed"
    assert [row["to_state"] for row in breakers.breaker_events(platform.store).sort("at").iter_rows(named=True)] == [
        "open", "half-open", "open", "half-open", "closed",
    ]  # fmt: skip

    retried = platform.tick(dead_letter_retries).run_requests
    assert [request.partition_key for request in retried] == partitions[1:6]
    drained = platform.tick(incoming_observations).run_requests
    assert [request.partition_key for request in drained] == partitions[6:]
    after_imaging = [asset.key for asset in OBSERVATION_ASSETS[2:]]
    for request in [*retried, *drained]:
        assert list(request.asset_selection) == after_imaging  # nothing is made twice
        assert platform.run(request).success
    platform.tick(run_failures)
    assert platform.rows("SELECT status, count(*) FROM observation GROUP BY 1") == [("processed", 8)]
    assert platform.rows("SELECT status, count(*) FROM dead_letter GROUP BY 1") == [("resolved", 6)]


def test_state_survives_a_lost_cursor(platform, monkeypatch):
    """Read again from the beginning, the event log adds nothing that is known."""
    monkeypatch.setenv("CONTIMG_CATALOGUE", str(platform.root / "none.csv"))
    platform.run(CATALOGUE)
    platform.tick(run_failures)
    before = platform.rows("SELECT * FROM dead_letter"), platform.rows("SELECT * FROM breaker")
    platform._cursor = None
    platform.tick(run_failures)
    assert (platform.rows("SELECT * FROM dead_letter"), platform.rows("SELECT * FROM breaker")) == before
    assert before[1][0][2] == 1


def test_nothing_to_do_is_said(platform):
    """Without any run, both sensors skip with the reason."""
    assert "nothing failed" in platform.tick(run_failures).skip_reason.skip_message
    assert "no retry" in platform.tick(dead_letter_retries).skip_reason.skip_message
