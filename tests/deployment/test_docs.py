"""The documentation is built without a warning, needs no network, and has an entry for every alert and every reason code."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from contimg_resources.alerts.rules import load_rules
from contimg_resources.settings import Settings, environment_name
from contimg_resources.store.schema import TABLES

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("contimg_assets", "contimg_resources", "contimg_sensors", "contimg_portal")
_NOT_CODES = {"", "reason_code", "letter_is_"}
"""Words that stand where a reason code would, and are none."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr
    return folder


class _Loaded(HTMLParser):
    """Addresses of what a page loads by itself."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in {"script", "img", "iframe"} or (tag == "link" and given.get("rel") != "canonical"):
            self.addresses.append(given.get("src") or given.get("href") or "")


def test_pages_load_nothing_from_elsewhere(site):
    """No page of the site loads a script, a style, a font or a picture from another host."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= 18
    outside = []
    for page in pages:
        parser = _Loaded()
        parser.feed(page.read_text())
        outside += [(page.name, address) for address in parser.addresses if re.match(r"(https?:)?//", address)]
    assert outside == []
    styles = "\n".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", styles)


def test_the_reference_holds_what_the_code_has(site):
    """Generated pages name every asset of the contract, every table with its columns, every setting."""
    pages = {path.stem: path.read_text() for path in (site / "reference").glob("*.html")}
    for asset in ("raw_visibilities", "continuum_image", "ese_candidates", "quality_report"):
        assert f'id="{asset}"' in pages["assets"]
    for table in TABLES.values():
        assert all(f"<code>{name}</code>" in pages["tables"] for name in (*table.column_names,))
    assert all(environment_name(name) in pages["settings"] for name in Settings.model_fields if name not in _sections())
    assert "/api/v1/candidates/{candidate_id}/review" in pages["api"]
    assert "contimg dead-letters retry" in pages["commands"]
    assert "<code>--engine</code>" in pages["commands"]
    assert "contimg_metrics_source_up" in pages["metrics"]
    assert "daemon_heartbeat_age_s" in pages["metrics"]


def _sections():
    return {name for name, field in Settings.model_fields.items() if hasattr(field.default, "model_fields_set")}


def _first_cells(page):
    lines = (PROJECT / "docs" / page).read_text().splitlines()
    return {
        code for line in lines if line.startswith("| `") for code in re.findall(r"`([a-z0-9_]+)`", line.split("|")[1])
    }


def test_every_alert_has_an_entry():
    """Each rule that holds by default has a row that says when it fires and what to do."""
    rules = {rule.name for rule in load_rules()}
    assert len(rules) > 20
    assert rules - _first_cells("alerts.md") == set()


def _texts(node):
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def _codes_in(tree):
    """Reason codes that a module names: arguments, attributes of errors, keys of answers, verdicts and decisions."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="reason_code", value=ast.Constant() | ast.IfExp() as value):
                yield from _texts(value)
            case ast.Assign(targets=[ast.Name(id="reason_code")], value=ast.Constant() as value):
                yield from _texts(value)
            case ast.AnnAssign(target=ast.Name(id="reason_code"), value=ast.Constant() as value):
                yield from _texts(value)
            case ast.Call(func=ast.Name(id="Verdict"), args=[ast.Constant() as value, *_]):
                yield from _texts(value)
            case ast.Call(func=ast.Name(id="ArrivalDecision"), args=[_, ast.Constant() as value, *_]):
                yield from _texts(value)
            case ast.Dict(keys=keys, values=values):
                named = zip(keys, values, strict=True)
                yield from (
                    value.value
                    for key, value in named
                    if isinstance(key, ast.Constant) and key.value == "reason_code" and isinstance(value, ast.Constant)
                )


def test_every_reason_code_has_an_entry():
    """Each reason code that the code can give has a row that says what it means and what to do."""
    trees = [ast.parse(path.read_text()) for name in PACKAGES for path in (PROJECT / name).rglob("*.py")]
    codes = {code for tree in trees for code in _codes_in(tree) if code is not None} - _NOT_CODES
    assert len(codes) > 90
    assert codes >= {"disk_full", "out_of_memory", "missing_subbands", "timeout", "too_many_requests"} - {
        "out_of_memory"
    }
    assert codes - _first_cells("reason-codes.md") == set()


def test_hosts_are_installed_with_what_their_instance_imports():
    """The pages for several hosts name targets that exist, and the one that installs the extras of deploy/dagster.yaml."""
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    for name in ("deployment.md", "deployment-cluster.md"):
        text = (PROJECT / "docs" / name).read_text()
        named = set(re.findall(r"[`(&^\n ]make (?:-C \S+ )?(install[a-z-]*)", text))
        assert named == {"install-cluster"}
        assert named <= targets
    [recipe] = re.findall(r"^install-cluster:.*\n\t(.*)", makefile, re.MULTILINE)
    assert recipe == "scripts/install.sh cluster,storage"
