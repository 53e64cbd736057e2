"""Every setting as a row: its value, where that comes from, its default and what it means. Secrets are masked.

What belongs here: what ``contimg doctor --settings``, the portal's page and the history of changes show. What a setting is,
and reading it, is ``settings.py``; the history is ``setting_changes.py``. Of a secret nothing but whether it is set leaves this
module, of an address with a user or a query neither of them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from contimg_resources.settings import (
    Settings,
    config_path,
    environment_name,
    given_values,
    secrets_folder,
    unknown_variables,
)

Origin = Literal["environment", "secrets", "file", "program", "default"]
"""Where a value comes from; ``program``: given by the process itself, such as a command's option."""
SET, NOT_SET = "set", "not set"
OF_THE_HOST = "default of the host"
_USER, _QUERY = re.compile(r"(\w+://)\S*@"), re.compile(r"\?.*")


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting of this process."""

    name: str
    """Of the environment variable that sets it."""
    value: str
    """As a person would type it; of a secret only whether it is set."""
    origin: Origin
    default: str
    is_default: bool
    is_secret: bool
    is_of_host: bool
    """Whether its default is found on each host anew."""
    description: str


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting with its value itself, which may be a secret: not to be shown."""

    section: type[BaseModel]
    location: tuple[str, ...]
    value: Any

    @property
    def field(self) -> FieldInfo:
        """Type, default and description."""
        return self.section.model_fields[self.location[-1]]

    @property
    def name(self) -> str:
        """Of the environment variable."""
        return environment_name(*self.location)

    @property
    def is_secret(self) -> bool:
        """Whether its value must not be shown."""
        return "SecretStr" in str(self.field.annotation)

    @property
    def description(self) -> str:
        """What it means; where a section explains its settings together, that."""
        return self.field.description or inspect.cleandoc(self.section.__doc__ or "").partition("\n")[0]

    def text(self) -> str:
        """Value as it may be shown."""
        if self.is_secret:
            return SET if self.value else NOT_SET
        return _text(self.value)


class _Defaults(Settings):
    """Settings that nobody has set."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (pydantic's signature)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given in the call alone."""
        return (init_settings,)


def leaves(settings: BaseModel, *place: str) -> Iterator[Leaf]:
    """Every setting, those of sections in the place of the section."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, *place, name)
        else:
            yield Leaf(type(settings), (*place, name), value)


def settings_table(settings: Settings) -> list[SettingRow]:
    """Rows of all settings, in their order; what differs from the default first.

    Parameters
    ----------
    settings : Settings
        Of this process, whose environment says where they come from.
    """
    given = given_values()
    defaults = {leaf.location: leaf for leaf in leaves(_Defaults(data=settings.data))}  # the watched folder follows
    data = Path(Settings.model_fields["data"].default).absolute()
    rows = []
    for leaf in leaves(settings):
        default = data if leaf.location == ("data",) else defaults[leaf.location].value
        origin = next((origin for origin, values in given.items() if _has(values, leaf.location)), None)
        is_default = bool(leaf.value == default)
        rows.append(
            SettingRow(
                name=leaf.name,
                value=leaf.text(),
                origin=origin or ("default" if is_default else "program"),
                default=NOT_SET if leaf.is_secret else _text(default),
                is_default=is_default,
                is_secret=leaf.is_secret,
                is_of_host=leaf.field.default_factory is not None,
                description=leaf.description,
            )
        )
    return sorted(rows, key=lambda row: row.is_default)


def settings_of_process(settings: Settings) -> dict[str, Any]:
    """All there is to say of the settings of this process, ready for JSON: files, variables that set nothing, rows."""
    return {
        "file": _path_text(config_path()),
        "secrets_folder": _path_text(secrets_folder()),
        # Names alone: the value of a misspelt secret is one too.
        "unknown": [{"name": name, "meant": meant} for name, meant in unknown_variables().items()],
        "settings": [asdict(row) for row in settings_table(settings)],
    }


def _path_text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _has(values: Mapping[str, Any], location: tuple[str, ...]) -> bool:
    """Whether a source gives a value for a setting."""
    found: Any = values
    for part in location:
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return True


@singledispatch
def _text(value: object) -> str:
    """Write a value as a person would type it."""
    text = str(value)
    if "://" in text:
        text = _QUERY.sub("?(hidden)", _USER.sub(r"\1(hidden)@", text))
    return text or "empty"


@_text.register
def _(value: None) -> str:  # noqa: ARG001 (chosen by its type)
    return NOT_SET


@_text.register
def _(value: bool) -> str:  # noqa: FBT001 (chosen by its type)
    return str(value).lower()


@_text.register
def _(value: float) -> str:
    return repr(value).removesuffix(".0")


@_text.register
def _(value: BaseModel) -> str:
    return " ".join(f"{name}={_text(part)}" for name, part in value if part is not None)


@_text.register
def _(value: Mapping) -> str:  # type: ignore[type-arg]
    return ", ".join(f"{name}={_text(part)}" for name, part in value.items()) or "none"


@_text.register
def _(value: tuple) -> str:  # type: ignore[type-arg]
    return "-".join(map(_text, value))


@_text.register
def _(value: list) -> str:  # type: ignore[type-arg]
    return ", ".join(map(_text, value)) or "none"
