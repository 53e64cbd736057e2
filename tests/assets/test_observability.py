"""One small observation, run as the platform runs it (a sensor and forks): its log lines and its trace."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import polars as pl
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from contimg_resources.tracing import trace_of
from tests.assets.conftest import configure

IDS = {"observation_id", "run_id", "asset", "partition", "trace_id"}
OBSERVATION_STAGES = ["measurement_set", "gain_table", "continuum_image", "forced_photometry", "flux_scale"]
DAY_STAGES = ["light_curves", "variability_statistics", "ese_candidates"]
SECRET = "correct-horse-battery"  # noqa: S105 (of this test only)

PLATFORM = """
import sys
import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.launcher import LaunchRunContext

from contimg_assets.arrivals import observe_arrivals
from contimg_resources.configurable import Observatory
from contimg_resources.tracing import finish_tracing
from contimg_sensors.arrivals import observation_requests

repository = ReconstructableRepository.for_module("contimg_assets.definitions", "defs")


def run(instance, job_name, partition_key=None, assets=None, tags=None):
    job = repository.get_reconstructable_job(job_name)
    keys = None if assets is None else frozenset(map(dg.AssetKey, assets))
    definition = job.get_definition() if keys is None else job.get_definition().get_subset(asset_selection=keys)
    made = instance.create_run_for_job(
        definition,
        tags={**(tags or {}), **({"dagster/partition": partition_key} if partition_key else {})},
        asset_selection=keys,
        job_code_origin=job.get_python_origin(),
    )
    instance.run_launcher.launch_run(LaunchRunContext(made, workspace=None))
    instance.run_launcher.join(600)
    assert instance.get_run_by_id(made.run_id).is_success, job_name


if __name__ == "__main__":
    with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
        observe_arrivals(Observatory())
        finish_tracing()
        run(instance, "catalogue_job")
        [transit] = list(observation_requests(Observatory()))
        run(instance, "observation_job", transit.partition_key, ["measurement_set"], transit.tags)
        [bandpass] = list(observation_requests(Observatory()))
        run(instance, "bandpass_job", bandpass.partition_key, None, bandpass.tags)
        ready = [r for r in observation_requests(Observatory()) if r.job_name == "observation_job"]
        [field] = [r for r in ready if r.partition_key != transit.partition_key]
        run(instance, "observation_job", field.partition_key, None, field.tags)
        run(instance, "daily_job", field.partition_key[:10], ["light_curves", "variability_statistics", "ese_candidates"])
        print("FIELD", field.partition_key, file=sys.stderr)
"""


class Collector:
    """An OTLP/HTTP receiver on a free port of loopback: keeps the spans it was sent."""

    def __init__(self) -> None:
        self.spans = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                collector.spans += [
                    span for sent in request.resource_spans for scope in sent.scope_spans for span in scope.spans
                ]
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Followed:
    """What a platform said while it processed one observation."""

    def __init__(self, lines: list[str], spans: list, field: str, instance_home: Path) -> None:
        self.lines, self.spans, self.field, self.home = lines, spans, field, instance_home

    @property
    def records(self) -> list[dict]:
        """Log lines, parsed."""
        return [json.loads(line) for line in self.lines]


@pytest.fixture(scope="module")
def followed(small_campaign: Path, tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Followed:
    """Run the platform once, with a collector beside it."""
    root = tmp_path_factory.mktemp("followed")
    home = root / "home"
    home.mkdir()
    text = (project_root / "dagster.yaml").read_text().replace("[contimg_assets.warm]", "[contimg_assets.definitions]")
    (home / "dagster.yaml").write_text(text.replace("{ env: DAGSTER_HOME }", f'"{home}"'))
    (root / "platform_once.py").write_text(PLATFORM)
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("CONTIMG_")]:
        del os.environ[name]  # what tests of other modules left
    configure(root, small_campaign, small_campaign / "incoming")
    environment = dict(os.environ) | {"CONTIMG_LOG_FORMAT": "json", "CONTIMG_PORTAL_TOKEN": SECRET}
    os.environ.clear()
    os.environ.update(before)
    with Collector() as collector:
        environment["CONTIMG_OTLP_ENDPOINT"] = collector.endpoint
        environment["PYTHONPATH"] = str(project_root)
        command = [sys.executable, str(root / "platform_once.py"), str(home)]
        done = subprocess.run(
            command, check=False, env=environment, cwd=root, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr[-4000:]
        field = next(line.split()[1] for line in done.stderr.splitlines() if line.startswith("FIELD "))
        return Followed(done.stdout.splitlines(), list(collector.spans), field, home)


@pytest.mark.timeout(1200)
def test_every_line_is_json_and_names_its_run(followed):
    """Each line on stdout parses, says when and what, and has all ids as keys; no other writer mixes in."""
    assert len(followed.records) > 100
    for record in followed.records:
        assert IDS | {"timestamp", "level", "event"} <= set(record)
        assert record["run_id"]
    assert SECRET not in "\n".join(followed.lines)


def test_lines_of_an_observation_share_its_ids(followed):
    """From the first stage to the last, in the run of the observation and that of its day, ids are the same."""
    trace = trace_of(followed.field).trace_hex
    stages = [r for r in followed.records if r["event"] == "stage_done" and r["trace_id"] == trace]
    assert [r["asset"] for r in stages] == OBSERVATION_STAGES + DAY_STAGES
    assert len({r["observation_id"] for r in stages}) == 1
    runs = {r["run_id"] for r in stages}
    assert len(runs) == 2
    of_observation = [r for r in followed.records if r["run_id"] == stages[0]["run_id"]]
    assert {r["event"] for r in of_observation} >= {"run_start", "step_start", "step_success", "run_success"}
    assert {(r["partition"], r["observation_id"], r["trace_id"]) for r in of_observation} == {
        (followed.field, stages[0]["observation_id"], trace)
    }
    steps = {r["asset"] for r in of_observation if r["event"] == "step_start"}
    assert set(OBSERVATION_STAGES) <= steps


def test_lines_are_in_dagsters_log_view(followed):
    """What asset code logs is stored with the run in Dagster, ids included."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(followed.home)) as instance:
        run_id = next(
            r["run_id"] for r in followed.records if r["event"] == "stage_done" and r["asset"] == "flux_scale"
        )
        messages = [entry.user_message for entry in instance.all_logs(run_id) if not entry.is_dagster_event]
    [message] = [text for text in messages if text.startswith("stage_done") and "asset=flux_scale" in text]
    assert f"trace_id={trace_of(followed.field).trace_hex}" in message


def test_one_observation_is_one_connected_trace(followed):
    """The trace has one first span, from the arrival on; every other span hangs under a span of the trace."""
    identity = trace_of(followed.field)
    spans = [span for span in followed.spans if span.trace_id == identity.trace_id.to_bytes(16)]
    known = {span.span_id for span in spans}
    [first] = [span for span in spans if not span.parent_span_id]
    assert (first.name, first.span_id) == ("observation", identity.span_id.to_bytes(8))
    assert all(span.parent_span_id in known for span in spans if span is not first)
    assert first.start_time_unix_nano <= first.end_time_unix_nano
    stages = [span.name for span in spans if span.parent_span_id == first.span_id]
    assert sorted(stages) == sorted(OBSERVATION_STAGES + DAY_STAGES)
    names = Counter(span.name for span in spans)
    parts = {"io.read_raw_files", "io.read_measurement_set", "solve", "grid", "measure", "load", "search"}
    assert parts <= set(names)
    last = max(spans, key=lambda span: span.end_time_unix_nano)
    assert last.name == "ese_candidates"
    processes = {
        attribute.value.string_value
        for span in spans
        for attribute in span.attributes
        if attribute.key == "contimg.run_id"
    }
    assert len(processes) == 2


def test_stages_know_what_they_cost(followed):
    """Processor time, memory and bytes of each stage are in the store, and are plausible."""
    from contimg_resources.products import Products
    from contimg_resources.store.connection import Store

    store = Store(Products(followed.home.parent / "data").store_path)
    rows = store.query(
        "SELECT asset, duration_s, cpu_s, peak_memory_mb, read_bytes, written_bytes FROM stage_timing WHERE partition_key = ?",
        [followed.field],
    )
    assert set(rows["asset"]) == set(OBSERVATION_STAGES)
    assert rows["cpu_s"].is_between(0.001, 600).all()
    assert rows["peak_memory_mb"].is_between(50, 8000).all()
    raw_bytes = store.query("SELECT raw_bytes FROM observation WHERE partition_key = ?", [followed.field]).item()
    made = rows.row(by_predicate=pl.col("asset") == "measurement_set", named=True)
    assert made["read_bytes"] > raw_bytes
    assert made["written_bytes"] > 0.2 * raw_bytes


def test_a_dead_collector_is_not_waited_for(tmp_path, project_root):
    """With nobody at the endpoint a stage with spans is as fast as without, and the process ends within the limit."""
    script = """
import time
from contimg_resources.tracing import configure_tracing, finish_tracing, span, stage_span, trace_of
configure_tracing("http://127.0.0.1:9")
with stage_span("warm_up", trace_of("2026-01-10T20:00"), {}):
    pass  # loads the exporter
began = time.perf_counter()
for _ in range(100):
    with stage_span("stage", trace_of("2026-01-10T20:00"), {}):
        with span("part"):
            pass
print(time.perf_counter() - began)
began = time.perf_counter()
finish_tracing()
print(time.perf_counter() - began)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=dict(os.environ) | {"PYTHONPATH": str(project_root)},
    )
    spans_s, finish_s = map(float, done.stdout.split())
    assert spans_s < 1.0
    assert finish_s < 4.0


def test_a_collector_that_hangs_is_not_waited_for(monkeypatch):
    """A collector that takes the connection and never answers does not keep a process from ending."""
    import socket

    from contimg_resources import tracing

    with socket.create_server(("127.0.0.1", 0)) as listener:
        tracing.configure_tracing(f"http://127.0.0.1:{listener.getsockname()[1]}")
        try:
            with tracing.stage_span("stage", tracing.trace_of("2026-01-10T20:00"), {}), tracing.span("part"):
                pass
            began = time.perf_counter()
            tracing.finish_tracing(timeout_s=1.0)
            assert time.perf_counter() - began < 2.0
        finally:
            tracing.configure_tracing(None)
