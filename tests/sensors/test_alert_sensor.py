"""A real Dagster daemon that is killed: the portal's watch raises the alert and takes it back when it runs again."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from contimg_portal.alert_watch import look, watching
from contimg_resources.alerts.evaluation import seconds_since_sensor
from contimg_resources.alerts.ledger import list_alerts
from contimg_resources.configurable import Observatory
from contimg_resources.settings import load_settings
from contimg_resources.store.connection import Store
from contimg_sensors.alerts import alerts, event_webhooks
from tests.resources.platform_state import check, make_healthy, write
from tests.resources.webhook_receiver import receiving

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise's plugins

LATEST_S = 60.0
LONG_QUEUE = 20
"""Runs of a queue that is not long yet; fewer than the default, for adding each costs a file lock."""
ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("contimg"), "__repository__"), "observation_job"
)


@pytest.fixture
def receiver():
    """A webhook receiver."""
    with receiving() as running:
        yield running


@pytest.fixture
def settings(tmp_path, monkeypatch, receiver):
    """A data folder with a healthy store, and an empty Dagster home."""
    monkeypatch.setenv("CONTIMG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONTIMG_MINIMUM_FREE_GB", "0")
    monkeypatch.setenv("CONTIMG_ALERT_URLS", f"json://127.0.0.1:{receiver.port}/hook")
    rules = tmp_path / "rules.toml"  # the machine the tests run on may have a small disk
    rules.write_text(
        '[[rule]]\nname = "disk_low"\nis_enabled = false\n[[rule]]\nname = "memory_low"\nis_enabled = false\n'
        f'[[rule]]\nname = "queue_long"\nthreshold = {LONG_QUEUE}\n'
    )
    monkeypatch.setenv("CONTIMG_ALERT_RULES", str(rules))
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    (home / "empty.py").write_text("import dagster as dg\ndefs = dg.Definitions()\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    loaded = load_settings()
    make_healthy(Store(loaded.data / "contimg.duckdb"), datetime.now(UTC))
    return loaded


@contextmanager
def daemon(home):
    """A Dagster daemon process with an empty code location."""
    command = [sys.executable, "-W", "ignore", "-m", "dagster._daemon", "run", "-f", str(home / "empty.py")]
    with (home / "log").open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=home) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def wait_for(condition, what, latest_s=LATEST_S):
    """Seconds until a condition holds; fails when it does not within a minute."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < latest_s, what
        time.sleep(0.2)
    return time.monotonic() - began


@pytest.mark.timeout(240)
def test_a_killed_daemon_is_noticed_within_a_minute_and_its_return_too(settings, tmp_path, receiver):
    """The portal sees the heartbeats stop, tells the channel, and tells again when a new daemon runs."""
    home = tmp_path / "dagster"
    with dg.DagsterInstance.get() as instance:
        with daemon(home):
            wait_for(instance.get_daemon_heartbeats, "the daemon did not start")
            assert look(settings)  # no sensor has evaluated: the portal has to
            assert receiver.take() == []
        with watching(settings, every_s=1.0):
            raised_s = wait_for(lambda: receiver.bodies, "no alert of the daemon")
            (message,) = receiver.take()
            assert message["title"] == "contimg critical: daemon_down"
            with daemon(home):
                resolved_s = wait_for(lambda: receiver.bodies, "no end of the alert")
            (message,) = receiver.take()
            assert message["title"] == "contimg resolved: daemon_down"
    assert raised_s < LATEST_S
    assert resolved_s < LATEST_S


def fill_queue(instance, _store):
    """Runs that wait, one more than the rule allows."""
    for _ in range(LONG_QUEUE + 1):
        instance.add_run(dg.DagsterRun("observation_job", status=dg.DagsterRunStatus.QUEUED, remote_job_origin=ORIGIN))


def empty_queue(instance, _store):
    """Every run that waits is cancelled, as an operator does."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
        instance.report_run_canceled(run)


def break_calibration(_instance, store):
    """The newest bandpass fails two of its three checks."""
    judge_bandpass(store, passed=False)


def repair_calibration(_instance, store):
    """It is solved again, and passes."""
    judge_bandpass(store, passed=True)


def judge_bandpass(store, *, passed):
    """Results of two checks of the newest bandpass."""
    for name in ("solutions_converged", "solution_snr_is_sufficient"):
        write(store, "check_result", check("bandpass_table", "2026-02-10", name, datetime.now(UTC), passed=passed))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("severity", "rule", "subject", "break_it", "repair_it"),
    [
        ("warning", "queue_long", "", fill_queue, empty_queue),
        ("error", "calibration_degraded", "bandpass_table", break_calibration, repair_calibration),
    ],
    ids=["queue", "calibration"],
)
def test_what_breaks_is_told_within_a_minute_and_its_repair_too(
    settings, receiver, severity, rule, subject, break_it, repair_it
):
    """Apprise delivers the alert to a real receiver, and its end when it is repaired; each once."""
    store = Store(settings.data / "contimg.duckdb")
    agent = {"name": "corr00", "kind": "agent", "last_at": datetime.now(UTC), "interval_s": 3600.0}
    write(store, "heartbeat", agent)  # or its silence would be told, too, on a machine that is slow today
    what = f"{rule} {subject}".strip()
    with dg.DagsterInstance.get() as instance, watching(settings, every_s=1.0):
        assert look(settings)  # no sensor has evaluated: the portal has to
        assert receiver.take() == []
        break_it(instance, store)
        raised_s = wait_for(lambda: receiver.bodies, f"no alert {rule}")
        assert [message["title"] for message in receiver.take()] == [f"contimg {severity}: {what}"]
        assert list_alerts(store).select("rule", "status").rows() == [(rule, "open")]
        repair_it(instance, store)
        resolved_s = wait_for(lambda: receiver.bodies, f"no end of {rule}")
    assert [message["title"] for message in receiver.take()] == [f"contimg resolved: {what}"]
    assert list_alerts(store, is_open=False).select("rule", "status").rows() == [(rule, "resolved")]
    assert max(raised_s, resolved_s) < LATEST_S


def test_the_sensor_evaluates_and_the_portal_then_rests(settings):
    """A tick says what is broken, leaves a sign of life, and the portal has nothing to do until that is old."""
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, resources={"observatory": Observatory()})
        answer = alerts(context)
    assert answer.skip_message == "broken: none; 0 notices delivered, 0 failed"
    assert seconds_since_sensor(settings, datetime.now(UTC)) < 30
    assert not look(settings)
    assert look(settings, quiet_s=0.0)
    assert list_alerts(Store(settings.data / "contimg.duckdb")).is_empty()


def test_without_webhooks_the_sensor_of_events_says_so(settings):
    """Nothing is read when nobody is to be told."""
    assert settings.event_urls == []
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, resources={"observatory": Observatory()})
        answer = event_webhooks(context)
    assert "no webhook is set" in answer.skip_message
