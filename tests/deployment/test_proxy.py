"""Through a real nginx with the shipped configuration: who may look, who may write, and that nobody else can by any way."""

import json
import shutil
import subprocess
from contextlib import ExitStack, closing

import httpx
import pytest
import websockets.sync.client
from graphql import build_client_schema, get_introspection_query
from pydantic import SecretStr
from websockets.exceptions import InvalidStatus

from contimg_resources.folder_watch import FolderWatch
from contimg_resources.products import Products
from contimg_resources.settings import Settings
from contimg_resources.settings_agent import AgentSettings
from contimg_resources.store.connection import Store
from contimg_resources.transfers.delivery import IngestHost
from contimg_resources.transfers.journal import Journal
from contimg_resources.transfers.shipping import Agent
from tests.deployment.mutations import mutation_requests
from tests.deployment.proxied import PROJECT, free_port, proxied_platform, proxied_receiver, shipped_configuration
from tests.portal.conftest import CANDIDATE, fill_store
from tests.portal.serving import serve
from tests.transfers.stations import TOKEN as AGENTS_TOKEN
from tests.transfers.stations import await_receiver, environment, hashes_of, running, write_files

pytestmark = pytest.mark.timeout(900)  # everything is started within the first test

TOKEN = "a-token-of-some-length"  # noqa: S105 (of this test only)
REVIEW = {"kind": "confirm", "by": "alice", "reason": "a lens"}
GRAPHQL = "/dagster/graphql"
WINDOW = "2026-01-25T20:30"
EFFECTIVE = [
    "launchRun",
    "launchMultipleRuns",
    "launchPartitionBackfill",
    "cancelPartitionBackfill",
    "startSchedule",
    "resetSchedule",
    "setSensorCursor",
    "stopSensor",
    "resetSensor",
    "reportRunlessAssetEvents",
    "reportAssetCheckEvaluations",
    "wipeAssets",
    "setAutoMaterializePaused",
    "setConcurrencyLimit",
    "deleteConcurrencyLimit",
    "terminateRun",
    "deleteRun",
]
"""Mutations whose requests in these tests change the instance when an operator sends them, in an order in which they do."""
REPORTS = ("report_asset_materialization", "report_asset_observation", "report_asset_check")
MUTATION = "mutation { setAutoMaterializePaused(paused: true) }"


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """Everything running, with a portal that can write and a candidate to be reviewed."""
    folder = tmp_path_factory.mktemp("proxied")
    (folder / "data").mkdir()
    fill_store(Store(Products(folder / "data").store_path))
    with ExitStack() as stack:
        portal = stack.enter_context(serve(Settings(data=folder / "data", portal_token=TOKEN)))
        yield stack.enter_context(proxied_platform(folder, portal.base_url.port))


@pytest.fixture(scope="module")
def operator(platform):
    """Client of somebody who may write."""
    with platform.client("alice") as client:
        yield client


@pytest.fixture(scope="module")
def guest(platform):
    """Client of somebody who may look."""
    with platform.client("greta") as client:
        yield client


@pytest.fixture(scope="module")
def anonymous(platform):
    """Client of anybody."""
    with platform.client() as client:
        yield client


@pytest.fixture(scope="module")
def mutations(operator):
    """A request for every mutation of Dagster's schema, about a run, a backfill and instigators that exist."""
    schema = build_client_schema(_ask(operator, get_introspection_query())["data"])
    repository = {"repositoryName": "__repository__", "repositoryLocationName": "contimg"}
    asset = {"path": ["measurement_set"]}
    known = repository | {
        "sensorName": "alerts",
        "scheduleName": "daily_science",
        "jobName": "observation_job",
        "cursor": None,
        "assetKey": asset,
        "backfillParams": {"assetSelection": [asset], "partitionNames": [WINDOW]},
        "name": "alerts",
    }
    requests = mutation_requests(schema, known)
    run = _ask(operator, **_returning(requests["launchRun"], "... on LaunchRunSuccess { run { runId } }"))
    backfill = _ask(
        operator, **_returning(requests["launchPartitionBackfill"], "... on LaunchBackfillSuccess { backfillId }")
    )
    selector = "sensorOrError(sensorSelector: $selector) { ... on Sensor { sensorState { id } } }"
    sensor = _ask(
        operator,
        f"query($selector: SensorSelector!) {{ {selector} }}",
        {"selector": repository | {"sensorName": "alerts"}},
    )
    run_id = run["data"]["launchRun"]["run"]["runId"]
    known |= {
        "runId": run_id,
        "runIds": [run_id],
        "backfillId": backfill["data"]["launchPartitionBackfill"]["backfillId"],
        "id": sensor["data"]["sensorOrError"]["sensorState"]["id"],
    }
    return mutation_requests(schema, known)


def _ask(client, query, variables=None):
    return client.post(GRAPHQL, json={"query": query, "variables": variables or {}}).json()


def _returning(request, fields):
    return request | {"query": request["query"].replace("__typename", fields)}


def _portal_routes(client):
    """(method, path) of every route of the portal's OpenAPI document, with its parameters filled."""
    paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        filled = path.replace("{candidate_id}", CANDIDATE).replace("{source_id}", "J0001+1600")
        filled = "/".join("x" if part.startswith("{") else part for part in filled.split("/"))
        yield from ((method.upper(), filled) for method in operations)


def _socket(platform, user=None, origin=None):
    headers = {"Authorization": platform.basic(user)} if user else {}
    return websockets.sync.client.connect(
        f"wss://localhost:{platform.port}{GRAPHQL}",
        ssl=platform.tls,
        subprotocols=["graphql-ws"],
        additional_headers=headers,
        origin=origin,
        proxy=None,
        open_timeout=60,
    )


def _over_socket(socket, query):
    socket.send(json.dumps({"type": "connection_init"}))
    assert json.loads(socket.recv(timeout=60))["type"] == "connection_ack"
    socket.send(json.dumps({"type": "start", "id": "1", "payload": {"query": query, "variables": {}}}))
    return json.loads(socket.recv(timeout=60))


def test_the_shipped_configuration_is_valid(tmp_path):
    """``nginx -t`` accepts the configuration with the files that the documentation says how to make."""
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed: apt-get install nginx")
    ports = {"tls": 443, "plain": 80, "dagster": 3000, "guests": 3001, "portal": 8000, "ingest": 8100}
    wrapper = shipped_configuration(tmp_path, ports)
    done = subprocess.run([nginx, "-t", "-p", tmp_path, "-c", wrapper], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_anybody_sees_that_it_lives_and_nothing_else(platform, anonymous, operator):
    """Without a password there is one answer; every route of portal and Dagster, and a websocket, ask for one."""
    assert anonymous.get("/health/live").json() == {"status": "alive"}
    assert anonymous.post("/health/live").status_code == 403
    pages = ["/", "/sources", "/health", "/health/ready", "/metrics", "/static/portal.css", "/openapi.json", "/docs"]
    pages += [
        "/dagster/",
        "/dagster/server_info",
        "/dagster/runs",
        GRAPHQL,
        "/dagster/logs/x.out",
        "/health/live/",
        "/x",
    ]
    asked = [("GET", page) for page in pages] + list(_portal_routes(operator))
    asked += [("POST", f"/dagster/{report}/measurement_set") for report in REPORTS]
    asked += [("POST", GRAPHQL), ("POST", "//dagster//graphql"), ("POST", "/health/live/../../dagster/graphql")]
    answers = {(method, path): anonymous.request(method, path).status_code for method, path in asked}
    answers.pop(("GET", "/health/live"))
    assert {key: code for key, code in answers.items() if code not in {401, 403}} == {}
    assert answers["POST", GRAPHQL] == 401
    with pytest.raises(InvalidStatus, match="401"):
        _socket(platform).close()


def test_a_wrong_password_is_nobody(platform):
    """An operator's name without the password opens nothing, nor do names in headers that the proxy itself sets."""
    with platform.client("alice", "guess") as thief:
        assert thief.get("/").status_code == 401
        assert thief.post(GRAPHQL, json={"query": MUTATION}).status_code == 401
    with platform.client() as liar:
        assert liar.get("/", headers={"X-Remote-User": "alice", "X-Forwarded-User": "alice"}).status_code == 401


def test_everything_goes_over_tls(platform):
    """The plain port sends everybody to TLS, whatever is asked."""
    answer = httpx.post(f"http://127.0.0.1:{platform.plain_port}{GRAPHQL}", json={"query": MUTATION})
    assert (answer.status_code, answer.headers["location"]) == (308, f"https://127.0.0.1{GRAPHQL}")


def test_guests_look_at_everything(platform, guest):
    """Pages of the portal and of Dagster, queries and the websocket answer guests."""
    for page in ("/", "/sources", "/candidates", "/api/v1/candidates", "/metrics", "/dagster/", "/dagster/runs"):
        assert guest.get(page).status_code == 200, page
    assert _ask(guest, "{ runsOrError { __typename } }")["data"] == {"runsOrError": {"__typename": "Runs"}}
    assert guest.get("/dagster/notebook?path=x.ipynb&repoLocName=contimg").status_code == 404
    with _socket(platform, "greta") as socket:
        assert socket.subprotocol == "graphql-ws"


@pytest.mark.parametrize("user", ["greta", "ALICE"])
def test_guests_change_nothing_in_dagster(platform, mutations, user):
    """No mutation of the schema, sent in any of the ways Dagster listens to, changes the instance for a guest."""
    before = platform.instance_state()
    with platform.client(user) as client:
        done = {name: client.post(GRAPHQL, json=request).text for name, request in mutations.items()}
        refused = [name for name in EFFECTIVE if "Unauthorized" in done[name]]
        for report in REPORTS:
            assert client.post(f"/dagster/{report}/measurement_set", json={}).status_code == 403
            assert client.put(f"/dagster/{report}/measurement_set").status_code == 403
        for method in ("GET", "POST"):
            assert client.request(method, GRAPHQL, params={"query": MUTATION}).status_code == 403
        for path in ("/dagster//graphql", "//dagster/graphql", "/dagster/%67raphql", "/x/../dagster/graphql"):
            client.post(path, json={"query": MUTATION})
            client.get(path, params={"query": MUTATION})
        client.post(GRAPHQL, content=MUTATION, headers={"Content-Type": "application/graphql"})
    with _socket(platform, user) as socket:
        assert _over_socket(socket, MUTATION)["type"] == "error"
    assert platform.instance_state() == before
    # These two say it in words of their own: a result for each run, and a failure to terminate.
    assert set(EFFECTIVE) - set(refused) == {"launchMultipleRuns", "terminateRun"}
    assert "TerminateRunFailure" in done["terminateRun"]


def test_guests_change_nothing_in_the_portal(guest):
    """Every route of the OpenAPI document that is not a GET is refused, even with the portal's own token."""
    written = [(method, path) for method, path in _portal_routes(guest) if method != "GET"]
    assert len(written) >= 8
    for method, path in written:
        for headers in ({}, {"X-Contimg-Token": TOKEN}):
            assert guest.request(method, path, json=REVIEW, headers=headers).status_code == 403, path
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert guest.request(method, "/api/v1/candidates").status_code == 403
    assert guest.get(f"/api/v1/candidates/{CANDIDATE}").json()["status"] == "detected"


def test_other_sites_cannot_make_an_operators_browser_write(platform, operator):
    """Requests that another site's page causes carry the password, and are refused where they could write."""
    before = platform.instance_state()
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert operator.post(GRAPHQL, json={"query": MUTATION}, headers=headers).status_code == 403
        assert operator.post(f"/dagster/{REPORTS[0]}/measurement_set", headers=headers).status_code == 403
        assert operator.get(GRAPHQL, params={"query": MUTATION}, headers=headers).status_code == 403
        assert operator.post("/api/v1/jobs", json={}, headers=headers).status_code == 403
        assert operator.get("/sources", headers=headers).status_code == 200
    # A link or a picture has no headers that tell: what is asked in the address alone is not done for anybody.
    assert operator.get(GRAPHQL, params={"query": MUTATION}).status_code == 403
    with pytest.raises(InvalidStatus, match="403"):
        _socket(platform, "alice", origin="https://evil.example").close()
    own = {"Origin": f"https://localhost:{platform.port}", "Sec-Fetch-Site": "same-origin"}
    assert operator.post(GRAPHQL, json={"query": "{ version }"}, headers=own).status_code == 200
    assert platform.instance_state() == before


def test_operators_write_in_the_portal_with_its_token(operator):
    """The proxy lets an operator through; the portal still wants its own token, and then writes."""
    address = f"/api/v1/candidates/{CANDIDATE}/review"
    assert operator.post(address, json=REVIEW).status_code == 401
    assert operator.post(address, json=REVIEW, headers={"X-Contimg-Token": "wrong-token"}).status_code == 403
    assert operator.post(address, json=REVIEW, headers={"X-Contimg-Token": TOKEN}).status_code == 200
    assert operator.get(f"/api/v1/candidates/{CANDIDATE}").json()["status"] == "confirmed"


def test_operators_change_dagster(platform, operator, mutations):
    """The very requests that guests sent in vain change the instance when an operator sends them."""
    state, without_effect = platform.instance_state(), []
    for name in EFFECTIVE:
        answer = operator.post(GRAPHQL, json=mutations[name]).text
        after = platform.instance_state()
        if after == state:
            without_effect.append((name, answer))
        state = after
    assert without_effect == []
    for report in REPORTS:
        fields = {"check_name": "antennas_are_alive", "passed": True} if report.endswith("check") else {}
        assert operator.post(f"/dagster/{report}/measurement_set", json=fields).status_code == 200
        assert platform.instance_state() != state
        state = platform.instance_state()


@pytest.fixture
def receiver(tmp_path):
    """`contimg agent receive` as a process, and nginx before it."""
    data, port = tmp_path / "ingest", free_port()
    with running(["agent", "receive", "--port", str(port)], environment(data), tmp_path / "receiver.log"):
        await_receiver(port)
        (tmp_path / "nginx").mkdir()
        with proxied_receiver(tmp_path / "nginx", port) as proxied:
            yield proxied, data / "incoming"


def test_agents_ship_files_through_the_proxy(receiver, tmp_path, monkeypatch):
    """A file of several pieces and a heartbeat arrive whole; a wrong token, none, or a person's password do not open the way."""
    proxied, incoming = receiver
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nginx" / "tls.crt"))
    sent = write_files(tmp_path / "node01", 1, 20_000_000)
    for token, n_waiting in (("a-wrong-token", 1), (AGENTS_TOKEN, 0)):
        url = f"https://localhost:{proxied.port}"
        settings = AgentSettings(url=url, token=SecretStr(token), host="node01", retry_max_s=0.1)
        with closing(Journal(tmp_path / "journal.sqlite")) as journal, IngestHost(settings) as host:
            agent = Agent(settings, FolderWatch(tmp_path / "node01", settle_s=0.0), journal, host)
            assert agent.run_once() == n_waiting
        assert hashes_of(incoming) == ({} if n_waiting else sent)
    # nginx warns when it puts what it forwards onto its own disk first.
    assert "temporary file" not in (tmp_path / "nginx" / "error.log").read_text()


def test_the_way_of_agents_is_theirs_only(receiver):
    """Without the agents' token nothing is sent on; no piece is too large; nothing but their paths is there."""
    proxied, incoming = receiver
    path, piece = "/agents/v1/files/2026-02-20T06:01:00_sb00.hdf5", b"x" * 1_000_000
    with proxied.client() as anybody, proxied.client("alice") as operator:
        for method in ("GET", "PUT"):
            assert anybody.request(method, path, content=piece).status_code == 401
            assert operator.request(method, path, content=piece).status_code == 401
        assert anybody.put(path, content=piece, headers={"Authorization": "Bearer a-guess"}).status_code == 403
        known = {"Authorization": f"Bearer {AGENTS_TOKEN}"}
        assert anybody.put(path, content=piece, headers=known).json()["reason_code"] == "corrupted_request"
        assert anybody.put(path, content=b"x" * 70_000_000, headers=known).status_code == 413
        assert anybody.delete(path, headers=known).status_code == 403
        for other in ("/agents/v1/../../health/live/x", "/agents/", "/agents/v1/../../openapi.json", "/openapi.json"):
            assert anybody.get(other, headers=known).status_code == 401
    assert hashes_of(incoming) == {}


def test_containers_have_the_same_upstreams():
    """The file for containers names the upstreams that the configuration asks, as does the one for a single host."""
    names = {}
    for file in ("upstreams.conf", "upstreams-containers.conf"):
        lines = (PROJECT / "deploy" / "nginx" / file).read_text().splitlines()
        names[file] = [line.split()[1] for line in lines if line.startswith("upstream")]
    assert names["upstreams.conf"] == names["upstreams-containers.conf"]
