"""``contimg catalogue``: reference catalogues in the platform's one shape.

What belongs here: the verbs. Reading, cutting and fetching are ``contimg_resources.reference_catalogues``,
``catalogue_index`` and ``catalogue_fetch``; matching is ``science.catalogue_matching``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors

app = typer.Typer(no_args_is_help=True, help="Import and query reference catalogues.")

CatalogueFile = Annotated[Path, typer.Argument(help="CSV, Parquet, FITS, VOTable, or a zip of one of them.")]


@app.command("import")
def import_catalogue(
    file: CatalogueFile,
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    column: Annotated[
        list[str] | None,
        typer.Option(help="OURS=THEIRS, e.g. ra_deg=RAJ2000; for files that are of no known kind. Repeatable."),
    ] = None,
    frequency_mhz: Annotated[
        float | None, typer.Option(min=1.0, help="Frequency of the fluxes, if the kind of catalogue does not say.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Translate a catalogue (NVSS, RACS, FIRST, VLASS, Aegean, or any table with positions) to ours.

    Fluxes are moved to 1.4 GHz with the source's spectral index, or -0.7.
    """
    from contimg_resources.reference_catalogues import read_catalogue, write_catalogue

    mapping = _mapping(column or [])
    with one_screen_errors():
        sources = read_catalogue(
            file, mapping or None, frequency_hz=None if frequency_mhz is None else frequency_mhz * 1e6
        )
        write_catalogue(out, sources)
    emit(
        {
            "out": out,
            "n_sources": sources.height,
            "n_with_flux": int(sources["flux_jy"].is_not_null().sum()),
            "dec_min_deg": sources["dec_deg"].min(),
            "dec_max_deg": sources["dec_deg"].max(),
        },
        as_json=as_json,
    )


@app.command()
def query(
    file: CatalogueFile,
    ra: Annotated[float, typer.Option(help="Right ascension (ICRS), deg.")],
    dec: Annotated[float, typer.Option(help="Declination (ICRS), deg.", min=-90.0, max=90.0)],
    radius_deg: Annotated[float, typer.Option(min=0.0, max=180.0)] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """List the sources around a position, nearest first."""
    from contimg_resources.catalogue_index import CatalogueIndex
    from contimg_resources.reference_catalogues import read_catalogue

    with one_screen_errors():
        found = CatalogueIndex(read_catalogue(file)).cone(ra, dec, radius_deg)
    shown = found.select("source_id", "separation_deg", "ra_deg", "dec_deg", "flux_jy", "spectral_index", "catalogue")
    emit({"n_sources": found.height, "sources": shown.to_dicts()}, as_json=as_json, rows="sources")


@app.command()
def match(
    first: CatalogueFile,
    second: CatalogueFile,
    out: Annotated[Path, typer.Option(help="Parquet file to write: FIRST with what SECOND says about its sources.")],
    frequency_first_mhz: Annotated[float, typer.Option(min=1.0, help="Frequency at which FIRST was measured.")],
    frequency_second_mhz: Annotated[float, typer.Option(min=1.0, help="Frequency at which SECOND was measured.")],
    radius_arcsec: Annotated[float, typer.Option(min=0.1, help="Farther entries are different sources.")] = 15.0,
    as_json: JsonOption = False,
) -> None:
    """Match two catalogues: spectral index of each source, and whether it is resolved or confused."""
    with one_screen_errors():
        from contimg_assets.science.catalogue_matching import MatchSettings, match_catalogues
        from contimg_resources.reference_catalogues import read_catalogue, write_catalogue

        ours = read_catalogue(first, frequency_hz=frequency_first_mhz * 1e6)
        theirs = read_catalogue(second, frequency_hz=frequency_second_mhz * 1e6)
        matched = match_catalogues(
            ours, theirs, frequency_first_mhz * 1e6, frequency_second_mhz * 1e6, MatchSettings(radius_arcsec)
        )
        index = pl.coalesce(pl.col("spectral_index"), matched["spectral_index"])
        write_catalogue(out, ours.with_columns(spectral_index=index), extra=matched.drop("spectral_index"))
    emit(
        {
            "out": out,
            "n_sources": ours.height,
            "n_matched": int(matched["match_index"].is_not_null().sum()),
            "median_spectral_index": matched["spectral_index"].median(),
            "n_resolved": int(matched["is_resolved"].sum()),
            "n_confused": int(matched["is_confused"].sum()),
        },
        as_json=as_json,
    )


@app.command()
def fetch(
    survey: Annotated[str, typer.Argument(help="nvss or first.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    ra: Annotated[float, typer.Option(help="Right ascension (ICRS), deg.")],
    dec: Annotated[float, typer.Option(help="Declination (ICRS), deg.", min=-90.0, max=90.0)],
    radius_deg: Annotated[float, typer.Option(min=0.01, max=30.0)] = 2.0,
    max_age_d: Annotated[
        float, typer.Option(min=0.0, help="An answer younger than this is not asked for again.")
    ] = 90.0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of earlier answers; by default in the data folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch the part of a survey around a position from VizieR; needs a network and the extra `catalogues`."""
    from contimg_resources.catalogue_fetch import Cone, fetch_catalogue, vizier_table
    from contimg_resources.reference_catalogues import write_catalogue
    from contimg_resources.settings import load_settings

    with one_screen_errors():
        folder = cache or load_settings().data / "catalogue_cache"
        fetched = fetch_catalogue(survey, Cone(ra, dec, radius_deg), folder, max_age_d, vizier_table)
        write_catalogue(out, fetched.sources)
    emit({"out": out, "n_sources": fetched.sources.height, "from_cache": fetched.from_cache}, as_json=as_json)


def _mapping(pairs: list[str]) -> dict[str, str]:
    from contimg_resources.reference_catalogues import COLUMNS

    mapping = dict(pair.partition("=")[::2] for pair in pairs)
    wrong = sorted(set(mapping) - set(COLUMNS)) or [ours for ours, theirs in mapping.items() if not theirs]
    if wrong:
        raise typer.BadParameter(
            f"{', '.join(wrong)}: give OURS=THEIRS with OURS one of {', '.join(COLUMNS)}", param_hint="--column"
        )
    return mapping
