"""The project's source files as syntax trees, for the tests of this folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("contimg_assets", "contimg_resources", "contimg_sensors", "contimg_portal")


@dataclass(frozen=True)
class Source:
    """One source file: where it is and what it says."""

    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.path.read_text(encoding="utf-8"), filename=str(self.path))

    @property
    def name(self) -> str:
        """Path relative to the project, as shown in messages."""
        return self.path.relative_to(PROJECT).as_posix()

    @property
    def module(self) -> str:
        """Dotted name, the package's own name for its ``__init__``."""
        return ".".join(self.path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")

    @property
    def imports(self) -> list[tuple[int, str]]:
        """Line and full dotted name of everything imported anywhere in the file, inside functions too."""
        found: list[tuple[int, str]] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found += [(node.lineno, f"{self._origin(node)}.{alias.name}") for alias in node.names]
        return found

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.module.split(".") if self.path.stem == "__init__" else self.module.split(".")[:-1]
        base = package[: len(package) - node.level + 1]
        return ".".join([*base, *([node.module] if node.module else [])])


def sources(*folders: str) -> Iterator[Source]:
    """Every Python file below the folders (all four packages when none is named)."""
    for folder in folders or PACKAGES:
        for path in sorted((PROJECT / folder).rglob("*.py")):
            yield Source(path)


def is_within(module: str, *packages: str) -> bool:
    """Whether a dotted name is one of the packages or lies inside it."""
    return any(module == package or module.startswith(package + ".") for package in packages)
