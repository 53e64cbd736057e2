"""The fork server has what runs need before they fork: compiled kernels above all."""

import json
import subprocess
import sys

PROBE = """
import json, threading
import numpy as np
from contimg_assets.science.imaging import averaging

starts = np.array([0, 2], dtype=np.int64)
arguments = (
    np.ones((3, 2, 1), np.complex64), np.zeros((3, 2, 1), np.bool_), np.ones((3, 1), np.float32),
    np.zeros(1, np.int64), starts, np.zeros((3, 1), np.complex64), np.zeros((3, 1), np.float32),
)
averaging._average(*arguments)
import contimg_assets.warm as warm
print(json.dumps([len(averaging._average.signatures), warm.load_compiled_kernels(), threading.active_count()]))
"""


def test_kernels_compiled_earlier_are_loaded_without_being_called(project_root):
    """A fresh process finds the kernels of an earlier one in numba's cache; no thread is left for a fork to lose."""
    for _ in range(2):
        finished = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROBE], cwd=project_root, check=True, capture_output=True, text=True
        )
    n_signatures, n_loaded, n_threads = json.loads(finished.stdout.splitlines()[-1])
    assert n_signatures == 1
    assert n_loaded >= 1
    assert n_threads == 1
