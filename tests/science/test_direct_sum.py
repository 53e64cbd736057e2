"""The direct sum against the definition, in double precision."""

import numpy as np
import pytest

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.direct_sum import add_point_sources
from contimg_assets.science.primary_beam import airy_power

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


@pytest.mark.parametrize("n_chan", [64, 193, 768])
def test_sum_of_many_sources_equals_the_definition(n_chan: int) -> None:
    """A catalogue out to the first null, from no baseline at all to the longest of the array, to 3e-6 of its flux density."""
    rng = np.random.default_rng(12)
    n_source, frequency_hz = 60, 1.311e9 + 244_140.625 * np.arange(n_chan)
    length_m, angle = np.linspace(0.0, 3000.0, N_ROW), rng.uniform(0.0, 2.0 * np.pi, N_ROW)
    uvw_m = length_m[:, None] * np.column_stack([np.cos(angle), 0.9 * np.sin(angle), 0.4 * np.sin(angle)])
    distance, angle = np.sin(np.deg2rad(3.0)) * np.sqrt(rng.random(n_source)), rng.uniform(0.0, 2.0 * np.pi, n_source)
    directions = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), np.sqrt(1.0 - distance**2) - 1.0])
    power = airy_power(np.rad2deg(np.arcsin(distance))[:, None], frequency_hz, 4.65)
    spectra = (frequency_hz / 1.4e9) ** rng.normal(-0.7, 0.4, n_source)[:, None]
    amplitude_jy = (rng.pareto(0.9, n_source)[:, None] * spectra * power).astype(np.float32)
    vis = np.zeros((N_ROW, n_chan), dtype=np.complex64)
    turns = (uvw_m @ directions.T)[:, :, None] * frequency_hz / SPEED_OF_LIGHT_M_S

    add_point_sources(vis, uvw_m, directions, amplitude_jy, frequency_hz)

    expected = np.einsum("sc,rsc->rc", amplitude_jy, np.exp(2j * np.pi * turns))
    assert np.abs(vis - expected).max() < 3e-6 * amplitude_jy.sum(axis=0).max()
