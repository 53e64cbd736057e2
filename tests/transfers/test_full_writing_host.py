"""The disk of the host that writes the files fills up, under the agent's journal too: nothing is lost, and it goes on by itself."""

import sqlite3
import subprocess
import time
from contextlib import closing, contextmanager

import pytest

from tests.transfers.stations import (
    Witness,
    await_receiver,
    environment,
    free_port,
    hashes_of,
    running,
    visible,
    wait_until,
    write_files,
)

N_BYTES = 1_000_000


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 12 MB of the writing host, with its files and its journal."""
    edge = tmp_path / "edge"
    edge.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(edge)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: run as root with CAP_SYS_ADMIN")
    yield edge
    subprocess.run(["/bin/umount", "-l", str(edge)], check=True)


def fill(disk):
    """Take all space that is left, to the last byte."""
    with (disk / "other.bin").open("ab", buffering=0) as stream:
        for n_bytes in (1 << 20, 1 << 12, 1):
            try:
                while stream.write(bytes(n_bytes)) == n_bytes:
                    pass
            except OSError:
                continue


def edge_environment(disk, port, **more):
    """Environment of an agent whose files and journal lie on that disk."""
    url = f"http://127.0.0.1:{port}"
    return environment(disk / "data", CONTIMG_INCOMING=str(disk / "out"), CONTIMG_AGENT__URL=url, **more)


@contextmanager
def receiving(tmp_path, incoming, port):
    """A receiver on another disk, and what it shows."""
    incoming.mkdir()
    env = environment(tmp_path / "ingest", CONTIMG_INCOMING=str(incoming))
    with (
        Witness(incoming, N_BYTES) as witness,
        running(["agent", "receive", "--port", str(port)], env, tmp_path / "receiver.log"),
    ):
        await_receiver(port)
        yield witness


def forget_reserve(disk):
    """Let a journal have no free pages, as after thousands of files."""
    with closing(sqlite3.connect(disk / "data" / "agent" / "journal.sqlite")) as connection:
        connection.execute("VACUUM")


def test_full_disk_of_the_writing_host_delays_and_loses_nothing(tmp_path, small_disk):
    """No byte and no page of the journal is free: the agent says so and goes on; with space again all files arrive once, whole."""
    incoming, port, log = tmp_path / "incoming", free_port(), tmp_path / "agent.log"
    env = edge_environment(small_disk, port)
    hashes = write_files(small_disk / "out", 2, N_BYTES)
    with receiving(tmp_path, incoming, port) as witness:
        with running(["agent"], env, log):
            wait_until(lambda: visible(incoming) == set(hashes))
        forget_reserve(small_disk)
        (small_disk / "data" / "agent" / "journal.sqlite-journal").unlink(missing_ok=True)
        hashes |= write_files(small_disk / "out", 4, N_BYTES, seed=2)
        fill(small_disk)
        with running(["agent"], env, log) as process:
            wait_until(lambda: "journal_waits" in log.read_text() or process.poll() is not None)
            time.sleep(1.0)
            assert process.poll() is None, log.read_text()[-3000:]
            assert "reason_code=disk_full" in log.read_text()
            assert hashes_of(small_disk / "out") == hashes
            (small_disk / "other.bin").unlink()
            hashes |= write_files(small_disk / "out", 1, N_BYTES, seed=3)
            wait_until(lambda: visible(incoming) == set(hashes))
        assert hashes_of(incoming) == hashes == hashes_of(small_disk / "out")
        assert witness.half == []
        assert witness.arrivals == dict.fromkeys(hashes, 1)


def test_disk_filled_by_raw_files_is_freed_of_the_confirmed_ones(tmp_path, small_disk):
    """No byte is free while the receiver is away; when it is back files are sent, noted, and may go: the disk empties by itself."""
    incoming, port, log = tmp_path / "incoming", free_port(), tmp_path / "agent.log"
    env = edge_environment(small_disk, port, CONTIMG_AGENT__KEEP_CONFIRMED_GB="0.003")
    hashes = write_files(small_disk / "out", 2, N_BYTES)
    with running(["agent"], env, log) as process:
        wait_until(lambda: "transfer_waits" in log.read_text())
        hashes |= write_files(small_disk / "out", 6, N_BYTES, seed=2)
        fill(small_disk)
        time.sleep(2.0)
        with receiving(tmp_path, incoming, port) as witness:
            wait_until(lambda: visible(incoming) == set(hashes))
            wait_until(lambda: len(visible(small_disk / "out")) == 3)
            assert process.poll() is None
    assert hashes_of(incoming) == hashes
    assert witness.half == []
    assert witness.arrivals == dict.fromkeys(hashes, 1)


def test_journal_that_cannot_be_made_is_a_full_disk(tmp_path, small_disk):
    """An agent that starts for the first time on a full disk ends with the reason; started again with space it ships."""
    incoming, port, log = tmp_path / "incoming", free_port(), tmp_path / "agent.log"
    env = edge_environment(small_disk, port)
    hashes = write_files(small_disk / "out", 2, N_BYTES)
    fill(small_disk)
    with running(["agent"], env, log) as process:
        assert process.wait(100) != 0
    assert "The disk filled up" in log.read_text()
    assert "Traceback" not in log.read_text()
    (small_disk / "other.bin").unlink()
    with receiving(tmp_path, incoming, port), running(["agent"], env, log):
        wait_until(lambda: visible(incoming) == set(hashes))
    assert hashes_of(incoming) == hashes
