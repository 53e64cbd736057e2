"""Agent and ingest service in one process over real HTTP: deletion, several hosts and sites, heartbeats, who is let in."""

import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from contimg_portal.ingest_api import create_receiver_app
from contimg_resources.errors import ResourceError, SettingsError
from contimg_resources.folder_watch import FolderWatch
from contimg_resources.settings import Settings
from contimg_resources.settings_agent import AgentSettings
from contimg_resources.store.connection import Store
from contimg_resources.transfers.delivery import BEATS_PATH, FILES_PATH, IngestHost
from contimg_resources.transfers.journal import Journal, read_journal
from contimg_resources.transfers.shipping import Agent
from tests.transfers.stations import TOKEN, free_port, hashes_of, visible, write_files


@contextmanager
def ingest(tmp_path, port=0, **more):
    """The ingest service of a site and another one; gives its URL."""
    settings = Settings(
        data=tmp_path / "ingest",
        sites={"south": str(tmp_path / "south")},
        minimum_free_gb=0.0,
        agent=AgentSettings(token=SecretStr(TOKEN)),
        **more,
    )
    server = uvicorn.Server(uvicorn.Config(create_receiver_app(settings), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def agent_of(folder, url, **more):
    """An agent of a folder, with its memory beside it."""
    given = {"host": folder.name, "chunk_mb": 0.1, "retry_max_s": 0.1, **more}
    settings = AgentSettings(url=url, token=SecretStr(TOKEN), **given)
    journal = Journal(folder.parent / f"{folder.name}.sqlite")
    try:
        with IngestHost(settings) as host:
            yield Agent(settings, FolderWatch(folder, settle_s=0.0), journal, host)
    finally:
        journal.close()


def journal_of(folder):
    """States and rows in the memory of a folder's agent."""
    counts, rows = read_journal(folder.parent / f"{folder.name}.sqlite", limit=10)
    return {state: number for state, (number, _) in counts.items()}, rows


def test_nothing_is_deleted_before_it_is_confirmed_and_only_when_told_to(tmp_path):
    """With the receiver away all stay; confirmed ones stay too unless a limit is set, then the oldest confirmed go."""
    folder, port = tmp_path / "node01", free_port()
    hashes = write_files(folder, 3, 250_000)
    url = f"http://127.0.0.1:{port}"
    with agent_of(folder, url, keep_confirmed_gb=0.0) as agent:
        assert agent.run_once() == 3
        assert hashes_of(folder) == hashes
    with ingest(tmp_path, port):
        with agent_of(folder, url) as agent:
            assert agent.run_once() == 0
        assert hashes_of(folder) == hashes == hashes_of(tmp_path / "ingest" / "incoming")
        with agent_of(folder, url, keep_confirmed_gb=300_000 / 1e9) as agent:
            agent.take_in()
            assert visible(folder) == {max(hashes)}
        (folder / max(hashes)).write_bytes(b"written again: not what was confirmed")
        with agent_of(folder, url, keep_confirmed_gb=0.0) as agent:
            agent.take_in()
            assert visible(folder) == {max(hashes)}


def test_file_written_again_is_shipped_again(tmp_path):
    """The same host corrects a file: the receiver has the newer content."""
    folder = tmp_path / "node01"
    (name,) = write_files(folder, 1, 1000)
    with ingest(tmp_path) as url, agent_of(folder, url) as agent:
        assert agent.run_once() == 0
        (folder / name).write_bytes(b"corrected")
        assert agent.run_once() == 0
    assert (tmp_path / "ingest" / "incoming" / name).read_bytes() == b"corrected"


def test_file_that_vanishes_before_it_is_confirmed_is_reported(tmp_path):
    """It is kept as lost in the memory, and the queue goes on."""
    folder = tmp_path / "node01"
    hashes = write_files(folder, 2, 1000)
    with agent_of(folder, f"http://127.0.0.1:{free_port()}") as agent:
        agent.take_in()
        (folder / min(hashes)).unlink()
    with ingest(tmp_path) as url, agent_of(folder, url) as agent:
        assert agent.run_once() == 0
    assert journal_of(folder)[0] == {"confirmed": 1, "lost": 1}


def test_several_hosts_and_sites_are_kept_apart(tmp_path):
    """Two hosts ship into one folder, a third into another site's; a name taken by one host is refused to the other.

    The store of the installation is another host's; a site's is in its data folder.
    """
    stores = {"ingest": tmp_path / "store-host" / "contimg.duckdb", "south": tmp_path / "south" / "contimg.duckdb"}
    stores["ingest"].parent.mkdir()
    folders = {name: tmp_path / name for name in ("node01", "node02", "node03")}
    first = write_files(folders["node01"], 3, 1000, seed=1)
    second = write_files(folders["node02"], 2, 1000, seed=2)
    write_files(folders["node03"], 3, 2000, seed=1)
    (folders["node02"] / min(first)).write_bytes(b"another file of that name")
    with ingest(tmp_path, store=stores["ingest"]) as url:
        for name, site in {"node01": "", "node02": "", "node03": "south"}.items():
            with agent_of(folders[name], url, site=site) as agent:
                assert agent.run_once() == 0
        with agent_of(folders["node01"], url, site="nowhere") as agent:
            write_files(folders["node01"], 1, 10, seed=9)
            assert agent.run_once() == 1
    assert hashes_of(tmp_path / "ingest" / "incoming") == first | second
    assert hashes_of(tmp_path / "south" / "incoming") == hashes_of(folders["node03"])
    counts, rows = journal_of(folders["node02"])
    assert counts == {"confirmed": 2, "refused": 1}
    assert [(row["name"], row["reason"]) for row in rows] == [(min(first), "name_taken")]
    beats = {
        site: Store(path).query("SELECT name, kind, host, detail FROM heartbeat").rows()
        for site, path in stores.items()
    }
    assert [row[:3] for row in sorted(beats["ingest"])] == [
        ("agent:node01", "agent", "node01"),
        ("agent:node02", "agent", "node02"),
    ]
    assert [row[:3] for row in beats["south"]] == [("agent:south:node03", "agent", "node03")]
    assert '"n_refused":1' in sorted(beats["ingest"])[1][3]


def test_only_agents_are_let_in(tmp_path):
    """No token, a wrong one, a damaged description and a piece that is no raw file's are refused, and nothing is written."""
    with ingest(tmp_path) as url, httpx.Client(base_url=url) as client:
        name = f"{FILES_PATH}/2026-02-20T06:01:00_sb00.hdf5"
        authorized = {"Authorization": f"Bearer {TOKEN}"}
        assert client.put(name, content=b"x").status_code == 401
        assert client.get(name, headers={"Authorization": "Bearer wrong-token"}).status_code == 403
        assert client.post(BEATS_PATH, json={}).status_code == 401
        refused = client.get(
            name, headers=authorized, params={"host": "a", "bytes": 1, "modified_us": 0, "sha256": "0" * 64}
        )
        assert (refused.status_code, refused.json()["reason_code"]) == (422, "corrupted_request")
        assert client.put(f"{FILES_PATH}/..%2F..%2Fevil", headers=authorized, content=b"x").status_code in {404, 422}
    assert visible(tmp_path / "ingest" / "incoming") == set()


def test_service_without_a_token_does_not_start(tmp_path):
    """It would take files from anybody."""
    with pytest.raises(SettingsError, match="CONTIMG_AGENT__TOKEN"):
        create_receiver_app(Settings(data=tmp_path))


def test_second_agent_with_the_same_memory_is_refused(tmp_path):
    """Two agents of one folder would ship everything twice."""
    journal = Journal(tmp_path / "agent.sqlite")
    with pytest.raises(ResourceError, match="Another agent"):
        Journal(tmp_path / "agent.sqlite")
    journal.close()
    Journal(tmp_path / "agent.sqlite").close()
