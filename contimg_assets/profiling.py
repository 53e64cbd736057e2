"""A flame graph of one run of a stage, for the stages an operator names; nothing at all for the others.

What belongs here: profiling inside a run and where the graph goes. Benchmarks are profiled by ``contimg bench --profile``.
pyinstrument samples the calling thread every millisecond; threads that kernels start show as time spent waiting for them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from contimg_resources.products import open_products
from contimg_resources.settings import load_settings


@contextmanager
def profiled_stage(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Profile the block when CONTIMG_PROFILE_STAGES names the asset, also when it fails.

    Writes ``<partition>.profile.html`` (open it in a browser) and ``<partition>.speedscope.json`` beside the product and
    names them in the asset's metadata.
    """
    asset = context.asset_key.to_user_string()
    settings = load_settings()
    if asset not in settings.profile_stages:
        yield
        return
    from pyinstrument import Profiler
    from pyinstrument.renderers import SpeedscopeRenderer

    profiler = Profiler()
    profiler.start()
    try:
        yield
    finally:
        profiler.stop()
        products = open_products(settings)
        partition_key = context.partition_key if context.has_partition_key else None
        page = products.write_text(products.document(asset, partition_key, ".profile.html"), profiler.output_html())
        graph = products.write_text(
            products.document(asset, partition_key, ".speedscope.json"), profiler.output(SpeedscopeRenderer())
        )
        context.add_asset_metadata(
            {"profile": dg.MetadataValue.path(str(page)), "profile_speedscope": dg.MetadataValue.path(str(graph))}
        )
