"""``contimg simulate``: a campaign file becomes raw sub-band files, truth tables and a survey catalogue.

What belongs here: bringing the campaign's settings and the simulator together, and writing in the order of time. The
simulator is ``science.simulation``, the format of the files ``contimg_resources.uvh5_writer``.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

if TYPE_CHECKING:
    from contimg_assets.science.simulation.array import ArrayLayout
    from contimg_assets.science.simulation.observe import ObservingSetup
    from contimg_assets.science.simulation.schedule import PlannedObservation
    from contimg_assets.science.simulation.sky import Source
    from contimg_assets.science.simulation.variability import Variability
    from contimg_resources.campaigns import Campaign, NamedSource

    Sky = tuple[tuple[Source, Variability], ...]


def simulate(
    campaign_file: Annotated[Path, typer.Argument(metavar="CAMPAIGN.toml", help="What to simulate.")],
    out: Annotated[Path, typer.Option(help="Folder for the raw files.")],
    truth: Annotated[
        Path | None, typer.Option(help="Folder for truth_*.parquet and catalogue.parquet; default: OUT.")
    ] = None,
    pace: Annotated[float, typer.Option(min=0.0, help="Seconds to wait between observations.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Simulate a campaign of the telescope, in its own raw format and in the order of time.

    Files that exist are kept: a second run completes what a first one left out, and the same seed gives the same
    visibilities whichever observations are made.
    """
    with one_screen_errors():
        from contimg_resources.campaigns import load_campaign

        began_s = time.monotonic()
        campaign = load_campaign(campaign_file)
        setup, plan, sky = _stage(campaign)
        out.mkdir(parents=True, exist_ok=True)
        _write_tables(campaign, sky, truth or out)
        due = [item for item in plan if not all((out / name).is_file() for _, name in item.file_names)]
        with Progress(console=stderr, disable=not stderr.is_terminal, transient=True) as progress:
            for item in progress.track(due, description="simulating"):
                _write_observation(setup, item, sky, out)
                if item is not due[-1]:
                    time.sleep(pace)
        emit(
            {
                "out": out,
                "truth": truth or out,
                "n_observations": len(plan),
                "n_written": len(due),
                "n_files": sum(len(item.file_names) for item in plan),
                "n_sources": len(sky),
                "raw_bytes": sum((out / name).stat().st_size for item in plan for _, name in item.file_names),
                "seconds": time.monotonic() - began_s,
            },
            as_json=as_json,
        )


def _stage(campaign: Campaign) -> tuple[ObservingSetup, list[PlannedObservation], Sky]:
    from astropy.time import Time

    from contimg_assets.science.simulation.array import full_array, small_array
    from contimg_assets.science.simulation.instrument import InstrumentSettings
    from contimg_assets.science.simulation.observe import ObservingSetup
    from contimg_assets.science.simulation.schedule import Outage, plan_observations

    choice = campaign.array
    layout = full_array() if choice.n_antennas == "full" else small_array(choice.n_antennas, choice.max_baseline_m)
    setup = ObservingSetup(
        layout=layout,
        pointing_dec_deg=campaign.pointing.apparent_dec_deg,
        channels_per_subband=choice.channels_per_subband,
        n_integrations=choice.n_integrations,
        instrument=InstrumentSettings(**campaign.instrument.model_dump()),
        seed=campaign.campaign.seed,
    )
    first_mjd = float(Time(campaign.campaign.start_date.isoformat(), scale="utc").mjd)
    plan = plan_observations(
        [tile.ra_deg for tile in campaign.tiles],
        first_mjd=first_mjd,
        n_days=campaign.campaign.n_days,
        pointing_dec_deg=setup.pointing_dec_deg,
        site_itrf_m=layout.site_itrf_m,
        n_integrations=setup.n_integrations,
        outages=[Outage(o.day, campaign.tile_index(o.tile), o.subbands) for o in campaign.outages],
        seed=setup.seed,
    )
    return setup, plan, _sky(campaign, layout, first_mjd)


def _sky(campaign: Campaign, layout: ArrayLayout, first_mjd: float) -> Sky:
    """Calibrators first, then named sources, then the random ones, which keep clear of those before."""
    import numpy as np

    from contimg_assets.science.simulation.instrument import Purpose
    from contimg_assets.science.simulation.schedule import tile_centre
    from contimg_assets.science.simulation.sky import Population, calibrator_source, random_sources
    from contimg_assets.science.simulation.variability import Constant

    centres = {
        tile.name: tile_centre(tile.ra_deg, first_mjd, campaign.pointing.apparent_dec_deg, layout.site_itrf_m)
        for tile in campaign.tiles
    }
    placed: list[tuple[Source, Variability]] = [
        (calibrator_source(name), Constant()) for name in campaign.sky.calibrators
    ]
    for number, named in enumerate(campaign.sky.sources):
        placed.append((_named_source(named, centres), _change(named, campaign, first_mjd, number)))
    for number, choice in enumerate(campaign.populations):
        drawn = random_sources(
            np.random.default_rng([campaign.campaign.seed, Purpose.SKY, number]),
            Population(**choice.model_dump(exclude={"tile"})),
            *centres[choice.tile],
            prefix=f"{choice.tile}-{number + 1}-",
            placed=tuple(source for source, _ in placed),
        )
        placed.extend((source, Constant()) for source in drawn)
    return tuple(placed)


def _named_source(named: NamedSource, centres: dict[str, tuple[float, float]]) -> Source:
    from contimg_assets.science.simulation.sky import Source, offset_position

    if named.tile is not None:
        ra_deg, dec_deg = offset_position(*centres[named.tile], named.distance_deg, named.angle_deg)
    elif named.ra_deg is not None and named.dec_deg is not None:
        ra_deg, dec_deg = named.ra_deg, named.dec_deg
    return Source(named.source_id, ra_deg, dec_deg, named.flux_jy, named.spectral_index)


def _change(named: NamedSource, campaign: Campaign, first_mjd: float, number: int) -> Variability:
    from contimg_assets.science.simulation import variability
    from contimg_assets.science.simulation.instrument import Purpose

    if named.kind == "flare":
        return variability.Flare(first_mjd + named.peak_day, named.rise_d, named.decay_d, named.amplitude)
    if named.kind == "lensed":
        return variability.Lensed(
            first_mjd + named.peak_day, named.width_d, named.alpha, named.source_fwhm, named.compact_fraction
        )
    if named.kind == "dip":
        return variability.Dip(first_mjd + named.peak_day, named.fwhm_d, named.depth)
    if named.kind == "scintillation":
        return variability.Scintillation(
            start_mjd=first_mjd,
            end_mjd=first_mjd + campaign.campaign.n_days + 1.0,
            modulation=named.modulation,
            timescale_d=named.timescale_d,
            seed=(campaign.campaign.seed, Purpose.SCINTILLATION, number),
            frequency_exponent=named.frequency_exponent,
        )
    return variability.Constant()


def _write_tables(campaign: Campaign, sky: Sky, folder: Path) -> None:
    import numpy as np

    from contimg_assets.science.simulation.catalogue import survey_catalogue, truth_events, truth_sources
    from contimg_assets.science.simulation.instrument import Purpose
    from contimg_resources.products import atomic_write

    catalogue = survey_catalogue(
        sky,
        np.random.default_rng([campaign.campaign.seed, Purpose.CATALOGUE]),
        flux_error=campaign.sky.catalogue_flux_error,
        position_error_arcsec=campaign.sky.catalogue_position_error_arcsec,
        flux_min_jy=campaign.sky.catalogue_flux_min_jy,
    )
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"truth_sources": truth_sources(sky), "truth_events": truth_events(sky), "catalogue": catalogue}
    for name, frame in tables.items():
        atomic_write(folder / f"{name}.parquet", frame.write_parquet)


def _write_observation(setup: ObservingSetup, item: PlannedObservation, sky: Sky, out: Path) -> None:
    """Simulate one sub-band while the previous one is written: two are in memory at most."""
    from contimg_assets.science.simulation.observe import prepare_observation, simulate_subband
    from contimg_resources.uvh5 import write_subband

    prepared = prepare_observation(setup, item.start_mjd, item.day, item.tile, sky)
    with ThreadPoolExecutor(max_workers=1) as writer:
        writing: Future[None] | None = None
        for subband, name in item.file_names:
            if (out / name).is_file():
                continue
            columns: dict[str, Any] = simulate_subband(prepared, subband).columns()
            if writing is not None:
                writing.result()
            writing = writer.submit(write_subband, out / name, columns, reversed_slots=setup.layout.reversed_slots)
            del columns
        if writing is not None:
            writing.result()
