"""``contimg store``: whether the store agrees with itself and with the products; making it again from them; upgrading it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

if TYPE_CHECKING:
    from contimg_resources.products import Products
    from contimg_resources.store.connection import Store

_SHOWN = 20
"""Inconsistencies on a screen."""

app = typer.Typer(help="Consistency of the store, and rebuilding it from the products.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Consistency of the store, and rebuilding it from the products."""


@app.command()
def check(as_json: JsonOption = False) -> None:
    """Missing products, orphans, doubled rows, products and rows that differ, wrong statistics; exit code 1 if there are any."""
    with one_screen_errors():
        store, products = _store_and_products()
        n_found = _report_inconsistencies(store, products, {}, as_json=as_json)
    if n_found:
        raise typer.Exit(1)


@app.command()
def rebuild(
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for a store in use.")] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Make the store again from the products folder alone; the old file is moved aside. Ends with `store check`.

    For a file that is lost, damaged or of another version. Refused while somebody writes.
    """
    from datetime import UTC, datetime

    from contimg_resources.store.rebuild import rebuild_store

    with one_screen_errors():
        store, products = _store_and_products(wait_s)
        made = rebuild_store(store, products, at=datetime.now(UTC))
        told: dict[str, object] = {
            "moved_to": made.moved_to,
            "n_files": made.n_files,
            "n_rows": {table: n_rows for table, n_rows in made.n_rows.items() if n_rows},
            "n_products_without_run": len(made.without_run),
        }
        n_found = _report_inconsistencies(store, products, told, as_json=as_json)
    if n_found:
        raise typer.Exit(1)


@app.command()
def keep(as_json: JsonOption = False) -> None:
    """Write the rows that lie in no product beside the products, once, for a store that was filled before this was done at once."""
    from contimg_resources.store.records import keep_everything

    with one_screen_errors():
        store, _ = _store_and_products()
        with store.reading():
            pass  # an absent store is an error, not a new file
        with store.transaction() as connection:
            written = keep_everything(connection)
        emit({"store": str(store.path), "n_files": sum(written.values()), "files": written}, as_json=as_json)


def _store_and_products(wait_s: float = 60.0) -> tuple[Store, Products]:
    from contimg_resources.products import open_products
    from contimg_resources.settings import load_settings
    from contimg_resources.store.connection import Store

    products = open_products(load_settings())
    return Store(products.store_path, wait_s=wait_s), products


def _report_inconsistencies(store: Store, products: Products, told: dict[str, object], *, as_json: bool) -> int:
    """Print what was done and what does not agree; return how much does not."""
    from contimg_assets.science.variability import variability_statistics
    from contimg_resources.store.consistency import inconsistencies

    found = inconsistencies(store, products, variability_statistics)
    shown = found if as_json else found[:_SHOWN]
    emit(
        {
            "store": str(store.path),
            **told,
            "n_inconsistencies": len(found),
            "found": [asdict(item) for item in shown],
        },
        as_json=as_json,
        rows="found",
    )
    if len(shown) < len(found):
        stderr.print(f"and {len(found) - len(shown)} more: --json lists all", highlight=False)
    return len(found)


@app.command()
def upgrade(
    rollback: Annotated[bool, typer.Option("--rollback", help="Put the file of before the last upgrade back.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a store of an earlier version one of this version; the old file stays beside it. Stop Dagster and the portal first."""
    from contimg_resources.settings import load_settings
    from contimg_resources.store.connection import open_store
    from contimg_resources.store.upgrade import roll_back_store, upgrade_store

    with one_screen_errors():
        path = open_store(load_settings()).path
        done = {"moved_aside": roll_back_store(path)} if rollback else asdict(upgrade_store(path))
    emit({"store": str(path), **done}, as_json=as_json)
