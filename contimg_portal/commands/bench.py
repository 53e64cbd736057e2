"""``contimg bench``: run one of the project's benchmarks, which live in ``benchmarks/`` of a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from contimg_portal.console import one_screen_errors, stderr
from contimg_resources.errors import ResourceError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def bench(
    name: Annotated[str, typer.Argument(help="Benchmark, e.g. observation; 'list' names them, 'all' runs them.")],
    profile: Annotated[
        bool, typer.Option("--profile", help="Leave a flame graph in benchmarks/results/profile_NAME.html.")
    ] = False,
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
        codes = [_run(script, is_profiled=profile) for script in scripts]
        raise typer.Exit(max(codes))


def _run(script: Path, *, is_profiled: bool) -> int:
    """Exit code of one benchmark; processes that it starts itself are not in its flame graph."""
    command = [sys.executable]
    if is_profiled:
        page = FOLDER / "results" / f"profile_{script.stem.removeprefix('bench_')}.html"
        page.parent.mkdir(exist_ok=True)
        command += ["-m", "pyinstrument", "-r", "html", "-o", str(page)]
    code = subprocess.run([*command, str(script)], check=False).returncode  # noqa: S603 (our own files)
    if is_profiled:
        stderr.print(f"Flame graph: {page}", highlight=False, soft_wrap=True)
    return code
