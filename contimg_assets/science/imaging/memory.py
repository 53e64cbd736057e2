"""How much memory an image set takes, known before it is made.

What belongs here: the estimate and the refusal. How much there is comes from the caller (``ImageSettings.memory_bytes``).

Estimate: at the end of imaging each band is held as residual, dirty, model, point-spread function, primary beam, restored
image, rms and background next to the cube it came from, nine float32 per pixel and band, and so is the full band with
the grid of the Fourier transform; averaged visibilities take 24 bytes each (values, two weights, residual values).
Measured peaks are 60 bytes per pixel with one band and 171 with four; the estimate says 72 and 180.
"""

from __future__ import annotations

from contimg_assets.science.errors import DataError

_BYTES_PER_PIXEL_AND_PLANE = 36
_BYTES_PER_VISIBILITY = 24


def image_bytes(n_x: int, n_y: int, n_bands: int, n_visibilities: int) -> int:
    """Memory that imaging takes besides the visibilities it was given.

    Parameters
    ----------
    n_x, n_y : int
        Pixels.
    n_bands : int
        Sub-bands; the full band is one more.
    n_visibilities : int
        Averaged visibilities: rows times groups of channels.
    """
    return n_x * n_y * (n_bands + 1) * _BYTES_PER_PIXEL_AND_PLANE + n_visibilities * _BYTES_PER_VISIBILITY


def require_memory(n_x: int, n_y: int, n_bands: int, n_visibilities: int, available_bytes: float | None) -> None:
    """Refuse images that need more memory than there is; None = not known.

    Raises
    ------
    DataError
        If there is not enough.
    """
    needed_bytes = image_bytes(n_x, n_y, n_bands, n_visibilities)
    if available_bytes is not None and needed_bytes > available_bytes:
        raise DataError(
            "imaging: the images are larger than the memory",
            got=f"{n_x} x {n_y} pixels in {n_bands} bands, {needed_bytes / 1e9:.3g} GB",
            expected=f"at most {available_bytes / 1e9:.3g} GB",
            remedy="Choose fewer pixels, a larger cell or fewer bands, or no surroundings.",
            reason_code="image_too_large",
        )
