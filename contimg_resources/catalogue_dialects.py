"""How each known catalogue names its columns, in which units and at which frequency.

What belongs here: facts about catalogues and the translation of one table. Files are opened in
``reference_catalogues``.

Units written in the file win; those given here are for files that have none (CSV). Column names are compared
without regard to case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

REFERENCE_FREQUENCY_HZ = 1.4e9
"""Frequency our catalogues' fluxes refer to."""

_OUR_UNITS = {
    "ra_deg": "deg",
    "dec_deg": "deg",
    "flux_jy": "Jy",
    "flux_err_jy": "Jy",
    "peak_flux_jy_beam": "Jy",
    "spectral_index": "",
    "major_arcsec": "arcsec",
    "minor_arcsec": "arcsec",
    "pa_deg": "deg",
}
_TEXT = ("source_id", "catalogue")


@dataclass(frozen=True, slots=True)
class Dialect:
    """Columns of one kind of catalogue."""

    name: str
    """What goes into our column ``catalogue``; empty to take the file's name."""
    columns: Mapping[str, str]
    """Our column to the catalogue's; a name may be followed by its unit, as in ``S1.4 [mJy]``."""
    signature: tuple[str, ...] = ()
    """Columns that tell this catalogue from others."""
    frequency_hz: float = REFERENCE_FREQUENCY_HZ
    name_prefix: str = ""
    """Put before the catalogue's own name of a source."""
    upper_limit_flag: str = ""
    """Column that holds "<" where the size is an upper limit, so that the source is unresolved."""
    fitted_with_beam: tuple[str, str] | None = None
    """Columns of the beam's axes (arcsec) where sizes are as fitted, not deconvolved."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names of a column, tried in order."""

    @classmethod
    def of_mapping(cls, mapping: Mapping[str, str]) -> Dialect:
        """A dialect of the user's own."""
        return cls(name="", columns=dict(mapping))

    def covers(self, found: Iterable[str]) -> bool:
        """Whether the columns that tell this catalogue apart, and positions, are there."""
        names = {name.lower() for name in found}
        return all(name.lower() in names for name in self.signature) and all(
            self._source(ours, names) is not None for ours in ("ra_deg", "dec_deg")
        )

    def _source(self, ours: str, names: Iterable[str]) -> tuple[str, str] | None:
        """Name (lower case) and unit of the column that holds ours, if it is there."""
        for candidate in (self.columns.get(ours), *self.aliases.get(ours, ())):
            if candidate is not None:
                name, _, unit = candidate.partition(" [")
                if name.lower() in names:
                    return name.lower(), unit.rstrip("]") or _OUR_UNITS.get(ours, "")
        return None

    def translate(self, columns: Mapping[str, pl.Series], units: Mapping[str, str]) -> pl.DataFrame:
        """The table in our columns and units; what is not there is null."""
        by_name = {name.lower(): (name, series) for name, series in columns.items()}
        height = len(next(iter(columns.values())))
        out: dict[str, pl.Series] = {}
        for ours in (*_TEXT, *_OUR_UNITS):
            source = self._source(ours, by_name)
            if source is None:
                out[ours] = pl.Series([None] * height, dtype=pl.String if ours in _TEXT else pl.Float64)
                continue
            theirs, series = by_name[source[0]]
            if ours in _TEXT:
                text = series.cast(pl.String).str.strip_chars()
                out[ours] = text.replace("", None)
            else:
                out[ours] = _in_unit(series, units.get(theirs, source[1]), ours)
        # Aegean and others write -1 for an error that is not known.
        frame = pl.DataFrame(out).with_columns(flux_err_jy=pl.when(pl.col("flux_err_jy") >= 0).then("flux_err_jy"))
        if self.name_prefix:
            frame = frame.with_columns(source_id=pl.concat_str(pl.lit(self.name_prefix), "source_id"))
        return self._deconvolved(frame, by_name)

    def _deconvolved(self, frame: pl.DataFrame, by_name: Mapping[str, tuple[str, pl.Series]]) -> pl.DataFrame:
        sizes = pl.col("major_arcsec", "minor_arcsec")
        if self.upper_limit_flag.lower() in by_name:
            flag = by_name[self.upper_limit_flag.lower()][1].fill_null("")
            return frame.with_columns(pl.when(pl.Series(flag == "<")).then(0.0).otherwise(sizes).name.keep())
        if self.fitted_with_beam is not None and all(name.lower() in by_name for name in self.fitted_with_beam):
            axes = zip(("major_arcsec", "minor_arcsec"), self.fitted_with_beam, strict=True)
            return frame.with_columns(
                (pl.col(ours).pow(2) - by_name[beam.lower()][1].cast(pl.Float64).pow(2)).clip(0.0).sqrt().alias(ours)
                for ours, beam in axes
            )
        return frame


def _in_unit(series: pl.Series, unit: str, ours: str) -> pl.Series:
    """A column as numbers in our unit, not-a-number made null."""
    if series.dtype == pl.String:
        # Right ascension in text may be sexagesimal hours, declination degrees.
        values = _angles(series, hours=ours == "ra_deg") if ours in {"ra_deg", "dec_deg"} else _numbers(series)
    else:
        values = series.cast(pl.Float64)
        values = values * _factor(unit, _OUR_UNITS[ours])
    return values.fill_nan(None).alias(ours)


def _numbers(series: pl.Series) -> pl.Series:
    return series.str.strip_chars().cast(pl.Float64, strict=False)


def _angles(series: pl.Series, *, hours: bool) -> pl.Series:
    plain = _numbers(series)
    if plain.null_count() == series.null_count():
        return plain
    from astropy.coordinates import Angle

    angles = Angle(series.fill_null("nan").to_list(), unit="hourangle" if hours else "deg")
    return pl.Series(np.asarray(angles.deg, dtype=np.float64))


def _factor(theirs: str, ours: str) -> float:
    """Multiplier from their unit to ours; a beam in the denominator does not matter here."""
    theirs = theirs.replace("/beam", "").replace(" beam-1", "").strip()
    if theirs in {"", ours} or not ours:
        return 1.0
    from astropy import units as u

    return float(u.Unit(theirs).to(u.Unit(ours)))


CONTIMG = Dialect(
    name="",
    columns={name: name for name in (*_TEXT, *_OUR_UNITS)},
    aliases={
        "flux_jy": ("flux_mjy [mJy]",),
        "flux_err_jy": ("flux_err_mjy [mJy]",),
        "source_id": ("source_name", "name", "id"),
        "major_arcsec": ("maj_arcsec",),
        "minor_arcsec": ("min_arcsec",),
    },
)
"""Ours, and tables like it."""

NVSS = Dialect(
    name="NVSS",
    signature=("NVSS", "S1.4"),
    columns={
        "source_id": "NVSS",
        "ra_deg": "_RAJ2000",
        "dec_deg": "_DEJ2000",
        "flux_jy": "S1.4 [mJy]",
        "flux_err_jy": "e_S1.4 [mJy]",
        "major_arcsec": "MajAxis",
        "minor_arcsec": "MinAxis",
        "pa_deg": "PA",
    },
    aliases={"ra_deg": ("RAJ2000",), "dec_deg": ("DEJ2000",)},
    name_prefix="NVSS J",
    upper_limit_flag="l_MajAxis",
)
"""NVSS (Condon et al. 1998) as served by VizieR, VIII/65; sizes are deconvolved."""

RACS = Dialect(
    name="RACS",
    signature=("source_id", "total_flux_source"),
    columns={
        "source_id": "source_id",
        "ra_deg": "ra",
        "dec_deg": "dec",
        "flux_jy": "total_flux_source [mJy]",
        "flux_err_jy": "e_total_flux_source [mJy]",
        "peak_flux_jy_beam": "peak_flux [mJy]",
    },
    frequency_hz=887.5e6,
)
"""RACS-low (Hale et al. 2021) source lists of CASDA, 887.5 MHz; their sizes are not deconvolved and are left out."""

FIRST = Dialect(
    name="FIRST",
    signature=("FPEAK", "FINT"),
    columns={
        "source_id": "FIRST",
        "ra_deg": "RA",
        "dec_deg": "DEC",
        "flux_jy": "FINT [mJy]",
        "peak_flux_jy_beam": "FPEAK [mJy]",
        "major_arcsec": "MAJOR",
        "minor_arcsec": "MINOR",
        "pa_deg": "POSANG",
    },
    aliases={
        "ra_deg": ("RAJ2000",),
        "dec_deg": ("DEJ2000",),
        "major_arcsec": ("Maj",),
        "minor_arcsec": ("Min",),
        "pa_deg": ("PA",),
    },
)
"""FIRST (Helfand et al. 2015), the survey's file (no names) or VizieR VIII/92; sizes are deconvolved."""

VLASS = Dialect(
    name="VLASS",
    signature=("Component_name", "Total_flux"),
    columns={
        "source_id": "Component_name",
        "ra_deg": "RA",
        "dec_deg": "DEC",
        "flux_jy": "Total_flux [mJy]",
        "flux_err_jy": "E_Total_flux [mJy]",
        "peak_flux_jy_beam": "Peak_flux [mJy]",
        "major_arcsec": "DC_Maj",
        "minor_arcsec": "DC_Min",
        "pa_deg": "DC_PA",
    },
    frequency_hz=3.0e9,
)
"""VLASS quick-look components (Gordon et al. 2021, CIRADA), 3 GHz."""

AEGEAN = Dialect(
    name="",
    signature=("island", "source", "int_flux"),
    columns={
        "ra_deg": "ra",
        "dec_deg": "dec",
        "flux_jy": "int_flux [Jy]",
        "flux_err_jy": "err_int_flux [Jy]",
        "peak_flux_jy_beam": "peak_flux [Jy]",
        "major_arcsec": "a",
        "minor_arcsec": "b",
        "pa_deg": "pa",
    },
    fitted_with_beam=("psf_a", "psf_b"),
)
"""Component lists of Aegean, of any frequency; RACS component lists made with it look the same."""

POSITIONS = Dialect(
    name="",
    columns={"source_id": "source_id", "ra_deg": "ra", "dec_deg": "dec"},
    aliases={
        "source_id": ("name", "id"),
        "ra_deg": ("RAJ2000", "_RAJ2000", "RA_ICRS"),
        "dec_deg": ("DEJ2000", "_DEJ2000", "DE_ICRS"),
    },
)
"""Any table with positions; its fluxes are unknown."""

KNOWN = (NVSS, VLASS, FIRST, RACS, AEGEAN, CONTIMG, POSITIONS)
"""In the order they are tried: the most particular first."""


def recognise(found: Iterable[str]) -> Dialect | None:
    """The first known dialect whose columns are there."""
    names = list(found)
    return next((dialect for dialect in KNOWN if dialect.covers(names)), None)
