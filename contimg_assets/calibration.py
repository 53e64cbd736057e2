"""The calibration group: the day's bandpass from a calibrator transit, and each observation's gains from the sky.

What belongs here: the two assets. Choosing and registering tables is ``calibration_registry``; solvers are
``science.calibration``, models ``science.field_model``; what good means is ``checks.calibration``.
"""

from collections.abc import Iterator

import dagster as dg

from contimg_assets.calibration_registry import (
    active_bandpass,
    calibrator_transit,
    previous_solutions,
    register_table,
    register_use,
)
from contimg_assets.catalogue import FIELD_RADIUS_DEG, reference_catalogue
from contimg_assets.checks import calibration as checks
from contimg_assets.checks.judgement import nothing_to_judge
from contimg_assets.conventions import per_day, per_observation
from contimg_assets.failures import dagster_failures
from contimg_assets.observations import measurement_set
from contimg_assets.partitions import this_and_previous_day
from contimg_assets.pictures import bandpass_plot, gain_plot, markdown_image
from contimg_resources.configurable import Observatory
from contimg_resources.products import require

GAIN_INTERVAL_SNR = 100.0
"""Signal-to-noise ratio that each gain interval keeps: 0.6 deg of phase, less than phases drift in a minute."""


@dg.asset(
    deps=[measurement_set, reference_catalogue],
    check_specs=checks.BANDPASS_TABLE,
    output_required=False,
    **per_day("calibration", {"casa"}, code_version="2"),
)
def bandpass_table(
    context: dg.AssetExecutionContext, observatory: Observatory
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """One bandpass per day: complex gain of every antenna, receptor and channel, from a calibrator's transit.

    Solved per channel against the Perley-Butler (2017) model of the calibrator and the catalogue around it, seen
    through the primary beam, after aligning phases in time; it carries delays and the flux scale. Writes a CASA B
    table and a row of table calibration_table (status active, validity around the transit, content hash, quality).
    Read by gain_table and continuum_image. Remade when the transit's measurement set is.
    """
    from contimg_assets.science.calibration.engine_solutions import solve_bandpass_with
    from contimg_assets.science.calibration.quality import solution_quality
    from contimg_assets.science.calibration.solutions import SolveSettings
    from contimg_assets.science.field_model import field_sky_model
    from contimg_assets.science.visibilities import Visibilities
    from contimg_resources.engines import calibration_engine
    from contimg_resources.measurement_sets import read_measurement_set

    day, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store):
        transit = calibrator_transit(store, day)
        if transit is None:
            context.log.info(f"no calibrator transited on {day}: this day has no bandpass of its own")
            yield from nothing_to_judge(checks.BANDPASS_TABLE)
            return
        vis = Visibilities(**read_measurement_set(require(products.measurement_set(transit["partition_key"]))))
        catalogue = products.read_parquet("reference_catalogue", None)
        model = field_sky_model(catalogue, vis.phase_centre_ra_deg, vis.phase_centre_dec_deg, FIELD_RADIUS_DEG)
        present = {vis.antenna_names[antenna] for antenna in vis.existing_antennas}
        refants = tuple(name for name in observatory.telescope.refant if name in present)
        settings = SolveSettings(refants=refants, n_threads=observatory.settings.threads)
        engine = calibration_engine(observatory.settings.calibration.engine, products.scratch("bandpass"))
        solutions = solve_bandpass_with(engine, vis, model, settings)
        quality = solution_quality(solutions, vis.existing_antennas, previous_solutions(store, "B", solutions))
        row = register_table(context, observatory, solutions, quality, transit)
        results = checks.judge_solutions(store, context, "bandpass_table", quality)
    yield dg.MaterializeResult(
        metadata={
            **{name: value for name, value in row.items() if value is not None},
            "engine": observatory.settings.calibration.engine,
            "picture": dg.MetadataValue.md(markdown_image(bandpass_plot(solutions), "bandpass")),
        },
        check_results=results,
    )


@dg.asset(
    deps=[
        measurement_set,
        reference_catalogue,
        dg.AssetDep(bandpass_table, partition_mapping=this_and_previous_day),
    ],
    check_specs=checks.GAIN_TABLE,
    **per_observation("calibration", {"casa"}, code_version="2"),
)
def gain_table(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """Complex gain of every antenna and receptor in one observation, solved against the sky itself.

    Amplitude and phase per antenna in as many intervals as the flux in view allows, from all catalogue sources seen
    through the drifting primary beam, after the nearest valid bandpass. Without a bandpass within its validity the
    nearest one is used and the fallback is recorded; without any the observation waits as uncalibrated. Writes a CASA
    G table, a row of table calibration_table and the tables used to calibration_use.
    Read by continuum_image. Remade when measurement set or bandpass change.
    """
    from contimg_assets.science.calibration.engine_solutions import solve_gains_with
    from contimg_assets.science.calibration.quality import solution_quality
    from contimg_assets.science.calibration.solutions import Solutions, SolveSettings
    from contimg_assets.science.field_model import field_sky_model
    from contimg_assets.science.visibilities import Visibilities
    from contimg_resources.calibration_tables import read_calibration_table
    from contimg_resources.engines import calibration_engine
    from contimg_resources.measurement_sets import read_measurement_set

    partition_key, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store):
        vis = Visibilities(**read_measurement_set(require(products.measurement_set(partition_key))))
        bandpass_row, fallback = active_bandpass(observatory, float(vis.time_mjd.mean()))
        bandpass = Solutions(**read_calibration_table(require(bandpass_row.path)))
        catalogue = products.read_parquet("reference_catalogue", None)
        model = field_sky_model(catalogue, vis.phase_centre_ra_deg, vis.phase_centre_dec_deg, FIELD_RADIUS_DEG)
        settings = SolveSettings(
            refants=(bandpass.antenna_names[bandpass.refant],),
            interval_snr=GAIN_INTERVAL_SNR,
            n_threads=observatory.settings.threads,
        )
        engine = calibration_engine(observatory.settings.calibration.engine, products.scratch("gains"))
        solutions = solve_gains_with(engine, vis, model, settings, bandpass)
        quality = solution_quality(solutions, vis.existing_antennas, previous_solutions(store, "G", solutions))
        row = register_table(context, observatory, solutions, quality, None)
        register_use(context, observatory, bandpass_row, fallback, row)
        results = checks.judge_solutions(store, context, "gain_table", quality)
    return dg.MaterializeResult(
        metadata={
            **{name: value for name, value in row.items() if value is not None},
            "engine": observatory.settings.calibration.engine,
            "bandpass": str(bandpass_row.path),
            "bandpass_fallback": fallback,
            "picture": dg.MetadataValue.md(markdown_image(gain_plot(solutions), "gains")),
        },
        check_results=results,
    )
