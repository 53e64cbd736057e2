"""Products of other hosts, as retention on the host of the store sees them: listed, brought here when due, withdrawn when removed.

What belongs here: what retention asks of the products' home. Deciding and removing is ``execution.py``, which knows products on the
local disk only: what another host made is brought here first, then archived and removed like one's own. Rejected: archiving from
the home, with which every step and every recovery from a kill would have two forms.

Without a home, and where what is removed stays published (``CONTIMG_RETENTION__WITHDRAW`` unset), nothing is brought and nothing
withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from contimg_resources.errors import SettingsError
from contimg_resources.product_home import ProductHome
from contimg_resources.products import Products, open_products
from contimg_resources.retention.inventory import ASSET_OF
from contimg_resources.settings import Settings
from contimg_resources.settings_retention import Policy
from contimg_resources.store.connection import Store

_LISTED = ("measurement_set", "continuum_image")
"""Beside what observations wait for: products by which an observation has any."""


class ProductsElsewhere:
    """The products' home of an installation, if it has one.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    SettingsError
        If this is not the host of the store: what is removed here would be noted as removed everywhere.
    """

    def __init__(self, settings: Settings) -> None:
        self.products: Products = open_products(settings)
        self._settings = settings.retention
        url = settings.products_url
        self._home = None if url is None else ProductHome(url)
        self._is_withdrawn = self._home is not None and self._settings.withdraw
        if self._home is not None and self.products.store_path.parent != self.products.root:
            raise SettingsError(
                "Retention runs on the host of the store alone",
                got=f"CONTIMG_DATA={self.products.root}, the store is {self.products.store_path}",
                expected="the store in the data folder",
                remedy="Run it there. Copies on this host go by: contimg products clear --before DAY.",
            )

    def published(self) -> Mapping[str, list[str | None]]:
        """Partitions in the home, of the assets that decisions depend on."""
        if self._home is None:
            return {}
        return {asset: self._home.partitions(asset) for asset in {*_LISTED, *self._settings.wait_for}}

    def bring_due(self, store: Store, now: datetime) -> None:
        """Fetch products that policies are about, that may be due, and that are not here.

        Raises
        ------
        ResourceError
            If the disk is too full, or the home gives something else than it should; what came before is here.
        """
        for policy in self._settings.policies if self._is_withdrawn else ():
            for place in self._due(policy, store, now):
                if not place.exists():
                    self.products.brought(place)

    def _due(self, policy: Policy, store: Store, now: datetime) -> Iterator[Path]:
        """Places of products of a policy's kind; of those of observations and hours, the ones old enough for its first step."""
        if policy.kind == "calibration":  # all: which tables are needed is told by those that refer to them
            for noted in store.query("SELECT path FROM calibration_table ORDER BY path")["path"]:
                yield self.products.located(noted)
        places = {
            "measurement_set": self.products.measurement_set,
            "image": self.products.image_folder,
            "mosaic": self.products.mosaic_folder,
        }
        if self._home is not None and policy.kind in places:
            asset, place_of = ASSET_OF[policy.kind], places[policy.kind]
            first_d = min(days for days in (policy.archive_after_d, policy.remove_after_d) if days is not None)
            until = (now - timedelta(days=first_d)).date().isoformat()
            yield from (place_of(key) for key in self._home.partitions(asset) if key is not None and key[:10] <= until)

    def withdraw(self, place: Path) -> None:
        """Remove from the home what was removed here; what is not there is no error."""
        if self._home is not None and self._is_withdrawn:
            self._home.withdraw(self.products, place)

    def publish(self, place: Path) -> None:
        """Publish again what came back from the archive."""
        partition = self.products.partition_of(place)
        if self._home is not None and self._is_withdrawn and partition is not None:
            self._home.publish(self.products, *partition)
