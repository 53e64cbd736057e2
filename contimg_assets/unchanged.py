"""Whether a partition that is asked for is there already, made from the very same inputs: then there is no work, and it says so.

What belongs here: the decision, and what a run that had nothing to do hands to Dagster. What the inputs of an asset are is
``recipes``; how they are noted is ``contimg_resources.store.makings``. A wrong skip is a lost observation, so whatever is not
known, not as it was left, or not understood is a reason to make the partition again:

* the inputs are taken before the work and once more after it; if they differ (a late file, a new table) nothing is noted;
* the note is forgotten before a partition is made again, so that a run that is killed leaves none;
* files, rows and check results must be those of the run that the note names, and no check that blocks may have failed.

Checks are not evaluated again, for their measured values are in the product that did not change: their results are given once
more, marked as repeated, and table ``check_result`` keeps the run that evaluated them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import structlog

from contimg_assets.provenance import code_version
from contimg_resources.store.connection import Store
from contimg_resources.store.makings import (
    REMAKE_TAG,
    WHY_SKIPPED,
    Making,
    file_state,
    forget_making,
    hash_of,
    noted,
    row_state,
)

_LOG = structlog.get_logger(__name__)


def _is_always_intact(_inputs: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True)
class Recipe:
    """From what an asset makes a partition, and what must be there when it is made."""

    inputs: Callable[[], Mapping[str, Any] | None]
    """All that decides what the product is, read anew at each call; None where something is missing or cannot be told."""
    check_specs: Sequence[dg.AssetCheckSpec]
    files: Sequence[Path] = ()
    """Files and folders of the product."""
    bring: Callable[[Path], Path] = Path
    """Gives a file's place after fetching what another host made: `Products.brought`."""
    tables: Sequence[str] = ()
    """Tables of the store in which the partition has rows."""
    tables_maybe_empty: Sequence[str] = ()
    is_intact: Callable[[Mapping[str, Any]], bool] = field(default=_is_always_intact)
    """Whether what is not a file of one place or a row of the partition is there too, given the inputs."""


class Stage:
    """One asset's work on one partition, which may turn out not to be needed.

    Parameters
    ----------
    store : Store
    asset, partition_key : str
        The key is empty for an asset without partitions.
    code_version : str
        Of the asset.
    is_insisted : bool
        Whether somebody wants it made in any case.
    """

    def __init__(
        self, store: Store, asset: str, partition_key: str, code_version: str, *, is_insisted: bool = False
    ) -> None:
        self._store, self._asset, self._partition_key = store, asset, partition_key
        self._code_version, self._is_insisted = code_version, is_insisted
        self._recipe: Recipe | None = None
        self._input_hash: str | None = None
        self.is_skipped = False

    @classmethod
    def of_run(cls, context: dg.AssetExecutionContext, store: Store) -> "Stage":
        """The stage that a step of a run is."""
        return cls(
            store,
            context.asset_key.to_user_string(),
            context.partition_key if context.has_partition_key else "",
            code_version(context),
            is_insisted=bool(context.run.tags.get(REMAKE_TAG)),
        )

    @property
    def data_version(self) -> dg.DataVersion | None:
        """For Dagster: equal inputs, equal version; None, which leaves it to Dagster, where the inputs cannot be told."""
        return None if self._input_hash is None else dg.DataVersion(self._input_hash)

    def unchanged(self, recipe: Recipe) -> dg.MaterializeResult[Any] | None:
        """Return the result of a partition that is there already; None when it has to be made, after which that is noted."""
        self._recipe = recipe
        inputs = recipe.inputs()
        self._input_hash = self._hash(inputs)
        making = noted(self._store, self._partition_key).makings.get(self._asset)
        if making is None:
            return None
        results = self._repeated_results(recipe, making)
        why = next(self._reasons_to_make(recipe, making, inputs, results), None)
        if why:
            _LOG.info("made_again", why=why, made_by=making.run_id)
            forget_making(self._store, self._asset, self._partition_key)
            return None
        self.is_skipped = True
        reason = f"unchanged inputs since run {making.run_id} at {making.made_at:%Y-%m-%dT%H:%M:%S}Z"
        _LOG.info("stage_skipped", why=reason)
        return dg.MaterializeResult(
            metadata={
                WHY_SKIPPED: reason,
                "input_hash": making.input_hash,
                **{f"product_{path.name}": dg.MetadataValue.path(str(path)) for path in recipe.files},
            },
            check_results=results,
            data_version=self.data_version,
        )

    def made_from(self) -> dict[str, str | None]:
        """What is to be noted of a partition just made: nothing where the inputs are not known or changed meanwhile."""
        nothing: dict[str, str | None] = dict.fromkeys(("input_hash", "file_state", "row_state"))
        recipe = self._recipe
        if recipe is None or self._input_hash is None or self._hash(recipe.inputs()) != self._input_hash:
            return nothing
        states = {"file_state": file_state(recipe.files), "row_state": self._row_state(recipe)}
        return nothing if None in states.values() else {"input_hash": self._input_hash, **states}

    def _hash(self, inputs: Mapping[str, Any] | None) -> str | None:
        if inputs is None:
            return None
        return hash_of({"asset": self._asset, "code_version": self._code_version, "inputs": dict(inputs)})

    def _row_state(self, recipe: Recipe) -> str | None:
        return row_state(self._store, self._partition_key, recipe.tables, may_be_empty=recipe.tables_maybe_empty)

    def _reasons_to_make(
        self,
        recipe: Recipe,
        making: Making,
        inputs: Mapping[str, Any] | None,
        results: Sequence[dg.AssetCheckResult],
    ) -> Iterator[str]:
        """Why a partition that was made once is made again, what costs least to find out first."""
        if self._is_insisted:
            yield "it was asked for"
        if inputs is None:
            yield "its inputs are not all known"
            return
        if self._input_hash != making.input_hash:
            yield "its inputs changed"
        if len(results) != len(recipe.check_specs):
            yield "results of its checks are missing"
        if any(not result.passed and result.severity == dg.AssetCheckSeverity.ERROR for result in results):
            yield "a check that blocks has failed"
        if file_state([recipe.bring(path) for path in recipe.files]) != making.file_state:
            yield "its files are not as they were made"
        if self._row_state(recipe) != making.row_state or not recipe.is_intact(inputs):
            yield "its rows or tables are not as they were made"

    def _repeated_results(self, recipe: Recipe, making: Making) -> list[dg.AssetCheckResult]:
        """Results that the run which made the partition gave, one per check at most."""
        rows = self._store.query(
            'SELECT check_name, passed, severity, value, limit_value, unit, "at" FROM check_result'
            " WHERE asset = ? AND partition_key = ? AND run_id = ? ORDER BY check_name",
            [self._asset, self._partition_key, making.run_id],
        )
        wanted = {spec.name for spec in recipe.check_specs}
        return [
            dg.AssetCheckResult(
                asset_key=self._asset,
                check_name=row["check_name"],
                passed=row["passed"],
                severity=dg.AssetCheckSeverity[row["severity"]],
                description="Repeated: inputs and product are unchanged.",
                metadata={
                    "repeated": f"evaluated by run {making.run_id} at {row['at']:%Y-%m-%dT%H:%M:%S}Z",
                    "unit": row["unit"] or "",
                    **{
                        name: row[column]
                        for name, column in (("measured", "value"), ("limit", "limit_value"))
                        if row[column] is not None
                    },
                },
            )
            for row in rows.iter_rows(named=True)
            if row["check_name"] in wanted
        ]
