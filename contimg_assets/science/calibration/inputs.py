"""What a solve was made from, as one hash: equal inputs give equal tables and need not be solved twice.

What belongs here: hashing data, model and settings in memory. What does not: where the hash is kept and who looks for it
(``contimg_assets.calibration_registry``).

Visibilities and flags, a gigabyte, are folded by FNV-1a over 64-bit words (each step is a bijection, so a single changed word
always shows) in blocks by threads, at the speed of the memory; everything small, and those folds, go through SHA-256. Rejected:
SHA-256 of everything (a second and more per observation), and times or sizes of files, which change when an equal measurement
set is made again and do not when one is edited in place.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.solutions import SolveSettings
from contimg_assets.science.sky_model import SkyModel
from contimg_assets.science.threads import in_threads
from contimg_assets.science.visibilities import Visibilities

_BLOCK_WORDS = 1 << 20
"""64-bit words folded into one number: 8 MB."""
_SMALL = ("weights", "uvw_m", "time_mjd", "exposure_s", "antenna1", "antenna2", "frequency_hz", "pointing_ra_deg",
          "pointing_dec_deg", "antenna_positions_m")  # fmt: skip
_NAMES = ("antenna_names", "correlations", "phase_centre_ra_deg", "phase_centre_dec_deg", "channel_width_hz",
          "dish_diameter_m")  # fmt: skip


def solve_input_hash(
    vis: Visibilities, model: SkyModel, settings: SolveSettings, *, code_version: str, prior: str = ""
) -> str:
    """Hash of all that decides what a solve gives.

    Parameters
    ----------
    vis : Visibilities
    model : SkyModel
    settings : SolveSettings
        Without its number of threads, which changes nothing.
    code_version : str
        Version of the code that solves.
    prior : str
        Content hash of the table applied before, if any.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{code_version}|{prior}|".encode())
    chosen = asdict(settings) | {"n_threads": 0}
    digest.update(repr(sorted(chosen.items())).encode())
    for name in ("ra_deg", "dec_deg", "flux_jy", "spectral_index", "curvature"):
        _add(digest, getattr(model, name))
    digest.update(repr(model.reference_frequency_hz).encode())
    digest.update(repr([getattr(vis, name) for name in _NAMES]).encode())
    for name in _SMALL:
        _add(digest, getattr(vis, name))
    for array in (vis.vis, vis.flags):
        _add(digest, _folded(array, settings.n_threads))
    return digest.hexdigest()


def _add(digest: Any, array: NDArray[Any]) -> None:
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())


def _folded(array: NDArray[Any], n_threads: int) -> NDArray[np.uint64]:
    """One number per block of a large array, and the bytes that do not fill a word."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = flat[: len(flat) // 8 * 8].view(np.uint64)
    starts = range(0, len(whole), _BLOCK_WORDS)
    folds = np.zeros(len(starts) + 8, dtype=np.uint64)
    folds[len(starts) : len(starts) + len(flat) % 8] = flat[len(whole) * 8 :]

    def fold(start: int) -> None:
        folds[start // _BLOCK_WORDS] = _fold(whole[start : start + _BLOCK_WORDS])

    in_threads(fold, starts, n_threads)
    return folds


@numba.njit(cache=True, nogil=True)
def _fold(words):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """FNV-1a over words: Fowler, Noll & Vo's constants for 64 bits (draft-eastlake-fnv)."""
    state = np.uint64(0xCBF29CE484222325)
    for word in words:
        state = (state ^ word) * np.uint64(0x100000001B3)
    return state
