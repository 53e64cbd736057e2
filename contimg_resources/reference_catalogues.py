"""Reference catalogues of radio sources, whatever file they come in, in one shape.

What belongs here: reading and writing tables of sources; ``catalogue_index`` cuts them. Matching them is science's;
the product made from a catalogue is the asset ``reference_catalogue``. Column names and units of the known
catalogues are in ``catalogue_dialects``.

The shape is ``COLUMNS``. ``flux_jy`` is the integrated flux density at 1.4 GHz: catalogues of another frequency are
moved there with their own spectral index, or -0.7 where they have none. ``major_arcsec`` and ``minor_arcsec`` are
deconvolved, 0 for an unresolved source. What a catalogue does not say is null, and so is a flux density that is none: not
finite, zero or negative. Only positions are required; a source without a name is named after its position.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from contimg_resources.catalogue_dialects import REFERENCE_FREQUENCY_HZ, Dialect, recognise
from contimg_resources.errors import CatalogueError
from contimg_resources.products import atomic_write

if TYPE_CHECKING:
    from astropy.table import Table

COLUMNS = {
    "source_id": pl.String,
    "ra_deg": pl.Float64,
    "dec_deg": pl.Float64,
    "flux_jy": pl.Float64,
    "flux_err_jy": pl.Float64,
    "peak_flux_jy_beam": pl.Float64,
    "spectral_index": pl.Float64,
    "major_arcsec": pl.Float64,
    "minor_arcsec": pl.Float64,
    "pa_deg": pl.Float64,
    "catalogue": pl.String,
}
"""Columns of every catalogue, in this order."""

LARGEST_TABLE_BYTES = 2**31
"""Of a table, unpacked; the largest survey's, of ten million sources, has about half of it."""
LARGEST_TABLE_CELLS = 400_000_000
"""Rows times columns."""
_BLOCK_BYTES = 1 << 20
_REQUIRED = ("ra_deg", "dec_deg")
_TYPICAL_SPECTRAL_INDEX = -0.7
_LARGEST_MEDIAN_JY = 50.0
"""Fewer than twenty sources of the sky are brighter at 1.4 GHz."""
_FEWEST_FOR_MEDIAN = 10
"""Short lists may well hold the brightest sources."""
_SUFFIXES = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".fits": "fits",
    ".fit": "fits",
    ".fits.gz": "fits",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
}


def read_catalogue(
    path: Path, mapping: Mapping[str, str] | None = None, *, frequency_hz: float | None = None
) -> pl.DataFrame:
    """Read a catalogue of sources.

    Parameters
    ----------
    path : Path
        CSV, Parquet, FITS or VOTable, or a zip archive that holds one of them.
    mapping : mapping of str to str, optional
        Our column to the file's, for files that are of no known kind. Units come from the file (FITS, VOTable), else
        the column is taken to be in the unit our name says.
    frequency_hz : float, optional
        Frequency of the fluxes; by default what the kind of catalogue implies, or 1.4 GHz.

    Returns
    -------
    polars.DataFrame
        ``COLUMNS``; rows without a position are left out.

    Raises
    ------
    CatalogueError
        When the file is missing, is no table, or has no positions, names the columns found and needed; when units do
        not fit, the column; when positions are off the sphere or names repeat, a row; when flux densities are a thousand
        times too large, their median.
    """
    columns, units = _load(Path(path))
    dialect = Dialect.of_mapping(mapping) if mapping else recognise(columns)
    if dialect is None or not dialect.covers(columns):
        raise _columns_missing(Path(path), list(columns), mapping)
    frame = _at_reference_frequency(
        _translated(Path(path), dialect, columns, units), frequency_hz or dialect.frequency_hz
    )
    frame = _with_positions(Path(path), frame)
    _require_positions_in_range(Path(path), frame)
    frame = _with_possible_fluxes(frame)
    _require_plausible_fluxes(Path(path), frame)
    frame = frame.with_columns(
        ra_deg=pl.col("ra_deg") % 360.0,
        catalogue=pl.col("catalogue").fill_null(dialect.name or Path(path).name.split(".")[0]),
        source_id=pl.coalesce("source_id", pl.Series(_names(frame["ra_deg"], frame["dec_deg"]), dtype=pl.String)),
    )
    repeated = frame.filter(pl.col("source_id").is_duplicated())["source_id"].unique().sort()
    if repeated.len():
        raise CatalogueError(
            f"Catalogue {path}: source_id is not unique",
            got=f"{repeated.len()} names more than once, e.g. {repeated[0]}",
            expected="one row per source",
            remedy="Remove the repeated rows, or give them names of their own.",
        )
    return frame.select(list(COLUMNS))


def write_catalogue(path: Path, catalogue: pl.DataFrame, extra: pl.DataFrame | None = None) -> None:
    """Write a catalogue as Parquet, whole or not at all; ``extra`` columns, row by row, come after ours."""
    table = catalogue.select(list(COLUMNS))
    atomic_write(Path(path), (table if extra is None else table.hstack(extra)).write_parquet)


def _at_reference_frequency(frame: pl.DataFrame, frequency_hz: float) -> pl.DataFrame:
    if frequency_hz == REFERENCE_FREQUENCY_HZ:
        return frame
    alpha = pl.col("spectral_index").fill_null(_TYPICAL_SPECTRAL_INDEX)
    scale = (pl.lit(REFERENCE_FREQUENCY_HZ / frequency_hz).log() * alpha).exp()
    return frame.with_columns(pl.col("flux_jy", "flux_err_jy", "peak_flux_jy_beam") * scale)


def _translated(
    path: Path, dialect: Dialect, columns: Mapping[str, pl.Series], units: Mapping[str, str]
) -> pl.DataFrame:
    try:
        return dialect.translate(columns, units)
    except (ValueError, TypeError, pl.exceptions.PolarsError) as error:  # astropy's errors of units are ValueErrors
        shown = ", ".join(f"{name} [{unit}]" for name, unit in units.items())
        raise CatalogueError(
            f"Catalogue {path}: a column is not in a unit that fits",
            got=f"{str(error).splitlines()[0]}; the file's units are {shown or 'not given'}",
            expected="positions in units of angle, flux densities in Jy or parts of it, numbers in both",
            remedy="Correct units or text in the file, or tell read_catalogue which column is which.",
        ) from error


def _with_positions(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows that have a position; a table of which none has one is not a catalogue."""
    placed = frame.filter(pl.col("ra_deg").is_finite() & pl.col("dec_deg").is_finite())
    if frame.height and placed.is_empty():
        raise CatalogueError(
            f"Catalogue {path}: no row has a position",
            got=f"{frame.height} rows without a finite right ascension and declination",
            expected="numbers in degrees, or sexagesimal text",
            remedy="Check the columns of the positions.",
        )
    return placed


def _with_possible_fluxes(frame: pl.DataFrame) -> pl.DataFrame:
    """Null instead of flux densities and errors that are not finite or not positive: no source has them."""
    fluxes, error = pl.col("flux_jy", "peak_flux_jy_beam"), pl.col("flux_err_jy")
    return frame.with_columns(
        pl.when(fluxes.is_finite() & (fluxes > 0)).then(fluxes).name.keep(),
        flux_err_jy=pl.when(error.is_finite() & (error >= 0)).then(error),
    )


def _require_plausible_fluxes(path: Path, frame: pl.DataFrame) -> None:
    """Refuse a list whose typical source would be among the brightest of the sky: mJy taken for Jy."""
    fluxes = frame["flux_jy"].drop_nulls()
    if fluxes.len() >= _FEWEST_FOR_MEDIAN and float(np.median(fluxes.to_numpy())) > _LARGEST_MEDIAN_JY:
        raise CatalogueError(
            f"Catalogue {path}: flux densities are too large",
            got=f"a median of {np.median(fluxes.to_numpy()):g} Jy in {fluxes.len()} rows",
            expected=f"at most {_LARGEST_MEDIAN_JY:g} Jy",
            remedy="Are they in mJy? Name the column flux_mjy, or write the unit into the file.",
        )


def _require_positions_in_range(path: Path, frame: pl.DataFrame) -> None:
    """Refuse positions that are no degrees on the sphere; negative right ascensions down to -180 are."""
    outside = frame.with_row_index("row").filter(
        (pl.col("dec_deg").abs() > 90.0) | (pl.col("ra_deg") < -180.0) | (pl.col("ra_deg") > 360.0)
    )
    if outside.height:
        row, ra_deg, dec_deg = outside.select("row", "ra_deg", "dec_deg").row(0)
        raise CatalogueError(
            f"Catalogue {path}: {outside.height} positions out of range",
            got=f"ra {ra_deg:g}, dec {dec_deg:g} in row {row} of those with a position",
            expected="right ascension from -180 to 360 and declination from -90 to 90 degrees",
            remedy="Check the units of the columns (hours? radians?) and the rows named.",
        )


def _names(ra_deg: pl.Series, dec_deg: pl.Series) -> list[str]:
    """IAU-style names J<hhmmss.s><+ddmmss>, truncated; the second of two alike gets a letter."""
    tenths = np.floor(ra_deg.to_numpy() % 360.0 * 2400.0 + 1e-6).astype(np.int64)
    arcsec = np.floor(np.abs(dec_deg.to_numpy()) * 3600.0 + 1e-6).astype(np.int64)
    names: list[str] = []
    seen: dict[str, int] = {}
    for t, a, negative in zip(tenths.tolist(), arcsec.tolist(), (dec_deg.to_numpy() < 0).tolist(), strict=True):
        hours = f"{t // 36000:02d}{t // 600 % 60:02d}{t // 10 % 60:02d}.{t % 10}"
        name = f"J{hours}{'-' if negative else '+'}{a // 3600:02d}{a // 60 % 60:02d}{a % 60:02d}"
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def _columns_missing(path: Path, found: list[str], mapping: Mapping[str, str] | None) -> CatalogueError:
    needed = ", ".join((mapping or {}).get(name, name) for name in ("source_id", *_REQUIRED))
    return CatalogueError(
        f"Catalogue {path}: no columns with positions",
        got=f"the columns {', '.join(found) or '(none)'}",
        expected=f"{needed}, or those of NVSS, RACS, FIRST, VLASS or an Aegean component list",
        remedy="Rename the columns (source_id may be left out), or tell read_catalogue which is which.",
    )


def _load(path: Path) -> tuple[dict[str, pl.Series], dict[str, str]]:
    """Columns and their units of any table file."""
    if not path.is_file():
        raise CatalogueError(
            f"Catalogue {path} does not exist",
            remedy="Check the path; `contimg catalogue import` makes a catalogue from a survey's file.",
        )
    if path.suffix.lower() == ".zip":
        return _load_zip(path)
    _require_small(path, path.name, path.stat().st_size)
    return _parse(path, path.name, path.read_bytes())


def _load_zip(path: Path) -> tuple[dict[str, pl.Series], dict[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            tables = [name for name in archive.namelist() if _kind(name)]
            if len(tables) == 1:
                return _parse(path, tables[0], _member(path, archive, tables[0]))
            found = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise _unreadable(path, str(error)) from error
    raise CatalogueError(
        f"Catalogue {path}: not one table in the archive",
        got=", ".join(found) or "an empty archive",
        expected="one CSV, Parquet, FITS or VOTable file",
        remedy="Unpack it and give the table itself.",
    )


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive, read as far as the archive says that it goes: `ZipFile.read` would unpack what follows, too."""
    found = archive.getinfo(name)
    _require_small(path, name, found.file_size)
    if found.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise zipfile.BadZipFile(f"{name} is packed by another method than deflate")
    with archive.open(found) as file:
        return file.read(found.file_size)


def _require_small(path: Path, name: str, n_bytes: int) -> None:
    if n_bytes > LARGEST_TABLE_BYTES:
        raise _too_large(path, f"{name} of {n_bytes} bytes")


def _too_large(path: Path, got: str) -> CatalogueError:
    return CatalogueError(
        f"Catalogue {path} is not read",
        got=got,
        expected=f"at most {LARGEST_TABLE_BYTES} bytes when unpacked, and {LARGEST_TABLE_CELLS} values",
        remedy="Look where the file comes from; cut it to the columns and the part of the sky that are needed.",
        reason_code="file_too_large",
    )


def _unpacked(path: Path, name: str, content: bytes) -> bytes:
    """Content that gzip packed, which may be a thousand times as long: measured first, in constant memory."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    n_bytes = 0
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        while block := file.read(_BLOCK_BYTES):
            n_bytes += len(block)
            _require_small(path, f"{name}, unpacked to {n_bytes} bytes so far,", n_bytes)
    return gzip.decompress(content)


def _require_few_values(path: Path, content: bytes, kind: str) -> None:
    """Parquet and FITS say how much they hold: equal values take no space in the file, but in memory."""
    if kind == "fits":
        from contimg_resources.fits_limits import find_danger  # astropy is loaded when a FITS file is read

        if danger := find_danger(io.BytesIO(content)):
            raise _too_large(path, f"a file that {danger}" if danger.startswith(("is", "has")) else danger)
    elif kind == "parquet":
        lazy = pl.scan_parquet(io.BytesIO(content))
        n_values = int(lazy.select(pl.len()).collect().item()) * len(lazy.collect_schema())
        if n_values > LARGEST_TABLE_CELLS:
            raise _too_large(path, f"{n_values} values")


def _kind(name: str) -> str | None:
    lower = name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if lower.endswith(suffix)), None)


def _parse(path: Path, name: str, content: bytes) -> tuple[dict[str, pl.Series], dict[str, str]]:
    kind = _kind(name)
    if kind is None:
        raise CatalogueError(
            f"Catalogue {path}: unknown kind of file",
            got=f"the name {name}",
            expected=f"a name ending in {', '.join(_SUFFIXES)} or .zip",
            remedy="Convert it to CSV, Parquet, FITS or VOTable.",
        )
    try:
        content = _unpacked(path, name, content)
        _require_few_values(path, content, kind)
        if kind in {"csv", "parquet"}:
            read = pl.read_csv if kind == "csv" else pl.read_parquet
            frame = read(io.BytesIO(content))
            return {column: frame[column] for column in frame.columns}, {}
        return _from_astropy(content, kind)
    except (OSError, EOFError, zlib.error, ValueError, IndexError, pl.exceptions.PolarsError) as error:
        raise _unreadable(path, str(error).split("\n")[0]) from error


def _unreadable(path: Path, why: str) -> CatalogueError:
    return CatalogueError(
        f"Catalogue {path} cannot be read as a table",
        got=why,
        expected="a whole CSV, Parquet, FITS or VOTable file with one row per source",
        remedy="Fetch the file again, or give another one.",
    )


def _from_astropy(content: bytes, kind: str) -> tuple[dict[str, pl.Series], dict[str, str]]:
    import warnings

    from astropy.table import Table
    from astropy.units import UnitsWarning
    from astropy.utils.exceptions import AstropyWarning

    with warnings.catch_warnings():
        # Old catalogues write units and headers in their own ways; what matters is checked when columns are translated.
        warnings.simplefilter("ignore", UnitsWarning)
        warnings.simplefilter("ignore", AstropyWarning)
        table = Table.read(io.BytesIO(content), format=kind)
    units = {name: str(table[name].unit) for name in table.colnames if table[name].unit is not None}
    return {name: _series(table, name) for name in table.colnames if table[name].ndim == 1}, units


def _series(table: Table, name: str) -> pl.Series:
    """A column of an astropy table in native byte order, null where masked."""
    column = table[name]
    values: Any = np.asarray(column)
    if values.dtype.kind in "SO":
        values = [v.decode("ascii", "replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]
        series = pl.Series(name, values, dtype=pl.String)
    else:
        series = pl.Series(name, values.astype(values.dtype.newbyteorder("=")))
    mask = getattr(column, "mask", None)
    return series if mask is None else series.set(pl.Series(np.asarray(mask)), None)
