"""Which code a process of the platform runs: a folder with the packages, and the Python that goes with it.

What belongs here: finding both, and what a process must be told so that it takes its packages from that folder and from no other.
Installing is pip's (``make install``).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from contimg_resources.errors import ResourceError

_PARTS = (Path("contimg_assets") / "definitions.py", Path("deploy") / "dagster.yaml")


@dataclass(frozen=True)
class Installation:
    """One version of the code on this machine."""

    folder: Path
    """Holds ``contimg_assets``, the other packages and ``deploy``."""
    python: str
    """Its interpreter, with what it depends on."""

    @classmethod
    def here(cls) -> Installation:
        """What this process runs."""
        return cls(Path(__file__).resolve().parents[2], sys.executable)

    @classmethod
    def at(cls, folder: Path) -> Installation:
        """What a folder holds: with its own ``.venv``, or with the packages of this process's Python when it has none."""
        missing = [str(part) for part in _PARTS if not (folder / part).is_file()]
        if missing:
            raise ResourceError(
                f"{folder} holds no code of contimg",
                got=f"no {', no '.join(missing)}",
                expected="the folder of a project that `make install` has installed",
                remedy="Correct --code.",
            )
        own = folder / ".venv" / "bin" / "python"
        return cls(folder.resolve(), str(own.absolute()) if own.exists() else sys.executable)

    def variables(self) -> list[str]:
        """Environment of its processes: its folder comes before what is installed, and the working directory does not count."""
        return [f"PYTHONPATH={self.folder}", "PYTHONSAFEPATH=1"]
