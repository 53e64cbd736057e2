"""The errors of the science package: data that cannot be used, and nothing else.

Drawn as a tree::

    DataError (ValueError)          this input cannot be used; trying again will not help
    ├── NotEnoughDataError          the input is sound but there is too little of it
    └── SolutionError               a solver ran and its result must not be used

Problems of the world outside (files, CASA, the store) live in ``contimg_resources.errors``.
"""

from __future__ import annotations


class DataError(ValueError):
    """Raise when an observation, image or table cannot be used as it is.

    Do not raise it for a missing file or a busy store: those are the outside world.

    Parameters
    ----------
    what : str
        What is wrong, naming the observation, antenna, source or file where known.
    got, expected : str
        The measured value and what would have been acceptable, with units.
    remedy : str
        What the operator can do.
    reason_code : str
        Short machine-readable code, stored with the quarantined observation.
    """

    def __init__(self, what: str, *, got: str, expected: str, remedy: str, reason_code: str) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.remedy = remedy
        self.reason_code = reason_code
        super().__init__(f"{what}: got {got}, expected {expected}. {remedy}")


class NotEnoughDataError(DataError):
    """Raise when the data are sound but too few remain, e.g. all visibilities are flagged."""


class SolutionError(DataError):
    """Raise when a solver finished but its solutions must not be applied."""
