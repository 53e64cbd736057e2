"""AOFlagger, kept behind one door: its generic strategy on every baseline of an observation.

What belongs here: the Python package ``aoflagger`` (a wheel; 3.5 tested) and the shape in which it takes data. What does not: dead
receptors and the account of flags (``contimg_assets.science.flagging``), which stay ours: AOFlagger judges
time-frequency planes and knows no antennas.

Method: real and imaginary parts of all correlations of one baseline at a time, as the strategy expects; flags that are
set already are handed over as such, and what it finds is set on all correlations. A correlation that is flagged as a whole (a dead
receptor) is left out, so that the other one is still searched. The package holds Python's lock while it works:
one thread, some 15 ms per baseline of 24 integrations and 768 channels.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contimg_resources.errors import EngineError

PACKAGE = "aoflagger"
INSTALL_COMMAND = "pip install -c constraints.txt aoflagger"


@dataclass(frozen=True, slots=True)
class AoflaggerSearch:
    """AOFlagger's generic strategy as a search for interference."""

    package: str = PACKAGE
    name: str = "aoflagger"

    def search(self, columns: Mapping[str, Any]) -> NDArray[np.bool_]:
        """Flags that AOFlagger would add, see ``science.flagging.InterferenceSearch``.

        Raises
        ------
        EngineError
            If the package is not installed, or refuses the data.
        """
        flagger, strategy = _load(self.package)
        vis, flags = columns["vis"], columns["flags"]
        found = np.zeros(flags.shape, dtype=np.bool_)
        times, slots = np.unique(columns["time_mjd"], return_inverse=True)
        pairs = columns["antenna1"].astype(np.int64) * (int(columns["antenna2"].max()) + 1) + columns["antenna2"]
        order = np.argsort(pairs, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(pairs[order])) + 1):
            live = np.flatnonzero(~flags[rows].all(axis=(0, 1)))
            if live.size:
                known = flags[rows][:, :, live].any(axis=2)
                new = _run(flagger, strategy, vis[rows][:, :, live], known, (slots[rows], times.size))
                found[rows] = new[:, :, None]
        return found


def _run(
    flagger: Any,
    strategy: Any,
    vis: NDArray[np.complex64],
    known: NDArray[np.bool_],
    place: tuple[NDArray[np.int64], int],
) -> NDArray[np.bool_]:
    """Flags added to one baseline, shape (n_row, n_chan); times without a row count as flagged."""
    slots, n_time = place
    n_chan, n_corr = vis.shape[1:]
    plane, mask = np.zeros((n_corr, n_chan, n_time), dtype=np.complex64), np.ones((n_chan, n_time), dtype=np.bool_)
    plane[:, :, slots] = vis.transpose(2, 1, 0)
    mask[:, slots] = known.T
    try:
        images = flagger.make_image_set(n_time, n_chan, 2 * n_corr)
        for corr in range(n_corr):
            images.set_image_buffer(2 * corr, np.ascontiguousarray(plane[corr].real))
            images.set_image_buffer(2 * corr + 1, np.ascontiguousarray(plane[corr].imag))
        given = flagger.make_flag_mask(n_time, n_chan, False)  # noqa: FBT003 - the package's own signature
        given.set_buffer(mask)
        result = np.asarray(strategy.run(images, given).get_buffer(), dtype=np.bool_)
    except (RuntimeError, ValueError, TypeError) as error:
        raise EngineError(
            "AOFlagger failed", got=str(error), expected="flags of one baseline",
            remedy="Look at the data of this observation, or choose flagging.engine = contimg.",
            reason_code="aoflagger_failed",
        ) from error  # fmt: skip
    return np.ascontiguousarray((result & ~mask)[:, slots].T)


def _load(package: str) -> tuple[Any, Any]:
    """The flagger and its generic strategy."""
    if importlib.util.find_spec(package) is None:
        raise EngineError(
            "AOFlagger is not installed", got=f"no package {package}", expected=f"the Python package {PACKAGE}",
            remedy=f"Run {INSTALL_COMMAND}, or choose flagging.engine = contimg.",
            reason_code="aoflagger_not_installed",
        )  # fmt: skip
    module = importlib.import_module(package)
    flagger = module.AOFlagger()
    return flagger, flagger.load_strategy_file(flagger.find_strategy_file(module.TelescopeId.Generic))
