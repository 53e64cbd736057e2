"""The ingest host's side of a transfer: pieces gathered outside the watched pattern, verified, placed whole or not at all.

What belongs here: files and refusals. HTTP is ``contimg_portal.ingest_api``; the sender is ``shipping``.

Method. Pieces are appended to ``<incoming>/.receiving/<host>~<name>.<bytes>.<hash>.part``: the folder is on the disk of
the incoming one, and its name is no raw file's. Each piece is hashed before it is written; the whole is synced, hashed
again from the disk, and renamed. How far a transfer is, is the length of its part, so that nothing has to be remembered
through a crash. What was received is remembered (SQLite) after the file itself is gone to an archive: it is not taken twice.
A file is only begun when it fits beside those that are under way. Rejected: reserving with fallocate, which hides how far
a part is; checking only pieces, which misses what the disk did to them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import structlog

from contimg_resources.errors import DiskFullError, ResourceError, TransferError
from contimg_resources.full_disks import says_disk_is_full
from contimg_resources.products import file_hash, sync_names
from contimg_resources.transfers.description import Chunk, Progress, Transfer
from contimg_resources.uvh5_header import parse_file_name

FOLDER = ".receiving"
_LOG = structlog.get_logger(__name__)
_FORGOTTEN_AFTER_S = 7 * 86_400.0
"""A part that nobody goes on with is removed."""
_REMEMBERED_S = 90 * 86_400.0
"""How long it is known what was received."""
_LOCKS = 64
"""Names share them by hash."""
_SCHEMA = """CREATE TABLE IF NOT EXISTS received (
    name TEXT PRIMARY KEY, host TEXT NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, received_s REAL NOT NULL
)"""


class Receiver:
    """Takes files for one incoming folder; a second process that receives for it is refused. Safe for threads.

    Parameters
    ----------
    incoming : Path
    minimum_free_gb : float
        Free space (GB) that must remain.

    Raises
    ------
    ResourceError
        If another process receives for this folder.
    """

    def __init__(self, incoming: Path, *, minimum_free_gb: float) -> None:
        self.incoming = incoming
        self.minimum_free_bytes = minimum_free_gb * 1e9
        self._folder = incoming / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._guard = (self._folder / "receiver.lock").open("w")
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._guard.close()
            raise ResourceError(
                f"Another process receives files for {incoming}",
                remedy="Stop it first: `contimg agent receive` runs once.",
            ) from error
        self._clean()

    def close(self) -> None:
        """Let another process receive."""
        self._guard.close()

    def progress(self, transfer: Transfer) -> Progress:
        """How far a transfer is.

        Raises
        ------
        TransferError
            If the file is not wanted: ``not_a_raw_file``, ``name_taken``.
        """
        with self._of_file(transfer.name):
            return self._progress(transfer)

    def take(self, chunk: Chunk, content: bytes) -> Progress:
        """Add a piece; with the last one the file is verified and placed.

        Parameters
        ----------
        chunk : Chunk
        content : bytes

        Returns
        -------
        Progress
            Where to go on, which is elsewhere when the piece does not follow what is there: then nothing was added.

        Raises
        ------
        TransferError
            ``corrupted_chunk``, ``corrupted_file`` (to be sent anew), ``name_taken``, ``not_a_raw_file``.
        DiskFullError
            If it does not fit; what was there before remains.
        """
        with self._of_file(chunk.name):
            before = self._progress(chunk)
            is_beyond = chunk.offset + len(content) > chunk.bytes
            if before.state == "confirmed" or before.offset != chunk.offset:
                return before
            if is_beyond or hashlib.sha256(content).hexdigest() != chunk.chunk_sha256:
                raise TransferError(
                    f"A piece of {chunk.name} was damaged on the way", got=f"another checksum at byte {chunk.offset}",
                    expected=chunk.chunk_sha256[:16], remedy="It is sent again.", reason_code="corrupted_chunk", transient=True,
                )  # fmt: skip
            part = self._part(chunk)
            if chunk.offset == 0:
                self._begin(chunk)
            _append(part, chunk.offset, content)
            if part.stat().st_size == chunk.bytes:
                self._finish(chunk, part)
            return self._progress(chunk)

    @contextmanager
    def _of_file(self, name: str) -> Iterator[None]:
        """One at a time for a name that is a raw file's."""
        if parse_file_name(name) is None:
            raise TransferError(
                "Only raw files are received", got=repr(name), expected="YYYY-MM-DDTHH:MM:SS_sbNN.hdf5",
                remedy="Let the agent watch the folder of the correlator's files.", reason_code="not_a_raw_file",
            )  # fmt: skip
        with self._locks[zlib.crc32(name.encode()) % len(self._locks)]:
            yield

    def _progress(self, transfer: Transfer) -> Progress:
        if self._is_received(transfer):
            return Progress(state="confirmed", offset=transfer.bytes, sha256=transfer.sha256)
        part = self._part(transfer)
        if not part.exists():
            return Progress(state="absent", offset=0, sha256=transfer.sha256)
        n_bytes = part.stat().st_size
        if n_bytes >= transfer.bytes:
            # Killed between the last piece and its place: verified now as it would have been then.
            self._finish(transfer, part)
            return Progress(state="confirmed", offset=transfer.bytes, sha256=transfer.sha256)
        return Progress(state="partial", offset=n_bytes, sha256=transfer.sha256)

    def _is_received(self, transfer: Transfer) -> bool:
        path = self.incoming / transfer.name
        host, sha256 = self._recorded(transfer.name)
        if sha256 == transfer.sha256:
            return True
        if not path.exists():
            return False
        if path.stat().st_size == transfer.bytes and file_hash(path) == transfer.sha256:
            self._record(transfer)  # placed, and killed before it was remembered
            return True
        if host != transfer.host:
            raise TransferError(
                f"{transfer.name} is there already with other content", got=f"a file of {transfer.host}",
                expected=f"nothing beside the file of {host or 'an unknown origin'}",
                remedy="Look which host is right; remove the wrong file from the incoming folder, or rename it at its host.",
                reason_code="name_taken",
            )  # fmt: skip
        return False

    def _begin(self, transfer: Transfer) -> None:
        """Make room for a file, or refuse it."""
        for older in self._folder.glob(f"{transfer.host}~{transfer.name}.*.part"):
            older.unlink()
        promised = sum(max(0, _whole_bytes(part) - part.stat().st_size) for part in self._folder.glob("*.part"))
        free_bytes = shutil.disk_usage(self._folder).free
        needed = transfer.bytes + promised + self.minimum_free_bytes
        if free_bytes < needed:
            raise DiskFullError(
                f"The disk of {self.incoming} is too full for {transfer.name}", got=f"{free_bytes / 1e9:.2f} GB free",
                expected=f"{needed / 1e9:.2f} GB ({promised / 1e9:.2f} promised to files under way, "
                f"{self.minimum_free_bytes / 1e9:.2f} CONTIMG_MINIMUM_FREE_GB)",
                remedy="Free space; the agent keeps the file and tries again.",
            )  # fmt: skip

    def _finish(self, transfer: Transfer, part: Path) -> None:
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        if part.stat().st_size != transfer.bytes or file_hash(part) != transfer.sha256:
            part.unlink()
            raise TransferError(
                f"{transfer.name} arrived damaged", got="another checksum", expected=transfer.sha256[:16],
                remedy="It is sent anew from its start.", reason_code="corrupted_file", transient=True,
            )  # fmt: skip
        os.utime(part, ns=(transfer.modified_us * 1000, transfer.modified_us * 1000))
        part.replace(self.incoming / transfer.name)
        sync_names(self.incoming)
        self._record(transfer)
        _LOG.info("file_received", name=transfer.name, host=transfer.host, bytes=transfer.bytes)

    def _part(self, transfer: Transfer) -> Path:
        return self._folder / f"{transfer.host}~{transfer.name}.{transfer.bytes}.{transfer.sha256[:16]}.part"

    def _recorded(self, name: str) -> tuple[str | None, str | None]:
        """Host and hash of what was received under a name."""
        with self._journal() as journal:
            row = journal.execute("SELECT host, sha256 FROM received WHERE name = ?", [name]).fetchone()
        return row or (None, None)

    def _record(self, transfer: Transfer) -> None:
        row = [transfer.name, transfer.host, transfer.bytes, transfer.sha256, time.time()]
        with self._journal() as journal:
            journal.execute("INSERT OR REPLACE INTO received VALUES (?, ?, ?, ?, ?)", row)

    @contextmanager
    def _journal(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(
                sqlite3.connect(self._folder / "received.sqlite", timeout=30, isolation_level=None)
            ) as journal:
                journal.execute(_SCHEMA)
                yield journal
        except sqlite3.OperationalError as error:
            raise DiskFullError(
                f"What was received cannot be noted in {self._folder}", got=str(error), expected="a writable disk",
                remedy="Free space; the agent asks again.",
            ) from error  # fmt: skip

    def _clean(self) -> None:
        """Drop what nobody asked for in a long time."""
        now_s = time.time()
        for part in self._folder.glob("*.part"):
            if now_s - part.stat().st_mtime > _FORGOTTEN_AFTER_S:
                part.unlink()
        with self._journal() as journal:
            journal.execute("DELETE FROM received WHERE received_s < ?", [now_s - _REMEMBERED_S])


def _whole_bytes(part: Path) -> int:
    """Length that a part will have, from its name."""
    return int(part.name.split(".")[-3])


def _append(part: Path, offset: int, content: bytes) -> None:
    """Write a piece at the end of a part; on a full disk the part is as it was before."""
    try:
        with part.open("ab", buffering=0) as stream:
            view = memoryview(content)
            while view:
                view = view[stream.write(view) :]
    except OSError as error:
        if not says_disk_is_full(error):
            raise
        os.truncate(part, offset)
        if offset == 0:
            part.unlink()
        raise DiskFullError(
            f"The disk filled up while {part.name} was received", got=errno.errorcode.get(error.errno or 0, "?"),
            expected="space for it", remedy="Free space; the agent keeps the file and tries again.",
        ) from error  # fmt: skip
