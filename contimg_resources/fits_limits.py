"""What a FITS file may not do to whoever opens it: promise pixels or tables that do not fit into memory, or grow without end.

What belongs here: the headers of all units, walked through before anything else is read, and limits on what they promise. What an
image must be is judged in ``fits_images``, a table in ``reference_catalogues``. A few kilobytes can promise terabytes: by axes, by
gzip (a thousand to one), by compressed tiles (axes in the header, almost nothing in the file).

Method. One pass in blocks of 2880 bytes, through gzip too, in constant memory; data are skipped, but tiles of gzip are unpacked as
far as a tile may be long. Astropy reads the file after it. Of the compressions of tiles, those are read that cannot write past a
tile: HCOMPRESS takes its size from the compressed bytes.
Rejected: astropy's own headers (it collects one without an end in memory, and unpacks a file of zip to disk).
"""

from __future__ import annotations

import gzip
import io
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

LARGEST_IMAGE_PIXELS = 400_000_000
"""Of one unit; as many as a mosaic of ours may have."""
LARGEST_UNIT_BYTES = 2**32
"""Data of one unit, and what a compressed file may unpack to."""
_BLOCK_BYTES, _CARD_BYTES = 2880, 80
_MOST_HEADER_BLOCKS = 4000
"""144,000 cards; the longest HISTORY seen has a few thousand."""
_MOST_UNITS = 1000
_GZIP = b"\x1f\x8b"
_OTHER_COMPRESSIONS = (b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x1f\x9d")
_SKIPPED_BYTES = 1 << 20
_TILE_COMPRESSIONS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS")
_WIDEST_PIXEL_BYTES = 8
_GZIP_WINDOW = 31
"""Of zlib: the largest, with gzip's header."""


def find_danger(stream: BinaryIO) -> str:
    """Return what is too large in a FITS file, from its headers; an empty string if nothing is, or it is no FITS file at all.

    Parameters
    ----------
    stream : binary file
        Compressed by gzip or not; left at its beginning.
    """
    magic = stream.read(6)
    stream.seek(0)
    if magic.startswith(_OTHER_COMPRESSIONS):
        return "is compressed, but not by gzip"
    is_packed = magic.startswith(_GZIP)
    try:
        with _unpacked(stream, is_packed=is_packed) as file:
            danger, tiled = _danger_of_units(file, is_packed=is_packed)
        stream.seek(0)
        return danger or (_danger_of_tiles(stream, tiled) if tiled else "")
    except (OSError, EOFError, zlib.error):
        return ""  # damaged: what reads it says how
    finally:
        stream.seek(0)


@contextmanager
def _unpacked(stream: BinaryIO, *, is_packed: bool) -> Iterator[BinaryIO]:
    if not is_packed:
        yield stream
        return
    with gzip.GzipFile(fileobj=stream) as file:
        yield file  # type: ignore[misc]


def _danger_of_units(file: BinaryIO, *, is_packed: bool) -> tuple[str, list[int]]:
    """What a unit promises too much of, and the numbers of the units with compressed tiles."""
    n_bytes = 0
    tiled: list[int] = []
    for number in range(_MOST_UNITS):
        text, danger = _header(file)
        if danger or not text:
            return danger and f"unit {number} {danger}", tiled
        try:
            header = fits.Header.fromstring(text.decode("latin-1"))
            danger, size = _danger_of(header)
        except (ValueError, TypeError, fits.VerifyError):
            return "", []  # cards that are none: what reads it says which
        if danger:
            return f"unit {number} {danger}", tiled
        if header.get("ZIMAGE") is True:
            tiled.append(number)
        n_bytes += len(text) + size
        if is_packed and n_bytes > LARGEST_UNIT_BYTES:
            return f"unpacks to more than {LARGEST_UNIT_BYTES} bytes", tiled
        if not _skip(file, -(-size // _BLOCK_BYTES) * _BLOCK_BYTES, by_reading=is_packed):
            return "", []  # truncated: what reads it says so
    return f"has more than {_MOST_UNITS} units", tiled


def _danger_of_tiles(stream: BinaryIO, numbers: list[int]) -> str:
    """Unpack the tiles that gzip packed, and throw them away: none may be longer than its pixels are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        units = fits.open(stream, memmap=False, disable_image_compression=True)
        try:
            return next(filter(None, (_danger_of_gzip(units[number], number) for number in numbers)), "")
        finally:
            units.close(closed=False)


def _danger_of_gzip(unit: fits.BinTableHDU, number: int) -> str:
    names = {"GZIP_COMPRESSED_DATA"}
    if str(unit.header.get("ZCMPTYPE", "")).startswith("GZIP"):
        names.add("COMPRESSED_DATA")
    most = _WIDEST_PIXEL_BYTES * math.prod(_tile(unit.header))
    for name in names & set(unit.columns.names):
        for packed in unit.data[name]:
            unpacking = zlib.decompressobj(_GZIP_WINDOW)
            if len(unpacking.decompress(np.asarray(packed).tobytes(), most + 1)) > most or unpacking.unused_data:
                return f"unit {number} has a tile that unpacks to more than its {most} bytes"
    return ""


def _header(file: BinaryIO) -> tuple[bytes, str]:
    """Text of the header that begins here, empty where nothing does; or what is wrong."""
    blocks: list[bytes] = []
    while len(block := file.read(_BLOCK_BYTES)) == _BLOCK_BYTES:
        blocks.append(block)
        cards = (block[place : place + _CARD_BYTES] for place in range(0, _BLOCK_BYTES, _CARD_BYTES))
        if any(card.rstrip() == b"END" for card in cards):
            return b"".join(blocks), ""
        if len(blocks) >= _MOST_HEADER_BLOCKS:
            return b"", f"has a header of more than {_MOST_HEADER_BLOCKS * _BLOCK_BYTES // 10**6} MB"
    return b"", ""


def _danger_of(header: fits.Header) -> tuple[str, int]:
    """What a unit promises too much of, and the bytes of its data."""
    axes = _axes(header, "NAXIS", "NAXIS")
    is_table = str(header.get("XTENSION", "")).strip() in {"BINTABLE", "TABLE", "A3DTABLE"}
    n_pixels = [] if is_table else [math.prod(axes)]
    if header.get("ZIMAGE") is True:
        if (kind := str(header.get("ZCMPTYPE", "")).strip()) not in _TILE_COMPRESSIONS:
            return f"has tiles compressed by {kind[:20]}, read are {', '.join(_TILE_COMPRESSIONS)}", 0
        n_pixels += [math.prod(_axes(header, "ZNAXIS", "ZNAXIS")), math.prod(_tile(header))]
    if axes and max(n_pixels, default=0) > LARGEST_IMAGE_PIXELS:
        return f"promises {max(n_pixels)} pixels, at most {LARGEST_IMAGE_PIXELS} are read", 0
    groups = int(header.get("PCOUNT", 0)), int(header.get("GCOUNT", 1))
    size = abs(int(header.get("BITPIX", 8))) // 8 * groups[1] * (groups[0] + math.prod(axes)) if axes else 0
    if size > LARGEST_UNIT_BYTES or size < 0:
        return f"promises {size} bytes, at most {LARGEST_UNIT_BYTES} are read", 0
    return "", size


def _axes(header: fits.Header, count: str, stem: str) -> list[int]:
    return [int(header.get(f"{stem}{axis}", 1)) for axis in range(1, int(header.get(count, 0)) + 1)]


def _tile(header: fits.Header) -> list[int]:
    """Lengths of a tile: a row of the image where the header does not say."""
    axes = _axes(header, "ZNAXIS", "ZNAXIS")
    return [int(header.get(f"ZTILE{axis}", axes[0] if axis == 1 else 1)) for axis in range(1, len(axes) + 1)]


def _skip(file: BinaryIO, n_bytes: int, *, by_reading: bool) -> bool:
    """Go on by so much; False where the file ends before."""
    if not by_reading:
        place = file.tell() + n_bytes
        return file.seek(0, io.SEEK_END) >= place and file.seek(place) == place
    while n_bytes > 0:
        block = file.read(min(n_bytes, _SKIPPED_BYTES))
        if not block:
            return False
        n_bytes -= len(block)
    return True
