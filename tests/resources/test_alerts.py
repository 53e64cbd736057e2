"""Alerts from a broken rule to a real webhook receiver: raised once, reminded, acknowledged, resolved, retried."""

import tomllib
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from contimg_resources.alerts.channels import parse_channels
from contimg_resources.alerts.evaluation import evaluate_alerts, known_rules
from contimg_resources.alerts.ledger import acknowledge_alert, list_alerts
from contimg_resources.alerts.rules import DEFAULT_RULES, load_rules
from contimg_resources.errors import SettingsError, StoreError
from contimg_resources.settings import Settings
from contimg_resources.store.connection import Store
from tests.resources.platform_state import BROKEN, make_healthy, write
from tests.resources.webhook_receiver import receiving

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise's plugins

NOW = datetime(2026, 2, 10, 12, 0, tzinfo=UTC)


@pytest.fixture
def receiver():
    """A webhook receiver."""
    with receiving() as running:
        yield running


@pytest.fixture
def instance():
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


NOT_THIS_MACHINE = """
[[rule]]
name = "disk_low"
is_enabled = false
[[rule]]
name = "memory_low"
is_enabled = false
"""
"""The machine that the tests run on may have little disk or memory left; these rules have a test of their own."""


@pytest.fixture
def settings(tmp_path, receiver):
    """A data folder whose alerts go to the receiver."""
    urls = [f"hook=json://127.0.0.1:{receiver.port}/secret-path-of-hook"]
    rules = tmp_path / "machine.toml"
    rules.write_text(NOT_THIS_MACHINE)
    return Settings(data=tmp_path, alert_urls=urls, minimum_free_gb=0.0, alert_rules=rules)


@pytest.fixture
def store(settings, instance):
    """The store of a healthy platform."""
    made = Store(settings.data / "contimg.duckdb")
    make_healthy(made, NOW)
    return made


@pytest.fixture
def one_rule(tmp_path, settings):
    """Settings with one rule about dead letters besides the defaults, which are switched off."""

    def make(**fields):
        off = "".join(
            f'[[rule]]\nname = "{rule["name"]}"\nis_enabled = false\n'
            for rule in tomllib.loads(DEFAULT_RULES.read_text())["rule"]
        )
        given = {"metric": '"dead_letters_pending"', "threshold": "0", "summary": '"Letters wait"'} | fields
        path = tmp_path / "rules.toml"
        path.write_text(off + '[[rule]]\nname = "letters"\n' + "".join(f"{k} = {v}\n" for k, v in given.items()))
        return settings.model_copy(update={"alert_rules": path})

    return make


def break_it(store):
    """A dead letter that waits."""
    letter = {"letter_id": "L1", "asset": "continuum_image", "first_at": NOW, "last_at": NOW, "message": "no"}
    write(store, "dead_letter", letter | {"n_attempts": 3, "status": "pending", "reason_code": "disk_full"})


def repair_it(store):
    """The dead letter is resolved."""
    with store.transaction() as connection:
        connection.execute("UPDATE dead_letter SET status = 'resolved'")


def at(minutes):
    """Some minutes after the beginning."""
    return NOW + timedelta(minutes=minutes)


def test_an_alert_is_raised_once_and_its_end_is_told(one_rule, store, instance, receiver):
    """One evaluation tells, the next do not, and the one after the repair tells that it is over."""
    chosen = one_rule()
    assert not evaluate_alerts(chosen, instance=instance, at=at(0)).broken()
    assert receiver.take() == []
    break_it(store)
    assert evaluate_alerts(chosen, instance=instance, at=at(1)).n_delivered == 1
    (message,) = receiver.take()
    assert message["title"] == "contimg warning: letters continuum_image"
    assert "Letters wait (continuum_image): 1 waiting: disk_full." in message["message"]
    assert message["type"] == "warning"
    for minute in (2, 3):
        evaluate_alerts(chosen, instance=instance, at=at(minute))
    assert receiver.take() == []
    assert list_alerts(store)["status"].to_list() == ["open"]
    repair_it(store)
    evaluate_alerts(chosen, instance=instance, at=at(4))
    (message,) = receiver.take()
    assert message["type"] == "success"
    assert "Now: nothing of the kind." in message["message"]
    assert list_alerts(store).is_empty()
    assert list_alerts(store, is_open=False)["status"].to_list() == ["resolved"]


def test_an_open_alert_is_reminded_of_after_the_cool_down_but_not_when_acknowledged(
    one_rule, store, instance, receiver
):
    """Every cool-down until somebody takes it on; the end is told all the same."""
    chosen = one_rule(cool_down_s="600")
    break_it(store)
    for minute in (0, 5, 10, 15, 20):
        evaluate_alerts(chosen, instance=instance, at=at(minute))
    kinds = [message["message"].split(":")[0] for message in receiver.take()]
    assert kinds == ["warning", "warning (still)", "warning (still)"]
    (alert_id,) = list_alerts(store)["alert_id"]
    row = acknowledge_alert(store, alert_id, by="Ada", reason="on it", at=at(21))
    assert (row["status"], row["acknowledged_by"]) == ("acknowledged", "Ada")
    for minute in (30, 60, 120):
        evaluate_alerts(chosen, instance=instance, at=at(minute))
    assert receiver.take() == []
    repair_it(store)
    evaluate_alerts(chosen, instance=instance, at=at(121))
    assert [message["type"] for message in receiver.take()] == ["success"]
    history = store.query('SELECT kind, "by", detail FROM alert_history ORDER BY "at"').rows()
    assert ("acknowledged", "Ada", "on it") in history


def test_a_rule_that_flaps_within_the_cool_down_is_quiet(one_rule, store, instance, receiver):
    """Broken again within the cool-down: the same alert, no notice, neither of its end; after it, a reminder."""
    chosen = one_rule(cool_down_s="600")
    break_it(store)
    evaluate_alerts(chosen, instance=instance, at=at(0))
    repair_it(store)
    evaluate_alerts(chosen, instance=instance, at=at(1))
    assert len(receiver.take()) == 2
    for minute in (2, 4):
        break_it(store)
        evaluate_alerts(chosen, instance=instance, at=at(minute))
        repair_it(store)
        evaluate_alerts(chosen, instance=instance, at=at(minute + 1))
    assert receiver.take() == []
    (row,) = list_alerts(store, is_open=False).to_dicts()
    assert (row["n_occurrences"], row["status"]) == (3, "resolved")
    break_it(store)
    evaluate_alerts(chosen, instance=instance, at=at(6))
    evaluate_alerts(chosen, instance=instance, at=at(11))
    assert ["(still)" in message["message"] for message in receiver.take()] == [True]


def test_a_rule_fires_only_after_its_duration(one_rule, store, instance, receiver):
    """Broken for a moment is not broken for two minutes."""
    chosen = one_rule(duration_s="120")
    break_it(store)
    evaluate_alerts(chosen, instance=instance, at=at(0))
    repair_it(store)
    evaluate_alerts(chosen, instance=instance, at=at(1))
    break_it(store)
    for minute in (2, 3):
        evaluate_alerts(chosen, instance=instance, at=at(minute))
    assert receiver.take() == []
    evaluate_alerts(chosen, instance=instance, at=at(4))
    assert len(receiver.take()) == 1


def test_failed_delivery_is_visible_and_tried_again_later_and_later(one_rule, store, instance, receiver):
    """A receiver that fails: attempts after 0, 30, 90 s; an alert of its own in the default rules; then it arrives once."""
    chosen = one_rule()
    break_it(store)
    receiver.status = 500
    for second in range(0, 100, 10):
        evaluate_alerts(chosen, instance=instance, at=NOW + timedelta(seconds=second))
    assert receiver.n_requests == 3
    failed = store.query("SELECT channel, detail FROM alert_history WHERE kind = 'delivery_failed'").rows()
    assert {channel for channel, _ in failed} == {"hook"}
    assert all("500" in detail for _, detail in failed)
    assert not any("secret-path" in detail for _, detail in failed)
    defaults = chosen.model_copy(update={"alert_rules": None})
    seen = evaluate_alerts(defaults, instance=instance, at=at(2), is_delivered=False)
    assert "delivery_failing" in {rule.name for rule, _ in seen.broken()}
    receiver.status = 200
    evaluate_alerts(chosen, instance=instance, at=at(10))
    evaluate_alerts(chosen, instance=instance, at=at(30))
    assert len(receiver.take()) == 1
    seen = evaluate_alerts(defaults, instance=instance, at=at(31), is_delivered=False)
    assert "delivery_failing" not in {rule.name for rule, _ in seen.broken()}


def test_many_notices_are_one_message(settings, store, instance, receiver):
    """What breaks at the same moment is told in one message, the loudest first."""
    for table, row in BROKEN["breaker_open"](NOW) + BROKEN["dead_letters"](NOW):
        write(store, table, row)
    evaluate_alerts(settings, instance=instance, at=NOW)
    (message,) = receiver.take()
    assert message["title"].startswith("contimg error: breaker_open")
    assert message["title"].endswith("and 1 more")
    assert len(message["message"].splitlines()) == 2


def test_a_busy_store_is_told_without_it_and_entered_afterwards(settings, store, receiver, monkeypatch):
    """With the file held by another process people are told once; when it is free the alert is in the ledger and over."""
    import subprocess
    import sys

    monkeypatch.setattr("contimg_resources.alerts.evaluation.STORE_WAIT_S", 0.3)
    rules = settings.data / "rules.toml"
    rules.write_text(NOT_THIS_MACHINE + '[[rule]]\nname = "store_busy"\nthreshold = 0.2\n')
    chosen = settings.model_copy(update={"alert_rules": rules})
    script = (
        f"import duckdb, sys\nheld = duckdb.connect({str(store.path)!r})\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        first = evaluate_alerts(chosen, at=at(0))
        assert "stayed locked" in first.store_problem
        evaluate_alerts(chosen, at=at(0.5))
        assert [m["title"] for m in receiver.take()] == ["contimg error: store_busy"]
        holder.stdin.close()
    evaluate_alerts(chosen, at=at(1))
    assert [m["title"] for m in receiver.take()] == ["contimg resolved: store_busy"]
    (row,) = list_alerts(store, is_open=False).filter(rule="store_busy").to_dicts()
    assert (row["status"], row["first_at"]) == ("resolved", NOW.replace(tzinfo=None))


@pytest.mark.parametrize("rule", sorted(BROKEN))
def test_each_default_rule_fires_on_what_breaks_it_and_only_that(rule, settings, store, instance):
    """Silent on a healthy platform; with one thing broken, that rule fires within one evaluation, and no other."""
    healthy = evaluate_alerts(settings, instance=instance, at=NOW, is_delivered=False)
    assert [found.name for found, _ in healthy.broken()] == []
    for table, row in BROKEN[rule](NOW):
        write(store, table, row)
    broken = evaluate_alerts(settings, instance=instance, at=NOW, is_delivered=False)
    assert {found.name for found, _ in broken.broken()} == {rule}
    assert list_alerts(store)["rule"].unique().to_list() == [rule]


def test_every_default_rule_is_tested_somewhere():
    """A rule of the package without a test of what breaks it is noticed here."""
    elsewhere = {
        "daemon_down",
        "daemon_part_stuck",
        "run_failures",
        "queue_long",
        "disk_low",
        "disk_full",
        "memory_low",
        "store_busy",
        "delivery_failing",
    }
    assert {rule.name for rule in load_rules()} == set(BROKEN) | elsewhere


def test_disk_and_memory_rules_follow_what_is_measured(tmp_path, store, instance):
    """A reserve above what is free, and thresholds above what there is, break the rules about disk and memory."""
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[rule]]\nname = "disk_low"\nthreshold = 1e9\n[[rule]]\nname = "memory_low"\nthreshold = 2\nduration_s = 0\n'
    )
    chosen = Settings(data=tmp_path, minimum_free_gb=1e6, alert_rules=rules)
    found = evaluate_alerts(chosen, instance=instance, at=NOW)
    assert {rule.name for rule, _ in found.broken()} == {"disk_low", "disk_full", "memory_low"}


ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("contimg"), "__repository__"), "observation_job"
)


def make_run(instance, number, status):
    """A run of a job in some state."""
    run_id = f"00000000-0000-0000-0000-{number:012d}"
    instance.add_run(dg.DagsterRun(job_name="observation_job", run_id=run_id, status=status, remote_job_origin=ORIGIN))


def test_queued_and_failed_runs_are_counted_in_the_instance(settings, store, instance):
    """101 queued runs are a long queue; two failures of six runs are many."""
    now = datetime.now(UTC)
    make_healthy(store, now)
    for number in range(6):
        make_run(instance, number, dg.DagsterRunStatus.FAILURE if number < 2 else dg.DagsterRunStatus.SUCCESS)
    found = evaluate_alerts(settings, instance=instance, at=now, is_delivered=False)
    assert {rule.name: reading.detail for rule, reading in found.broken()} == {
        "run_failures": "2 of 6 runs failed (observation_job)"
    }
    for number in range(100, 201):
        make_run(instance, number, dg.DagsterRunStatus.QUEUED)
    found = evaluate_alerts(settings, instance=instance, at=now, is_delivered=False)
    assert "queue_long" in {rule.name for rule, _ in found.broken()}


def test_what_cannot_be_seen_from_here_is_left_as_it_is(settings, store, instance):
    """Without Dagster's instance nothing about runs is resolved."""
    now = datetime.now(UTC)
    make_healthy(store, now)
    for number in range(101):
        make_run(instance, number, dg.DagsterRunStatus.QUEUED)
    evaluate_alerts(settings, instance=instance, at=now, is_delivered=False)
    found = evaluate_alerts(settings, at=now, is_delivered=False)
    assert found.measured["queue_long"] is None
    assert list_alerts(store)["rule"].to_list() == ["queue_long"]


def test_own_rules_change_and_extend_the_defaults(tmp_path):
    """A field of a default is replaced, a rule is switched off, a new one is added."""
    path = tmp_path / "rules.toml"
    path.write_text(
        '[[rule]]\nname = "backlog"\nthreshold = 5\nchannels = ["ops"]\n'
        '[[rule]]\nname = "image_rms_high"\nis_enabled = false\n'
        '[[rule]]\nname = "stages_fail"\nevent = "stage_failed"\nthreshold = 3\nsummary = "Stages fail"\n'
    )
    rules = {rule.name: rule for rule in known_rules(Settings(data=tmp_path, alert_rules=path))}
    assert (rules["backlog"].threshold, rules["backlog"].channels) == (5, ("ops",))
    assert rules["backlog"].summary.startswith("Observations wait")
    assert "image_rms_high" not in rules
    assert rules["stages_fail"].measurement == "event stage_failed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule = 3", "another form"),
        ("[[rule]", "cannot be read"),
        ('[[rule]]\nname = "backlog"\noperator = "~"', "operator"),
        ('[[rule]]\nname = "backlog"\nmetric = "backlog_observation"', "did you mean backlog_observations"),
        ('[[rule]]\nname = "x1"\nthreshold = 1\nsummary = "s"', "one of the two is wanted"),
        ('[[rule]]\nname = "x1"\nevent = "stage_faild"\nthreshold = 1\nsummary = "s"', "did you mean stage_failed"),
    ],
)
def test_wrong_rules_are_refused_by_name(tmp_path, text, message):
    """The error says which rule and what is wrong with it."""
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        known_rules(Settings(data=tmp_path, alert_rules=path))


@pytest.mark.parametrize(
    ("alert_id", "by", "reason_code"), [("nothing", "Ada", "unknown_alert"), ("nothing", " ", "wrong_acknowledgement")]
)
def test_acknowledging_needs_an_alert_and_a_person(store, alert_id, by, reason_code):
    """Neither a made-up alert nor nobody."""
    with pytest.raises(StoreError) as caught:
        acknowledge_alert(store, alert_id, by=by, at=NOW)
    assert caught.value.reason_code == reason_code


def test_channels_have_names_that_hold_no_secret():
    """A name before the URL, or kind and position."""
    urls = Settings(alert_urls="ops=slack://tokenA/tokenB, json://u:pw@host/p").alert_urls
    assert [channel.name for channel in parse_channels(urls)] == ["ops", "json-2"]
    assert "pw" not in repr(parse_channels(urls))


def test_a_rule_speaks_to_its_channels_only(tmp_path, one_rule, store, instance, receiver):
    """A rule for the channel `pager` is not heard on `hook`."""
    chosen = one_rule(channels='["pager"]')
    break_it(store)
    evaluate_alerts(chosen, instance=instance, at=NOW)
    assert receiver.take() == []
    url = f"pager=json://127.0.0.1:{receiver.port}/p"
    chosen = chosen.model_copy(update={"alert_urls": Settings(alert_urls=url).alert_urls})
    evaluate_alerts(chosen, instance=instance, at=at(1))
    assert len(receiver.take()) == 1


def test_two_processes_tell_a_notice_once(one_rule, store, instance, receiver):
    """Evaluations side by side in threads open one alert and send one message."""
    from concurrent.futures import ThreadPoolExecutor

    chosen = one_rule()
    break_it(store)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: evaluate_alerts(chosen, instance=instance, at=NOW), range(8)))
    assert len(receiver.take()) == 1
    assert list_alerts(store, is_open=False).height == 1


def test_nothing_is_wrong_before_the_first_observation(tmp_path, instance):
    """Without a store, rules about it are silent and nothing is written."""
    found = evaluate_alerts(Settings(data=tmp_path, minimum_free_gb=0.0), instance=instance, at=NOW)
    assert {rule.name for rule, _ in found.broken()} <= {"disk_low", "memory_low"}
    assert not (tmp_path / "contimg.duckdb").exists()
