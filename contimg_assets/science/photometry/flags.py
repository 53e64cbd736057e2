"""The bits of ``forced_photometry.flags``: what to know before using a flux.

What belongs here: names, values and meaning of the bits. What sets them is in ``forced`` and ``blends``.
"""

from __future__ import annotations

BLENDED = 1
"""Solved together with neighbours; flux and error account for them."""
UNRESOLVED_NEIGHBOUR = 2
"""A neighbour is too close to be told apart; the flux is the sum of both."""
ILL_CONDITIONED = 4
"""Telling the blend apart more than doubles the error; the error says how much."""
MASKED_PIXELS = 8
"""Some pixels of the stamp are blank; the flux comes from a matched filter over the others."""
AT_EDGE = 16
"""The stamp reaches over the edge of the image."""
UNMEASURABLE = 32
"""Too few usable pixels: flux and error are NaN."""
NO_LOCAL_RMS = 64
"""The noise map is blank or not positive here: the error is NaN."""

NAMES = {
    BLENDED: "blended",
    UNRESOLVED_NEIGHBOUR: "unresolved_neighbour",
    ILL_CONDITIONED: "ill_conditioned",
    MASKED_PIXELS: "masked_pixels",
    AT_EDGE: "at_edge",
    UNMEASURABLE: "unmeasurable",
    NO_LOCAL_RMS: "no_local_rms",
}
"""Name of each bit, for messages and metadata."""

UNRELIABLE = UNRESOLVED_NEIGHBOUR | ILL_CONDITIONED | MASKED_PIXELS | AT_EDGE | UNMEASURABLE | NO_LOCAL_RMS
"""Any of these disqualifies a measurement as a flux or position reference."""
