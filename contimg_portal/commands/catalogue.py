"""``contimg catalogue``: reference catalogues in the platform's one shape.

What belongs here: the verbs ``import`` and ``query``. Reading and cutting is done in
``contimg_resources.reference_catalogues``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def _mapping(pairs: list[str]) -> dict[str, str]:
    from contimg_resources.reference_catalogues import COLUMNS

    mapping = dict(pair.partition("=")[::2] for pair in pairs)
    wrong = sorted(set(mapping) - set(COLUMNS)) or [ours for ours, theirs in mapping.items() if not theirs]
    if wrong:
        raise typer.BadParameter(
            f"{', '.join(wrong)}: give OURS=THEIRS with OURS one of {', '.join(COLUMNS)}", param_hint="--column"
        )
    return mapping
