"""The search for secrets finds what it is there for, and is content with the deployment files."""

import subprocess
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
SECRETS = PROJECT / "deploy" / "secrets"
"""Where compose looks for secrets: they stay out of git and out of the image's build."""
PLANTED = {
    "private key": "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIE\n",
    "password in an address": "url = 'postgresql://contimg:" + "battery-staple@host/database'\n",
    "cloud key": "key = 'AKIA" + "IOSFODNN7EXAMPLE'\n",
}


def _search(*files):
    command = [PROJECT / "scripts" / "find_secrets.sh", *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_planted_secret_is_found(tmp_path, planted):
    """Keys and passwords are found by their form, and the file is named."""
    (tmp_path / "planted.py").write_text(planted)
    found = _search(tmp_path / "planted.py")
    assert found.returncode == 1
    assert "planted.py" in found.stdout


def test_what_is_deployed_holds_no_secret():
    """No file that is deployed or read holds a secret."""
    files = [
        path
        for folder in ("deploy", "docs", "scripts")
        for path in (PROJECT / folder).rglob("*")
        if path.is_file() and SECRETS not in path.parents
    ]
    found = _search(*files)
    assert (found.returncode, found.stdout) == (0, "")


def test_secrets_of_compose_stay_out_of_git():
    """Git ignores every file that compose reads as a secret in its default folder."""
    described = yaml.safe_load((PROJECT / "deploy" / "compose.yaml").read_text())["secrets"]
    files = [secret["file"].replace("${CONTIMG_SECRETS:-./secrets}", str(SECRETS)) for secret in described.values()]
    command = ["git", "-C", str(PROJECT), "check-ignore", "--no-index", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert set(done.stdout.splitlines()) == set(files), done.stderr
    assert "deploy/secrets" in (PROJECT / ".dockerignore").read_text().splitlines()
