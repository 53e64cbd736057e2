"""What every asset check has in common: a measured value against a limit, recorded for Dagster and for the store.

The formulas are in ``science``; the modules beside this one know the limits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl

from contimg_resources.store.connection import Store


@dataclass(frozen=True)
class Judgement:
    """One property of one product: what was measured and what would have been acceptable."""

    check_name: str
    passed: bool
    value: float | None
    limit: float | None
    unit: str
    worst: Sequence[Any] = ()
    """Worst offenders, most offending first."""
    blocking: bool = False
    detail: Mapping[str, Any] = field(default_factory=dict)

    def result(self, asset: str) -> dg.AssetCheckResult:
        """The judgement as Dagster reports it: an error where it blocks, a warning elsewhere."""
        metadata: dict[str, Any] = {"unit": self.unit, **self.detail}
        if self.value is not None:
            metadata["measured"] = float(self.value)
        if self.limit is not None:
            metadata["limit"] = float(self.limit)
        if self.worst:
            metadata["worst_offenders"] = [str(offender) for offender in self.worst[:10]]
        return dg.AssetCheckResult(
            asset_key=asset,
            check_name=self.check_name,
            passed=bool(self.passed),
            severity=dg.AssetCheckSeverity.ERROR if self.blocking else dg.AssetCheckSeverity.WARN,
            metadata=metadata,
        )


def specs(asset: str, **sentences: str) -> list[dg.AssetCheckSpec]:
    """Check specs of an asset: name -> description; a description that ends in ``(blocking)`` blocks."""
    return [
        dg.AssetCheckSpec(name, asset=asset, description=sentence, blocking=sentence.endswith("(blocking)"))
        for name, sentence in sentences.items()
    ]


def nothing_to_judge(check_specs: Sequence[dg.AssetCheckSpec]) -> list[dg.AssetCheckResult]:
    """Results of a partition without product: Dagster wants one per check even where an optional asset makes nothing."""
    return [
        dg.AssetCheckResult(
            asset_key=spec.asset_key, check_name=spec.name, passed=True, description="This partition has no product."
        )
        for spec in check_specs
    ]


def record(
    store: Store,
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
    asset: str,
    judgements: Sequence[Judgement],
) -> list[dg.AssetCheckResult]:
    """Write judgements to table ``check_result`` and return them for Dagster."""
    partition_key = context.partition_key if context.has_partition_key else ""
    store.upsert(
        "check_result",
        pl.DataFrame(
            {
                "asset": [asset] * len(judgements),
                "check_name": [j.check_name for j in judgements],
                "partition_key": [partition_key] * len(judgements),
                "run_id": [context.run.run_id] * len(judgements),
                "at": [datetime.now(UTC).replace(tzinfo=None)] * len(judgements),
                "passed": [bool(j.passed) for j in judgements],
                "severity": ["ERROR" if j.blocking else "WARN" for j in judgements],
                "value": [None if j.value is None else float(j.value) for j in judgements],
                "limit_value": [None if j.limit is None else float(j.limit) for j in judgements],
                "unit": [j.unit for j in judgements],
            },
            schema_overrides={"value": pl.Float64, "limit_value": pl.Float64},
        ),
    )
    return [judgement.result(asset) for judgement in judgements]
