"""Objects below a URL: files stored with verification and read back, through fsspec (object storage, network shares, folders).

What belongs here: bytes and their checksums, patience, and uploads that were left unfinished. What the objects are is not known
here: products are ``product_home``.

Method. Every upload is read back and hashed before it counts. S3 shows an object only when its last part is there; in folders a
copy is made under a hidden name, synced and renamed. Interrupted multipart uploads are invisible, but take space: an upload that
fails is ended by whoever made it, and those of processes that were killed, a day old, by the next that uploads in parts.
Rejected: ETags as checksums (not of the content where uploads have parts, or are encrypted).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import stamina
import structlog
from fsspec.core import url_to_fs

from contimg_resources.errors import ProductMissingError, SettingsError, TransferError
from contimg_resources.products import atomic_write, file_hash

Answer = TypeVar("Answer")
_LOG = structlog.get_logger(__name__)
_BLOCK_BYTES = 1 << 20
_HASH_DIGITS = 16
"""Of a checksum in a message."""
_PART_BYTES = 8 << 20
"""Of a multipart upload; S3 takes no smaller parts than 5 MiB."""
_UNFINISHED_S = 86_400.0
"""No upload that goes on is so old."""
_S3_OPTIONS: dict[str, Any] = {
    # Checksums in trailers are refused by many servers that are not Amazon's; what counts here is reading back.
    "config_kwargs": {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "connect_timeout": 10,
        "read_timeout": 60,
    },
    "use_listings_cache": False,
}


class VerifiedObjects:
    """Objects below a URL.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``, ``file:///folder`` or a folder. Credentials and endpoint of S3 are read by its library from
        ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and ``AWS_ENDPOINT_URL`` or its files.
    patience_s : float
        How long a request that fails is tried again.
    endpoint_url : str, optional
        Of S3, where it is not the one of the environment.
    unfinished_s : float
        Uploads in parts below the URL that were begun so long ago, and are not finished, are ended when something large is stored.

    Raises
    ------
    SettingsError
        If no library for that kind of URL is installed.
    """

    def __init__(
        self,
        url: str,
        *,
        patience_s: float = 120.0,
        endpoint_url: str | None = None,
        unfinished_s: float = _UNFINISHED_S,
    ) -> None:
        self.url = url
        self.patience_s = patience_s
        self._unfinished_s: float | None = unfinished_s
        options = {**_S3_OPTIONS, "endpoint_url": endpoint_url} if url.startswith(("s3://", "s3a://")) else {}
        try:
            self._fs, self._root = url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                "CONTIMG_PRODUCTS_URL cannot be used", got=f"{url}: {error}", expected="s3://bucket/prefix or a folder",
                remedy="Correct it, or install what it needs: pip install 'contimg[storage]'.",
            ) from error  # fmt: skip
        self._is_local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))

    def store_object(self, source: Path, key: str) -> str:
        """Store a file as an object, and read it back.

        Parameters
        ----------
        source : Path
        key : str
            Name below the home. An object of that name with this content is left as it is.

        Returns
        -------
        str
            SHA-256 of file and object.

        Raises
        ------
        TransferError
            If the storage cannot be reached for as long as the patience lasts, refuses, or gives back other content.
        """
        sha256, n_bytes = file_hash(source), source.stat().st_size
        if not self._holds(key, sha256, n_bytes):
            self._patiently(f"store {key}", lambda: self._put(source, key))
            if not self._holds(key, sha256, n_bytes):
                raise TransferError(
                    f"{self.url} gives back other content for {key}", got="another checksum", expected=sha256[:_HASH_DIGITS],
                    remedy="Look whether the file is being changed, and at the storage; then publish again.",
                    reason_code="corrupted_object", transient=True,
                )  # fmt: skip
        return sha256

    def fetch_object(self, key: str, sha256: str, target: Path) -> Path:
        """Make a file of an object; it appears whole and verified, or not at all.

        Raises
        ------
        ProductMissingError
            If there is no such object.
        TransferError
            If the storage cannot be reached, or its content is not the one expected.
        """
        self._patiently(f"fetch {key}", lambda: atomic_write(target, lambda stream: self._copy(key, sha256, stream)))
        return target

    def _put(self, source: Path, key: str) -> None:
        address = self._address(key)
        if self._is_local:
            with source.open("rb") as stream:
                atomic_write(Path(address), lambda copy: shutil.copyfileobj(stream, copy, _BLOCK_BYTES))
        else:
            if source.stat().st_size >= 2 * _PART_BYTES:
                self._end_unfinished_uploads()
            self._fs.put_file(str(source), address, chunksize=_PART_BYTES)

    def _end_unfinished_uploads(self) -> None:
        """Once: end old uploads of processes that were killed; a storage that does not allow it is only noted."""
        if self._unfinished_s is None:
            return
        begun_before = datetime.now(UTC) - timedelta(seconds=self._unfinished_s)
        self._unfinished_s = None
        bucket, _, prefix = self._root.partition("/")
        try:
            found = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix).get("Uploads", [])
            for upload in found:
                if upload["Initiated"] <= begun_before:
                    name = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                    self._fs.call_s3("abort_multipart_upload", **name)
                    _LOG.warning("unfinished_upload_ended", key=upload["Key"], begun=upload["Initiated"].isoformat())
        except _failures() as error:
            _LOG.warning("unfinished_uploads_not_ended", error=f"{type(error).__name__}: {error}")

    def _holds(self, key: str, sha256: str, n_bytes: int) -> bool:
        """Whether an object has this content, by reading all of it."""
        address = self._address(key)

        def content_hash() -> str:
            if self._fs.info(address)["size"] != n_bytes:
                return ""
            digest = hashlib.sha256()
            for block in self._blocks(key):
                digest.update(block)
            return digest.hexdigest()

        try:
            return self._patiently(f"read {key}", content_hash) == sha256
        except ProductMissingError:
            return False

    def _copy(self, key: str, sha256: str, target: BinaryIO) -> None:
        digest = hashlib.sha256()
        for block in self._blocks(key):
            digest.update(block)
            target.write(block)
        if digest.hexdigest() != sha256:
            raise TransferError(
                f"{self.url} gives other content for {key}", got=digest.hexdigest()[:_HASH_DIGITS],
                expected=sha256[:_HASH_DIGITS], remedy="Publish the product again from where it is whole.",
                reason_code="corrupted_object",
            )  # fmt: skip

    def _blocks(self, key: str) -> Iterator[bytes]:
        with self._fs.open(self._address(key), "rb", block_size=_PART_BYTES) as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield block

    def _address(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{PurePosixPath(key)}"

    def _patiently(self, action: str, call: Callable[[], Answer]) -> Answer:
        """Call, and again when the storage did not answer; what it refuses is refused at once."""
        try:
            for attempt in stamina.retry_context(
                on=_may_pass, attempts=None, timeout=self.patience_s, wait_initial=0.2, wait_max=10.0
            ):
                with attempt:
                    return call()
        except FileNotFoundError as error:
            raise ProductMissingError(
                f"{self.url} has no such object", got=f"nothing to {action}", expected="an object",
                remedy="Check CONTIMG_PRODUCTS_URL (its bucket must exist); publish the product from where it is.",
            ) from error  # fmt: skip
        except _failures() as error:
            raise TransferError(
                f"{self.url} cannot {action}", got=f"{type(error).__name__}: {error}", expected="success",
                remedy="Look at the storage and its credentials; `contimg products publish` goes on where it was.",
                reason_code="unreachable", transient=_may_pass(error),
            ) from error  # fmt: skip
        raise AssertionError  # stamina returns or raises


def _failures() -> tuple[type[Exception], ...]:
    """What file systems raise, and libraries of object storage where they are installed."""
    try:
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError
        from botocore.exceptions import ClientError as RefusedError
    except ImportError:
        return (OSError,)
    return (OSError, ClientError, BotoCoreError, RefusedError)


def _may_pass(error: Exception) -> bool:
    refused = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
    return isinstance(error, _failures()) and not isinstance(error, refused)
