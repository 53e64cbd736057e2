"""The observations group: the raw files as they arrived, and the flagged measurement set made of them.

What belongs here: ``raw_visibilities`` (external, observed by the ingest sensor) and ``measurement_set``. Phasing is
``science.conversion``, flagging ``science.flagging``; what good means is ``checks.observations``.
"""

from collections.abc import Iterator
from functools import partial

import dagster as dg
import structlog

from contimg_assets.arrivals import raw_files_of
from contimg_assets.checks import observations as checks
from contimg_assets.checks.judgement import nothing_to_judge
from contimg_assets.conventions import OBSERVATION_FRESHNESS, OBSERVERS, per_observation
from contimg_assets.failures import dagster_failures
from contimg_assets.partitions import observations
from contimg_assets.pictures import flagging_waterfall, markdown_image
from contimg_assets.recipes import of_measurement_set
from contimg_resources.configurable import Observatory

_LOG = structlog.get_logger(__name__)

raw_visibilities = dg.AssetSpec(
    "raw_visibilities",
    group_name="observations",
    kinds={"hdf5"},
    partitions_def=observations,
    owners=[OBSERVERS],
    code_version="1",
    freshness_policy=OBSERVATION_FRESHNESS,
    description=(
        "The 16 HDF5 sub-band files of one observation, as the correlator wrote them.\n\n"
        "External: the sensor incoming_observations sees them arrive in CONTIMG_INCOMING, groups them by the start time in"
        " their headers and records them in tables observation and raw_file. Never modified, never moved.\n"
        "Read by measurement_set."
    ),
)


@dg.asset(
    deps=[raw_visibilities],
    check_specs=checks.MEASUREMENT_SET,
    output_required=False,
    **per_observation("observations", {"measurementset", "casa"}, code_version="3"),
)
def measurement_set(
    context: dg.AssetExecutionContext, observatory: Observatory
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """One flagged measurement set per observation, phased to the middle of the drift.

    Channels ascend over all sub-bands, baselines run from the lower to the higher antenna, uvw are recomputed for
    every integration, and dead antennas, radio interference and non-finite data are flagged before anything is
    written: an unflagged measurement set never exists. Missing sub-bands are flagged channels. Autocorrelations are
    judged, not kept (``flagging.engine`` hands the search for interference to AOFlagger). Writes a CASA measurement set and
    ``summary.json`` (fractions flagged by cause, antenna and sub-band). Read by bandpass_table, gain_table and
    continuum_image. Remade when raw files or flagging change.
    """
    from contimg_assets.science.conversion import begin_turning, to_visibilities
    from contimg_assets.science.flagging import FlagSettings, flag_visibilities
    from contimg_assets.science.raw_observation import RawObservation
    from contimg_resources.engines import flagging_engine
    from contimg_resources.measurement_set_writer import measurement_set_draft
    from contimg_resources.uvh5 import read_observation

    partition_key, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store) as stage:
        files = raw_files_of(partition_key, observatory)
        if not files:
            _LOG.info("nothing_to_do", why="no observation began in this window")
            yield from nothing_to_judge(checks.MEASUREMENT_SET)
            return
        if unchanged := stage.unchanged(of_measurement_set(observatory, partition_key)):
            yield unchanged
            return
        products.check_free_space(2 * sum(path.stat().st_size for path in files))
        telescope = observatory.telescope
        n_threads = observatory.settings.threads
        limits = FlagSettings(
            **observatory.settings.flagging.model_dump(exclude={"engine"}),
            n_subbands=telescope.n_subbands,
            n_threads=n_threads,
        )
        engine = flagging_engine(observatory.settings.flagging.engine)
        path = products.measurement_set(partition_key)
        with measurement_set_draft(path) as draft:
            turned = draft.stream(partial(begin_turning, n_threads=n_threads))
            raw = RawObservation(
                **read_observation(files, n_subbands=telescope.n_subbands, n_threads=n_threads, stream=turned)
            )
            visibilities = to_visibilities(raw)
            report = draft.finish(
                visibilities.columns(),
                lambda: flag_visibilities(visibilities, raw.autos, raw.active_antennas, limits, engine),
            )
        summary = checks.summarise(raw, visibilities, report)
        products.write_json(products.document("measurement_set", partition_key, ".json"), summary)
        results = checks.judge_measurement_set(store, context, summary)
    yield dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(path)),
            "observation_id": raw.observation_id,
            "n_rows": visibilities.vis.shape[0],
            "n_channels": visibilities.vis.shape[1],
            "flagged_fraction": summary["flagged_fraction"],
            "phase_centre": f"{visibilities.phase_centre_ra_deg:.4f} {visibilities.phase_centre_dec_deg:+.4f} deg",
            "flags": dg.MetadataValue.md(markdown_image(flagging_waterfall(visibilities), "flagged fraction")),
        },
        check_results=results,
        data_version=stage.data_version,
    )
