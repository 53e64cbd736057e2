"""Pictures of one day for its report: every image and mosaic side by side, bandpasses, and gains over the day.

What belongs here: which products of the day are drawn, and reading them. Drawing is ``pictures``, the page ``report``.
A product that is archived, gone or damaged is left out, and the caption says how many were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from contimg_assets.photometry import FULL_BAND
from contimg_assets.pictures import SheetImage, bandpass_plot, gain_plot, image_sheet
from contimg_assets.report_layout import Picture
from contimg_assets.science.calibration.solutions import Solutions
from contimg_resources.calibration_tables import read_calibration_table
from contimg_resources.errors import CasaError, ProductMissingError
from contimg_resources.fits_images import ImageFileError
from contimg_resources.image_regions import read_geometry, read_region
from contimg_resources.products import Products

_MOST_IMAGES, _MOST_MOSAICS, _MOST_BANDPASSES, _MOST_GAINS = 12, 8, 3, 48
_SHEET_PIXELS = 240
"""Longest side of an image on a sheet."""
T = TypeVar("T")


def pictures_of_images(products: Products, images: pl.DataFrame, mosaics: pl.DataFrame) -> list[Picture]:
    """Full-band images and mosaics of a day, each kind on one sheet.

    Parameters
    ----------
    products : Products
    images, mosaics : polars.DataFrame
        Rows of the tables ``image`` and ``mosaic``.
    """
    full = images.filter(band=FULL_BAND).sort("observation_id")
    kinds = (
        ("Images", full, "observation_id", _MOST_IMAGES, 4),
        ("Mosaics", mosaics.sort("partition_key"), "partition_key", _MOST_MOSAICS, 2),
    )
    pictures = []
    for what, rows, name, most, n_columns in kinds:
        found = _readable(_sheet_image(products, row, row[name]) for row in _spread(rows.to_dicts(), most))
        if found:
            caption = (
                f"{what}: {len(found)} of {rows.height}, each on its own scale from -4 times the noise to its peak."
            )
            pictures.append(Picture(image_sheet(found, n_columns), caption))
    return pictures


def pictures_of_calibration(products: Products, tables: pl.DataFrame) -> list[Picture]:
    """Bandpasses solved from a day's data, and the gains of the whole day.

    Parameters
    ----------
    products : Products
    tables : polars.DataFrame
        Rows of the table ``calibration_table``.
    """
    by_time = tables.sort("solved_at_mjd")
    pictures = []
    for row in by_time.filter(kind="B").head(_MOST_BANDPASSES).iter_rows(named=True):
        found = _readable([_solutions(products, row)])
        pictures += [
            Picture(bandpass_plot(made), f"Bandpass of {row['calibrator']}, {row['status']}.") for made in found
        ]
    rows = by_time.filter(kind="G")
    gains = _joined(_readable(_solutions(products, row) for row in _spread(rows.to_dicts(), _MOST_GAINS)))
    if gains:
        joined, n_tables = gains
        caption = (
            f"Gains of {n_tables} of {rows.height} tables: median of the day, bars from the smallest to the largest."
        )
        pictures.append(Picture(gain_plot(joined), caption))
    return pictures


def _spread(rows: Sequence[T], most: int) -> list[T]:
    """At most so many, evenly spread from the first to the last."""
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    return [rows[place] for place in places]


def _readable(found: Iterable[T | None]) -> list[T]:
    return [one for one in found if one is not None]


def _sheet_image(products: Products, row: dict[str, Any], name: str) -> SheetImage | None:
    try:
        path = products.present(row["path"])
        fits: Path = path / f"{FULL_BAND}_image.fits" if path.is_dir() else path
        geometry = read_geometry(fits)
        pixels = read_region(fits, (0, geometry.n_x), (0, geometry.n_y), _SHEET_PIXELS)
    except (ProductMissingError, ImageFileError):
        return None
    return SheetImage(name, pixels, float(row["rms_jy_beam"] or np.nan))


def _solutions(products: Products, row: dict[str, Any]) -> Solutions | None:
    try:
        return Solutions(**read_calibration_table(products.present(row["path"])))
    except (ProductMissingError, CasaError):
        return None


def _joined(tables: Sequence[Solutions]) -> tuple[Solutions, int] | None:
    """Tables of the same antennas and reference one after the other in time, and how many these are."""
    if not tables:
        return None
    newest = tables[-1]

    def fits(other: Solutions) -> bool:
        is_alike = other.gains.shape[1:] == newest.gains.shape[1:] and other.refant == newest.refant
        return is_alike and other.antenna_names == newest.antenna_names and other.correlations == newest.correlations

    alike = [table for table in tables if fits(table)]
    parts = {
        name: np.concatenate([getattr(table, name) for table in alike])
        for name in ("gains", "flags", "snr", "time_mjd", "interval_s", "converged")
    }
    return replace(newest, **parts), len(alike)
