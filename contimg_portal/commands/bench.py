"""``contimg bench``: run one of the project's benchmarks, which live in ``benchmarks/`` of a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from contimg_portal.console import one_screen_errors
from contimg_resources.errors import ResourceError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def bench(
    name: Annotated[str, typer.Argument(help="Benchmark, e.g. observation; 'list' names them, 'all' runs them.")],
) -> None:
    """Run one benchmark and print its table."""
    names = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    with one_screen_errors():
        if name == "list":
            sys.stdout.write("\n".join(names) + "\n")
            return
        if name != "all" and name not in names:
            raise ResourceError(
                "there is no such benchmark",
                got=name,
                expected=", ".join(names) or "a checkout with benchmarks/",
                remedy="Run `contimg bench list` in a checkout of the project.",
            )
        scripts = [FOLDER / f"bench_{chosen}.py" for chosen in (names if name == "all" else [name])]
        codes = [subprocess.run([sys.executable, str(script)], check=False).returncode for script in scripts]  # noqa: S603 (our own files)
        raise typer.Exit(max(codes))
