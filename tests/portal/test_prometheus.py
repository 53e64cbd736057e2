"""A real Prometheus scrapes two real portals, one of a platform that is well and one of a platform that is not."""

import json
import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import dagster as dg
import httpx
import polars as pl
import pytest
import sqlalchemy as db
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.events import DagsterEvent
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.plan.objects import StepFailureData, StepSuccessData
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat

from contimg_portal import metrics as portal_metrics
from contimg_resources.products import Products
from contimg_resources.settings import load_settings
from contimg_resources.store.connection import Store

INSTALL = "Prometheus is not installed: run scripts/install_services.sh"
STAGES = ("measurement_set", "gain_table", "continuum_image", "forced_photometry", "flux_scale")
OF_THE_MACHINE = {"ContimgPortalDown", "ContimgMetricsSourceDown", "ContimgDiskLow", "ContimgMemoryLow"}
"""Alerts that no store can raise: promtool's own tests raise them below."""


def fill(store: Store, *, is_well: bool) -> None:
    """Rows of one observation and its day, good or bad in everything that rules look at."""
    now = datetime.now(UTC).replace(tzinfo=None)
    key, day, name = "2026-02-13T21:30", "2026-02-13", "2026-02-13T21:30:00"
    ago = timedelta(minutes=5) if is_well else timedelta(hours=9)
    observed = {"observation_id": [name, "w"], "partition_key": [key, "2026-02-13T21:35"]}
    observed |= {
        "start_mjd": [61_084.9, 61_084.904],
        "duration_s": 309.0,
        "complete_at": now - ago,
        "first_seen_at": now - ago,
    }
    store.upsert("observation", pl.DataFrame(observed | {"status": ["processed", "processed" if is_well else "ready"]}))
    store.upsert(
        "observation",
        pl.DataFrame(
            {
                "observation_id": ["q"],
                "partition_key": ["x"],
                "start_mjd": [61_084.0],
                "status": ["quarantined"],
                "reason_code": ["too_few_subbands"],
            }
        ),
    )
    timing = {"asset": STAGES, "stage": "whole", "partition_key": key, "started_at": now - timedelta(minutes=4)}
    timing |= {
        "duration_s": 10.0 if is_well else 100.0,
        "cpu_s": 8.0,
        "peak_memory_mb": 900.0,
        "read_bytes": 10,
        "written_bytes": 20,
    }
    store.upsert("stage_timing", pl.DataFrame(timing))
    tables = {"path": ["b", "g"], "kind": ["B", "G"], "status": "active", "snr_median": 150.0 if is_well else 4.0}
    tables |= {
        "solved_at_mjd": 61_084.6 if is_well else 61_082.0,
        "valid_from_mjd": 0.0,
        "valid_to_mjd": 1.0,
        "flagged_fraction": 0.02,
    }
    store.upsert("calibration_table", pl.DataFrame(tables | {"partition_key": day}))
    use = {"observation_id": [name], "kind": ["B"], "fallback": ["none"], "partition_key": [key]}
    store.replace("calibration_use", pl.DataFrame(use), partition_key=key)
    image = {"observation_id": [name], "band": ["full"], "path": ["i"], "rms_jy_beam": [1e-3 if is_well else 9e-3]}
    store.replace(
        "image", pl.DataFrame(image | {"thermal_rms_jy_beam": [1e-3], "dynamic_range": [300.0]}), partition_key=key
    )
    scale = {
        "observation_id": [name],
        "band": ["full"],
        "factor": [1.01 if is_well else 2.0],
        "n_references": [9 if is_well else 1],
    }
    store.replace("flux_scale", pl.DataFrame(scale), partition_key=key)
    flux = {"observation_id": [name], "source_id": ["s"], "band": ["full"], "mjd": [61_084.9], "flags": [0]}
    store.replace("forced_photometry", pl.DataFrame(flux), partition_key=key)
    check = {
        "asset": "measurement_set",
        "check_name": "flagged_fraction_is_acceptable",
        "at": now,
        "value": 0.1 if is_well else 0.9,
    }
    check |= {"partition_key": [f"p{n:02d}" for n in range(30)], "passed": is_well}
    store.upsert("check_result", pl.DataFrame(check))
    recovery = {"as_of": [day], "depth_bin": ["a"], "duration_bin": ["b"], "n_injected": [10], "n_recovered": [9]}
    recovery |= {"completeness": [0.9 if is_well else 0.2], "false_alarms_per_1000_sources": [1.0 if is_well else 50.0]}
    store.replace("injection_recovery", pl.DataFrame(recovery), partition_key=day)
    candidate = {"candidate_id": ["c"], "source_id": ["s"], "status": ["confirmed" if is_well else "detected"]}
    candidate |= {"significance": [9.0], "tier": ["high"], "latency_s": [400.0]}
    store.replace("ese_candidate", pl.DataFrame(candidate), partition_key=day)
    state = "closed" if is_well else "open"
    store.upsert(
        "breaker", pl.DataFrame({"stage": ["gain_table"], "state": [state], "n_failures": [3], "changed_at": [now]})
    )
    beat = now - timedelta(seconds=10 if is_well else 5000)
    store.upsert(
        "heartbeat", pl.DataFrame({"name": ["agent"], "kind": ["agent"], "last_at": [beat], "interval_s": [30.0]})
    )
    if not is_well:
        letter = {"letter_id": ["l"], "asset": ["gain_table"], "first_at": [now], "last_at": [now]}
        store.upsert("dead_letter", pl.DataFrame(letter | {"message": ["m"], "n_attempts": [1], "status": ["pending"]}))
        alert = {"alert_id": ["a"], "rule": ["r"], "severity": ["critical"], "message": ["m"], "status": ["open"]}
        store.upsert("alert", pl.DataFrame(alert | {"first_at": [now], "last_at": [now], "n_occurrences": [1]}))


def add_steps(instance: dg.DagsterInstance, *, is_well: bool) -> None:
    """Write a run of every stage into the event log: quick and successful, or half of them failed and the others slow."""
    now, duration_s = time.time(), 5.0 if is_well else 250.0
    for number in range(4):
        run_id = f"run-{now}-{number}"
        outcome, data = "STEP_SUCCESS", StepSuccessData(duration_ms=1e3 * duration_s)
        if number % 2 and not is_well:
            outcome, data = "STEP_FAILURE", StepFailureData(error=None, user_failure_data=None)
        for stage in STAGES:
            for kind, at, what in (("STEP_START", now - duration_s, None), (outcome, now, data)):
                event = DagsterEvent(kind, job_name="observation_job", step_key=stage, event_specific_data=what)
                entry = EventLogEntry(None, 10, "", run_id, at, stage, "observation_job", event)
                instance.event_log_storage.store_event(entry)


def add_daemons(instance: dg.DagsterInstance, *, is_well: bool) -> None:
    """A heartbeat, a tick of a sensor and a queued run: of now, or of hours ago."""
    at = time.time() - (1.0 if is_well else 5000.0)
    for daemon in instance.get_required_daemon_types():
        instance.add_daemon_heartbeat(DaemonHeartbeat(at, daemon, "id", None))
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="contimg_assets.definitions"))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), "incoming_observations")
    instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING))
    selector = origin.get_selector().get_id()
    instance.create_tick(
        TickData(
            origin.get_id(),
            "incoming_observations",
            InstigatorType.SENSOR,
            TickStatus.SUCCESS,
            at,
            run_ids=[],
            selector_id=selector,
        )
    )
    queued = RemoteJobOrigin(origin.repository_origin, "_nothing")
    run = instance.create_run_for_job(_nothing, status=dg.DagsterRunStatus.QUEUED, remote_job_origin=queued)
    with instance.run_storage.connect() as connection:
        created = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
        connection.execute(
            db.update(RunsTable).where(RunsTable.c.run_id == run.run_id).values(create_timestamp=created)
        )


@dg.job
def _nothing() -> None:
    """A job to queue."""


@contextmanager
def platform(folder, project_root, served, *, is_well: bool):
    """Address of a portal and the Dagster instance beside it."""
    home = folder / "home"
    home.mkdir(parents=True)
    text = (project_root / "dagster.yaml").read_text().replace("{ env: DAGSTER_HOME }", f'"{home}"')
    (home / "dagster.yaml").write_text(text)
    with dg.DagsterInstance.from_config(str(home)) as instance, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTIMG_DATA", str(folder / "data"))
        patch.setenv("DAGSTER_HOME", str(home))
        patch.setattr(portal_metrics, "KEEP_S", 0.3)
        settings = load_settings()
        fill(Store(Products(settings.data).store_path), is_well=is_well)
        add_daemons(instance, is_well=is_well)
        add_steps(instance, is_well=is_well)
        with served(settings) as client:
            yield client, instance


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def prometheus(folder, targets: list[str], rules):
    """Client of a Prometheus that scrapes these targets every second with the rules of the project."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip(INSTALL)
    folder.mkdir()
    job = {"job_name": "contimg", "static_configs": [{"targets": targets}]}
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [job],
    }
    (folder / "prometheus.yml").write_text(
        json.dumps(config | {"rule_files": [str(rules / "recording.yml"), str(rules / "alerts.yml")]})
    )
    port = free_port()
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            until(lambda: client.get("/-/ready").is_success, 30, "Prometheus is ready")
            yield client
    finally:
        process.terminate()
        process.wait(30)


def ask(client: httpx.Client, expression: str) -> list[dict]:
    """Series of an instant query."""
    answer = client.get("/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", (expression, answer)
    return answer["data"]["result"]


def until(condition, seconds: float, what: str):
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"{what}: not within {seconds} s")


def dashboards(project_root) -> list[tuple[str, str]]:
    """Title of the panel and expression of every target of every dashboard."""
    found = []
    for path in sorted((project_root / "deploy" / "grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            found += [(f"{path.stem}: {panel['title']}", target["expr"]) for target in panel["targets"]]
    return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory, project_root, served):
    """Prometheus with a platform that is well and one that is not, after new steps ran in both."""
    folder = tmp_path_factory.mktemp("watched")
    with ExitStack() as stack:
        well, well_instance = stack.enter_context(platform(folder / "well", project_root, served, is_well=True))
        ill, ill_instance = stack.enter_context(platform(folder / "ill", project_root, served, is_well=False))
        targets = [client.base_url.netloc.decode() for client in (well, ill)]
        for client in (well, ill):
            until(
                lambda client=client: 'source_up{source="dagster"} 1.0' in client.get("/metrics").text,
                60,
                "Dagster's metrics",
            )
        server = stack.enter_context(prometheus(folder / "prometheus", targets, project_root / "deploy" / "prometheus"))
        until(lambda: len(ask(server, "contimg_stage_runs_total")) == 2 * 3 * len(STAGES), 60, "a first scrape")
        add_steps(well_instance, is_well=True)
        add_steps(ill_instance, is_well=False)
        until(lambda: len(ask(server, "contimg:stage_failure_ratio:rate1h > 0.2")) == len(STAGES), 60, "new failures")
        yield server, well, *targets


@pytest.mark.timeout(300)
def test_every_rule_and_query_has_series(watched, project_root):
    """Recording rules, the panels of the dashboards, and what alerts compare: all return series for a real portal."""
    server, *_ = watched
    until(lambda: all(ask(server, rule["name"]) for rule in rules(server, "recording")), 30, "recorded series")
    assert len(rules(server, "recording")) >= 8
    assert {rule["health"] for rule in rules(server, "recording") + rules(server, "alerting")} == {"ok"}
    panels = dashboards(project_root)
    assert len(panels) > 40
    assert [panel for panel in panels if not ask(server, panel[1])] == []


@pytest.mark.timeout(300)
def test_alerts_tell_the_ill_from_the_well(watched):
    """Each alert that a store can raise is raised for the ill platform, and none but the machine's for the well one."""
    server, _, well, ill = watched
    expected = {rule["name"] for rule in rules(server, "alerting")} - OF_THE_MACHINE
    assert len(expected) >= 20
    of = {}
    for rule in rules(server, "alerting"):
        of[rule["name"]] = {series["metric"].get("instance") for series in ask(server, rule["query"])}
    assert {name for name in expected if ill not in of[name]} == set()
    assert {name for name in expected if well in of[name]} == set()
    active = until(lambda: server.get("/api/v1/alerts").json()["data"]["alerts"], 20, "alerts")
    assert "ContimgBreakerOpen" in {alert["labels"]["alertname"] for alert in active}


def rules(server: httpx.Client, kind: str) -> list[dict]:
    """Rules of a kind, as Prometheus loaded them."""
    groups = server.get("/api/v1/rules").json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"] if rule["type"] == kind]


@pytest.mark.timeout(300)
def test_each_metric_named_exists(watched, project_root):
    """Rules and dashboards name no metric that /metrics does not have."""
    _, well, *_ = watched
    exposed = set(re.findall(r"^(contimg_\w+)", well.get("/metrics").text, re.MULTILINE))
    folders = [project_root / "deploy" / name for name in ("prometheus", "grafana")]
    text = "".join(path.read_text() for folder in folders for path in folder.rglob("*") if path.is_file())
    named = set(re.findall(r"\bcontimg_[a-z_0-9]+\b", re.sub(r'"uid": "[^"]*"', "", text)))
    assert len(named) > 40
    assert named - exposed == set()


MACHINE_TESTS = """
rule_files: [{rules}/recording.yml, {rules}/alerts.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'up{{job="contimg", instance="p"}}', values: '0x20'}}
      - {{series: 'contimg_metrics_source_up{{instance="p", source="store"}}', values: '0x20'}}
      - {{series: 'contimg_disk_free_bytes{{instance="p", folder="data"}}', values: '30e9x20'}}
      - {{series: 'contimg_disk_size_bytes{{instance="p", folder="data"}}', values: '1000e9x20'}}
      - {{series: 'contimg_memory_available_bytes{{instance="p"}}', values: '5e8x20'}}
    promql_expr_test:
      - expr: count by (alertname) (ALERTS{{alertstate="firing"}})
        eval_time: 15m
        exp_samples:
          - {{labels: '{{alertname="ContimgPortalDown"}}', value: 1}}
          - {{labels: '{{alertname="ContimgMetricsSourceDown"}}', value: 1}}
          - {{labels: '{{alertname="ContimgDiskLow"}}', value: 1}}
          - {{labels: '{{alertname="ContimgMemoryLow"}}', value: 1}}
"""


def test_promtool_accepts_rules_and_raises_the_machines_alerts(project_root, tmp_path):
    """`promtool` finds configuration and rules valid, and in its own tests the alerts about the machine fire."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip(INSTALL)
    folder = project_root / "deploy" / "prometheus"
    subprocess.run([program, "check", "config", folder / "prometheus.yml"], check=True, capture_output=True)
    subprocess.run(
        [program, "check", "rules", folder / "recording.yml", folder / "alerts.yml"], check=True, capture_output=True
    )
    (tmp_path / "machine.yml").write_text(MACHINE_TESTS.format(rules=folder))
    tested = subprocess.run(
        [program, "test", "rules", tmp_path / "machine.yml"], check=False, capture_output=True, text=True
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
