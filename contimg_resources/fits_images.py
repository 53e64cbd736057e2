"""FITS images: reading any radio image of one plane, writing ours.

What belongs here: headers, degenerate axes, units, where different packages keep the restoring beam, and the folder of
an image set. What does not: what the pixels mean (``contimg_assets.science.images``) and how they were made.

Read: two to four axes of which only right ascension and declination are longer than one; the beam from BMAJ, BMIN,
BPA, CASA's table of beams or the HISTORY that AIPS writes. Written: float32, two axes, ICRS, a SIN projection (slanted,
PV2_1 and PV2_2, when the array is flat; any FITS WCS library knows it). A folder of images appears whole or not at all.
Third and fourth axes of length one, which some packages write, were rejected: the frequency fits a card.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from astropy.time import Time
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, WCSSUB_LATITUDE, WCSSUB_LONGITUDE, FITSFixedWarning, WcsError
from numpy.typing import NDArray

from contimg_resources.errors import ResourceError
from contimg_resources.fits_limits import LARGEST_IMAGE_PIXELS, find_danger
from contimg_resources.products import atomic_write, require
from contimg_resources.table_folders import replaced_folder, require_space
from contimg_resources.tracing import traced

SECONDS_PER_DAY = 86_400.0
FULL_BAND = "full"
_KINDS_OF_EVERY_BAND = {"image": "restored", "rms": "rms", "background": "background", "primary_beam": "primary_beam"}
"""File name ending and field of the images written for every band."""
_KINDS_OF_FULL_BAND = {"residual": "residual", "psf": "psf"}
_AIPS_BEAM = re.compile(r"BMAJ=\s*([\d.EeDd+-]+)\s+BMIN=\s*([\d.EeDd+-]+)\s+BPA=\s*([\d.EeDd+-]+)")
_JY_PER_UNIT = {"": 1.0, "JY/BEAM": 1.0, "BEAM-1JY": 1.0, "MJY/BEAM": 1e-3, "BEAM-1MJY": 1e-3, "UJY/BEAM": 1e-6}


class ImageFileError(ResourceError):
    """Raise when a FITS file exists but is not a usable image: damaged, a cube, without beam or celestial axes."""

    reason_code = "unreadable_image"


@traced("io.read_image")
def read_image(path: Path | str) -> dict[str, Any]:
    """Read an image of one plane.

    Parameters
    ----------
    path : path
        FITS file; two to four axes, compressed or not.

    Returns
    -------
    dict
        Fields of ``SkyImage``: data in Jy/beam, celestial wcs, beam, frequency (NaN if unknown), name.

    Raises
    ------
    ProductMissingError
        If there is no such file.
    ImageFileError
        If it is damaged, has no beam, no celestial axes, several planes, or is not in Jy/beam.
    """
    path = Path(path)
    data, header, beam_table = _load(path)
    plane, wcs = _celestial_plane(path, data, header)
    unit = str(header.get("BUNIT", "")).strip().upper().replace(" ", "")
    if unit not in _JY_PER_UNIT:
        raise ImageFileError(
            f"{path} is not an image of brightness per beam", got=f"BUNIT {unit}", expected="JY/BEAM",
            remedy="Convert it, or correct its header.", reason_code="image_unit",
        )  # fmt: skip
    major_deg, minor_deg, pa_deg = _beam_deg(path, header, beam_table)
    if _JY_PER_UNIT[unit] != 1.0:
        plane = plane * np.float32(_JY_PER_UNIT[unit])
    return {
        "data": plane,
        "wcs": wcs,
        "beam_major_arcsec": major_deg * 3600.0,
        "beam_minor_arcsec": minor_deg * 3600.0,
        "beam_pa_deg": pa_deg,
        "frequency_hz": _frequency_hz(header),
        "name": path.name,
    }


def read_plane(path: Path | str) -> NDArray[np.float32]:
    """Read the pixels of a FITS file of one plane as they are, e.g. of a noise map; no beam or unit needed."""
    path = Path(path)
    data, header, _ = _load(path)
    return _celestial_plane(path, data, header)[0]


def list_bands(folder: Path | str) -> list[str]:
    """Names of the bands of which an image folder holds images: the full band first, then ascending."""
    names = sorted(
        (path.name.removesuffix("_image.fits") for path in require(Path(folder)).glob("*_image.fits")),
        key=lambda name: (name != FULL_BAND, len(name), name),
    )
    if not names:
        raise ImageFileError(
            f"folder {folder} holds no images", got="no file named *_image.fits", expected="full_image.fits",
            remedy="Make the images again.", reason_code="no_images",
        )  # fmt: skip
    return names


def write_image(
    path: Path | str, data: NDArray[np.float32], wcs: WCS, cards: Mapping[str, Any], *, unit: str = "JY/BEAM"
) -> None:
    """Write one plane; the file appears complete or not at all.

    Parameters
    ----------
    path : path
    data : array of float32, shape (n_y, n_x)
    wcs : astropy.wcs.WCS
        Celestial, two axes.
    cards : mapping
        Further header cards, e.g. from ``header_cards``.
    unit : str
        BUNIT; empty for none.
    """
    header = wcs.to_header()
    header["BUNIT"] = unit
    for key, value in cards.items():
        header[key] = value
    hdu = fits.PrimaryHDU(np.asarray(data, dtype=np.float32), header)
    atomic_write(Path(path), hdu.writeto)


def header_cards(
    *, beam_major_arcsec: float, beam_minor_arcsec: float, beam_pa_deg: float, frequency_hz: float, bandwidth_hz: float
) -> dict[str, Any]:
    """Cards of the restoring beam (deg, as FITS has them) and of the frequency (Hz)."""
    return {
        "BMAJ": beam_major_arcsec / 3600.0,
        "BMIN": beam_minor_arcsec / 3600.0,
        "BPA": beam_pa_deg,
        "RESTFRQ": frequency_hz,
        "BANDWID": bandwidth_hz,
    }


@traced("io.write_images")
def write_image_set(folder: Path | str, columns: Mapping[str, Any]) -> list[Path]:
    """Write all images of an observation into a folder that appears whole or not at all.

    Per band ``<band>_image.fits``, ``_rms``, ``_background`` and ``_primary_beam``; of the full band also ``_residual``
    and ``_psf``.

    Parameters
    ----------
    folder : path
        Replaced if it exists.
    columns : mapping
        Fields of ``ImageSet`` (``image_set.columns()``).

    Returns
    -------
    list of Path
        The files.
    """
    folder = Path(folder)
    planes = columns["planes"]
    common = _observation_cards(columns)
    written = []
    with replaced_folder(folder) as temporary:
        require_space(folder, sum(4.1 * plane["restored"].size for plane in planes) * len(_KINDS_OF_EVERY_BAND))
        temporary.mkdir()
        for plane in planes:
            kinds = _KINDS_OF_EVERY_BAND | (_KINDS_OF_FULL_BAND if plane["name"] == FULL_BAND else {})
            cards = common | _plane_cards(plane)
            for kind, field in kinds.items():
                unit = "" if kind == "primary_beam" else "JY/BEAM"
                name = f"{plane['name']}_{kind}.fits"
                write_image(temporary / name, plane[field], columns["wcs"], cards, unit=unit)
                written.append(folder / name)
    return written


@traced("io.write_mosaic")
def write_mosaic(path: Path | str, weight_path: Path | str, columns: Mapping[str, Any]) -> None:
    """Write a mosaic and its weight map.

    Parameters
    ----------
    path, weight_path : path
        Each appears complete or not at all; the weights come first, so that a mosaic always has them.
    columns : mapping
        ``data`` (Jy/beam), ``weights`` ((Jy/beam)^-2), ``wcs``, the beam in arcsec, ``frequency_hz``, ``n_tiles``.
    """
    cards: dict[str, Any] = {
        "RADESYS": "ICRS",
        "BMAJ": columns["beam_major_arcsec"] / 3600.0,
        "BMIN": columns["beam_minor_arcsec"] / 3600.0,
        "BPA": columns["beam_pa_deg"],
        "NTILES": columns["n_tiles"],
        "ORIGIN": "contimg",
    }
    if np.isfinite(columns["frequency_hz"]):
        cards["RESTFRQ"] = columns["frequency_hz"]
    write_image(weight_path, columns["weights"], columns["wcs"], cards, unit="Jy-2 beam2")
    write_image(path, columns["data"], columns["wcs"], cards | {"WEIGHTS": Path(weight_path).name})


def _observation_cards(columns: Mapping[str, Any]) -> dict[str, Any]:
    duration_d = columns["duration_s"] / SECONDS_PER_DAY
    start = Time(columns["mid_time_mjd"] - duration_d / 2.0, format="mjd", scale="utc")
    return {
        "RADESYS": "ICRS",
        "TELESCOP": columns["telescope_name"],
        "OBJECT": columns["field_name"],
        "DATE-OBS": start.isot,
        "EXPTIME": columns["duration_s"],
        "NCOMP": columns["n_clean_components"],
        "ENGINE": columns["engine"],
        "ORIGIN": "contimg",
    }


def _plane_cards(plane: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("beam_major_arcsec", "beam_minor_arcsec", "beam_pa_deg", "frequency_hz", "bandwidth_hz")
    cards = header_cards(**{name: plane[name] for name in wanted}) | {"BAND": plane["name"]}
    noise = {"IMGRMS": plane["rms_jy_beam"], "THERMAL": plane["thermal_rms_jy_beam"]}
    return cards | {key: value for key, value in noise.items() if np.isfinite(value)}


def require_bounded(path: Path, stream: BinaryIO) -> None:
    """Refuse a file whose headers promise more than is read, before anything of it is.

    Raises
    ------
    ImageFileError
        ``file_too_large``.
    """
    if danger := find_danger(stream):
        raise ImageFileError(
            f"{path} is not read", got=f"a file that {danger}" if danger.startswith(("is", "has", "unpacks")) else danger,
            expected=f"at most {LARGEST_IMAGE_PIXELS} pixels in each unit, plain, by gzip or in tiles of Rice or gzip",
            remedy="Look where the file comes from; cut the part that is wanted, or write it anew without compression.",
            reason_code="file_too_large",
        )  # fmt: skip


def _load(path: Path) -> tuple[NDArray[Any], fits.Header, Any]:
    """Pixels, header and, if CASA wrote one, the table of beams of the first image in a file."""
    require(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            # Odd cards of other packages do no harm; a truncated file, to astropy, is only a warning too.
            warnings.simplefilter("ignore", AstropyWarning)
            warnings.filterwarnings("error", message="File may have been truncated")
            require_bounded(path, stream)
            with fits.open(stream, memmap=False) as units:
                for unit in units:
                    if unit.is_image and unit.header.get("NAXIS", 0) >= 2:
                        table = (units["BEAMS"].data, units["BEAMS"].columns) if "BEAMS" in units else None
                        return np.asarray(unit.data), unit.header, table
    except (OSError, ValueError, TypeError, fits.VerifyError, AstropyWarning) as error:
        raise ImageFileError(
            f"{path} cannot be read as FITS", got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            expected="a whole FITS image", remedy="Fetch or make the file again.",
        ) from error  # fmt: skip
    raise ImageFileError(
        f"{path} holds no image", got="no unit with two or more axes", expected="an image in right ascension and "
        "declination", remedy="Give the file of the image, not of a table.", reason_code="no_images",
    )  # fmt: skip


def _celestial_plane(path: Path, data: NDArray[Any], header: fits.Header) -> tuple[NDArray[np.float32], WCS]:
    """The plane as [y, x] with x the axis of right ascension, and its two-axis WCS."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            full = WCS(header)
            celestial = full.sub([WCSSUB_LONGITUDE, WCSSUB_LATITUDE])
    except (WcsError, ValueError, KeyError, MemoryError) as error:
        raise _no_sky(path, str(error).splitlines()[0]) from error
    if full.wcs.lng < 0 or full.wcs.lat < 0:
        raise _no_sky(path, ", ".join(str(name) for name in full.wcs.ctype))
    axis_x, axis_y = data.ndim - 1 - full.wcs.lng, data.ndim - 1 - full.wcs.lat
    others = [axis for axis in range(data.ndim) if axis not in (axis_x, axis_y)]
    if any(data.shape[axis] != 1 for axis in others):
        raise ImageFileError(
            f"{path} holds more than one plane", got=f"shape {data.shape}", expected="only right ascension and "
            "declination longer than one pixel", remedy="Extract one plane of the cube first.",
            reason_code="image_not_planar",
        )  # fmt: skip
    plane = data.transpose([*others, axis_y, axis_x]).reshape(data.shape[axis_y], data.shape[axis_x])
    return np.ascontiguousarray(plane, dtype=np.float32), celestial


def _no_sky(path: Path, got: str) -> ImageFileError:
    return ImageFileError(
        f"{path} has no celestial coordinates", got=got or "no CTYPE cards", expected="axes RA---xxx and DEC--xxx",
        remedy="Give an image of the sky with a complete header.", reason_code="image_without_sky",
    )  # fmt: skip


def _beam_deg(path: Path, header: fits.Header, beam_table: Any) -> tuple[float, float, float]:
    """Restoring beam from the cards, CASA's table of beams (its first plane), or the last mention in AIPS' history."""
    if header.get("BMAJ", 0.0) and header.get("BMIN", 0.0):
        return float(header["BMAJ"]), float(header["BMIN"]), float(header.get("BPA", 0.0))
    if beam_table is not None:
        rows, columns = beam_table
        to_deg = {"arcsec": 1.0 / 3600.0, "deg": 1.0}
        axes = [float(rows[name][0]) * to_deg[(columns[name].unit or "arcsec").strip()] for name in ("BMAJ", "BMIN")]
        return axes[0], axes[1], float(rows["BPA"][0])
    found = _AIPS_BEAM.findall("\n".join(str(line) for line in header.get("HISTORY", [])))
    if found:
        major, minor, pa = (float(number.upper().replace("D", "E")) for number in found[-1])
        return major, minor, pa
    raise ImageFileError(
        f"{path} does not name its restoring beam", got="no BMAJ and BMIN", expected="BMAJ, BMIN and BPA in degrees",
        remedy="Add BMAJ, BMIN and BPA to the FITS header.", reason_code="image_without_beam",
    )  # fmt: skip


def _frequency_hz(header: fits.Header) -> float:
    """Frequency of the first plane, from the axis of frequency or the cards in use for it; NaN if there is none."""
    for axis in range(3, int(header.get("NAXIS", 0)) + 1):
        if str(header.get(f"CTYPE{axis}", "")).startswith("FREQ"):
            offset = (1.0 - header.get(f"CRPIX{axis}", 1.0)) * header.get(f"CDELT{axis}", 0.0)
            return float(header[f"CRVAL{axis}"] + offset)
    for key in ("RESTFRQ", "RESTFREQ", "FREQ", "OBSFREQ"):
        if header.get(key):
            return float(header[key])
    return float("nan")
