"""What a good store is: its rows agree with the products. Looked at once a day, by a job of its own.

The questions themselves are ``contimg_resources.store.consistency``; `contimg store check` asks the same ones. The check stands
with ``reference_catalogue``, whose rows every other table refers to, because it has no partitions, as the store has none.
"""

import dagster as dg

from contimg_assets.checks.judgement import Judgement, record
from contimg_resources.configurable import Observatory

STORE_AGREES = "store_agrees_with_products"


@dg.asset_check(
    asset="reference_catalogue",
    name=STORE_AGREES,
    description="Every row of the store has its product and every product its rows; statistics are those of the light curves.",
)
def store_agrees_with_products(context: dg.AssetCheckExecutionContext, observatory: Observatory) -> dg.AssetCheckResult:
    """Look for whatever does not agree; the kinds are those of `Inconsistency`."""
    from contimg_assets.science.variability import variability_statistics
    from contimg_resources.store.consistency import inconsistencies

    found = inconsistencies(observatory.store, observatory.products, variability_statistics)
    worst = [f"{item.kind} {item.table}: {item.subject}" for item in found]
    judgement = Judgement(STORE_AGREES, not found, len(found), 0, "inconsistencies", worst=worst)
    [result] = record(observatory.store, context, "reference_catalogue", [judgement])
    return result
