"""Finished products to their home (``products_url``), right after the stage that made them.

What belongs here: when to publish, and that a home which is away fails nothing: the product is whole on the local disk, and
`contimg products publish` catches up. How it is stored is ``contimg_resources.product_home``.
"""

from __future__ import annotations

import structlog

from contimg_resources.errors import ResourceError
from contimg_resources.outside import call_outside
from contimg_resources.product_home import HOME_SERVICE, ProductHome
from contimg_resources.products import open_products
from contimg_resources.settings import Settings
from contimg_resources.tracing import span

_LOG = structlog.get_logger(__name__)
_PATIENCE_S = 30.0
"""A stage does not wait longer for its home; the breaker spares the next ones even that."""


def publish_after_stage(settings: Settings, asset: str, partition_key: str | None) -> bool:
    """Publish what a stage has made, when a home is set and wants this asset.

    Parameters
    ----------
    settings : Settings
    asset : str
        Asset key.
    partition_key : str or None

    Returns
    -------
    bool
        Whether it is published now; when not and there is a home, the log says why.
    """
    url = settings.products_url
    if url is None or asset in settings.unpublished:
        return False
    try:
        with span("io.publish", asset=asset):
            home = ProductHome(url, patience_s=_PATIENCE_S)
            call_outside(HOME_SERVICE, lambda: home.publish(open_products(settings), asset, partition_key))
    except (ResourceError, OSError) as error:
        _LOG.warning(
            "product_not_published",
            asset=asset,
            partition=partition_key,
            reason_code=getattr(error, "reason_code", "os_error"),
            error=str(error),
            remedy="contimg products publish",
        )
        return False
    return True
