"""Images of one observation, as a product to publish."""

from __future__ import annotations

import numpy as np

from contimg_resources.products import Products, file_hash

KEY = "2026-02-20T06:00"
ASSET = "continuum_image"


def make_images(products: Products, seed: int, n_bytes: int = 9_000_000) -> dict[str, str]:
    """An image folder of two large files and a small one in a folder below, and a table beside it."""
    rng = np.random.default_rng(seed)
    folder = products.image_folder(KEY)
    for name, size in {"image.fits": n_bytes, "residual.fits": n_bytes, "bands/band0.fits": 1000}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(size))
    products.write_json(folder.with_suffix(".json"), {"seed": seed})
    return snapshot(products)


def snapshot(products: Products) -> dict[str, str]:
    """Hashes of what a partition has on the local disk."""
    return {path.name: file_hash(path) for path in products.of_partition(ASSET, KEY)}
