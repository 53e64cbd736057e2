"""Agent and receiver on two hosts (network namespaces) whose link goes down in the middle of a file: packets just vanish."""

import subprocess
import time
from contextlib import ExitStack, contextmanager

import pytest

from tests.transfers.stations import (
    Witness,
    environment,
    hashes_of,
    parts_bytes,
    running,
    visible,
    wait_until,
    write_files,
)

N_BYTES = 40_000_000
CUT_S = 15.0
"""A minute was measured with the same function on 2026-11-28 (docs/deployment-storage.md)."""
EDGE, INGEST = "contimg-edge", "contimg-ingest"
ADDRESS = {EDGE: "10.213.7.1", INGEST: "10.213.7.2"}
PORT = 8100


def ip(*arguments):
    """Run ``ip``."""
    return subprocess.run(["/sbin/ip", *arguments], capture_output=True, text=True, check=False)


@contextmanager
def two_hosts():
    """Two network namespaces with one link between them; skipped where they may not be made."""
    with ExitStack() as undo:
        for name in (EDGE, INGEST):
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(
                    f"network namespaces cannot be made here: {made.stderr.strip()}; run as root, apt-get install iproute2"
                )
            undo.callback(ip, "netns", "delete", name)
        linked = ip("link", "add", "edge0", "netns", EDGE, "type", "veth", "peer", "name", "ingest0", "netns", INGEST)
        if linked.returncode:
            pytest.skip(f"no link between namespaces here: {linked.stderr.strip()}")
        for name, device in ((EDGE, "edge0"), (INGEST, "ingest0")):
            assert ip("-n", name, "address", "add", f"{ADDRESS[name]}/24", "dev", device).returncode == 0
            assert ip("-n", name, "link", "set", device, "up").returncode == 0
        yield


def within(name):
    """Prefix of a command that runs in a namespace."""
    return ("/sbin/ip", "netns", "exec", name)


def arrive_across_a_partition(folder, cut_s):
    """Ship files, take the link down in the middle of one for so long while more are written; return seconds until all arrived."""
    incoming, out = folder / "incoming", folder / "out"
    incoming.mkdir()
    hashes = write_files(out, 2, N_BYTES)
    receiver = environment(folder / "ingest", CONTIMG_INCOMING=str(incoming))
    agent = environment(
        folder / "edge", CONTIMG_INCOMING=str(out), CONTIMG_AGENT__URL=f"http://{ADDRESS[INGEST]}:{PORT}"
    )
    with (
        two_hosts(),
        Witness(incoming, N_BYTES) as witness,
        running(
            ["agent", "receive", "--host", ADDRESS[INGEST], "--port", str(PORT)],
            receiver,
            folder / "receiver.log",
            inside=within(INGEST),
        ),
        running(["agent"], agent, folder / "agent.log", inside=within(EDGE)),
    ):
        wait_until(lambda: parts_bytes(incoming) > 0)
        assert ip("-n", INGEST, "link", "set", "ingest0", "down").returncode == 0
        time.sleep(0.5)
        arrived, kept = len(visible(incoming)), parts_bytes(incoming)
        hashes |= write_files(out, 2, N_BYTES, seed=2)
        time.sleep(cut_s)
        assert (len(visible(incoming)), parts_bytes(incoming)) == (arrived, kept)
        assert arrived < len(hashes)
        assert "unreachable" in (folder / "agent.log").read_text()
        assert ip("-n", INGEST, "link", "set", "ingest0", "up").returncode == 0
        mended_s = time.monotonic()
        wait_until(lambda: visible(incoming) == set(hashes))
        elapsed_s = time.monotonic() - mended_s
    assert hashes_of(incoming) == hashes
    assert witness.half == []
    assert witness.arrivals == dict.fromkeys(hashes, 1)
    return elapsed_s


def test_files_arrive_once_and_whole_across_a_partition(tmp_path):
    """Nothing arrives while the link is down; then every file does, once and identical."""
    arrive_across_a_partition(tmp_path, CUT_S)
