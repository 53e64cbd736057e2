"""The configuration of rsyslog that ships the journal: its own check, and a real rsyslogd that sends lines as they are written."""

from __future__ import annotations

import json
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from contimg_resources.observability import configure_logging
from contimg_resources.settings import Settings
from tests.transfers.stations import free_port, wait_until

_PATIENCE_S = 150.0
"""A collector that was away is tried again every 30 s."""
_JOURNAL = 'module(load="imjournal" StateFile="imjournal-contimg.state" IgnorePreviousMessages="on")'
_UNIT = "contimg-worker@one.service"


@contextmanager
def _shipping(program: str, project_root: Path, folder: Path, port: int) -> Iterator[None]:
    """A rsyslogd with the configuration that is shipped, which sends what is in the file `stdout` to a port of loopback."""
    text = (project_root / "deploy" / "rsyslog" / "contimg.conf").read_text()
    # No journal here: a file takes its place, and what the journal would say of the unit is said.
    lines_of_file = f'input(type="imfile" file="{folder / "stdout"}" tag="contimg")\nset $!_SYSTEMD_UNIT = "{_UNIT}";'
    instead = f'global(workDirectory="{folder}")\nmodule(load="imfile")\n{lines_of_file}'
    address = f'target="127.0.0.1" port="{port}"'
    for before, after in ((_JOURNAL, instead), ('target="logs.example.org" port="6514"', address)):
        assert text.count(before) == 1
        text = text.replace(before, after)
    (folder / "contimg.conf").write_text(text)
    command = [program, "-n", "-f", str(folder / "contimg.conf"), "-i", str(folder / "pid")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def _arriving(collector: socket.socket, n_lines: int) -> list[dict[str, Any]]:
    """What comes over the first connection."""
    connection, _ = collector.accept()
    connection.settimeout(_PATIENCE_S)
    with connection, connection.makefile() as lines:
        return [json.loads(lines.readline()) for _ in range(n_lines)]


@pytest.fixture(scope="module")
def rsyslogd() -> str:
    """The program."""
    found = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin")
    if found is None:
        pytest.skip("rsyslogd is not installed: apt-get install rsyslog")
    return found


def test_the_configuration_is_valid(rsyslogd: str, project_root: Path, tmp_path: Path) -> None:
    """The program accepts it as it is shipped; with a misspelt parameter it does not."""
    shipped = project_root / "deploy" / "rsyslog" / "contimg.conf"
    wrong = tmp_path / "wrong.conf"
    wrong.write_text(shipped.read_text().replace("queue.filename", "queue.fillname"))
    for file, code in ((shipped, 0), (wrong, 1)):
        done = subprocess.run([rsyslogd, "-N1", "-f", str(file)], check=False, capture_output=True, text=True)
        assert done.returncode == code, done.stderr


def test_lines_arrive_as_they_were_written(
    rsyslogd: str, project_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A JSON line of our logger arrives with all its fields, a line of text as `msg`, both with host and unit; other units stay."""
    import structlog

    configure_logging(Settings(log_format="json", data=tmp_path))
    capsys.readouterr()
    structlog.get_logger("contimg_resources.test").warning("store_busy", waited_s=1.5, path="/a b")
    ours = json.loads(capsys.readouterr().err)
    log = tmp_path / "stdout"
    log.write_text(json.dumps(ours) + "\nplain text of Dagster\n")
    with socket.create_server(("127.0.0.1", 0)) as collector:
        collector.settimeout(_PATIENCE_S)
        with _shipping(rsyslogd, project_root, tmp_path, collector.getsockname()[1]):
            arrived = _arriving(collector, 2)
    hosts = {line.pop("host") for line in arrived}
    assert len(hosts) == 1
    assert [line.pop("unit") for line in arrived] == [_UNIT, _UNIT]
    assert arrived == [ours, {"msg": "plain text of Dagster"}]


def _gathered(collector: socket.socket, n_different: int) -> list[dict[str, Any]]:
    """Whole lines of all connections, until so many different ones are there."""
    lines: list[dict[str, Any]] = []
    rests: dict[socket.socket, bytes] = {}
    until = time.monotonic() + _PATIENCE_S
    with selectors.DefaultSelector() as selector:
        selector.register(collector, selectors.EVENT_READ)
        while len({line["number"] for line in lines}) < n_different:
            assert time.monotonic() < until, f"{len(lines)} lines came"
            for key, _ in selector.select(1.0):
                if key.fileobj is collector:
                    connection, _ = collector.accept()
                    rests[connection] = b""
                    selector.register(connection, selectors.EVENT_READ)
                    continue
                connection = cast("socket.socket", key.fileobj)
                if not (block := connection.recv(65_536)):
                    selector.unregister(connection)
                *whole, rests[connection] = (rests[connection] + block).split(b"\n")
                lines += [json.loads(line) for line in whole]
    for connection in rests:
        connection.close()
    return lines


@pytest.mark.timeout(400)
def test_lines_wait_on_disk_while_the_collector_is_away(rsyslogd: str, project_root: Path, tmp_path: Path) -> None:
    """Nobody listens while lines are logged, and rsyslog is restarted meanwhile: when the collector comes all arrive, whole."""
    n_lines = 500
    port = free_port()
    with (tmp_path / "stdout").open("w") as stream:
        stream.writelines(json.dumps({"event": "before", "number": i}) + "\n" for i in range(n_lines))
    with _shipping(rsyslogd, project_root, tmp_path, port):
        wait_until(lambda: any(tmp_path.glob("imfile-state*")))
        time.sleep(2.0)
    kept = [path for path in tmp_path.glob("contimg.*") if path.suffix != ".conf"]
    assert "contimg.qi" in {path.name for path in kept}
    assert sum(path.stat().st_size for path in kept) > n_lines * len('{"event":"before"}')
    with _shipping(rsyslogd, project_root, tmp_path, port):
        with (tmp_path / "stdout").open("a") as stream:
            stream.writelines(json.dumps({"event": "after", "number": n_lines + i}) + "\n" for i in range(n_lines))
        time.sleep(3.0)
        with socket.create_server(("127.0.0.1", port)) as collector:
            arrived = _gathered(collector, 2 * n_lines)
    assert {line["number"] for line in arrived} == set(range(2 * n_lines))
    assert len(arrived) <= 2 * n_lines + 10  # the line under way when a connection ends may come again
    assert {line["unit"] for line in arrived} == {_UNIT}
