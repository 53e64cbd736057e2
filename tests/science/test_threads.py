"""Work in slices: every item once, errors raised, no thread where one suffices."""

import threading

import numpy as np
import pytest

from contimg_assets.science.threads import in_threads, slices


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n_items", [0, 1, 7, 1000])
def test_slices_cover_every_item_once(n_items, n_threads):
    """Together the slices are the whole range, in order, and none is empty."""
    cut = slices(n_items, n_threads)
    assert [i for part in cut for i in range(part.start, part.stop)] == list(range(n_items))
    assert all(part.stop > part.start for part in cut)


@pytest.mark.parametrize("n_threads", [1, 4])
def test_every_item_is_worked_on(n_threads):
    """Each slot is written by its own item."""
    done = np.zeros(50)
    in_threads(lambda part: done.__setitem__(part, done[part] + 1.0), slices(50, n_threads), n_threads)
    assert np.all(done == 1.0)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_error_reaches_the_caller(n_threads):
    """Nothing fails silently in a thread."""

    def work(item):
        if item == 3:
            raise ValueError("item 3")

    with pytest.raises(ValueError, match="item 3"):
        in_threads(work, range(5), n_threads)


def test_one_thread_is_the_caller_itself():
    """With one thread nothing is started, so that a process may fork later."""
    names = []
    in_threads(lambda _: names.append(threading.current_thread().name), range(3), 1)
    assert names == [threading.current_thread().name] * 3
