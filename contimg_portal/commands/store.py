"""``contimg store``: whether the store agrees with itself and with the products; upgrading it to this version and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

_SHOWN = 20
"""Inconsistencies on a screen."""

app = typer.Typer(help="Consistency of the store.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Consistency of the store."""


@app.command()
def check(as_json: JsonOption = False) -> None:
    """Missing products, orphans, doubled rows, products and rows that differ, wrong statistics; exit code 1 if there are any."""
    from contimg_assets.science.variability import variability_statistics
    from contimg_resources.products import Products
    from contimg_resources.settings import load_settings
    from contimg_resources.store.connection import Store
    from contimg_resources.store.consistency import inconsistencies

    with one_screen_errors():
        products = Products(load_settings().data)
        found = inconsistencies(Store(products.store_path), products, variability_statistics)
    shown = found if as_json else found[:_SHOWN]
    emit(
        {"store": str(products.store_path), "n_inconsistencies": len(found), "found": [asdict(item) for item in shown]},
        as_json=as_json,
        rows="found",
    )
    if len(shown) < len(found):
        stderr.print(f"and {len(found) - len(shown)} more: --json lists all", highlight=False)
    if found:
        raise typer.Exit(1)


@app.command()
def upgrade(
    rollback: Annotated[bool, typer.Option("--rollback", help="Put the file of before the last upgrade back.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a store of an earlier version one of this version; the old file stays beside it. Stop Dagster and the portal first."""
    from contimg_resources.products import Products
    from contimg_resources.settings import load_settings
    from contimg_resources.store.upgrade import roll_back_store, upgrade_store

    with one_screen_errors():
        path = Products(load_settings().data).store_path
        done = {"moved_aside": roll_back_store(path)} if rollback else asdict(upgrade_store(path))
    emit({"store": str(path), **done}, as_json=as_json)
