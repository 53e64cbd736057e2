"""The event stream: pages whose cursor survives restarts, server-sent events, signed webhooks that are tried again."""

import json
import warnings
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest

from contimg_resources.errors import ResourceError
from contimg_resources.event_webhooks import send_events, signature
from contimg_resources.events import count_recent, read_events
from contimg_resources.settings import Settings
from contimg_resources.store.candidates import Review, review_candidate
from contimg_resources.store.connection import Store
from tests.resources.webhook_receiver import receiving

CANDIDATE = "J0002+1610-61057"


@dg.asset(name="gain_table", partitions_def=dg.StaticPartitionsDefinition(["2026-02-13T21:35"]))
def solved() -> dg.MaterializeResult:
    """An asset that is made, with a check that fails."""
    return dg.MaterializeResult(metadata={"snr_median": 41.5, "picture": dg.MetadataValue.md("x" * 900)})


@dg.asset_check(asset=solved)
def solutions_converged() -> dg.AssetCheckResult:
    """A check that fails."""
    return dg.AssetCheckResult(passed=False, metadata={"measured": 0.4})


@dg.asset(name="continuum_image")
def failing() -> None:
    """An asset that fails with a reason."""
    raise dg.Failure(description="the image diverged", metadata={"partition": "2026-02-13T21:35"})


@pytest.fixture
def instance(tmp_path, monkeypatch):
    """A Dagster instance on disk, with the project's storages, in which three things happened."""
    home = tmp_path / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    storages = {"run_storage": "Run", "event_log_storage": "EventLog", "schedule_storage": "Schedule"}
    (home / "dagster.yaml").write_text(
        "".join(
            f"{name}:\n  module: contimg_resources.instance_storage\n  class: Pooled{kind}Storage\n"
            f"  config: {{ home: {home} }}\n"
            for name, kind in storages.items()
        )
        + "telemetry:\n  enabled: false\n"
    )
    with dg.DagsterInstance.get() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert dg.materialize([solved, solutions_converged], partition_key="2026-02-13T21:35", instance=made).success
        assert not dg.materialize([failing], instance=made, raise_on_error=False).success
        yield made


@pytest.fixture
def store(filled):
    """The synthetic store."""
    return Store(filled.data / "contimg.duckdb")


def confirm(store, by="Ada"):
    """A review, which is an event."""
    review_candidate(store, Review(CANDIDATE, "confirm", by, "seen in X-rays"), at=datetime.now(UTC))


def test_events_come_from_dagster_and_store(store, instance):
    """What was made, what failed and why, and what people decided, each with what identifies it."""
    confirm(store)
    events = {event.kind: event for event in read_events(store, instance).events}
    assert {"calibration_solved", "check_failed", "stage_failed", "run_failed", "candidate_confirmed"} <= set(events)
    solved_event = events["calibration_solved"]
    assert (solved_event.subject, solved_event.partition_key) == ("gain_table", "2026-02-13T21:35")
    assert solved_event.detail == {"snr_median": 41.5}
    assert events["check_failed"].detail["check"] == "solutions_converged"
    assert events["stage_failed"].message == "the image diverged"
    assert events["stage_failed"].partition_key == "2026-02-13T21:35"
    assert events["candidate_confirmed"].subject == CANDIDATE
    json.dumps([event.as_dict() for event in events.values()])


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_cursor_misses_nothing_and_repeats_nothing(store, instance, limit):
    """Page by page, with every object made anew between pages, the same events as at once."""
    confirm(store)
    whole = [event.id for event in read_events(store, instance, limit=1000).events]
    cursor, seen = "", []
    for _ in range(100):
        page = read_events(Store(store.path), instance, cursor, limit=limit)
        seen += [event.id for event in page.events]
        cursor = page.cursor
        if not page.has_more:
            break
    assert sorted(seen) == sorted(whole)
    assert len(set(seen)) == len(seen)
    assert read_events(store, instance, cursor).events == []
    confirm(store, by="Ben")
    (later,) = read_events(store, instance, cursor).events
    assert later.detail["by"] == "Ben"


def test_events_can_be_chosen_by_kind_and_time(store, instance):
    """Only the kind asked for; from a time on; or only what is still to come."""
    start = read_events(store, instance, "now").cursor
    confirm(store)
    chosen = read_events(store, instance, kinds=["candidate_confirmed"])
    assert [event.kind for event in chosen.events] == ["candidate_confirmed"]
    assert [event.kind for event in read_events(store, instance, start).events] == ["candidate_confirmed"]
    an_hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    recent = {event.kind for event in read_events(store, instance, an_hour_ago).events}
    assert {"calibration_solved", "candidate_confirmed"} <= recent
    assert "candidate_detected" not in recent  # the synthetic one was seen in February
    assert [r.value for r in count_recent(store, instance, "stage_failed", datetime.now(UTC), 600)] == [1]


def test_a_source_that_was_rebuilt_is_told_again(store, instance):
    """A cursor beyond the end of a table starts that table over, rather than waiting until it is as long again."""
    confirm(store)
    cursor = read_events(store, instance).cursor
    with store.transaction() as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM candidate_event LIMIT 1")
        connection.execute("DROP TABLE candidate_event")
        connection.execute("ALTER TABLE kept RENAME TO candidate_event")
    assert len(read_events(store, instance, cursor).events) == 1


@pytest.mark.parametrize(("since", "kinds"), [("nonsense", []), ("W10", []), ("", ["candidate"])])
def test_wrong_cursors_and_kinds_are_refused(store, since, kinds):
    """With the list of what is known."""
    with pytest.raises(ResourceError):
        read_events(store, None, since, kinds=kinds)


def test_pages_and_stream_by_http(filled, store, instance, served):
    """JSON pages with a cursor, 422 for a wrong one, and server-sent events that go on at Last-Event-ID."""
    with served(filled) as client:
        page = client.get("/api/v1/events", params={"limit": 1000}).json()
        assert {"calibration_solved", "stage_failed"} <= {event["kind"] for event in page["events"]}
        assert client.get("/api/v1/events", params={"since": "nonsense"}).status_code == 422
        assert client.get("/api/v1/events", params={"kind": "nonsense"}).status_code == 422
        assert "alert_opened" in {row["kind"] for row in client.get("/api/v1/events/kinds").json()}
        confirm(store)
        headers = {"Last-Event-ID": page["cursor"]}
        with client.stream("GET", "/api/v1/events/stream", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            first = read_message(lines)
            assert first["event"] == "candidate_confirmed"
            confirm(store, by="Ben")
            second = read_message(lines)
        assert json.loads(second["data"])["detail"]["by"] == "Ben"
        later = client.get("/api/v1/events", params={"since": first["id"]}).json()
        assert [event["id"] for event in later["events"]] == [json.loads(second["data"])["id"]]


def read_message(lines):
    """The next server-sent event with data."""
    message = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line:
            message[name] = value
        elif "data" in message:
            return message
        else:
            message = {}
    raise AssertionError


def test_webhooks_are_signed_and_in_order_and_tried_again(filled, store, instance):
    """Only what happens after they are set up; while the receiver fails, later and later; then everything, once."""
    with receiving() as receiver:
        urls = f"http://127.0.0.1:{receiver.port}/hook?key=hidden-key"
        chosen = Settings(data=filled.data, event_urls=urls, event_secret="a-secret-of-ours")  # noqa: S106
        now = datetime.now(UTC)
        assert send_events(chosen, store, instance, at=now) == {"webhook-1": "webhook-1: set up"}
        confirm(store)
        receiver.status = 503
        for second in range(0, 35, 5):
            outcome = send_events(chosen, store, instance, at=now + timedelta(seconds=second))
        assert receiver.n_requests == 3  # after 0, 10 and 30 s
        assert "503" not in str(receiver.bodies)
        confirm(store, by="Ben")
        receiver.status = 200
        outcome = send_events(chosen, store, instance, at=now + timedelta(minutes=10))
        assert outcome == {"webhook-1": "webhook-1: 2 events sent"}
        headers, body = receiver.headers[0], receiver.bodies[0]
        assert headers["X-Contimg-Signature"] == signature(chosen.event_secret, headers["X-Contimg-Timestamp"], body)
        (message,) = receiver.messages
        assert [event["detail"]["by"] for event in message["events"]] == ["Ada", "Ben"]
        send_events(chosen, store, instance, at=now + timedelta(minutes=11))
        assert len(receiver.bodies) == 1
    kept = "".join(path.read_text() for path in (filled.data / "event_webhooks").glob("*.json"))
    assert "hidden-key" not in kept


def test_alerts_command_works_without_a_daemon(filled, run):
    """`contimg alerts` evaluates, lists, acknowledges and tests, in a process of its own."""
    store = Store(filled.data / "contimg.duckdb")
    letter = {"letter_id": "L1", "asset": "mosaic", "first_at": datetime(2026, 2, 1), "message": "no", "n_attempts": 1}  # noqa: DTZ001
    store.append("dead_letter", pl.DataFrame([letter | {"last_at": letter["first_at"], "status": "pending"}]))
    code, found = run("alerts", "evaluate", "--json")
    assert code == 1
    assert "dead_letters" in {row["rule"] for row in found["readings"] if row["is_broken"]}
    _, listed = run("alerts", "list", "--json")
    (alert_id,) = [row["alert_id"] for row in listed["alerts"] if row["rule"] == "dead_letters"]
    code, row = run("alerts", "acknowledge", alert_id, "--by", "Ada", "--json")
    assert (code, row["status"]) == (0, "acknowledged")
    assert run("alerts", "test")[0] == 1  # no channel is set
    _, rules = run("alerts", "rules", "--json")
    assert {"daemon_down", "backlog"} <= {row["rule"] for row in rules["rules"]}


@pytest.fixture
def run():
    """Run a command in this process; exit code and its JSON, if it printed some."""
    from typer.testing import CliRunner

    from contimg_portal.cli import app

    def command(*arguments):
        result = CliRunner().invoke(app, list(arguments))
        return result.exit_code, json.loads(result.stdout) if result.stdout.startswith("{") else None

    return command
