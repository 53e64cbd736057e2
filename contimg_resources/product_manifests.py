"""What a home has of a product, and what a host has of it: manifests, and the notes beside the copies on the local disk.

What belongs here: the two, and how they are compared. Bringing files to the home and back is ``product_home``, which says how hosts
work together.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contimg_resources.errors import TransferError
from contimg_resources.products import Products, atomic_write, file_hash
from contimg_resources.table_folders import LOCK_FILE

KEY_DIGITS = 16
"""Of the hash of its content in the name of an object."""
_NOTE = ".published.json"


class StoredObject(BaseModel):
    """An object in the home, and what its content is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Of the file, relative to the folder of all products."""
    key: str
    """Of the object, relative to the home."""
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    modified_ns: int | None = None
    """Time of change of the file, ns since 1970; absent in manifests of earlier versions."""


class Manifest(BaseModel):
    """A partition's product as it was published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asset: str
    partition_key: str | None
    objects: tuple[StoredObject, ...]


def local_partitions(products: Products, asset: str) -> list[str | None]:
    """Partitions of which an asset has products on the local disk, as `Products.stem` takes them, oldest first."""
    folder = products.root / "products" / asset
    found = (products.partition_of(path) for pattern in ("*", "*/*") for path in folder.glob(pattern))
    return sorted({partition[1] for partition in found if partition}, key=str)


def _files(products: Products, asset: str, partition_key: str | None) -> list[Path]:
    """All files of a partition, those in folders too."""
    files: list[Path] = []
    for path in products.of_partition(asset, partition_key):
        files.extend(sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])
    return files


def described(products: Products, asset: str, partition_key: str | None, stem: str) -> Manifest:
    """The files of a partition on the local disk, as they are published."""
    objects = []
    for file in _files(products, asset, partition_key):
        told, sha256 = file.stat(), file_hash(file)
        objects.append(
            StoredObject(
                path=file.relative_to(products.root / "products").as_posix(),
                key=f"{stem}/{sha256[:KEY_DIGITS]}/{file.name}",
                bytes=told.st_size,
                sha256=sha256,
                modified_ns=told.st_mtime_ns,
            )
        )
    return Manifest(asset=asset, partition_key=partition_key, objects=tuple(objects))


def by_place(products: Products, manifest: Manifest | None) -> dict[Path, list[StoredObject]]:
    """Objects by the file or folder on the local disk that they are, or are part of."""
    objects: dict[Path, list[StoredObject]] = {}
    if manifest is not None:
        for item in manifest.objects:
            objects.setdefault(_place_of(products, manifest, item), []).append(item)
    return objects


def outdated(products: Products, manifest: Manifest) -> dict[Path, list[StoredObject]]:
    """What is missing on the local disk, or was published anew since it came there, or since it was made there."""
    known = by_place(products, read_note(note_path(products, manifest.asset, manifest.partition_key)))
    return {
        place: items
        for place, items in by_place(products, manifest).items()
        if not place.exists() or (not are_alike(known[place], items) if place in known else _is_newer(products, items))
    }


def without_locks(items: list[StoredObject]) -> list[StoredObject]:
    """Objects but for the locks of tables: they belong to a table (its number of rows is there), and change when it is read."""
    return [item for item in items if PurePosixPath(item.path).name != LOCK_FILE]


def are_alike(some: list[StoredObject], others: list[StoredObject]) -> bool:
    """Whether two versions of a file or folder are the same."""
    return without_locks(some) == without_locks(others)


def is_untouched(products: Products, place: Path, items: list[StoredObject]) -> bool:
    """Whether a file or folder on the local disk is still the copy that was noted, by sizes and times of change."""
    files = [file for file in place.rglob("*") if file.is_file()] if place.is_dir() else [place]
    found = {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.name != LOCK_FILE}
    return found == {
        products.root / "products" / item.path: (item.bytes, item.modified_ns) for item in without_locks(items)
    }


def _is_newer(products: Products, items: list[StoredObject]) -> bool:
    """Whether a published file or folder is newer than what is in its place."""
    for item in without_locks(items):
        path = products.root / "products" / item.path
        if item.modified_ns is not None and (not path.exists() or path.stat().st_mtime_ns < item.modified_ns):
            return True
    return False


def _place_of(products: Products, manifest: Manifest, item: StoredObject) -> Path:
    folder = products.stem(manifest.asset, manifest.partition_key).parent
    target = (products.root / "products" / item.path).resolve()
    if target == folder.resolve() or not target.is_relative_to(folder.resolve()):
        raise TransferError(
            f"The manifest of {manifest.asset} names a file elsewhere", got=item.path, expected=f"a file below {folder}",
            remedy="Look who can write there; publish the product again.", reason_code="corrupted_object",
        )  # fmt: skip
    return folder / target.relative_to(folder.resolve()).parts[0]


def note_path(products: Products, asset: str, partition_key: str | None) -> Path:
    """Where a host notes what it last published or fetched of a partition."""
    stem = products.stem(asset, partition_key)
    return stem.with_name(f".{stem.name}{_NOTE}")


def read_note(path: Path) -> Manifest | None:
    """What the copies here are; None where it is not known."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write_note(path: Path, manifest: Manifest) -> None:
    """Note what the copies here are."""
    atomic_write(path, lambda stream: stream.write(manifest.model_dump_json().encode()))
