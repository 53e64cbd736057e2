"""The configuration of rsyslog that ships the journal: its own check, and a real rsyslogd that sends lines as they are written."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from contimg_resources.observability import configure_logging
from contimg_resources.settings import Settings

_PATIENCE_S = 60.0
_JOURNAL = 'module(load="imjournal" StateFile="imjournal-contimg.state" IgnorePreviousMessages="on")'
_UNIT = "contimg-worker@one.service"


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
        text = (project_root / "deploy" / "rsyslog" / "contimg.conf").read_text()
        # No journal here: a file takes its place, and what the journal would say of the unit is said.
        lines_of_file = f'input(type="imfile" file="{log}" tag="contimg")\nset $!_SYSTEMD_UNIT = "{_UNIT}";'
        instead = f'global(workDirectory="{tmp_path}")\nmodule(load="imfile")\n{lines_of_file}'
        address = f'target="127.0.0.1" port="{collector.getsockname()[1]}"'
        for before, after in ((_JOURNAL, instead), ('target="logs.example.org" port="6514"', address)):
            assert text.count(before) == 1
            text = text.replace(before, after)
        (tmp_path / "contimg.conf").write_text(text)
        command = [rsyslogd, "-n", "-f", str(tmp_path / "contimg.conf"), "-i", str(tmp_path / "pid")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            connection, _ = collector.accept()
            connection.settimeout(_PATIENCE_S)
            with connection, connection.makefile() as lines:
                arrived = [json.loads(lines.readline()) for _ in range(2)]
        finally:
            process.terminate()
            process.wait(20)
    hosts = {line.pop("host") for line in arrived}
    assert len(hosts) == 1
    assert [line.pop("unit") for line in arrived] == [_UNIT, _UNIT]
    assert arrived == [ours, {"msg": "plain text of Dagster"}]
