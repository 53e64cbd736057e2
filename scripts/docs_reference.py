"""Pages of the documentation that are made from the code whenever it is built: mkdocs calls this as a hook (mkdocs.yml).

Assets, tables of the store, settings, commands, metrics, routes of the API, and the change log.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
PAGES: dict[str, Callable[[], str]] = {}
"""What makes each page, by its place in docs/."""


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those of docs/ (called by mkdocs)."""
    from mkdocs.structure.files import File

    for place, make in PAGES.items():
        files.append(File.generated(config, place, content=make()))
    return files


def _page(place: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    def register(make: Callable[[], str]) -> Callable[[], str]:
        PAGES[place] = make
        return make

    return register


def _cell(value: object) -> str:
    """Text that fits into a cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _table(head: tuple[str, ...], rows: Iterator[tuple[object, ...]] | list[tuple[object, ...]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(_cell(value) for value in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


@_page("reference/assets.md")
def assets() -> str:
    """Assets and their checks, in alphabetical order, as Dagster shows them."""
    from contimg_assets.definitions import defs

    graph = defs.resolve_asset_graph()
    text = ["# Assets\n\nThe descriptions are those of the Dagster UI.\n"]
    for key in sorted(graph.get_all_asset_keys(), key=lambda key: key.to_user_string()):
        node = graph.get(key)
        partitions = type(node.partitions_def).__name__ if node.partitions_def else "not partitioned"
        needs = ", ".join(f"`{parent.to_user_string()}`" for parent in sorted(node.parent_keys)) or "nothing"
        checks = sorted(check.name for check in node.check_keys)
        text.append(f"## {key.to_user_string()}\n\nGroup {node.group_name}; {partitions}; needs {needs}.\n")
        text.append(f"{inspect.cleandoc(node.description or '')}\n")
        if checks:
            text.append("Checks: " + ", ".join(f"`{name}`" for name in checks) + "\n")
    return "\n".join(text)


@_page("reference/tables.md")
def tables() -> str:
    """Tables of the DuckDB store."""
    from contimg_resources.store.schema import SCHEMA_VERSION, TABLES

    text = [
        f"# Tables of the store\n\nVersion {SCHEMA_VERSION}. Flux densities are Jy, times UTC; a unit is in the name.\n"
    ]
    for table in sorted(TABLES.values(), key=lambda table: table.name):
        text.append(f"## {table.name}\n\nA row is one `{', '.join(table.key)}`.\n")
        rows = [(f"`{c.name}`", c.sql_type, "" if c.nullable else "always there") for c in table.columns]
        text.append(_table(("column", "type", ""), list(rows)))
    return "\n".join(text)


@_page("reference/settings.md")
def settings() -> str:
    """Every setting with its default, sections after the settings of their own."""
    from pydantic import BaseModel

    from contimg_resources.settings import Settings, environment_name

    def rows(model: type[BaseModel], *place: str) -> Iterator[tuple[object, ...]]:
        for name, field in model.model_fields.items():
            if not isinstance(field.default, BaseModel):
                default = "" if field.default is None or field.is_required() or field.default_factory else field.default
                yield (
                    f"`{environment_name(*place, name)}`",
                    f"`{default}`" if default != "" else "",
                    field.description or "",
                )

    head = ("variable", "default", "meaning")
    text = [
        "# Settings\n\nFrom the environment, files of secrets or a TOML file: see [operating](../operating.md#settings).\n"
    ]
    text.append(_table(head, rows(Settings)))
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, BaseModel):
            model = type(field.default)
            text.append(f"## {name}\n\n{inspect.cleandoc(model.__doc__ or '')}\n\n{_table(head, rows(model, name))}")
    return "\n".join(text)


@_page("reference/commands.md")
def commands() -> str:
    """Every command with its first sentence and its options."""
    import typer

    from contimg_portal.cli import app

    # Any: typer brings a click of its own, whose classes are not those of the package click.
    def walk(command: Any, name: str) -> Iterator[str]:
        options = [p for p in command.params if p.param_type_name == "option" and "--help" not in p.opts]
        arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument" and p.name]
        if not hasattr(command, "commands") or options:
            yield f"## {name}\n\n`{' '.join([name, *arguments])}`\n\n{inspect.cleandoc(command.help or '')}\n"
            rows = [(f"`{'`, `'.join(o.opts)}`", getattr(o, "help", "") or "") for o in options]
            yield _table(("option", "meaning"), list(rows)) if rows else ""
        for child, below in sorted(getattr(command, "commands", {}).items()):
            yield from walk(below, f"{name} {child}")

    return "# Commands\n\n" + "\n".join(walk(typer.main.get_command(app), "contimg"))


@_page("reference/metrics.md")
def metrics() -> str:
    """Metrics of the portal, and measurements that alert rules are about."""
    from contimg_portal.metrics import PREFIX
    from contimg_resources.alerts import evaluation
    from contimg_resources.alerts.probe import MEASUREMENTS

    rows = sorted(set(_metric_families()))
    text = ["# Metrics\n\n`/metrics` of the portal, in Prometheus' format.\n"]
    text.append(_table(("metric", "meaning"), [(f"`{PREFIX}{name}`", meaning) for name, meaning in rows]))
    text.append(
        f"## Measurements of alert rules\n\nEvaluated every {evaluation.INTERVAL_S:g} s; see [alerts](../alerts.md).\n"
    )
    measured = sorted(MEASUREMENTS.items())
    text.append(_table(("measurement", "meaning"), [(f"`{n}`", inspect.getdoc(f) or "") for n, f in measured]))
    return "\n".join(text)


def _metric_families() -> Iterator[tuple[str, str]]:
    """Name and documentation of each metric, from where the code names them."""
    families = {
        "GaugeMetricFamily": 0,
        "CounterMetricFamily": 0,
        "HistogramMetricFamily": 0,
        "Measure": 0,
        "Distribution": 0,
    }
    for place in ("contimg_portal/metrics.py", "contimg_resources/store/measures.py"):
        for node in ast.walk(ast.parse((PROJECT / place).read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in families:
                words = [part.value for a in node.args[:2] for part in ast.walk(a) if isinstance(part, ast.Constant)]
                if len(words) == 2:
                    yield str(words[0]), str(words[1])


@_page("reference/api.md")
def api() -> str:
    """Routes of the portal's API."""
    from contimg_portal.app import create_app
    from contimg_resources.settings import Settings

    document = create_app(Settings()).openapi()
    rows = [
        (method.upper(), f"`{path}`", operation.get("description", ""), "token" if operation.get("security") else "")
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    head = "# API\n\nThe portal serves its OpenAPI document at `/openapi.json` and shows it at `/docs`.\n\n"
    return head + _table(("method", "path", "what it does", "needs"), list(rows))


@_page("changelog.md")
def changelog() -> str:
    """The change log of the project."""
    return (PROJECT / "CHANGELOG.md").read_text()
