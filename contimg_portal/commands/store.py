"""``contimg store``: whether the store agrees with itself and with the products."""

from __future__ import annotations

from dataclasses import asdict

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors

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
    emit(
        {"store": str(products.store_path), "n_inconsistencies": len(found), "found": [asdict(item) for item in found]},
        as_json=as_json,
        rows="found",
    )
    if found:
        raise typer.Exit(1)
