"""A PostgreSQL server for the tests of this folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

POSTGRES_BIN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture
def postgres() -> Iterator[str]:
    """A PostgreSQL server of its own on a free loopback port; its address."""
    if not POSTGRES_BIN:
        pytest.skip("PostgreSQL is not installed: apt-get install --no-install-recommends postgresql")
    programs = POSTGRES_BIN[-1]
    folder = Path(tempfile.mkdtemp(prefix="contimg-pg."))  # pytest's own folders are closed to other users
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    owner = [*user, str(programs / "initdb"), "-D", str(data), "-U", "contimg", "-A", "trust", "-N", "--locale=C"]
    subprocess.run(owner, check=True, capture_output=True, cwd="/")
    options = f"-p {port} -h 127.0.0.1 -k {folder} -F"
    control = [*user, str(programs / "pg_ctl"), "-D", str(data), "-w", "-t", "120"]
    subprocess.run(
        [*control, "-l", str(folder / "log"), "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, cwd="/"
    )
    try:
        yield f"postgresql://contimg@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/")
        shutil.rmtree(folder)
