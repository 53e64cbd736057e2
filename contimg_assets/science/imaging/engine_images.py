"""Images that another program makes and deconvolves, as the image set ours gives.

What belongs here: the engine's task (grid, bands, depth), and everything about its images that photometry and checks rely
on and that must not depend on who made them: noise, background and primary beam maps, frequency and expected noise. What does not:
running the program (``contimg_resources.engines``), which is handed in as a callable.

The grid is that of ``imager.plan_images`` without its slant: outside engines make plain SIN projections with w terms.
Weights, and with them frequency, primary beam and thermal noise, are ours for the same robustness. Known sources are
not fitted: the engine finds all of them by its own CLEAN. Engines tell pixels with flux, not iterations: those are the
components that are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import SECONDS_PER_DAY
from contimg_assets.science.imaging import averaging, thermal, weighting
from contimg_assets.science.imaging.found_sky import found_sky
from contimg_assets.science.imaging.geometry import ImageGeometry
from contimg_assets.science.imaging.gridding import Gridder
from contimg_assets.science.imaging.imager import (
    average_in_uv_range,
    describe_bands,
    describe_planes,
    make_images,
    measure_noise,
    plan_images,
)
from contimg_assets.science.imaging.products import ImagePlane, ImageSet
from contimg_assets.science.imaging.restore import RestoringBeam
from contimg_assets.science.imaging.settings import ImageSettings
from contimg_assets.science.sky_model import SkyModel
from contimg_assets.science.visibilities import Visibilities


class ImagingEngine(Protocol):
    """A program outside that images calibrated visibilities."""

    @property
    def name(self) -> str:
        """What the products say made them."""

    def image(self, columns: Mapping[str, Any], task: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make images of visibilities.

        Parameters
        ----------
        columns : mapping
            ``Visibilities.columns()``.
        task : mapping
            ``n_x``, ``n_y``, ``cell_arcsec``, ``weighting``, ``robust``, ``uv_min_wavelengths``, ``uv_max_wavelengths``,
            ``max_iterations``, ``gain``, ``mask_sigma``, ``stop_sigma``, ``n_threads``, and ``bands``:
            name -> (first, last + 1) channel; empty for the full band only.

        Returns
        -------
        mapping
            ``planes``: for "full" and every band with data a mapping of ``restored``, ``residual``, ``dirty``, ``model`` and
            ``psf`` (arrays of shape (n_y, n_x)) and ``beam_major_arcsec``, ``beam_minor_arcsec``, ``beam_pa_deg``;
            ``n_major_cycles``.
        """


def make_images_with(
    engine: ImagingEngine | None, vis: Visibilities, settings: ImageSettings, sky: SkyModel | None = None
) -> ImageSet:
    """Image an observation with an engine, ours if it is None.

    Parameters
    ----------
    engine : ImagingEngine or None
    vis : Visibilities
        Calibrated; not changed.
    settings : ImageSettings
    sky : SkyModel, optional
        Known sources, for our own imager only.

    Returns
    -------
    ImageSet

    Raises
    ------
    NotEnoughDataError
        If every visibility is flagged.
    """
    if engine is None:
        return make_images(vis, settings, sky)
    plan = plan_images(vis, settings)
    plan = replace(plan, grid=replace(plan.grid, slant_u=0.0, slant_v=0.0, needs_w=True))
    grid = plan.grid
    bands = average_in_uv_range(vis, settings, plan.averaging_factor)
    made = engine.image(vis.columns(), _task(vis, grid, bands, settings))
    planes = _planes(vis, bands, grid, plan.field_rad, made["planes"], settings)
    full = made["planes"]["full"]
    models = np.stack([made["planes"][band.name if len(bands) > 1 else "full"]["model"] for band in bands])
    totals = np.array([band.weights.sum(dtype=np.float64) for band in bands])
    return ImageSet(
        planes=tuple(plane.without_margin(*plan.margin) for plane in planes),
        found_sky=found_sky(grid, planes[1:] or planes, totals / totals.sum(), models, None, None),
        wcs=plan.image_grid.wcs(),
        n_known_sources=0,
        n_clean_components=int(np.count_nonzero(full["model"])),
        n_major_cycles=int(made["n_major_cycles"]),
        has_diverged=bool(np.nanmax(np.abs(full["residual"])) > np.nanmax(np.abs(full["dirty"]))),
        mid_time_mjd=float(0.5 * (vis.time_mjd.min() + vis.time_mjd.max())),
        duration_s=float(np.ptp(vis.time_mjd) * SECONDS_PER_DAY + vis.exposure_s.max()),
        telescope_name=vis.telescope_name,
        field_name=vis.field_name,
        source_name=vis.source_name,
        engine=engine.name,
    )


def _task(
    vis: Visibilities, grid: ImageGeometry, bands: Sequence[averaging.BandVisibilities], settings: ImageSettings
) -> dict[str, Any]:
    groups = averaging.channel_groups(vis.frequency_hz, vis.channel_width_hz, settings.n_bands, 1)
    channels = {f"band{index}": (int(starts[0]), int(starts[-1])) for index, starts in enumerate(groups)}
    with_data = {band.name for band in bands}
    return {
        "n_x": grid.n_x,
        "n_y": grid.n_y,
        "cell_arcsec": grid.cell_arcsec,
        "bands": {name: span for name, span in channels.items() if name in with_data} if len(bands) > 1 else {},
        **{
            name: getattr(settings, name)
            for name in (
                "weighting",
                "robust",
                "uv_min_wavelengths",
                "uv_max_wavelengths",
                "max_iterations",
                "gain",
                "mask_sigma",
                "stop_sigma",
                "n_threads",
            )
        },
    }


def _planes(
    vis: Visibilities,
    bands: Sequence[averaging.BandVisibilities],
    grid: ImageGeometry,
    field_rad: tuple[float, float],
    made: Mapping[str, Mapping[str, Any]],
    settings: ImageSettings,
) -> tuple[ImagePlane, ...]:
    """The engine's images with what we say about them, full band first."""
    weights = weighting.imaging_weights(
        vis.uvw_m,
        [band.frequency_hz for band in bands],
        [band.weights for band in bands],
        weighting=settings.weighting,
        robust=settings.robust,
        field_rad=field_rad,
        n_threads=settings.n_threads,
    )
    gridder = Gridder(vis.uvw_m, grid, epsilon=settings.epsilon, n_threads=settings.n_threads)
    models = [made[band.name if len(bands) > 1 else "full"]["model"] for band in bands]
    noise_scale = np.array(
        [
            thermal.noise_scale(band.vis - gridder.visibilities(model, band.frequency_hz), band.weights)
            for band, model in zip(bands, models, strict=True)
        ]
    )
    frequency_hz, beams, thermal_jy = describe_bands(vis, bands, weights, grid, noise_scale)
    totals = np.array([w.sum(dtype=np.float64) for w in weights])
    share = totals / totals.sum()
    shares = [share, *np.eye(len(bands))]
    return tuple(
        _plane(
            made[said["name"]],
            np.tensordot(of_bands, beams, axes=1).astype(np.float32),
            grid.cell_arcsec,
            settings,
            **said,
        )
        for of_bands, said in zip(shares, describe_planes(bands, share, frequency_hz, thermal_jy), strict=False)
    )


def _plane(
    images: Mapping[str, Any],
    primary_beam: NDArray[np.float32],
    cell_arcsec: float,
    settings: ImageSettings,
    **facts: Any,
) -> ImagePlane:
    beam = RestoringBeam(images["beam_major_arcsec"], images["beam_minor_arcsec"], images["beam_pa_deg"])
    rms, background, rms_jy_beam = measure_noise(images["residual"], primary_beam, beam, cell_arcsec, settings)
    return ImagePlane(
        beam=beam,
        rms=rms,
        background=background,
        rms_jy_beam=rms_jy_beam,
        primary_beam=primary_beam,
        **{name: images[name] for name in ("restored", "residual", "dirty", "model", "psf")},
        **facts,
    )
