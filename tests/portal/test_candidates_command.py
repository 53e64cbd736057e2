"""The command line's review of candidates."""

import json

import pytest
from typer.testing import CliRunner

from contimg_portal.commands.candidates import app as candidates

CANDIDATE = "J0002+1610-61057"


@pytest.fixture
def run(filled):
    """Run the sub-commands on the synthetic store."""
    return lambda *arguments: CliRunner().invoke(candidates, list(arguments))


def test_list_shows_candidates(run):
    """The list has one line per candidate; a filter that matches none gives none."""
    result = run("list")
    assert result.exit_code == 0
    assert "12.4" in result.stdout
    found = json.loads(run("list", "--json").stdout)
    assert [row["candidate_id"] for row in found["candidates"]] == [CANDIDATE]
    assert json.loads(run("list", "--status", "rejected", "--json").stdout)["n_candidates"] == 0


def test_show_gives_evidence_and_history(run):
    """One candidate in full, as text and as JSON."""
    assert "significance: 12.4" in run("show", CANDIDATE).stdout
    found = json.loads(run("show", CANDIDATE, "--json").stdout)
    assert found["evidence"]["dip"]["n_core"] == 8
    assert [event["kind"] for event in found["events"]] == ["created"]


@pytest.mark.parametrize(("verb", "status"), [("confirm", "confirmed"), ("reject", "rejected"), ("reopen", "detected")])
def test_review_changes_status_and_leaves_an_event(run, verb, status):
    """Each verb writes who and why, and the status that follows."""
    result = run(verb, CANDIDATE, "--by", "vera", "--reason", "looked at it", "--json")
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (0, status)
    found = json.loads(run("show", CANDIDATE, "--json").stdout)
    assert found["status"] == status
    last = found["events"][-1]
    assert (last["kind"], last["by"], last["reason"]) == (verb, "vera", "looked at it")


@pytest.mark.parametrize("verb", ["show", "confirm"])
def test_unknown_candidate_is_a_failed_job(run, verb):
    """Exit code 1 for an id that no candidate has."""
    options = [] if verb == "show" else ["--by", "vera", "--reason", "looked at it"]
    assert run(verb, "absent", *options).exit_code == 1


@pytest.mark.parametrize("options", [[], ["--by", "vera"], ["--reason", "because"]])
def test_review_without_reviewer_or_reason_is_bad_usage(run, options):
    """Exit code 2 when an option is missing."""
    assert run("confirm", CANDIDATE, *options).exit_code == 2


def test_blank_reason_is_refused(run):
    """A reason of spaces is none."""
    assert run("confirm", CANDIDATE, "--by", "vera", "--reason", " ").exit_code == 1
    assert json.loads(run("show", CANDIDATE, "--json").stdout)["status"] == "detected"


def test_missing_store_is_a_failed_job(data_folder):
    """Without a store the list says so instead of being empty."""
    assert CliRunner().invoke(candidates, ["list"]).exit_code == 1


def test_a_person_adds_a_candidate_once(run):
    """A dip that somebody saw gets a measured significance, a history, and cannot be added twice."""
    times = ["--start", "61051", "--end", "61063", "--by", "vera", "--reason", "by eye"]
    assert run("add", "J0002+1610", *times).exit_code == 1  # the search has that event already
    other = ["--start", "61042", "--end", "61046.5", "--by", "vera", "--reason", "by eye", "--json"]
    added = json.loads(run("add", "J0001+1600", *other).stdout)
    assert abs(added["significance"]) < 4.0
    found = json.loads(run("show", added["candidate_id"], "--json").stdout)
    assert (found["status"], found["verdict"]) == ("detected", None)
    assert [event["kind"] for event in found["events"]] == ["added"]
    assert run("add", "J0001+1600", *other).exit_code == 1


def test_an_event_without_points_cannot_be_added(run):
    """Times outside the light curve, or an unknown source, are a clear error."""
    who = ["--by", "vera", "--reason", "by eye"]
    assert run("add", "J0001+1600", "--start", "50000", "--end", "50001", *who).exit_code == 1
    assert run("add", "nobody", "--start", "61042", "--end", "61047", *who).exit_code == 1


def test_accuracy_counts_reviews(run):
    """One confirmed lens: all of its verdict's reviews agree."""
    run("confirm", CANDIDATE, "--by", "vera", "--reason", "chromatic")
    (row,) = json.loads(run("accuracy", "--json").stdout)["verdicts"]
    assert (row["verdict"], row["n_confirmed"], row["confirmed_fraction"]) == ("ese", 1, 1.0)
