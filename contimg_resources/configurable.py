"""The outside world as Dagster sees it: one typed resource that opens settings, telescope, store and products.

What belongs here: the thin Dagster wrapper around the plain classes of this package, nothing else. Settings are read
from the environment when a run or a sensor tick asks for them, so a changed setting needs no reload of the
definitions.
"""

import dagster as dg
from pydantic import PrivateAttr

from contimg_resources.observability import configure_logging
from contimg_resources.products import Products, open_products
from contimg_resources.settings import Settings, load_settings
from contimg_resources.store.connection import Store, open_store
from contimg_resources.telescope import Telescope, load_telescope
from contimg_resources.tracing import configure_tracing


class Observatory(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One installation: its settings, its telescope, its store and its products."""

    _settings: Settings | None = PrivateAttr(default=None)

    @property
    def settings(self) -> Settings:
        """Validated settings, logging and tracing set up by them; SettingsError names what is wrong."""
        if self._settings is None:
            self._settings = load_settings()
            configure_logging(self._settings)
            configure_tracing(self._settings.otlp_endpoint)
        return self._settings

    @property
    def telescope(self) -> Telescope:
        """The telescope named by ``CONTIMG_ARRAY``, DSA-110 by default."""
        return load_telescope(self.settings.array)

    @property
    def products(self) -> Products:
        """Where every product lies."""
        return open_products(self.settings)

    @property
    def store(self) -> Store:
        """The DuckDB store; opened for one transaction at a time."""
        return open_store(self.settings)
