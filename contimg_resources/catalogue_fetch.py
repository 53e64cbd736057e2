"""Parts of published surveys from VizieR, for machines with a network; every answer is kept and asked for once.

What belongs here: which table of VizieR a survey is, the cache with its age, and the one call that needs astroquery (the
extra ``catalogues``) and a network. What the columns mean is ``catalogue_dialects``.

An answer is cached as VizieR gave it, as VOTable named after survey and cone, and read like any file. Its age is that of
the file. An answer that is too old is replaced; when that fails, the error says so and where the old one lies, rather
than passing off old data as new.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import polars as pl

from contimg_resources.errors import CatalogueError, CircuitOpenError
from contimg_resources.outside import call_outside
from contimg_resources.products import atomic_write
from contimg_resources.reference_catalogues import read_catalogue

SURVEYS = {
    "nvss": ("VIII/65/nvss", 1.4e9),
    "first": ("VIII/92/first14", 1.4e9),
}
"""Table of VizieR and frequency (Hz) of each survey whose columns there we know. RACS, VLASS and SUMSS are imported from
the surveys' own files."""
_SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Cone:
    """Part of the sky."""

    ra_deg: float
    dec_deg: float
    radius_deg: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer in the platform's shape."""

    sources: pl.DataFrame
    path: Path
    """Where it is kept."""
    from_cache: bool


Query = Callable[[str, Cone], bytes]
"""Asks for the rows of a table in a cone and returns them as VOTable; raises CatalogueError when it cannot."""


def fetch_catalogue(survey: str, cone: Cone, cache: Path, max_age_d: float, query: Query) -> Fetched:
    """Sources of a survey in a cone, from the cache if they are there and young enough.

    Parameters
    ----------
    survey : str
        One of ``SURVEYS``.
    cone : Cone
    cache : Path
        Folder of the answers; made when absent.
    max_age_d : float
        Days after which an answer is asked for again.
    query : callable
        `vizier_table`, or what stands for it.

    Raises
    ------
    CatalogueError
        For an unknown survey, without network or astroquery, and when the answer is not usable.
    CircuitOpenError
        If the server failed repeatedly a moment ago and nothing is cached.
    """
    if survey not in SURVEYS:
        raise CatalogueError(
            "There is no such survey", got=survey, expected=", ".join(SURVEYS), remedy="Choose one of them."
        )
    table, frequency_hz = SURVEYS[survey]
    path = cache / f"{survey}_{cone.ra_deg:.4f}_{cone.dec_deg:+.4f}_{cone.radius_deg:.3f}.vot"
    from_cache = path.is_file() and time.time() - path.stat().st_mtime <= max_age_d * _SECONDS_PER_DAY
    if not from_cache:
        try:
            answer = query(table, cone)
        except (CatalogueError, CircuitOpenError) as error:
            if path.is_file():
                raise CatalogueError(
                    f"{survey} could not be fetched again", got=str(error), expected=f"an answer younger than {max_age_d:g} d",
                    remedy=f"Try later, or allow older answers (--max-age-d) to use {path}.",
                ) from error  # fmt: skip
            raise
        atomic_write(path, lambda stream: stream.write(answer))
    return Fetched(read_catalogue(path, frequency_hz=frequency_hz), path, from_cache)


def vizier_table(table: str, cone: Cone) -> bytes:
    """All columns of a table of VizieR in a cone, as VOTable."""
    try:
        # Looked up at run time: the package is an extra, and type checkers need not have it.
        exceptions, vizier = (import_module(f"astroquery.{name}") for name in ("exceptions", "vizier"))
    except ImportError as error:
        raise CatalogueError(
            "Fetching catalogues needs astroquery", remedy="Install it: pip install 'contimg[catalogues]'."
        ) from error
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    position = SkyCoord(cone.ra_deg * u.deg, cone.dec_deg * u.deg, frame="icrs")
    client = vizier.Vizier(columns=["**", "_RAJ2000", "_DEJ2000"], row_limit=-1)
    try:
        tables = call_outside(
            "vizier", lambda: client.query_region(position, radius=cone.radius_deg * u.deg, catalog=table)
        )
    except (OSError, exceptions.RemoteServiceError, exceptions.TimeoutError) as error:
        raise CatalogueError(
            f"VizieR did not answer for {table}", got=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            expected="a network that reaches vizier.cds.unistra.fr",
            remedy="Check the network and try again, or import a file of the survey: `contimg catalogue import`.",
        ) from error  # fmt: skip
    if len(tables) == 0:
        raise CatalogueError(
            f"VizieR has no sources of {table} in the cone", got=str(cone), expected="at least one source",
            remedy="Choose a survey that covers the position, or a larger radius.",
        )  # fmt: skip
    content = io.BytesIO()
    tables[0].write(content, format="votable")
    return content.getvalue()
