"""The receiving side without HTTP: what is refused, what is resumed, what a kill between two steps leaves."""

import hashlib

import pytest

from contimg_resources.errors import DiskFullError, ResourceError, TransferError
from contimg_resources.transfers.description import Chunk, Transfer
from contimg_resources.transfers.receiving import Receiver

NAME = "2026-02-20T06:01:00_sb03.hdf5"
CONTENT = bytes(range(256)) * 40


def transfer(content=CONTENT, *, name=NAME, host="node03"):
    """Description of a file with this content."""
    digest = hashlib.sha256(content).hexdigest()
    return Transfer(name=name, host=host, bytes=len(content), modified_us=1_700_000_000_000_000, sha256=digest)


def send(receiver, described, content, offset=0, length=None):
    """Hand over one piece."""
    piece = content[offset : offset + (length or len(content))]
    return receiver.take(Chunk.of(described, offset, piece), piece)


@pytest.fixture
def receiver(tmp_path):
    """A receiver of an empty folder."""
    made = Receiver(tmp_path / "incoming", minimum_free_gb=0.0)
    yield made
    made.close()


def test_pieces_become_a_file_with_its_own_time_once_all_are_there(receiver):
    """Nothing is visible before the last piece; then the file is there with content and time of the original."""
    described = transfer()
    assert receiver.progress(described).state == "absent"
    assert send(receiver, described, CONTENT, 0, 4000).offset == 4000
    assert not (receiver.incoming / NAME).exists()
    assert receiver.progress(described).state == "partial"
    assert send(receiver, described, CONTENT, 4000).state == "confirmed"
    path = receiver.incoming / NAME
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mtime == 1_700_000_000.0


def test_piece_that_does_not_follow_changes_nothing(receiver):
    """A piece sent twice, or beyond what is there, is answered with where to go on."""
    described = transfer()
    send(receiver, described, CONTENT, 0, 4000)
    assert send(receiver, described, CONTENT, 0, 4000).offset == 4000
    assert send(receiver, described, CONTENT, 8000, 100).offset == 4000
    assert send(receiver, described, CONTENT, 4000).state == "confirmed"
    assert (receiver.incoming / NAME).read_bytes() == CONTENT


def test_damaged_piece_is_refused_before_it_is_written(receiver):
    """A flipped bit in a piece leaves the part as it was."""
    described = transfer()
    send(receiver, described, CONTENT, 0, 4000)
    damaged = bytes([CONTENT[4000] ^ 1]) + CONTENT[4001:]
    with pytest.raises(TransferError, match="damaged on the way") as caught:
        receiver.take(Chunk.of(described, 4000, CONTENT[4000:]), damaged)
    assert (caught.value.reason_code, caught.value.transient) == ("corrupted_chunk", True)
    assert receiver.progress(described).offset == 4000


def test_file_damaged_on_the_disk_is_begun_anew(receiver):
    """A part that the disk changed fails the last check, is removed, and never visible; sent anew it arrives."""
    described = transfer()
    send(receiver, described, CONTENT, 0, 4000)
    (part,) = (receiver.incoming / ".receiving").glob("*.part")
    part.write_bytes(b"\0" * 4000)
    with pytest.raises(TransferError, match="arrived damaged"):
        send(receiver, described, CONTENT, 4000)
    assert not (receiver.incoming / NAME).exists()
    assert receiver.progress(described).state == "absent"
    assert send(receiver, described, CONTENT).state == "confirmed"


def test_kill_between_last_piece_and_its_place_is_made_good(receiver):
    """A part that is complete when the receiver starts is verified and placed at the next question."""
    described = transfer()
    send(receiver, described, CONTENT, 0, 4000)
    (part,) = (receiver.incoming / ".receiving").glob("*.part")
    part.write_bytes(CONTENT)
    assert receiver.progress(described).state == "confirmed"
    assert (receiver.incoming / NAME).read_bytes() == CONTENT


def test_file_is_not_taken_twice(receiver):
    """What was received is confirmed again, also when it was archived away, and also when nothing remembers it but the folder."""
    described = transfer()
    send(receiver, described, CONTENT)
    inode = (receiver.incoming / NAME).stat().st_ino
    (receiver.incoming / ".receiving" / "received.sqlite").unlink()
    assert send(receiver, described, CONTENT).state == "confirmed"
    assert (receiver.incoming / NAME).stat().st_ino == inode
    (receiver.incoming / NAME).unlink()
    assert receiver.progress(described).state == "confirmed"
    assert not (receiver.incoming / NAME).exists()


def test_same_name_of_another_host_does_not_replace_a_file(receiver):
    """Two hosts with other content under one name: the second is refused for good; the first host may correct its own."""
    send(receiver, transfer(), CONTENT)
    other = CONTENT[::-1]
    with pytest.raises(TransferError, match="node03") as caught:
        receiver.progress(transfer(other, host="node04"))
    assert (caught.value.reason_code, caught.value.transient) == ("name_taken", False)
    assert (receiver.incoming / NAME).read_bytes() == CONTENT
    assert send(receiver, transfer(other), other).state == "confirmed"
    assert (receiver.incoming / NAME).read_bytes() == other


@pytest.mark.parametrize("name", ["2026-02-20T06:01:00_sb03_incomplete.hdf5", "notes.txt", "..", "a.hdf5"])
def test_only_raw_files_are_received(receiver, name):
    """Other names, among them those that lead elsewhere, are refused for good."""
    with pytest.raises(TransferError, match="Only raw files"):
        receiver.progress(transfer(name=name))


def test_file_that_does_not_fit_is_refused_before_it_is_begun(tmp_path):
    """With a reserve larger than the disk nothing is written, and the message says what is needed."""
    full = Receiver(tmp_path / "incoming", minimum_free_gb=1e6)
    with pytest.raises(DiskFullError, match="GB free"):
        send(full, transfer(), CONTENT)
    assert not list((tmp_path / "incoming" / ".receiving").glob("*.part"))
    full.close()


def test_second_receiver_of_a_folder_is_refused(receiver):
    """Two processes that append to the same part would mix it."""
    with pytest.raises(ResourceError, match="Another process receives"):
        Receiver(receiver.incoming, minimum_free_gb=0.0)


def test_empty_file_arrives_too(receiver):
    """A file of no bytes is a finding for the arrivals, not for the transport."""
    described = transfer(b"")
    assert send(receiver, described, b"").state == "confirmed"
    assert (receiver.incoming / NAME).read_bytes() == b""
