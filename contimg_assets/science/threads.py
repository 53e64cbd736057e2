"""Work shared by the threads of one step, for compiled kernels that release the GIL.

What belongs here: how many threads, and handing out slices. What does not: processes, which Dagster starts.

Rejected: numba's parallel loops. Their thread pool does not survive a fork (runs are forks of a warm process) nor
calls from several threads, and they compile several times slower; slices over rows do as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numba
import numpy as np

_Item = TypeVar("_Item")
_SLICES_PER_THREAD = 4
"""Slices cost differently (flags, lengths): several per thread even that out."""


def thread_count(n_threads: int) -> int:
    """Threads to use; 0 means as many as numba would."""
    return n_threads if n_threads > 0 else int(numba.config.NUMBA_NUM_THREADS)


def in_threads(work: Callable[[_Item], object], items: Iterable[_Item], n_threads: int = 0) -> None:
    """Call ``work`` with every item, several at a time; the first error ends it.

    Parameters
    ----------
    work : callable
        Writes its result into arrays of its own; must release the GIL to gain anything.
    items : iterable
    n_threads : int
        0 for all cores. With 1 no thread is started.
    """
    n_threads = thread_count(n_threads)
    if n_threads == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(work, items):
            pass


def slices(n_items: int, n_threads: int = 0) -> list[slice]:
    """Cut ``range(n_items)`` into contiguous slices for `in_threads`, a few per thread, none empty."""
    n_slices = min(_SLICES_PER_THREAD * thread_count(n_threads), n_items)
    edges = np.linspace(0, n_items, n_slices + 1).astype(int).tolist() if n_slices else []
    return [slice(first, last) for first, last in pairwise(edges)]
