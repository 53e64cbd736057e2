"""Where results of benchmarks are kept: ``benchmarks/results/latest.json`` and the same as a Markdown table.

What belongs here: writing. Measuring is each benchmark's own business.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
_TABLE_FIELDS = ("name", "peer", "ours_s", "peer_s", "ratio", "ours_peak_mb", "peer_peak_mb", "runs")


def write_result(result: Mapping[str, Any]) -> None:
    """Put a result in the place of the one with its name and peer in ``benchmarks/results/latest.json``; print the table."""
    known = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    results = [other for other in known if (other["name"], other["peer"]) != (result["name"], result["peer"])]
    results.append(dict(result))
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "at": datetime.now(UTC).isoformat(), "results": results}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(markdown(results))
    print(markdown([result]) + json.dumps(result["agreement"], indent=1))


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Results as a Markdown table."""
    lines = [_TABLE_FIELDS, ["---"] * len(_TABLE_FIELDS)]
    lines += [[_shown(result[name]) for name in _TABLE_FIELDS] for result in results]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
