"""The edge agent: watches the folder of the host that writes the files, and hands each finished one over.

What belongs here: the order of things and the patience. Requests are ``delivery``, the memory is ``journal``, when a file
is finished is ``folder_watch``.

Method. One file at a time, oldest name first, in pieces; the receiver says where to go on, so a cut line, a restart of
either side or a kill repeats one piece at most. While the line is down the folder is watched on: the files themselves are
the spool, no copies are made, so the agent needs no disk but its journal's. Waiting between tries is tenacity's, doubling
with jitter. A file that arrived damaged goes to the end of the queue. Heartbeats have a thread of their own. When this host's own
disk is full, what cannot be noted in the journal is done again later: nothing of it is lost.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_exponential_jitter

from contimg_resources.errors import DiskFullError, TransferError
from contimg_resources.folder_watch import FileState, FolderWatch
from contimg_resources.products import file_hash
from contimg_resources.settings_agent import AgentSettings
from contimg_resources.transfers.delivery import IngestHost
from contimg_resources.transfers.description import AgentBeat, Chunk, Progress, Transfer
from contimg_resources.transfers.journal import Journal, JournalFile

Answer = TypeVar("Answer")
_LOG = structlog.get_logger(__name__)
_FIRST_WAIT_S = 0.5
_GRACE_S = 5.0
"""A heartbeat under way is waited for so long at the end."""
_TRIES_OF_ONE_PASS = 4
"""Of a request, when the agent is to send what is there and end."""


class Agent:
    """One host's agent. `run` is for one thread; `stop` may be set from anywhere.

    Parameters
    ----------
    settings : AgentSettings
    watch : FolderWatch
        Of the folder where the files appear.
    journal : Journal
    host : IngestHost
    """

    def __init__(self, settings: AgentSettings, watch: FolderWatch, journal: Journal, host: IngestHost) -> None:
        self.settings = settings
        self.stop = threading.Event()
        self._watch = watch
        self._journal = journal
        self._host = host
        self._is_one_pass = False
        self._counts = journal.counts()

    def run(self) -> None:
        """Ship files until `stop` is set."""
        with self._beating():
            while not self.stop.is_set():
                try:
                    self.take_in()
                    is_idle = not self._ship_next()
                except DiskFullError as error:
                    _say_full(error)
                    is_idle = True
                if is_idle:
                    self.stop.wait(self.settings.poll_s)

    def run_once(self) -> int:
        """Ship what lies there now; return how many files still wait."""
        self._is_one_pass = True
        self.take_in()
        for _ in range(len(self._journal.waiting_names())):
            if not self._ship_next():
                break
        self.take_in()
        self._say_alive()
        return len(self._journal.waiting_names())

    def take_in(self) -> None:
        """Look at the folder: note finished files, those that are gone, and delete what need not be kept."""
        now_s = time.time()
        if self._watch.is_due(now_s):
            self._watch.remember(self._journal.states(), self._journal.waiting_names())
        seen = self._watch.look(now_s)
        found = {path.name: self._watch.state(path) for path in seen.quiet}
        self._journal.add(found)
        self._watch.acknowledge(found, [], now_s)
        for path in seen.gone:
            if self._journal.forget(path.name):
                _LOG.error("file_lost", name=path.name, reason="gone before it was confirmed")
        self._watch.forget(seen.gone)
        self._delete_surplus()
        self._counts = self._journal.counts()

    def _ship_next(self) -> bool:
        """Hand over the next file; False when there is none or the line is down."""
        file = self._journal.next_waiting()
        if file is None:
            return False
        path = self._watch.folder / file.name
        try:
            self._ship(file, path)
        except FileNotFoundError:
            self._watch.forget([path])
            if self._journal.forget(file.name):
                _LOG.error("file_lost", name=file.name, reason="gone before it was confirmed")
        except TransferError as error:
            if error.reason_code == "corrupted_file":
                self._journal.note_failure(file.name, error.reason_code)
            elif error.transient:
                return False  # told to stop, or one pass only
            else:
                self._journal.refuse(file.name, error.reason_code)
            _LOG.error("file_not_taken", name=file.name, reason_code=error.reason_code, error=str(error))
        return True

    def _ship(self, file: JournalFile, path: Path) -> None:
        began_s = time.monotonic()
        transfer = self._described(file, path)
        progress = self._patiently(lambda: self._host.progress(transfer))
        while progress.state != "confirmed":
            progress = self._send_piece(transfer, progress, path)
        self._journal.confirm(file.name, transfer.sha256)
        elapsed_s = time.monotonic() - began_s
        _LOG.info("file_confirmed", name=file.name, bytes=file.bytes, elapsed_s=round(elapsed_s, 3))

    def _send_piece(self, transfer: Transfer, progress: Progress, path: Path) -> Progress:
        with path.open("rb") as stream:
            stream.seek(progress.offset)
            content = stream.read(min(int(self.settings.chunk_mb * 1e6), transfer.bytes - progress.offset))
        if not content and transfer.bytes:
            raise TransferError(
                f"{path} became shorter while it was sent", got=f"{progress.offset} bytes", expected=f"{transfer.bytes}",
                remedy="It is sent anew when nobody writes to it.", reason_code="corrupted_file", transient=True,
            )  # fmt: skip
        chunk = Chunk.of(transfer, progress.offset, content)
        return self._patiently(lambda: self._host.send(chunk, content))

    def _described(self, file: JournalFile, path: Path) -> Transfer:
        """Description of a file, its hash from the journal if it was computed before."""
        found = path.stat()
        n_bytes, modified_us, sha256 = found.st_size, found.st_mtime_ns // 1000, file.sha256
        if (n_bytes, modified_us) != (file.bytes, file.modified_us):
            self._journal.add({file.name: FileState(n_bytes, modified_us)})
            sha256 = None
        if sha256 is None:
            sha256 = file_hash(path)
            self._journal.note_hash(file.name, sha256)
        return Transfer(
            name=file.name,
            site=self.settings.site,
            host=self.settings.host,
            bytes=n_bytes,
            modified_us=modified_us,
            sha256=sha256,
        )

    def _patiently(self, call: Callable[[], Answer]) -> Answer:
        """Call until it works, the agent is stopped, or the file itself is refused."""
        patient: Any = stop_when_event_set(self.stop)
        if self._is_one_pass:
            patient = patient | stop_after_attempt(_TRIES_OF_ONE_PASS)
        return Retrying(
            retry=retry_if_exception(_is_worth_a_try),
            wait=wait_exponential_jitter(
                multiplier=_FIRST_WAIT_S, max=self.settings.retry_max_s, jitter=min(1.0, self.settings.retry_max_s)
            ),
            stop=patient,
            sleep=sleep_using_event(self.stop),
            before_sleep=self._while_waiting,
            reraise=True,
        )(call)

    def _while_waiting(self, state: RetryCallState) -> None:
        """Say why there is a wait, and go on watching the folder."""
        error = state.outcome.exception() if state.outcome else None
        reason_code = getattr(error, "reason_code", "unreachable")
        _LOG.warning("transfer_waits", attempt=state.attempt_number, reason_code=reason_code, error=str(error))
        try:
            self.take_in()
        except DiskFullError as full:
            _say_full(full)

    def _delete_surplus(self) -> None:
        """Delete confirmed files beyond what may be kept; one that changed since is not the confirmed one."""
        if self.settings.keep_confirmed_gb is None:
            return
        for file in self._journal.confirmed_beyond(self.settings.keep_confirmed_gb * 1e9):
            path = self._watch.folder / file.name
            if path.exists() and not _is_unchanged(file, path):
                continue
            path.unlink(missing_ok=True)
            self._watch.forget([path])
            self._journal.forget(file.name)
            _LOG.info("confirmed_file_deleted", name=file.name, bytes=file.bytes)

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Give signs of life from a thread of its own until the block ends."""
        ended = threading.Event()

        def beat_on() -> None:
            while not ended.is_set():
                self._say_alive()
                ended.wait(self.settings.beat_interval_s)

        thread = threading.Thread(target=beat_on, name="agent-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(_GRACE_S)

    def _say_alive(self) -> None:
        counts = self._counts
        n_waiting, waiting_bytes = counts.get("waiting", (0, 0))
        beat = AgentBeat(
            site=self.settings.site,
            host=self.settings.host,
            interval_s=self.settings.beat_interval_s,
            n_waiting=n_waiting,
            waiting_bytes=waiting_bytes,
            n_confirmed=counts.get("confirmed", (0, 0))[0],
            n_refused=counts.get("refused", (0, 0))[0],
            n_lost=counts.get("lost", (0, 0))[0],
            free_gb=_free_gb(self._watch.folder),
        )
        try:
            self._host.beat(beat)
        except TransferError as error:
            _LOG.warning("heartbeat_not_sent", reason_code=error.reason_code, error=str(error))


def _say_full(error: DiskFullError) -> None:
    """Log that our own disk is full: what could not be noted is found at the next look, and the receiver knows what it has."""
    _LOG.error("journal_waits", reason_code=error.reason_code, error=str(error))


def _is_worth_a_try(error: BaseException) -> bool:
    return isinstance(error, TransferError) and error.transient and error.reason_code != "corrupted_file"


def _is_unchanged(file: JournalFile, path: Path) -> bool:
    found = path.stat()
    return (found.st_size, found.st_mtime_ns // 1000) == (file.bytes, file.modified_us)


def _free_gb(folder: Path) -> float:
    """Free space of a folder's disk, GB; 0 when it is not there."""
    try:
        return shutil.disk_usage(folder).free / 1e9
    except FileNotFoundError:
        return 0.0
