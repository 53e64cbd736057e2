"""The errors of the world outside, sorted by what the operator must do.

Drawn as a tree::

    ResourceError (Exception)       never raised itself
    ├── SettingsError               nothing will work until the setting is fixed
    ├── RawFileError                a raw file cannot be used; it stays where it is, quarantined by reason code
    ├── ProductMissingError         a product that should exist does not; make it again
    │   └── ProductNotPublishedError  it is not in the products' home (yet); transient
    ├── CatalogueError              a catalogue is missing or lacks columns
    ├── DiskFullError               no space left; free some, then retry
    ├── CasaError                   CASA or casacore refused; transient says whether retrying can help
    ├── EngineError                 an outside engine (WSClean, AOFlagger) is not installed or failed
    │   └── EngineCrashError        the process of an engine (WSClean, CASA) was killed or crashed; transient
    ├── StageTimeoutError           a stage took longer than its limit and was ended
    ├── BrokerError                 the broker of a cluster does not answer; transient
    ├── BreakerOpenError            a stage failed so often that it is not asked for a while; transient
    ├── CircuitOpenError            an outside service failed so often that it is not asked for a while; transient
    ├── TransferError               a file could not be handed to another host or storage; transient says whether to try again
    └── StoreError                  the store cannot be read or written
        └── StoreBusyError          another process held the file for too long; transient

Data that are readable but unusable are ``science.errors.DataError``.
"""

from __future__ import annotations

from typing import Any


class ResourceError(Exception):
    """Root of this package's errors; carries whether a retry can help.

    The message has four parts: what is wrong (naming file or setting), got, expected, what to do.
    """

    transient: bool = False
    reason_code: str = "resource_error"

    def __init__(
        self, what: str, *, got: str = "", expected: str = "", remedy: str, reason_code: str | None = None
    ) -> None:
        self.what = what
        self.remedy = remedy
        if reason_code is not None:
            self.reason_code = reason_code
        found = f": got {got}, expected {expected}" if got or expected else ""
        super().__init__(f"{what}{found}. {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross processes (CASA's): made anew without the constructor, whose arguments are not kept."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[ResourceError], arguments: tuple[Any, ...], state: dict[str, Any]) -> ResourceError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class SettingsError(ResourceError):
    """Raise when a setting is missing or out of range; names setting, value and what is allowed."""

    reason_code = "wrong_setting"


class RawFileError(ResourceError):
    """Raise when a raw sub-band file cannot be used (truncated, other telescope, malformed)."""

    reason_code = "unreadable_file"


class ProductMissingError(ResourceError, FileNotFoundError):
    """Raise when a product that an asset needs is not on disk."""

    reason_code = "product_missing"


class ProductNotPublishedError(ProductMissingError):
    """Raise when a product is neither on this host nor in the home: the host that made it may be publishing it just now."""

    transient = True


class CatalogueError(ResourceError):
    """Raise when a reference catalogue is missing, unreadable or lacks a required column."""

    reason_code = "catalogue_unusable"


class DiskFullError(ResourceError):
    """Raise when there is not enough space to write a product."""

    transient = True
    reason_code = "disk_full"


class CasaError(ResourceError):
    """Raise when CASA or casacore refuses a table."""

    reason_code = "casa_failed"


class EngineError(ResourceError):
    """Raise when a program or package that was chosen as an engine is missing or fails; CASA has its own error."""

    reason_code = "engine_failed"


class EngineCrashError(EngineError):
    """Raise when the process of an engine, CASA's included, is ended by a signal or ends without an answer."""

    transient = True
    reason_code = "engine_crashed"


class StageTimeoutError(ResourceError):
    """Raise when a stage exceeds its limit (no TimeoutError, which is an OSError and would be taken for one of files)."""

    transient = True
    reason_code = "timeout"


class BrokerError(ResourceError):
    """Raise when the broker of a cluster (Redis) does not answer; runs that go on need it only to be known alive."""

    transient = True
    reason_code = "broker_away"


class BreakerOpenError(ResourceError):
    """Raise when a stage does not start because its breaker is not closed; not for calls to the outside."""

    transient = True
    reason_code = "breaker_open"


class CircuitOpenError(ResourceError):
    """Raise when an outside service is not asked because it failed repeatedly a moment ago."""

    transient = True
    reason_code = "service_unavailable"


class TransferError(ResourceError):
    """Raise when a file cannot be handed to another host or to object storage, or arrived there damaged."""

    reason_code = "transfer_failed"

    def __init__(
        self,
        what: str,
        *,
        got: str = "",
        expected: str = "",
        remedy: str,
        reason_code: str | None = None,
        transient: bool = False,
    ) -> None:
        super().__init__(what, got=got, expected=expected, remedy=remedy, reason_code=reason_code)
        self.transient = transient


class StoreError(ResourceError):
    """Raise when the DuckDB store cannot be read or written."""

    reason_code = "store_failed"


class StoreBusyError(StoreError):
    """Raise when the store stayed locked by another process beyond the bounded wait."""

    transient = True
    reason_code = "store_busy"
