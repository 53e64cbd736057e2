"""Channels that are bad before anything is looked at: known ranges, and the edges of sub-bands.

What belongs here: channels of one observation in, a mask out. What does not: finding bad data (``flagging``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.visibilities import Visibilities


def in_bad_ranges(vis: Visibilities, ranges_mhz: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """Channels any part of which lies inside a range (lowest and highest frequency, MHz), shape (n_chan,)."""
    low_mhz, high_mhz = (1e-6 * (vis.frequency_hz + side * vis.channel_width_hz) for side in (-0.5, 0.5))
    bad = np.zeros(vis.frequency_hz.shape, dtype=np.bool_)
    for low, high in ranges_mhz:
        bad |= (high_mhz > low) & (low_mhz < high)
    return bad


def at_edges(n_chan: int, n_subbands: int, n_edge: int) -> NDArray[np.bool_]:
    """The ``n_edge`` channels at either end of each sub-band, shape (n_chan,)."""
    bad = np.zeros(n_chan, dtype=np.bool_)
    for low, high in pairwise(subband_edges(n_chan, n_subbands)):
        bad[low : low + n_edge] = True
        bad[max(low, high - n_edge) : high] = True
    return bad


def subband_edges(n_chan: int, n_subbands: int) -> NDArray[np.int64]:
    """First channel of each sub-band (equal blocks of channels), and the number of channels."""
    return np.linspace(0, n_chan, min(n_subbands, n_chan) + 1).astype(np.int64)
