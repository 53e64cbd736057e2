"""What may be archived or removed, and why not otherwise: a pure function of products, policies, needs and the time.

What belongs here: the decision about one product, and nothing that reads a file, a table or a clock. What is needed by whom is
``needs.py``; how the present state is read is ``inventory.py``; doing it is ``execution.py``.

A need outweighs every policy. What belongs to an unfinished observation is not even copied, because it may still be written;
whatever else is needed may be copied, never removed. Days of removal count from the verified copy, or where the policy wants no
copy from when the product was made; a product that was brought back starts anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from contimg_resources.retention.needs import Needs
from contimg_resources.settings_retention import Policy


class Action(StrEnum):
    """What is to be done with a product."""

    KEEP = "keep"
    ARCHIVE = "archive"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Product:
    """One file or folder that lies in the data folder or the incoming folder now."""

    path: str
    kind: str
    """As in `Policy`."""
    asset: str
    partition_key: str
    status: str
    """Of its observations, or of the calibration table."""
    n_bytes: int
    made_at: datetime
    """UTC without zone."""
    observations: frozenset[str] = frozenset()
    """Partition keys of the observations that it is of; none for calibration tables."""
    archived_at: datetime | None = None
    """When the copy of its present content was verified; None without such a copy."""
    restored_at: datetime | None = None
    """When it was brought back from the archive last."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a product, and why."""

    product: Product
    action: Action
    reason: str


def decide(products: Iterable[Product], policies: Sequence[Policy], needs: Needs, now: datetime) -> list[Decision]:
    """Decide about every product, in the order of the products.

    Parameters
    ----------
    products : iterable of Product
    policies : sequence of Policy
        One at most per kind and status; that of the very status comes before that of any.
    needs : Needs
        What must stay.
    now : datetime
        UTC without zone.
    """
    chosen: dict[tuple[str, str], Policy] = {(policy.kind, policy.status): policy for policy in policies}
    return [_decided(product, _policy_of(product, chosen), needs, now) for product in products]


def _policy_of(product: Product, chosen: dict[tuple[str, str], Policy]) -> Policy | None:
    return chosen.get((product.kind, product.status)) or chosen.get((product.kind, "any"))


def _decided(product: Product, policy: Policy | None, needs: Needs, now: datetime) -> Decision:
    if policy is None:
        return Decision(product, Action.KEEP, "no policy for it")
    if unfinished := needs.why_unfinished(product.observations):
        return Decision(product, Action.KEEP, unfinished)
    if policy.archive_after_d is not None and product.archived_at is None:
        return _when_due(product, Action.ARCHIVE, product.made_at, policy.archive_after_d, now)
    if policy.remove_after_d is None:
        return Decision(product, Action.KEEP, "archived; its policy removes nothing")
    if held := needs.why(product.path, product.observations) or _why_unique(product, needs):
        return Decision(product, Action.KEEP, held)
    since = product.archived_at if policy.archive_after_d is not None and product.archived_at else product.made_at
    return _when_due(product, Action.REMOVE, max(since, product.restored_at or since), policy.remove_after_d, now)


def _why_unique(product: Product, needs: Needs) -> str:
    """Why a product cannot be had again; empty if there is a copy of it, or of the raw files that it is made of."""
    if product.archived_at is not None or (product.observations and product.observations <= needs.remakeable):
        return ""
    return "its raw files are neither there nor archived: it could not be made again"


def _when_due(product: Product, action: Action, since: datetime, after_d: float, now: datetime) -> Decision:
    age_d = (now - since) / timedelta(days=1)
    begun = {product.made_at: "made", product.archived_at: "archived", product.restored_at: "brought back"}[since]
    if age_d < after_d:
        return Decision(product, Action.KEEP, f"{begun} {age_d:.1f} d ago, {action} after {after_d:g} d")
    return Decision(product, action, f"{begun} {age_d:.1f} d ago, policy {after_d:g} d")
