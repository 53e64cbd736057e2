"""The archive: a folder (another disk, NFS) of copies that are whole, verified and never changed.

What belongs here: `ArchiveFolder`, the only class that knows what an archive is made of: storing, verifying and fetching one
product. An archive elsewhere (S3) is another class with these three methods. When products go there is ``execution.py``, how they
come back ``restoration.py``.

A copy has a folder of its own, ``<archive>/<name>.<12 digits of its content hash>``, with ``content`` (file or folder as it was,
times included) and ``manifest.json`` (content hash, size and time of each file). It is made under ``.partial``, fsynced, read back
from the disk and renamed; so a name in the archive always is a whole copy. Other content has another name: nothing is replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contimg_resources.errors import ResourceError
from contimg_resources.products import atomic_write, file_hash, require, sync_names
from contimg_resources.table_folders import replaced_folder, require_space, sync_folder

_PARTIAL = ".partial"
_CONTENT, _MANIFEST = "content", "manifest.json"
_HASH_DIGITS = 12


class ArchiveError(ResourceError):
    """Raise when a copy in the archive is not what it should be, or a product changed while it was copied."""

    reason_code = "archive_differs"


@dataclass(frozen=True, slots=True)
class Copy:
    """A verified copy of a product."""

    path: Path
    """Its folder in the archive."""
    content_hash: str
    """As `products.file_hash` gives it of the product."""
    n_bytes: int


class ArchiveFolder:
    """Copies of products below a folder.

    Parameters
    ----------
    root : Path
        Made when absent. One process at a time may store (``execution.py`` sees to it).
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def store(self, product: Path, name: str) -> Copy:
        """Copy a product, read the copy back, and give it its name; one that is there already is verified and used.

        Parameters
        ----------
        product : Path
            File or folder.
        name : str
            Where it belongs in the archive, e.g. ``continuum_image/2026-01-25/2225``.

        Raises
        ------
        ArchiveError
            If what was read back differs from the product, or the product changed meanwhile.
        """
        files = _files_of(require(product))
        (self.root / _PARTIAL).mkdir(parents=True, exist_ok=True)
        require_space(self.root / _PARTIAL, 1.01 * sum(state.st_size for _, state in files))
        content_hash = file_hash(product)
        target = self.root / f"{name}.{content_hash[:_HASH_DIGITS]}"
        if target.exists():
            if self._hash_of(target) == content_hash:
                return Copy(target, content_hash, _n_bytes(files))
            target.rename(self.root / _PARTIAL / f"damaged-{uuid.uuid4().hex[:8]}")
        partial = self.root / _PARTIAL / uuid.uuid4().hex
        partial.mkdir()
        _copy(product, partial / _CONTENT)
        manifest = {
            "name": name,
            "content_hash": content_hash,
            "product": str(product),
            "files": _listed(product, files),
        }
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        sync_folder(partial)
        is_same = _states(_files_of(product)) == _states(files)
        if not is_same or _hash_from_disk(partial / _CONTENT) != content_hash:
            shutil.rmtree(partial)
            raise ArchiveError(
                f"The copy of {product} is not the product",
                got="other content" if is_same else "a product that changed while it was copied",
                expected=f"SHA-256 {content_hash}",
                remedy="Run `contimg retention apply` again; if it stays, check the disk of the archive.",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(target)
        for folder in (target.parent, *target.parent.parents):
            sync_names(folder)
            if folder == self.root:
                break
        return Copy(target, content_hash, _n_bytes(files))

    def verify(self, copy: Path, content_hash: str) -> None:
        """Read a copy from the disk and compare it; ArchiveError if it is not what it was."""
        found = self._hash_of(copy)
        if found != content_hash:
            raise ArchiveError(
                f"The copy {copy} is damaged",
                got=f"SHA-256 {found}" if found else "nothing there",
                expected=content_hash,
                remedy="Keep the product; `contimg retention apply` makes another copy. Check the disk of the archive.",
            )

    def fetch(self, copy: Path, content_hash: str, target: Path) -> None:
        """Bring a copy back under its name, whole or not at all, with the bytes and times it had."""
        self.verify(copy, content_hash)
        content = copy / _CONTENT
        target.parent.mkdir(parents=True, exist_ok=True)
        if content.is_dir():
            with replaced_folder(target) as temporary:
                _copy(content, temporary)
                _require_hash(temporary, content_hash, target)
        else:
            state = content.stat()

            def write(stream: Any) -> None:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, stream)
                stream.flush()
                # Before the file has its name: whoever watches the folder must see the file that he knew.
                os.utime(stream.fileno(), ns=(state.st_atime_ns, state.st_mtime_ns))

            atomic_write(target, write)
            _require_hash(target, content_hash, target)

    def discard_partial(self) -> int:
        """Remove what an interrupted process left; return how many copies that were."""
        left = list((self.root / _PARTIAL).iterdir()) if (self.root / _PARTIAL).is_dir() else []
        for folder in left:
            shutil.rmtree(folder)
        return len(left)

    def _hash_of(self, copy: Path) -> str:
        content = copy / _CONTENT
        return _hash_from_disk(content) if content.exists() else ""


def _files_of(product: Path) -> list[tuple[Path, os.stat_result]]:
    files = sorted(p for p in product.rglob("*") if p.is_file()) if product.is_dir() else [product]
    return [(file, file.stat()) for file in files]


def _states(files: list[tuple[Path, os.stat_result]]) -> list[tuple[Path, int, int]]:
    return [(file, state.st_size, state.st_mtime_ns) for file, state in files]


def _n_bytes(files: list[tuple[Path, os.stat_result]]) -> int:
    return sum(state.st_size for _, state in files)


def _listed(product: Path, files: list[tuple[Path, os.stat_result]]) -> list[dict[str, Any]]:
    return [
        {
            "name": file.relative_to(product).as_posix() if file != product else file.name,
            "bytes": state.st_size,
            "modified_ns": state.st_mtime_ns,
        }
        for file, state in files
    ]


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder with its times."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def _hash_from_disk(content: Path) -> str:
    """Hash of what the disk holds: pages of the files that the system remembers are dropped first."""
    for file in content.rglob("*") if content.is_dir() else [content]:
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
    return file_hash(content)


def _require_hash(path: Path, content_hash: str, target: Path) -> None:
    if file_hash(path) != content_hash:
        raise ArchiveError(
            f"{target} did not come back as it was",
            got=f"SHA-256 {file_hash(path)}",
            expected=content_hash,
            remedy="Check the disk of the data folder, then restore again; the copy in the archive is sound.",
        )
