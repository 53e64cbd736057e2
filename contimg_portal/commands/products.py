"""``contimg products``: publishes finished products to their home (CONTIMG_PRODUCTS_URL) and brings them back."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

if TYPE_CHECKING:
    from contimg_resources.product_home import ProductHome
    from contimg_resources.products import Products
    from contimg_resources.settings import Settings

app = typer.Typer(help="Products in their home: object storage or a shared folder.", no_args_is_help=True)

AssetOption = Annotated[list[str] | None, typer.Option("--asset", help="Only of this asset; may be repeated.")]
DayOption = Annotated[str | None, typer.Option("--day", help="Only of this UTC day, YYYY-MM-DD.")]


@app.command()
def publish(asset: AssetOption = None, day: DayOption = None, json_output: JsonOption = False) -> None:
    """Publish what is on the local disk and not, or not like that, in the home; each object is read back."""
    with one_screen_errors():
        from contimg_resources.product_manifests import local_partitions
        from contimg_resources.products import Products
        from contimg_resources.settings import load_settings

        settings = load_settings()
        home, products = _home(settings), Products(settings.data)
        wanted = asset or [name for name in _assets_here(products) if name not in settings.unpublished]
        n_products = n_files = n_bytes = 0
        for name in wanted:
            for key in local_partitions(products, name):
                if day is None or (key or "").startswith(day):
                    manifest = home.publish(products, name, key)
                    n_products, n_files = n_products + 1, n_files + len(manifest.objects)
                    n_bytes += sum(item.bytes for item in manifest.objects)
        result = {"home": home.url, "n_products": n_products, "n_files": n_files, "gb": n_bytes / 1e9}
        emit(result, as_json=json_output)


@app.command()
def fetch(
    asset: Annotated[str, typer.Argument(help="Asset key.")],
    partition: Annotated[
        str | None, typer.Argument(help="YYYY-MM-DDTHH:MM or YYYY-MM-DD; none for a catalogue.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Bring a published product back to its place on the local disk, verified."""
    with one_screen_errors():
        from contimg_resources.products import Products
        from contimg_resources.settings import load_settings

        settings = load_settings()
        products = Products(settings.data, minimum_free_gb=settings.minimum_free_gb)
        paths = _home(settings).fetch(products, asset, partition)
        emit(
            {"n_paths": len(paths), "paths": [{"path": str(path)} for path in paths]}, as_json=json_output, rows="paths"
        )


@app.command()
def clear(
    before: Annotated[datetime, typer.Option("--before", formats=["%Y-%m-%d"], help="Of days before this UTC day.")],
    asset: AssetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Free this disk of copies of what is published; not on the host of the store, where `contimg retention` does."""
    with one_screen_errors():
        from contimg_resources.errors import SettingsError
        from contimg_resources.product_manifests import local_partitions
        from contimg_resources.products import open_products
        from contimg_resources.settings import load_settings

        settings = load_settings()
        home, products = _home(settings), open_products(settings)
        if products.store_path.parent == products.root:
            raise SettingsError(
                "This is the host of the store", got=f"the store is {products.store_path}", expected="a host without it",
                remedy="Set CONTIMG_RETENTION__POLICIES; contimg retention notes what it removes.",
            )  # fmt: skip
        paths = [
            path
            for name in asset or _assets_here(products)
            for key in local_partitions(products, name)
            if key is not None and key[:10] < f"{before:%Y-%m-%d}"
            for path in home.clear(products, name, key)
        ]
        emit(
            {"n_paths": len(paths), "paths": [{"path": str(path)} for path in paths]}, as_json=json_output, rows="paths"
        )


def _assets_here(products: Products) -> list[str]:
    """Assets of which something lies on this disk."""
    return sorted(path.name for path in (products.root / "products").glob("*") if path.is_dir())


def _home(settings: Settings) -> ProductHome:
    from contimg_resources.errors import SettingsError
    from contimg_resources.product_home import ProductHome

    if settings.products_url is None:
        raise SettingsError(
            "Products have no home", got="no CONTIMG_PRODUCTS_URL", expected="s3://bucket/prefix or a folder",
            remedy="Set CONTIMG_PRODUCTS_URL; credentials of S3 are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )  # fmt: skip
    stderr.print(f"Home of products: {settings.products_url}", highlight=False)
    return ProductHome(settings.products_url)
