"""The fork server has what runs need before they fork: compiled kernels above all."""

import json
import subprocess
import sys

CALL = """
import numpy as np
from contimg_assets.science.imaging import averaging

averaging._average(
    np.ones((3, 2, 1), np.complex64), np.zeros((3, 2, 1), np.bool_), np.ones((3, 1), np.float32),
    np.zeros(1, np.int64), np.array([0, 2], dtype=np.int64), np.zeros((3, 1), np.complex64), np.zeros((3, 1), np.float32),
)
"""
WARM = """
import json, threading
import contimg_assets.warm
from contimg_assets.science.imaging import averaging

kernel = averaging._average
hits = sum(kernel.stats.cache_hits.values())
print(json.dumps([len(kernel.signatures), hits, threading.active_count()]))
"""


def test_kernels_compiled_earlier_are_loaded_without_being_called(project_root):
    """A fresh process finds the kernels of an earlier one in numba's cache; no thread is left for a fork to lose."""
    for source in (CALL, WARM):
        finished = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", source], cwd=project_root, check=True, capture_output=True, text=True
        )
    n_signatures, n_cache_hits, n_threads = json.loads(finished.stdout.splitlines()[-1])
    assert n_signatures >= 1
    assert n_cache_hits == n_signatures
    assert n_threads == 1
