"""What an examination says: one finding for each thing looked at. Looking is ``diagnosis`` and ``platform_diagnosis``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    state: State
    detail: str
    remedy: str = ""
