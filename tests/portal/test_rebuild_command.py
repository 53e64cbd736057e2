"""``contimg rebuild``: what would be made again along the lineage, and how Dagster is asked for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from contimg_portal.cli import app
from contimg_resources.store.connection import Store

DAYS = ("2026-01-10", "2026-01-11")
WINDOWS = [f"{day}T{time}" for day in DAYS for time in ("05:00", "05:05", "06:00")]
EVERY_DAY = {"light_curves", "variability_statistics", "ese_candidates", "blind_sources", "injection_recovery"}
FROM_GAINS = ["gain_table", "continuum_image", "forced_photometry", "flux_scale"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two days of three observations: bandpass of the first day used by all but the last, which has its own."""
    monkeypatch.setenv("CONTIMG_DATA", str(tmp_path))
    made = Store(tmp_path / "contimg.duckdb")
    common = {"status": "processed", "start_mjd": 61050.0}
    observations = [
        common
        | {"observation_id": f"{key}:30", "partition_key": key, "calibrator": "3C286" if key[11:] == "05:00" else None}
        for key in WINDOWS
    ]
    made.upsert("observation", pl.DataFrame(observations))
    for day in DAYS:
        row = {"path": f"/p/bandpass_table/{day}/day.{day}.bcal", "partition_key": day, "kind": "B", "status": "active"}
        row |= {
            "solved_at_mjd": 61050.0,
            "valid_from_mjd": 61049.0,
            "valid_to_mjd": 61051.0,
            "content_hash": f"hash{day}",
        }
        made.upsert("calibration_table", pl.DataFrame([row]))
    for key in WINDOWS:
        day = DAYS[1] if key == WINDOWS[-1] else DAYS[0]
        use = {
            "observation_id": f"{key}:30",
            "kind": "B",
            "path": f"/p/bandpass_table/{day}/day.{day}.bcal",
            "fallback": "none",
        }
        made.replace("calibration_use", pl.DataFrame([use]), partition_key=key)
    timings = [
        {"asset": asset, "partition_key": key, "stage": "whole", "code_version": "1" if key < WINDOWS[4] else "2"}
        for asset in ("continuum_image", "flux_scale")
        for key in WINDOWS
    ]
    begun = pl.Series("started_at", ["2026-01-12"] * len(timings)).str.to_datetime(time_unit="us")
    made.upsert("stage_timing", pl.DataFrame(timings).with_columns(begun, duration_s=1.0))
    return made


def run(*arguments: str) -> Result:
    """Outcome of a command line."""
    return CliRunner().invoke(app, ["rebuild", *arguments])


def chosen(*arguments: str) -> dict[str, list[str]]:
    """Partitions that would be made again, by asset in order."""
    result = run(*arguments, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["backfill_id"] is None
    assert answer["n_partitions"] == sum(row["n"] for row in answer["made_again"])
    return {row["asset"]: row["partitions"] for row in answer["made_again"]}


@pytest.mark.parametrize(
    "name", [f"/p/bandpass_table/{DAYS[0]}/day.{DAYS[0]}.bcal", f"day.{DAYS[0]}.bcal", f"hash{DAYS[0]}"]
)
def test_a_bad_table_takes_along_all_that_used_it(store, name):
    """From the gains on, on both days; neither the table itself nor the observation that used another one."""
    found = chosen("--calibration-table", name)
    assert list(found)[:4] == FROM_GAINS
    assert all(found[asset] == WINDOWS[:-1] for asset in FROM_GAINS)
    assert all(found[asset] == list(DAYS) for asset in EVERY_DAY)
    assert "bandpass_table" not in found


def test_what_used_tables_that_are_out_of_use_now(store):
    """Nothing while all are active; the users of a superseded and of a rejected table, and no others."""
    result = run("--out-of-use", "--dry-run")
    assert (result.exit_code, "nothing was made" in result.output) == (1, True)
    for day, status, users in ((DAYS[0], "superseded", WINDOWS[:-1]), (DAYS[1], "rejected", WINDOWS)):
        with store.transaction() as connection:
            connection.execute("UPDATE calibration_table SET status = ? WHERE partition_key = ?", [status, day])
        found = chosen("--out-of-use")
        assert list(found)[:4] == FROM_GAINS
        assert found["gain_table"] == users
    assert chosen("--out-of-use", "--since", f"{DAYS[1]}T05:30:00")["gain_table"] == WINDOWS[5:]


def test_time_limits_the_choice_not_what_follows(store):
    """One observation of a table's users, and its day."""
    found = chosen("--calibration-table", f"hash{DAYS[0]}", "--since", f"{DAYS[1]}T05:05:00", "--until", DAYS[1])
    assert found["continuum_image"] == [WINDOWS[4]]
    assert found["light_curves"] == [DAYS[1]]


def test_a_version_of_the_code_and_an_asset_choose_together(store):
    """Only images of version 1, and what is read from them; not their gains."""
    found = chosen("--asset", "continuum_image", "--code-version", "1")
    assert found["continuum_image"] == WINDOWS[:4]
    assert "gain_table" not in found
    assert found["quality_report"] == list(DAYS)
    assert list(chosen("--code-version", "2")) == list(found)


def test_a_measurement_set_of_a_transit_takes_its_bandpass_and_its_users(store):
    """The bandpass of the transit's day, and every observation calibrated with it."""
    store.upsert(
        "stage_timing",
        store.query(
            "SELECT * REPLACE ('measurement_set' AS asset) FROM stage_timing WHERE partition_key = ? LIMIT 1",
            [WINDOWS[0]],
        ),
    )
    found = chosen("--asset", "measurement_set")
    assert (found["measurement_set"], found["bandpass_table"]) == (WINDOWS[:1], [DAYS[0]])
    assert found["gain_table"] == WINDOWS[:-1]


@pytest.fixture
def dagster() -> Iterator[tuple[str, list[dict]]]:
    """A server that answers as Dagster does to a backfill, and what it was asked."""
    asked: list[dict] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = (
                b'{"data": {"launchPartitionBackfill": {"__typename": "LaunchBackfillSuccess", "backfillId": "abc"}}}'
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_backfill_names_each_assets_own_partitions(store, dagster):
    """One request; the table is rejected with name and reason first, for good."""
    url, asked = dagster
    rejected = ("--reject", "--by", "ann", "--reason", "resolved calibrator")
    result = run("--calibration-table", f"hash{DAYS[0]}", "--until", DAYS[0], *rejected, "--dagster-url", url, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["backfill_id"] == "abc"
    (request,) = asked
    assert request["variables"]["parameters"]["tags"] == [{"key": "contimg/remake", "value": "yes"}]
    ranges = {
        each["assetKey"]["path"][0]: each["partitions"]["ranges"]
        for each in request["variables"]["parameters"]["partitionsByAssets"]
    }
    assert ranges["gain_table"] == [
        {"start": WINDOWS[0], "end": WINDOWS[1]},
        {"start": WINDOWS[2], "end": WINDOWS[2]},
    ]
    assert ranges["light_curves"] == [{"start": DAYS[0], "end": DAYS[0]}]
    rows = store.query("SELECT status, rejected_by, rejected_reason FROM calibration_table ORDER BY path").rows()
    assert rows == [("rejected", "ann", "resolved calibrator"), ("active", None, None)]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        pytest.param([], 2, "give --calibration-table", id="nothing"),
        pytest.param(["--calibration-table", "x", "--asset", "flux_scale"], 2, "give --calibration-table", id="both"),
        pytest.param(["--out-of-use", "--asset", "flux_scale"], 2, "give --calibration-table", id="two choices"),
        pytest.param(["--asset", "images"], 2, "unknown asset", id="no such asset"),
        pytest.param(["--calibration-table", "x", "--reject"], 2, "--reject needs", id="nobody rejects"),
        pytest.param(
            ["--asset", "flux_scale", "--since", "2026-02-01", "--until", "2026-01-01"], 2, "is before", id="backwards"
        ),
        pytest.param(["--calibration-table", "x"], 1, "No calibration table", id="no such table"),
        pytest.param(["--calibration-table", "hash"], 1, "Several calibration tables", id="several tables"),
        pytest.param(["--code-version", "77"], 1, "nothing was made", id="nothing made"),
    ],
)
def test_wrong_choices_are_refused(store, arguments, exit_code, said):
    """Each with what is wrong; nothing is asked of Dagster, whose address nobody answers."""
    result = run(*arguments, "--dagster-url", "http://127.0.0.1:9")
    assert result.exit_code == exit_code
    assert said in " ".join(result.output.split())
