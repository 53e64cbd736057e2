"""Where published products live beside the working copies: a folder, a network share, or object storage (``s3://…``).

What belongs here: objects and products stored with verification and read back, through fsspec. Where a product lies on the
local disk, and how it is written there, is ``products``: work is always done on local files.

For others to use, an archive for instance: `ProductHome.store_object` (a file becomes an object, verified by reading it back)
and `ProductHome.fetch_object` (an object becomes a file, whole and verified, or an error); `publish` and `fetch` do the same
for all files of a partition.

Method. An object has the hash of its content in its name, so it is never changed, an upload that is repeated finds what is
done, and files that did not change are shared by versions of a product. The manifest of a partition lists its objects and is
written last, as one object: whoever reads sees the old product whole or the new one whole. Every upload is read back and
hashed before it counts. S3 shows an object only when its last part is there; in folders a copy is made under a hidden name,
synced and renamed. Interrupted multipart uploads are invisible, but take space: an upload that fails is ended by whoever made
it, and those of processes that were killed, a day old, by the next that uploads in parts.
Rejected: ETags as checksums (not of the content where uploads have parts, or are encrypted); writing products straight to
object storage (casacore and the FITS and Parquet readers want files, and a step would wait for the network).

Several hosts. Each works in a data folder of its own, and beside its copies notes what it last published or fetched of a
partition (``.<name>.published.json``). A copy is replaced when the home has another version than the one noted. What has no note
was made here and not published, because the home was away or the run was killed: it stands unless what is published is
newer. Files keep their time of change on the way, so that a partition which is as it was left is known as such on every
host. A calibration table made anew does not displace the one that another host made of the same partition: what is published
and not here stays published. Rejected: comparing content (a measurement set would be hashed at every look), and times
alone (clocks of hosts differ).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import stamina
import structlog
from fsspec.core import url_to_fs
from pydantic import ValidationError

from contimg_resources.errors import CircuitOpenError, ProductMissingError, SettingsError, TransferError
from contimg_resources.outside import call_outside
from contimg_resources.product_manifests import (
    KEY_DIGITS,
    Manifest,
    StoredObject,
    are_alike,
    by_place,
    described,
    note_path,
    outdated,
    read_note,
    without_locks,
    write_note,
)
from contimg_resources.products import Products, atomic_write, file_hash
from contimg_resources.table_folders import replaced_folder

Answer = TypeVar("Answer")
_LOG = structlog.get_logger(__name__)
_BLOCK_BYTES = 1 << 20
HOME_SERVICE = "products home"
"""Name of the home's breaker (`outside.call_outside`)."""
_MANIFEST = ".manifest.json"
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


class ProductHome:
    """Published products below a URL.

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
                    f"{self.url} gives back other content for {key}", got="another checksum", expected=sha256[:KEY_DIGITS],
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

    def publish(self, products: Products, asset: str, partition_key: str | None) -> Manifest:
        """Store all files of a partition; readers see the product before until the last of them is there.

        What other hosts have published of it (calibration tables of other content) stays published.

        Returns
        -------
        Manifest
            What is published now; of a partition that has no files, one without objects, which is not written.
        """
        before, stem = self.manifest(products, asset, partition_key), self._stem(products, asset, partition_key)
        here, theirs = by_place(products, described(products, asset, partition_key, stem)), by_place(products, before)
        if not here:
            return Manifest(asset=asset, partition_key=partition_key, objects=())
        note = note_path(products, asset, partition_key)
        known = by_place(products, read_note(note))
        note.unlink(missing_ok=True)  # until it is published, what is here is newer than anything there
        published = dict(theirs)
        for place, items in here.items():
            is_there = place in theirs and are_alike(items, theirs[place])
            if place in theirs and not is_there and are_alike(items, known.get(place, [])):
                continue  # a copy of what was published before somebody made it again
            stored = [self._stored(products, item) for item in (without_locks(items) if is_there else items)]
            if not is_there:
                published[place] = here[place] = stored
        objects = tuple(item for place in sorted(published) for item in published[place])
        manifest = Manifest(asset=asset, partition_key=partition_key, objects=objects)
        if manifest != before:
            self._write_manifest(stem, manifest)
            self._remove_superseded(before, manifest)
        write_note(note, manifest.model_copy(update={"objects": tuple(one for place in here for one in here[place])}))
        return manifest

    def _stored(self, products: Products, item: StoredObject) -> StoredObject:
        """Store a file, which may have changed since it was described."""
        sha256 = self.store_object(products.root / "products" / item.path, item.key)
        return item.model_copy(update={"sha256": sha256})

    def manifest(self, products: Products, asset: str, partition_key: str | None) -> Manifest | None:
        """What is published of a partition, None if nothing is."""
        path = self._address(f"{self._stem(products, asset, partition_key)}{_MANIFEST}")
        try:
            text = self._patiently(f"read {path}", lambda: self._fs.cat_file(path))
            return Manifest.model_validate_json(text)
        except ProductMissingError:
            return None
        except ValidationError as error:
            raise TransferError(
                f"{path} is no manifest", got=str(error), expected="what `contimg products publish` writes",
                remedy="Remove it and publish the product again.", reason_code="corrupted_object",
            ) from error  # fmt: skip

    def fetch(self, products: Products, asset: str, partition_key: str | None) -> list[Path]:
        """Bring a published product back to its place on the local disk, each file or folder whole or not at all.

        Raises
        ------
        ProductMissingError
            If nothing is published of that partition.
        """
        manifest = self.manifest(products, asset, partition_key)
        if manifest is None:
            raise ProductMissingError(
                f"{asset} {partition_key or ''} is not published at {self.url}", got="no manifest", expected="one",
                remedy="Publish it where it is (contimg products publish), or materialize it again.",
            )  # fmt: skip
        return self._fetch_places(products, manifest, by_place(products, manifest))

    def refresh(self, products: Products, asset: str, partition_key: str | None) -> None:
        """Bring what is newer in the home, or missing on the local disk, of a partition; each file or folder whole or not at all.

        When the home does not answer, the copies here stand, and the log says so.
        """
        for is_last in (False, True):
            try:
                manifest = call_outside(HOME_SERVICE, lambda: self.manifest(products, asset, partition_key))
            except (TransferError, CircuitOpenError) as error:
                _LOG.warning("product_home_away", asset=asset, partition=partition_key, error=str(error))
                return
            try:
                if manifest is not None:
                    self._fetch_places(products, manifest, outdated(products, manifest))
            except ProductMissingError:  # published anew after its manifest was read: once more
                if is_last:
                    raise
            else:
                return

    def has(self, products: Products, path: Path) -> bool:
        """Whether a file or folder of a product, given by its place on the local disk, is published."""
        partition = products.partition_of(path)
        manifest = self.manifest(products, *partition) if partition is not None else None
        published = [products.root / "products" / item.path for item in (manifest.objects if manifest else ())]
        return any(one.is_relative_to(path) for one in published)

    def partitions(self, asset: str) -> list[str | None]:
        """Partitions of an asset that are published, oldest first."""
        anywhere, keys = Products(Path("/")), set[str | None]()
        for pattern, depth in ((f"*{_MANIFEST}", 1), (f"*/*{_MANIFEST}", 2)):
            address = self._address(f"{asset}/{pattern}")
            for name in self._patiently(f"list {address}", partial(self._fs.glob, address)):
                parts = PurePosixPath(name).parts[-depth:]
                if found := anywhere.partition_of(Path("/products", asset, *parts)):
                    keys.add(found[1])
        return sorted(keys, key=str)

    def _fetch_places(
        self, products: Products, manifest: Manifest, wanted: dict[Path, list[StoredObject]]
    ) -> list[Path]:
        products.check_free_space(sum(item.bytes for items in wanted.values() for item in items))
        note = note_path(products, manifest.asset, manifest.partition_key)
        for place, items in wanted.items():
            known = {**by_place(products, read_note(note)), place: items}
            noted = manifest.model_copy(update={"objects": tuple(item for one in known.values() for item in one)})
            if not place.exists():  # a kill in between leaves a note without a copy, not a copy without a note
                write_note(note, noted)
            self._fetch_place(products, place, items)
            write_note(note, noted)
        return sorted(wanted)

    def _fetch_place(self, products: Products, place: Path, items: list[StoredObject]) -> None:
        paths = [products.root / "products" / item.path for item in items]
        if paths == [place]:
            self._fetch_file(items[0], place)
            return
        with replaced_folder(place) as temporary:
            for item, path in zip(items, paths, strict=True):
                self._fetch_file(item, temporary / path.relative_to(place))

    def _fetch_file(self, item: StoredObject, target: Path) -> None:
        self.fetch_object(item.key, item.sha256, target)
        if item.modified_ns is not None:
            os.utime(target, ns=(item.modified_ns, item.modified_ns))

    def _write_manifest(self, stem: str, manifest: Manifest) -> None:
        address = self._address(f"{stem}{_MANIFEST}")
        content = manifest.model_dump_json(indent=1).encode()
        if self._is_local:
            atomic_write(Path(address), lambda stream: stream.write(content))
        else:
            self._patiently(f"write {address}", lambda: self._fs.pipe_file(address, content))
        _LOG.info("product_published", asset=manifest.asset, partition=manifest.partition_key)

    def _remove_superseded(self, before: Manifest | None, now: Manifest) -> None:
        """Remove objects that only the manifest before named."""
        superseded = {item.key for item in (before.objects if before else ())} - {item.key for item in now.objects}
        for key in sorted(superseded):
            self._patiently(f"remove {key}", partial(self._fs.rm_file, self._address(key)))

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
                f"{self.url} gives other content for {key}", got=digest.hexdigest()[:KEY_DIGITS],
                expected=sha256[:KEY_DIGITS], remedy="Publish the product again from where it is whole.",
                reason_code="corrupted_object",
            )  # fmt: skip

    def _blocks(self, key: str) -> Iterator[bytes]:
        with self._fs.open(self._address(key), "rb", block_size=_PART_BYTES) as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield block

    def _address(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{PurePosixPath(key)}"

    @staticmethod
    def _stem(products: Products, asset: str, partition_key: str | None) -> str:
        return products.stem(asset, partition_key).relative_to(products.root / "products").as_posix()

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
