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
