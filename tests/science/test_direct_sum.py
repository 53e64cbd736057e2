"""The direct sum against the definition, in double precision."""

import numpy as np
import pytest

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.direct_sum import add_point_sources

N_ROW = 300


@pytest.mark.parametrize(
    "frequency_hz",
    [
        np.array([1.4e9]),
        1.28e9 + 244_140.625 * np.arange(193),
        np.concatenate([1.3e9 + 1e6 * np.arange(5), 1.4e9 + 2e6 * np.arange(100), [1.7e9]]),
    ],
    ids=["one channel", "more than two blocks", "irregular"],
)
def test_sum_equals_the_definition(frequency_hz: np.ndarray) -> None:
    """Any channel grid, and rows that do not fill a block, to 3e-6 of the total flux density."""
    rng = np.random.default_rng(11)
    uvw_m = rng.normal(0.0, 900.0, (N_ROW, 3))
    directions = np.column_stack([rng.normal(0.0, 0.03, (7, 2)), -rng.random(7) * 1e-3])
    amplitude_jy = rng.random((7, frequency_hz.size)).astype(np.float32)
    smearing_m2 = 1e-5
    vis = (rng.normal(size=(N_ROW, frequency_hz.size)) + 0j).astype(np.complex64)
    path_m = uvw_m @ directions.T
    left = np.maximum(0.0, 1.0 - smearing_m2 * path_m**2)
    phase = 2.0 * np.pi * path_m[:, :, None] * frequency_hz / SPEED_OF_LIGHT_M_S
    expected = vis + np.einsum("rs,sc,rsc->rc", left, amplitude_jy, np.exp(1j * phase))

    add_point_sources(vis, uvw_m, directions, amplitude_jy, frequency_hz, smearing_m2)

    assert np.abs(vis - expected).max() < 3e-6 * amplitude_jy.sum(axis=0).max()
