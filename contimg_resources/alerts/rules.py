"""Alert rules as data: what is compared with what, how long it must hold, how loud it is, who hears of it.

The default set is ``default_rules.toml`` beside this file; ``CONTIMG_ALERT_RULES`` names a TOML file of the same form
whose rules are added, or replace a default of the same name. How a metric is measured stands in
``platform_measurements`` and ``science_measurements``; what is done when a rule is broken, in ``evaluation``.
"""

from __future__ import annotations

import difflib
import operator
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contimg_resources.errors import SettingsError

DEFAULT_RULES = Path(__file__).with_name("default_rules.toml")

Severity = Literal["info", "warning", "error", "critical"]
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class AlertRule(BaseModel):
    """One rule: broken when the value of its metric, or the number of its events, is on the wrong side of a threshold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{1,60}$")
    metric: str | None = Field(None, description="name of a measurement")
    event: str | None = Field(None, description="kind of an event of the stream (docs/alerts.md)")
    window_s: float = Field(600.0, gt=0, le=604_800, description="events as old as this are counted, s")
    operator: Literal[">", ">=", "<", "<="] = ">"
    threshold: float
    duration_s: float = Field(0.0, ge=0, le=86_400, description="how long the rule must be broken before it fires, s")
    severity: Severity = "warning"
    cool_down_s: float = Field(3600.0, ge=0, le=604_800, description="least time between two notices of one subject, s")
    channels: tuple[str, ...] = Field((), description="names of channels; none: all")
    summary: str = Field(min_length=1, description="what it means, one sentence")
    remedy: str = Field("", description="what to do")
    is_enabled: bool = True

    @model_validator(mode="after")
    def _measures_one_thing(self) -> AlertRule:
        if (self.metric is None) == (self.event is None):
            message = f"rule {self.name} has metric {self.metric} and event {self.event}; one of the two is wanted"
            raise ValueError(message)
        return self

    @property
    def measurement(self) -> str:
        """What it looks at: the metric, or the kind of event."""
        return self.metric or f"event {self.event}"

    def is_broken(self, value: float) -> bool:
        """Whether a value is on the wrong side of the threshold."""
        return _OPERATORS[self.operator](value, self.threshold)


def load_rules(
    own: Path | None = None, *, metrics: set[str] | None = None, events: set[str] | None = None
) -> tuple[AlertRule, ...]:
    """Default rules, overlaid with those of a file.

    Parameters
    ----------
    own : Path, optional
        TOML with ``[[rule]]`` tables. A rule of a default's name changes the fields it gives; ``is_enabled = false``
        switches it off.
    metrics, events : set of str, optional
        Known names; a rule that names another is refused.

    Returns
    -------
    tuple of AlertRule
        Those that are enabled, defaults first.

    Raises
    ------
    SettingsError
        If the file is missing or not TOML, or a rule is not valid: one line per problem.
    """
    tables = {table["name"]: table for table in _read(DEFAULT_RULES)}
    for table in _read(own) if own is not None else []:
        name = str(table.get("name", ""))
        tables[name] = tables.get(name, {}) | table
    rules, problems = [], []
    for name, table in tables.items():
        try:
            rule = AlertRule(**table)
        except ValidationError as error:
            problems += [f"rule {name or '(no name)'}: {_place(e)}{e['msg']}" for e in error.errors(include_url=False)]
            continue
        problems += [*_unknown(rule, "metric", rule.metric, metrics), *_unknown(rule, "event", rule.event, events)]
        rules.append(rule)
    if problems:
        raise SettingsError(
            "Alert rules are not valid:" + "".join(f"\n  {problem}" for problem in problems),
            remedy=f"Correct {own or DEFAULT_RULES} (CONTIMG_ALERT_RULES); `contimg alerts rules` lists what is known.",
        )
    return tuple(rule for rule in rules if rule.is_enabled)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(
            f"The alert rules of {path} cannot be read",
            got=str(error),
            expected="a TOML file with [[rule]] tables",
            remedy="Correct CONTIMG_ALERT_RULES or the file.",
        ) from error
    tables = content.pop("rule", [])
    if content or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(
            f"The alert rules of {path} have another form",
            got=", ".join(content) or "a rule that is no table",
            expected="[[rule]] tables only",
            remedy="Write each rule below a line [[rule]].",
        )
    return tables


def _place(problem: Any) -> str:
    return "".join(f"{part}: " for part in problem["loc"])


def _unknown(rule: AlertRule, what: str, name: str | None, known: set[str] | None) -> list[str]:
    if name is None or known is None or name in known:
        return []
    near = difflib.get_close_matches(name, known, 1)
    return [f"rule {rule.name}: there is no {what} {name!r}" + (f"; did you mean {near[0]}?" if near else "")]
