"""``contimg group --replay`` finds what today's code decides otherwise; ``contimg backfill`` finds the windows of a range."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import typer
from typer.testing import CliRunner

from contimg_portal.commands.backfill import backfill, observation_windows, runs_of_windows
from contimg_portal.commands.group import group
from tests.sensors.raw_folder import START, RawFolder, raw_bytes

CADENCE = timedelta(seconds=309)


@pytest.fixture
def raw_folder(settings, tmp_path, monkeypatch: pytest.MonkeyPatch) -> RawFolder:
    """One whole observation, one of 15 sub-bands, one of 2, all settled."""
    del settings
    monkeypatch.setenv("CONTIMG_SEASON_END", "2026-02-28")
    folder = RawFolder(tmp_path)
    for number, n_subbands in enumerate((16, 15, 2)):
        content = raw_bytes(tmp_path, START + number * CADENCE)
        for subband in range(n_subbands):
            folder.put(START + number * CADENCE, subband, content)
    folder.tick()
    folder.tick(after_s=600.0)
    return folder


def run(command, *arguments: str):
    """Run a command as the console script does."""
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def test_replay_decides_the_same_until_a_record_says_otherwise(raw_folder: RawFolder):
    """Five decisions about three observations; one whose record claims something else is shown."""
    answer = json.loads(run(group, "--replay", "--json").output)
    assert (answer["n_decisions"], answer["n_replayed"], answer["n_different"]) == (5, 5, 0)
    with raw_folder.observatory.store.transaction() as connection:
        connection.execute(
            "UPDATE arrival_decision SET decision = 'quarantined' WHERE reason_code = 'missing_subbands'"
        )
    answer = json.loads(run(group, "--replay", "--json").output)
    assert [(d["recorded"], d["today"]) for d in answer["differences"]] == [
        ("quarantined missing_subbands 15", "ready missing_subbands 15")
    ]


def test_group_takes_a_folder_or_a_replay(raw_folder: RawFolder):
    """Neither and both are wrong usage."""
    assert run(group).exit_code == 2
    assert run(group, str(raw_folder.incoming), "--replay").exit_code == 2
    assert json.loads(run(group, str(raw_folder.incoming), "--json").output)["n_observations"] == 3


def test_windows_of_a_range_come_from_store_and_folder(raw_folder: RawFolder):
    """Known observations and files that nobody looked at yet; not those outside the range."""
    later = START + timedelta(hours=2)
    raw_folder.put(later, 0, raw_bytes(raw_folder.root, later))
    day = (datetime(2026, 2, 20, tzinfo=UTC), datetime(2026, 2, 20, 23, 59, tzinfo=UTC))
    assert observation_windows(*day) == [f"2026-02-20T{key}" for key in ("06:00", "06:05", "06:10", "08:00")]
    assert observation_windows(day[0], later - timedelta(hours=1))[-1] == "2026-02-20T06:10"


def test_unbroken_windows_are_one_range():
    """Across midnight too; a gap begins another."""
    windows = ["2026-02-20T23:50", "2026-02-20T23:55", "2026-02-21T00:00", "2026-02-21T00:10"]
    assert runs_of_windows(windows) == [(windows[0], windows[2]), (windows[3], windows[3])]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--from", "2026-02-20"], id="no end"),
        pytest.param(["--cancel", "abc", "--resume", "abc"], id="both"),
        pytest.param(["--resume", "abc", "--remake"], id="an id that insists"),
        pytest.param(["--cancel", "abc", "--from", "2026-02-20", "--to", "2026-02-20"], id="a range and an id"),
    ],
)
def test_a_backfill_is_a_range_or_an_id(arguments):
    """Anything else is wrong usage."""
    assert run(backfill, *arguments).exit_code == 2
