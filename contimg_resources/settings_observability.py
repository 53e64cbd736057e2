"""Types of the settings about logs, used by ``settings.py``: levels, one for all and one per package.

What belongs here: reading and validating what a person types. What the levels do is ``observability.py``.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

LogLevel = Literal["debug", "info", "warning", "error", "critical"]


def _split_levels(value: Any) -> Any:
    """Read ``contimg_resources.store=debug, contimg_portal=warning`` as a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",") if item.strip()]
    wrong = [name for name, equals, level in pairs if not (equals and name.strip() and level.strip())]
    if wrong:
        message = f"{', '.join(wrong)}: levels are typed as contimg_resources.store=debug, contimg_portal=warning"
        raise ValueError(message)
    return {name.strip(): level.strip().lower() for name, _, level in pairs}


def _require_packages(levels: dict[str, LogLevel]) -> dict[str, LogLevel]:
    wrong = [name for name in levels if not re.fullmatch(r"\w+(\.\w+)*", name)]
    if wrong:
        message = f"{', '.join(wrong)}: names of packages or modules are wanted, such as contimg_resources.store"
        raise ValueError(message)
    return levels


LogLevels = Annotated[dict[str, LogLevel], NoDecode, BeforeValidator(_split_levels), AfterValidator(_require_packages)]
