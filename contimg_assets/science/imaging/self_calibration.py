"""Self-calibration: gains from the image's own sky, kept only where they make the image better.

What belongs here: the loop of imaging, solving and judging. Solving is ``calibration.gain``, the sky an image found is
``found_sky``, imaging is ``imager``.

A step predicts what the image found (known sources at their fitted flux densities and CLEAN components), solves for
gains against it, applies them and images again. Phases come first; then, if asked for, amplitudes and phases together;
each up to three times as long as it helps. **Measure**: the clipped standard deviation of the full-band residual image
inside the field of view, farther than two restoring beams from every source and component (``residual_rms_jy_beam``). A step
is kept if it lowers that by at least two per cent: a solve always fits a little of the noise too, which lowered the
residual of perfectly calibrated data of 20 antennas by up to 0.7 per cent.

What a step must not do: move the flux scale (amplitudes are scaled so that the mean of ``|g_i| |g_j|`` over the baselines
of each interval and correlation is 1, which is what the flux densities of the image that the model came from have seen);
lose data (an antenna without a solution keeps its calibration); turn all phases together (their mean is 0).
A field whose gains have a median signal-to-noise ratio below 5 is too faint and left alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.apply import apply_solutions
from contimg_assets.science.calibration.gain import solve_gains
from contimg_assets.science.calibration.solutions import Solutions, SolveSettings
from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.errors import DataError, NotEnoughDataError, SolutionError
from contimg_assets.science.imaging.engine_images import ImagingEngine, make_images_with
from contimg_assets.science.imaging.imager import make_images
from contimg_assets.science.imaging.mask import grow_mask
from contimg_assets.science.imaging.noise import robust_rms
from contimg_assets.science.imaging.products import ImageSet
from contimg_assets.science.imaging.settings import ImageSettings
from contimg_assets.science.sky_model import SkyModel
from contimg_assets.science.visibilities import Visibilities

_MOST_STEPS = 3
"""Of each kind."""
_LEAST_IMPROVEMENT = 0.02
"""A step is kept if it lowers the residual by at least this fraction."""
_LEAST_SNR = 5.0
"""Gains of a lower median signal-to-noise ratio (11 deg of phase) are not tried."""
_INTERVAL_SNR = 30.0
"""Intervals are cut as long as gains keep this signal-to-noise ratio: 2 deg of phase."""
_AWAY_BEAMS = 2.0
"""Pixels nearer to a source than this many restoring beams do not count for the residual."""


@dataclass(frozen=True, slots=True)
class SelfCalibrationStep:
    """One attempt, as the metadata of an image report it."""

    kind: str
    """phase or amplitude."""
    is_kept: bool
    outcome: str
    """"kept", or why not."""
    residual_before_jy_beam: float
    residual_after_jy_beam: float | None
    """None if no image was made."""
    median_snr: float | None
    """Of the gains, None if they could not be solved for."""
    n_intervals: int


class SelfCalibratedImages(NamedTuple):
    """The best images and how they came about."""

    images: ImageSet
    steps: tuple[SelfCalibrationStep, ...]
    """Empty without self-calibration."""

    def summary(self) -> dict[str, Any]:
        """For metadata: what was done, and the steps as plain mappings; nothing if none was tried."""
        if not self.steps:
            return {}
        kept = [step.kind for step in self.steps if step.is_kept]
        return {
            "self_calibration": " + ".join(dict.fromkeys(kept)) or "none kept",
            "self_calibration_steps": [asdict(step) for step in self.steps],
        }


def make_self_calibrated_images(
    vis: Visibilities, settings: ImageSettings, sky: SkyModel | None = None, engine: ImagingEngine | None = None
) -> SelfCalibratedImages:
    """Image an observation, with self-calibration as far as the settings ask for it and it helps.

    Parameters
    ----------
    vis : Visibilities
        Calibrated; not changed. Self-calibration holds a second copy of the data and, for a moment, a third.
    settings : ImageSettings
        ``self_calibration`` is none, phase or amplitude.
    sky : SkyModel, optional
        Known sources, see ``imager.make_images``.
    engine : ImagingEngine, optional
        Another program that makes the images; it can not be combined with self-calibration.

    Returns
    -------
    SelfCalibratedImages

    Raises
    ------
    DataError
        As ``make_images``, or if self-calibration is asked of another program. A solve that fails ends self-calibration, it
        is no error.
    """
    if engine is not None and settings.self_calibration != "none":
        raise DataError(
            f"self-calibration of {vis.source_name or vis.field_name}",
            got=f"images of {engine.name}",
            expected="images of contimg, which keep the sky they found",
            remedy="Switch self-calibration off, or choose the engine contimg.",
            reason_code="no_self_calibration",
        )
    images = make_images_with(engine, vis, settings, sky)
    steps: list[SelfCalibrationStep] = []
    kinds = {"none": [], "phase": ["phase"], "amplitude": ["phase", "amplitude"]}[settings.self_calibration]
    for kind in kinds:
        for _ in range(_MOST_STEPS):
            step, vis, images = _try_step(kind, vis, images, settings, sky)
            steps.append(step)
            if not step.is_kept:
                break
        if steps[-1].residual_after_jy_beam is None:
            break
    return SelfCalibratedImages(images, tuple(steps))


def residual_rms_jy_beam(images: ImageSet, field_level: float) -> float:
    """The measure of the module: noise of the full-band residual image away from sources, Jy/beam."""
    full = images.full
    radius = _AWAY_BEAMS * full.beam.mean_arcsec / (3600.0 * float(np.abs(images.wcs.wcs.cdelt[1])))
    hidden = full.primary_beam < field_level
    if hidden.all():
        hidden[:] = False
    grow_mask(hidden, np.abs(full.model), np.zeros_like(full.model), 1.0, 0.0, radius)
    return robust_rms(np.where(hidden, np.float32(np.nan), full.residual))


def _try_step(
    kind: str, vis: Visibilities, images: ImageSet, settings: ImageSettings, sky: SkyModel | None
) -> tuple[SelfCalibrationStep, Visibilities, ImageSet]:
    """Solve, apply and image; return the better of before and after."""
    before = residual_rms_jy_beam(images, settings.field_level)

    def left_alone(outcome: str, snr: float | None = None, n_intervals: int = 0) -> SelfCalibrationStep:
        return SelfCalibrationStep(kind, False, outcome, before, None, snr, n_intervals)  # noqa: FBT003

    try:
        solved = solve_gains(vis, images.found_sky, _solve_settings(kind, vis, settings))
    except (NotEnoughDataError, SolutionError) as error:
        return left_alone(f"no gains: {error.reason_code}"), vis, images
    snr, n_intervals = float(np.median(solved.snr[~solved.flags])), len(solved.time_mjd)
    if snr < _LEAST_SNR:
        return (
            left_alone(f"too faint: gains have a signal-to-noise ratio below {_LEAST_SNR:g}", snr, n_intervals),
            vis,
            images,
        )
    trial = replace(vis, vis=vis.vis.copy(), flags=vis.flags.copy(), weights=vis.weights.copy())
    apply_solutions(trial, [neutral_gains(solved)], n_threads=settings.n_threads)
    trial_images = make_images(trial, settings, sky)
    after = residual_rms_jy_beam(trial_images, settings.field_level)
    is_kept = after <= (1.0 - _LEAST_IMPROVEMENT) * before
    outcome = "kept" if is_kept else f"residual not lowered by {_LEAST_IMPROVEMENT:.0%}"
    step = SelfCalibrationStep(kind, is_kept, outcome, before, after, snr, n_intervals)
    return (step, trial, trial_images) if is_kept else (step, vis, images)


def _solve_settings(kind: str, vis: Visibilities, settings: ImageSettings) -> SolveSettings:
    """Baselines too short for the image have no model either."""
    shortest_m = settings.uv_min_wavelengths * SPEED_OF_LIGHT_M_S / float(vis.frequency_hz[0])
    return SolveSettings(
        phase_only=kind == "phase",
        interval_snr=_INTERVAL_SNR,
        min_baseline_m=shortest_m,
        n_threads=settings.n_threads,
    )


def neutral_gains(solved: Solutions) -> Solutions:
    """Gains that change neither flux scale nor mean phase and flag nothing.

    Per interval and correlation, over the n solved antennas: the mean of ``|g_i| |g_j|`` over their n (n - 1) / 2 baselines
    becomes 1 and the sum of the phasors real. Antennas without a solution get 1.
    """
    gains = np.where(solved.flags, 0.0, solved.gains)
    amplitude = np.abs(gains)
    n_solved = np.count_nonzero(amplitude, axis=1, keepdims=True)
    pairs = amplitude.sum(axis=1, keepdims=True) ** 2 - (amplitude**2).sum(axis=1, keepdims=True)
    n_pairs = n_solved * (n_solved - 1)
    scale = np.sqrt(np.where(n_pairs > 0, pairs / np.maximum(n_pairs, 1), 1.0))
    turn = np.exp(-1j * np.angle(_phasors(gains).sum(axis=1, keepdims=True)))
    neutral = np.where(solved.flags, 1.0, gains * turn / scale)
    return replace(solved, gains=neutral, flags=np.zeros_like(solved.flags))


def _phasors(gains: NDArray[np.complex128]) -> NDArray[np.complex128]:
    size = np.abs(gains)
    return np.divide(gains, size, out=np.zeros_like(gains), where=size > 0.0)
