"""Where published products live beside the working copies: a folder, a network share, or object storage (``s3://…``).

What belongs here: publishing all files of a partition, and bringing them back. How an object is stored and verified is
``verified_objects``. Where a product lies on the local disk, and how it is written there, is ``products``: work is always done on
local files.

Method. An object has the hash of its content in its name, so it is never changed, an upload that is repeated finds what is
done, and files that did not change are shared by versions of a product. The manifest of a partition lists its objects and is
written last, as one object: whoever reads sees the old product whole or the new one whole.
Rejected: writing products straight to object storage (casacore and the FITS and Parquet readers want files, and a step would wait
for the network).

Several hosts. Each works in a data folder of its own, and beside its copies notes what it last published or fetched of a
partition (``.<name>.published.json``). A copy is replaced when the home has another version than the one noted. What has no note
was made here and not published, because the home was away or the run was killed: it stands unless what is published is
newer. Files keep their time of change on the way, so that a partition which is as it was left is known as such on every
host. A calibration table made anew does not displace the one that another host made of the same partition: what is published
and not here stays published. What was withdrawn stays so, whoever still has a copy: the manifest remains, with what else there is
of the partition or with nothing. Rejected: comparing content (a measurement set would be hashed at every look), and times
alone (clocks of hosts differ).
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path, PurePosixPath

import structlog
from pydantic import ValidationError

from contimg_resources.errors import CircuitOpenError, ProductMissingError, TransferError
from contimg_resources.outside import call_outside
from contimg_resources.product_manifests import (
    Manifest,
    StoredObject,
    are_alike,
    by_place,
    described,
    is_untouched,
    note_path,
    outdated,
    read_note,
    without_locks,
    write_note,
)
from contimg_resources.products import Products, atomic_write, finish_removal, remove_whole
from contimg_resources.table_folders import replaced_folder
from contimg_resources.verified_objects import VerifiedObjects

_LOG = structlog.get_logger(__name__)
HOME_SERVICE = "products home"
"""Name of the home's breaker (`outside.call_outside`)."""
_MANIFEST = ".manifest.json"


class ProductHome(VerifiedObjects):
    """Published products below a URL."""

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
            if before is not None and not is_there and are_alike(items, known.get(place, [])):
                continue  # a copy of what was published before somebody made it again, or withdrew it
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

    def withdraw(self, products: Products, path: Path) -> bool:
        """Take a file or folder of a product, given by its place on the local disk, out of what is published.

        Copies on other hosts stay until they are cleared, and are not published again.

        Returns
        -------
        bool
            Whether it was published.
        """
        partition = products.partition_of(path)
        before = self.manifest(products, *partition) if partition is not None else None
        if partition is None or before is None:
            return False
        kept = {place: items for place, items in by_place(products, before).items() if place != path}
        now = before.model_copy(update={"objects": tuple(item for items in kept.values() for item in items)})
        if now == before:
            return False
        self._write_manifest(self._stem(products, *partition), now)
        self._remove_superseded(before, now)
        self._forget(products, now, path)
        return True

    @staticmethod
    def _forget(products: Products, published: Manifest, path: Path) -> None:
        """Note that what comes to that place from now on was made or restored here, and not fetched."""
        note = note_path(products, published.asset, published.partition_key)
        known = by_place(products, read_note(note))
        if known.pop(path, None) is not None:
            objects = tuple(item for items in known.values() for item in items)
            write_note(note, published.model_copy(update={"objects": objects}))

    def clear(self, products: Products, asset: str, partition_key: str | None) -> list[Path]:
        """Remove copies on the local disk of what is, or was, published of a partition; what was made or changed here since stays.

        Returns
        -------
        list of Path
            What was removed.
        """
        note = note_path(products, asset, partition_key)
        known = by_place(products, read_note(note))
        if not known or self.manifest(products, asset, partition_key) is None:
            return []
        cleared = [place for place, items in known.items() if place.exists() and is_untouched(products, place, items)]
        for place in known:
            finish_removal(place)  # of a process that was killed
        for place in cleared:
            remove_whole(place)
        if not products.of_partition(asset, partition_key):
            note.unlink()
        return cleared

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
        if manifest is None or not manifest.objects:
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
        if partition is None:
            return False
        manifest = call_outside(HOME_SERVICE, lambda: self.manifest(products, *partition))
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

    @staticmethod
    def _stem(products: Products, asset: str, partition_key: str | None) -> str:
        return products.stem(asset, partition_key).relative_to(products.root / "products").as_posix()
