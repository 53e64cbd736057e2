"""Feature flags that are rolled out gradually: a value for all observations, or for a share of them.

What belongs here: the way a flag is typed (``catalogue`` or ``catalogue:10``) and whom it reaches. Which flags there are is
``settings.py``; what a value does is the asset's that asks.

Method: the SHA-256 of the flag's name and the observation's partition key is a number in [0, 1); an observation is reached if
it is below the share. So the same observation has the same answer in every process and at every remaking, a larger share only adds
observations, and flags choose independently of each other. Rejected: drawing lots and remembering them (state that can be
lost), and ``hash()`` (another in each process).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator
from pydantic_settings import NoDecode

_TYPED = re.compile(r"([A-Za-z_]\w*)(?::(\d+(?:\.\d+)?))?")


@dataclass(frozen=True, slots=True)
class RollOut:
    """A flag as it is set: its value, and the share of the observations that have it."""

    flag: str
    """Name of the setting, e.g. ``feature_flux_scale``."""
    value: str
    otherwise: str
    """What observations have that are not reached: the flag's default."""
    percent: float = 100.0

    def of(self, partition_key: str) -> str:
        """Value of the flag for an observation."""
        return self.value if is_reached(self.flag, partition_key, self.percent) else self.otherwise

    def __str__(self) -> str:
        """As it is typed."""
        return self.value if self.percent == 100.0 else f"{self.value}:{self.percent:.12g}"


def is_reached(flag: str, partition_key: str, percent: float) -> bool:
    """Whether a roll-out reaches an observation.

    Parameters
    ----------
    flag : str
    partition_key : str
        Of the observation, e.g. ``2026-01-25T22:25``.
    percent : float
        Share of the observations, 0 to 100.

    Notes
    -----
    The first 8 bytes of SHA-256(flag, NUL, key), over 2**64, times 100, are below ``percent``.
    """
    digest = hashlib.sha256(f"{flag}\0{partition_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * 100.0 / 2.0**64 < percent


def parse_roll_out(flag: str, allowed: tuple[str, ...], typed: Any) -> RollOut:
    """Read ``value`` or ``value:percent``; the first of the allowed values is the default.

    Raises
    ------
    ValueError
        With what was got, what is expected and what to do.
    """
    if isinstance(typed, RollOut):
        return typed
    default, others = allowed[0], allowed[1:]
    matched = _TYPED.fullmatch(typed.strip()) if isinstance(typed, str) else None
    value = matched[1] if matched else ""
    percent = float(matched[2]) if matched and matched[2] else None
    if value not in allowed or (percent is not None and (value == default or percent > 100.0)):
        forms = ", ".join((*allowed, *(f"{other}:<percent of the observations, 0 to 100>" for other in others)))
        message = f"got {typed!r}, expected one of {forms}. Write {others[0]}:10 to reach 10 % of the observations;"
        message += f" the others have {default}"
        raise ValueError(message)
    return RollOut(flag, value, default, 100.0 if percent is None else percent)


FLUX_SCALE = RollOut("feature_flux_scale", "ensemble", "ensemble")
"""Default: references with learned offsets and a plane, for all."""
FluxScaleFlag = Annotated[
    RollOut,
    NoDecode,
    PlainValidator(partial(parse_roll_out, FLUX_SCALE.flag, (FLUX_SCALE.value, "catalogue"))),
    PlainSerializer(str),
]
