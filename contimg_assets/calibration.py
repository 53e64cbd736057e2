"""The calibration group: the day's bandpass from a calibrator transit, and each observation's gains from the sky.

What belongs here: the two assets. Making a table is ``calibration_solving``, choosing one ``calibration_registry``; solvers are
``science.calibration``, models ``science.field_model``; what good means is ``checks.calibration``.
"""

from collections.abc import Iterator

import dagster as dg
import structlog

from contimg_assets.calibration_registry import active_bandpass, calibrator_transit, register_use
from contimg_assets.calibration_solving import (
    SolveTask,
    choose_gains,
    read_sky,
    solve_gains_or_explain,
    solve_or_reuse,
)
from contimg_assets.catalogue import known_calibrators, reference_catalogue
from contimg_assets.checks import calibration as checks
from contimg_assets.checks.judgement import nothing_to_judge, record
from contimg_assets.conventions import per_day, per_observation
from contimg_assets.failures import dagster_failures
from contimg_assets.observations import measurement_set
from contimg_assets.partitions import this_and_previous_day
from contimg_assets.pictures import bandpass_plot, gain_plot, markdown_image
from contimg_assets.recipes import of_bandpass_table, of_gain_table
from contimg_resources.configurable import Observatory

_LOG = structlog.get_logger(__name__)

GAIN_INTERVAL_SNR = 100.0
"""Signal-to-noise ratio that each gain interval keeps: 0.6 deg of phase, less than phases drift in a minute."""


@dg.asset(
    deps=[measurement_set, reference_catalogue],
    check_specs=checks.BANDPASS_TABLE,
    output_required=False,
    **per_day("calibration", {"casa"}, code_version="3"),
)
def bandpass_table(
    context: dg.AssetExecutionContext, observatory: Observatory
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """One bandpass per day: complex gain of every antenna, receptor and channel, from a calibrator's transit.

    Solved per channel against the model of the calibrator (Perley-Butler 2017, or the power law that CONTIMG_CALIBRATOR_LIST
    gives: metadata flux_model) and the catalogue around it, seen through the primary beam, after aligning phases in time; it
    carries delays and the flux scale. Writes a CASA B table and a row of table calibration_table: status active, or rejected if
    too few antennas have solutions; a row of other content becomes superseded. Equal inputs are not solved again. Read by
    gain_table and continuum_image. Remade when the transit's measurement set is.
    """
    from contimg_assets.science.calibration.engine_solutions import solve_bandpass_with
    from contimg_assets.science.calibration.solutions import SolveSettings
    from contimg_assets.science.flux_calibrators import find_calibrator
    from contimg_resources.engines import calibration_engine

    day, store = context.partition_key, observatory.store
    with dagster_failures(context, store) as stage:
        transit = calibrator_transit(store, day)
        if transit is None:
            _LOG.info("nothing_to_do", why="no calibrator transited: this day has no bandpass of its own")
            yield from nothing_to_judge(checks.BANDPASS_TABLE)
            return
        if unchanged := stage.unchanged(of_bandpass_table(observatory, day)):
            yield unchanged
            return
        calibrator = find_calibrator(transit["calibrator"], known_calibrators(observatory))
        vis, model = read_sky(observatory, transit["partition_key"])
        present = {vis.antenna_names[antenna] for antenna in vis.existing_antennas}
        settings = SolveSettings(
            refants=tuple(name for name in observatory.telescope.refant if name in present),
            is_refant_required=False,
            n_threads=observatory.settings.threads,
        )
        engine = calibration_engine(observatory.settings.calibration.engine, observatory.products.scratch("bandpass"))
        task = SolveTask("bandpass_table", "B", calibrator.name, transit["partition_key"], vis, model, settings)
        made = solve_or_reuse(context, observatory, task, lambda: solve_bandpass_with(engine, vis, model, settings))
        results = record(store, context, "bandpass_table", made.judgements)
    picture = markdown_image(bandpass_plot(made.solutions), "bandpass")
    yield dg.MaterializeResult(
        metadata={
            **made.metadata(),
            "flux_model": calibrator.flux_model,
            "engine": observatory.settings.calibration.engine,
            "picture": dg.MetadataValue.md(picture),
        },
        check_results=results,
        data_version=stage.data_version,
    )


@dg.asset(
    deps=[
        measurement_set,
        reference_catalogue,
        dg.AssetDep(bandpass_table, partition_mapping=this_and_previous_day),
    ],
    check_specs=checks.GAIN_TABLE,
    **per_observation("calibration", {"casa"}, code_version="3"),
)
def gain_table(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """Complex gain of every antenna and receptor in one observation, solved against the sky itself.

    Amplitude and phase per antenna in as many intervals as the flux in view allows, from all catalogue sources seen
    through the drifting primary beam, after the nearest valid bandpass of the same declination. Without a bandpass within its
    validity the nearest one is used; without any the observation waits as uncalibrated. Gains that cannot be solved (field too
    faint, too few antennas) or are rejected give way to the nearest valid ones, else to the bandpass alone. Equal inputs are
    not solved again. Writes a CASA G table, a row of table calibration_table, and to calibration_use the tables used with
    their fallback (none, nearest_valid, bandpass_only). Read by continuum_image. Remade when measurement set or bandpass change.
    """
    from contimg_assets.science.calibration.engine_solutions import solve_gains_with
    from contimg_assets.science.calibration.solutions import Solutions, SolveSettings
    from contimg_resources.calibration_tables import read_calibration_table
    from contimg_resources.engines import calibration_engine

    partition_key, store = context.partition_key, observatory.store
    with dagster_failures(context, store) as stage:
        if unchanged := stage.unchanged(of_gain_table(observatory, partition_key)):
            return unchanged
        vis, model = read_sky(observatory, partition_key)
        chosen = active_bandpass(observatory, float(vis.time_mjd.mean()), float(vis.pointing_dec_deg.mean()))
        bandpass = Solutions(**read_calibration_table(observatory.products.present(chosen.path)))
        settings = SolveSettings(
            refants=(bandpass.antenna_names[bandpass.refant],),
            is_refant_required=False,
            interval_snr=GAIN_INTERVAL_SNR,
            n_threads=observatory.settings.threads,
        )
        engine = calibration_engine(observatory.settings.calibration.engine, observatory.products.scratch("gains"))
        task = SolveTask("gain_table", "G", "catalogue sky", partition_key, vis, model, settings, chosen)
        made = solve_gains_or_explain(
            context, observatory, task, lambda: solve_gains_with(engine, vis, model, settings, bandpass)
        )
        gains, judgements = choose_gains(observatory, partition_key, task, made)
        register_use(context, store, chosen, gains)
        results = record(store, context, "gain_table", judgements)
    metadata = made.metadata() | {
        "engine": observatory.settings.calibration.engine,
        "bandpass": str(chosen.path),
        "bandpass_fallback": chosen.fallback,
        "gains": str(gains.path) if gains else "none, the bandpass alone",
        "gain_fallback": gains.fallback if gains else "bandpass_only",
    }
    if made.solutions is not None:
        metadata["picture"] = dg.MetadataValue.md(markdown_image(gain_plot(made.solutions), "gains"))
    return dg.MaterializeResult(metadata=metadata, check_results=results, data_version=stage.data_version)
