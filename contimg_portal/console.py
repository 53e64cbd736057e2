"""What every command shares: output as text or JSON, errors on one screen, exit codes.

Exit codes: 0 success, 1 a failed job, 2 bad usage (typer's own). ``--json`` prints one JSON document on stdout;
everything else (progress, notes) goes to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from contimg_assets.science.errors import DataError
from contimg_resources.errors import ResourceError

JsonOption = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON on stdout.")]

stderr = Console(stderr=True)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (Path, datetime)):
        return str(value)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def emit(result: Mapping[str, Any], *, as_json: bool, rows: str | None = None) -> None:
    """Print a result: the whole mapping as JSON, or its scalars as lines and ``result[rows]`` as a table."""
    if as_json:
        sys.stdout.write(json.dumps(_finite(result), default=_plain, indent=1) + "\n")
        return
    out = Console(file=sys.stdout, width=120 if not sys.stdout.isatty() else None)
    for key, value in result.items():
        if key != rows:
            line = f"{key}: {value:.6g}" if isinstance(value, float) else f"{key}: {value}"
            out.print(line, highlight=False, markup=False)
    if rows and result[rows]:
        table = Table(*[Column(str(name), overflow="fold") for name in result[rows][0]])  # a cut name is no name
        for row in result[rows]:
            table.add_row(*[f"{v:.6g}" if isinstance(v, float) else escape(str(v)) for v in row.values()])
        out.print(table)


def _finite(value: Any) -> Any:
    """JSON has no NaN: a missing number is null."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, (float, np.floating)) and not np.isfinite(value):
        return None
    return value


@contextmanager
def one_screen_errors() -> Iterator[None]:
    """Turn the errors we name into one message on stderr and exit code 1; let bugs show their traceback."""
    try:
        yield
    except (DataError, ResourceError, OSError) as error:
        stderr.print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
