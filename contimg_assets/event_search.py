"""The search of a day for extreme scattering events, at the cost of the sources that have changed.

What belongs here: what is read, what is carried over from earlier runs, and where that is kept. The search is
``science.ese``; the asset is ``variability.ese_candidates``.

A source is searched with the calibration of the day of its newest point, which is learned from points of earlier days
of ``CALIBRATED_WITH`` sources. What was found is kept beside the candidates (``day.scores.parquet``) with the mark of
the source's points and the name of the calibration, and is taken again while both are the same; calibrations are kept
too (``day.calibration.parquet``). Both files can be deleted at any time: they only save time. So a day has the same
candidates whether it was made once, after each of its observations, or again a month later.
"""

import hashlib
import zlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from contimg_assets.partitions import day_mjd_range, day_partition
from contimg_assets.science import ese
from contimg_assets.science.ese.calibration import Calibration, as_table, from_table
from contimg_assets.science.ese.candidates import COMPARED, candidate_rows, sample_of
from contimg_assets.science.ese.carried import (
    CALIBRATED_WITH,
    FOUND_SCHEMA,
    calibration_of,
    finds_again,
    found_in_sources,
    searched_series,
)
from contimg_assets.science.ese.settings import SearchSettings
from contimg_resources.products import Products, atomic_write
from contimg_resources.store.connection import Store
from contimg_resources.store.light_curves import conditions_of_sources, marks_of_sources, points_of_sources

_SOURCES_AT_ONCE = 10_000
"""Sources whose points are in memory together: 9 million points of five bands and half a year."""

_ASSET = "ese_candidates"
_SCORES, _CALIBRATION = ".scores.parquet", ".calibration.parquet"
_KEPT_SCHEMA = {**FOUND_SCHEMA, "mark": pl.UInt64, "calibration": pl.String}
_KEY = ["source_id", "mark", "calibration"]


@dataclass(frozen=True, slots=True, eq=False)
class DayOfCandidates:
    """What a day's search leaves."""

    candidates: pl.DataFrame
    """As of ``science.ese.candidates``."""

    points: pl.DataFrame
    """All points of the sources that have candidates."""

    n_sources: int
    """Sources with points up to the end of the day."""

    n_searched: int
    """Those of them that had to be searched."""

    newest_mjd: float
    """Time of the newest point, or the start of the day without any."""


@dataclass(frozen=True, slots=True)
class _Learning:
    """What a day's calibration is learned from."""

    day: str
    points: pl.DataFrame
    """Of earlier days."""

    name: str
    """Changes when the calibration would."""


def search_day(
    store: Store, products: Products, day: str, settings: SearchSettings, previous: pl.DataFrame
) -> DayOfCandidates:
    """Candidates as of the end of a day.

    Parameters
    ----------
    store : Store
        Holds the light curves.
    products : Products
        Keeps what was found for the next time.
    day : str
        ``YYYY-MM-DD``.
    settings : SearchSettings
        Limits of the search.
    previous : polars.DataFrame
        Candidates of the day before.
    """
    start, end = day_mjd_range(day)
    marks = marks_of_sources(store, end)
    searched_as_of = marks["newest_mjd"].floor().cast(pl.Int64)
    learnings = {mjd: _learning(store, marks, mjd, settings) for mjd in searched_as_of.unique().sort().to_list()}
    names = {mjd: learning.name for mjd, learning in learnings.items()}
    wanted = marks.with_columns(
        as_of=searched_as_of, calibration=searched_as_of.replace_strict(names, return_dtype=pl.String).cast(pl.String)
    )
    kept = _kept(products, day)
    found = [wanted.join(kept, on=_KEY, how="inner").select(list(_KEPT_SCHEMA))]
    changed = wanted.join(kept, on=_KEY, how="anti")
    for (mjd,), sources in sorted(changed.group_by("as_of")):
        found.append(_searched(store, products, sources, learnings[mjd], end, settings))
    every = pl.concat(found).sort("source_id")
    if changed.height:
        _keep(products, day, every)
    with_dips = every.filter(pl.col("dips").is_not_null())
    of_interest = with_dips["source_id"].to_list()
    points = points_of_sources(store, of_interest, end).join(
        conditions_of_sources(store, of_interest, end),
        on=["source_id", "band", "epoch_mjd"],
        how="left",
        maintain_order="left",
    )
    finds = finds_again(with_dips, points, settings)
    compared = searched_series(points_of_sources(store, sample_of(marks["source_id"], COMPARED), end), settings)
    newest = float(marks["newest_mjd"].to_numpy().max(initial=start))
    return DayOfCandidates(
        candidate_rows(finds, compared if finds else [], settings, previous),
        points,
        marks.height,
        changed.height,
        newest,
    )


def _learning(store: Store, marks: pl.DataFrame, mjd: int, settings: SearchSettings) -> _Learning:
    """What the calibration of the day that begins at a time is learned from."""
    known = marks.filter(pl.col("first_mjd") < mjd)["source_id"]
    points = points_of_sources(store, sample_of(known, CALIBRATED_WITH), float(mjd))
    content = hashlib.sha256(f"{_method()} {mjd} {asdict(settings)}".encode())
    content.update(points.hash_rows().to_numpy().tobytes())
    return _Learning(day_partition(mjd), points, content.hexdigest()[:16])


@cache
def _method() -> str:
    """Changes with the text of the search, so that nothing found by another one is taken."""
    folder = Path(ese.__path__[0])
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()


def _searched(
    store: Store,
    products: Products,
    sources: pl.DataFrame,
    learning: _Learning,
    end_mjd: float,
    settings: SearchSettings,
) -> pl.DataFrame:
    """Search some sources with one calibration; rows to keep."""
    calibration = _calibration(products, learning, settings)
    n_known = len(calibration.trials)
    found = []
    for some in sources["source_id"].sort().to_frame().iter_slices(_SOURCES_AT_ONCE):
        names = some["source_id"].to_list()
        found.append(found_in_sources(points_of_sources(store, names, end_mjd), names, calibration, settings))
    if len(calibration.trials) > n_known:
        table = as_table(calibration).with_columns(name=pl.lit(learning.name))
        atomic_write(products.document(_ASSET, learning.day, _CALIBRATION), table.write_parquet)
    return pl.concat(found).join(sources.select(_KEY), on="source_id").select(list(_KEPT_SCHEMA))


def _calibration(products: Products, learning: _Learning, settings: SearchSettings) -> Calibration:
    """The calibration of a day: the one kept, if it was learned from the same."""
    path = products.document(_ASSET, learning.day, _CALIBRATION)
    if path.exists():
        table = pl.read_parquet(path)
        if table["name"].item() == learning.name:
            return from_table(table)
    rng = np.random.default_rng(zlib.crc32(learning.day.encode()))
    return calibration_of(learning.points, settings, rng)


def _kept(products: Products, day: str) -> pl.DataFrame:
    """What earlier runs found, of whatever days they are."""
    folder = products.table(_ASSET, day).parents[1]
    files = [pl.read_parquet(path) for path in sorted(folder.glob(f"*/day{_SCORES}"))]
    return pl.concat([pl.DataFrame(schema=_KEPT_SCHEMA), *files]).unique(_KEY)


def _keep(products: Products, day: str, found: pl.DataFrame) -> None:
    """Keep what was found; of other days, the one before and the newest are enough."""
    path = products.document(_ASSET, day, _SCORES)
    products.check_free_space(int(found.estimated_size()))
    atomic_write(path, found.write_parquet)
    kept = sorted(path.parents[1].glob(f"*/day{_SCORES}"))
    place = kept.index(path)
    for other in kept:
        if other not in (path, kept[max(place - 1, 0)], kept[-1]):
            other.unlink(missing_ok=True)
