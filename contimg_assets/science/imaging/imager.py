"""From calibrated visibilities to an image set: the order of the steps, and nothing else.

What belongs here: ``make_images``. Each step is a module of this folder: ``drift_beam`` and ``geometry`` choose the
grid, ``averaging`` and ``weighting`` prepare the data, ``gridding`` makes images, ``known_sources`` and ``clean``
deconvolve them, ``restore``, ``noise`` and ``thermal`` finish them.

A source of flux density S appears with peak S times the drift-averaged primary beam at its place (``ImagePlane.
primary_beam``); neither the factor n of the measurement equation nor a primary-beam correction is applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import SECONDS_PER_DAY
from contimg_assets.science.imaging import averaging, clean, drift_beam, geometry, restore, thermal, weighting
from contimg_assets.science.imaging.found_sky import found_sky
from contimg_assets.science.imaging.gridding import Gridder
from contimg_assets.science.imaging.known_sources import KnownSources
from contimg_assets.science.imaging.memory import require_memory
from contimg_assets.science.imaging.noise import estimate_noise
from contimg_assets.science.imaging.predict import Predictor
from contimg_assets.science.imaging.products import ImagePlane, ImageSet
from contimg_assets.science.imaging.settings import ImageSettings
from contimg_assets.science.sky_model import SkyModel
from contimg_assets.science.visibilities import Visibilities

_SURVEY_CHANNELS = 8
"""Channels whose weights suffice to survey the uv coverage."""


@dataclass(frozen=True, slots=True)
class ImagingPlan:
    """What the data and the settings lead to, before any image is made."""

    grid: geometry.ImageGeometry
    """Of what is deconvolved: the image and its surroundings."""
    margin: tuple[int, int]
    """Pixels along x and y that the surroundings add on either side."""
    averaging_factor: int
    """Channels averaged before gridding."""
    field_rad: tuple[float, float]
    """Size of the image along RA and declination, rad."""

    @property
    def image_grid(self) -> geometry.ImageGeometry:
        """Grid of the image, which is kept."""
        return replace(self.grid, n_x=self.grid.n_x - 2 * self.margin[0], n_y=self.grid.n_y - 2 * self.margin[1])


def plan_images(vis: Visibilities, settings: ImageSettings) -> ImagingPlan:
    """Choose cell, size, projection and channel averaging.

    Parameters
    ----------
    vis : Visibilities
    settings : ImageSettings
        Values given there win.

    Returns
    -------
    ImagingPlan
    """
    row_weights = _row_weights(vis)
    pointings = drift_beam.find_pointings(vis, row_weights)
    half_l, half_m, edge = drift_beam.field_extent_rad(pointings, float(vis.frequency_hz[0]), settings.field_level)
    field_rad = (2.0 * settings.field_margin * half_l, 2.0 * settings.field_margin * half_m)
    if settings.cell_arcsec is not None and settings.n_pixels is not None:
        field_rad = (np.deg2rad(settings.n_pixels * settings.cell_arcsec / 3600.0),) * 2
    if settings.n_pixels is not None:
        # Before the survey, whose grid of uv cells grows with the image.
        require_memory(settings.n_pixels, settings.n_pixels, settings.n_bands, len(row_weights), settings.memory_bytes)
    survey, cell = _survey(vis, row_weights, settings, field_rad)
    if settings.cell_arcsec is not None:
        cell = float(np.deg2rad(settings.cell_arcsec / 3600.0))
    sizes = [settings.n_pixels or geometry.good_even_size(extent / cell) for extent in field_rad]
    field_rad = (sizes[0] * cell, sizes[1] * cell)
    margin = (0, 0)
    if settings.surroundings:
        edge = max(edge, drift_beam.first_sidelobe_rad(pointings, float(vis.frequency_hz[0])))
        margin = (geometry.margin_pixels(sizes[0], edge / cell), geometry.margin_pixels(sizes[1], edge / cell))
        sizes = [size + 2 * added for size, added in zip(sizes, margin, strict=True)]
    edge = min(edge, float(np.hypot(sizes[0], sizes[1])) * cell / 2.0)
    limit = settings.amplitude_loss_limit
    slant_u, slant_v, needs_w = geometry.choose_projection(survey, edge, limit)
    grid = geometry.ImageGeometry(
        n_x=sizes[0],
        n_y=sizes[1],
        cell_rad=cell,
        slant_u=slant_u,
        slant_v=slant_v,
        needs_w=needs_w,
        phase_centre_ra_deg=vis.phase_centre_ra_deg,
        phase_centre_dec_deg=vis.phase_centre_dec_deg,
    )
    if not needs_w:
        limit -= geometry.bend_loss(survey, edge)
    factor = geometry.averaging_factor(survey, vis.channel_width_hz, edge, limit)
    n_visibilities = len(row_weights) * -(-vis.frequency_hz.size // factor)
    require_memory(sizes[0], sizes[1], settings.n_bands, n_visibilities, settings.memory_bytes)
    return ImagingPlan(grid, margin, factor, field_rad)


def _row_weights(vis: Visibilities) -> NDArray[np.float64]:
    """Statistical weight of each row, 0 if all of it is flagged, shape (n_row,)."""
    weights = vis.weights[:, averaging.parallel_hands(vis)].sum(axis=1, dtype=np.float64)
    weights[vis.flags.reshape(len(weights), -1).all(axis=1)] = 0.0
    if not weights.any():
        raise averaging.all_flagged(vis)
    return weights


def _survey(
    vis: Visibilities,
    row_weights: NDArray[np.float64],
    settings: ImageSettings,
    field_rad: tuple[float, float],
) -> tuple[geometry.UvSurvey, float]:
    """Moments of the uv coverage as weighted for imaging and a fitting cell (rad), from a few channels, whole rows."""
    chosen = np.unique(np.linspace(0, vis.frequency_hz.size - 1, _SURVEY_CHANNELS).astype(int))
    frequency_hz = vis.frequency_hz[chosen]
    repeated = np.repeat(row_weights[:, None].astype(np.float32), frequency_hz.size, axis=1)
    weights = weighting.imaging_weights(
        vis.uvw_m,
        [frequency_hz],
        weighting.cut_uv_range(vis.uvw_m, [frequency_hz], [repeated], settings.uv_range_wavelengths),
        weighting=settings.weighting,
        robust=settings.robust,
        field_rad=field_rad,
        n_threads=settings.n_threads,
    )[0]
    survey = geometry.survey_uv(vis.uvw_m, frequency_hz, weights)
    fine = geometry.beam_patch(survey, vis.phase_centre_ra_deg, vis.phase_centre_dec_deg)
    gridder = Gridder(vis.uvw_m, fine, epsilon=settings.epsilon, n_threads=settings.n_threads)
    psf = gridder.image(np.ones_like(weights, dtype=np.complex64), weights, frequency_hz)
    beam = restore.fit_restoring_beam(psf, fine.cell_arcsec)
    return survey, geometry.choose_cell_rad(survey, beam.minor_arcsec)


def average_in_uv_range(
    vis: Visibilities, settings: ImageSettings, factor: int
) -> tuple[averaging.BandVisibilities, ...]:
    """Bands of averaged visibilities, of which only the chosen baselines have weight; bands without any are left out."""
    averaged = averaging.average_to_stokes_i(vis, n_bands=settings.n_bands, factor=factor, n_threads=settings.n_threads)
    statistical = weighting.cut_uv_range(
        vis.uvw_m,
        [band.frequency_hz for band in averaged],
        [band.weights for band in averaged],
        settings.uv_range_wavelengths,
    )
    return tuple(replace(band, weights=w) for band, w in zip(averaged, statistical, strict=True) if w.any())


def make_images(
    vis: Visibilities,
    settings: ImageSettings,
    sky: SkyModel | None = None,
) -> ImageSet:
    """Image an observation: dirty, deconvolved and restored, full band and sub-bands, with noise and primary beam.

    Parameters
    ----------
    vis : Visibilities
        Calibrated; not changed.
    settings : ImageSettings
    sky : SkyModel, optional
        Known sources: their positions are taken as they are, their flux densities are fitted in every band (``known_sources``)
        and CLEAN looks for the others only. Those outside the image are ignored.

    Returns
    -------
    ImageSet

    Raises
    ------
    NotEnoughDataError
        If every visibility is flagged.
    DataError
        If the restoring beam cannot be fitted.
    """
    plan = plan_images(vis, settings)
    bands = average_in_uv_range(vis, settings, plan.averaging_factor)
    weights = weighting.imaging_weights(
        vis.uvw_m,
        [band.frequency_hz for band in bands],
        [band.weights for band in bands],
        weighting=settings.weighting,
        robust=settings.robust,
        field_rad=plan.field_rad,
        n_threads=settings.n_threads,
    )
    gridder = Gridder(vis.uvw_m, plan.grid, epsilon=settings.epsilon, n_threads=settings.n_threads)
    state = clean.start(bands, weights, gridder, (plan.grid.n_y, plan.grid.n_x))
    dirty = state.residual.copy()
    pointings = drift_beam.find_pointings(vis, _row_weights(vis))
    shares = [drift_beam.weight_shares(pointings, band_weights) for band_weights in weights]
    known = None
    if sky is not None:
        known = KnownSources(sky, plan.grid, pointings, [band.frequency_hz for band in bands], shares)
    if settings.max_iterations > 0:
        beam = restore.fit_restoring_beam(state.joint(state.psf), plan.grid.cell_arcsec)
        beam_pixels = beam.mean_arcsec / plan.grid.cell_arcsec
        predictor = Predictor(vis.uvw_m, pointings, plan.grid, gridder, bands, shares)
        clean.deconvolve(bands, weights, gridder, predictor, state, settings, beam_pixels, known)
    planes = _finish(vis, bands, weights, plan, state, known, dirty, settings)
    return ImageSet(
        planes=tuple(plane.without_margin(*plan.margin) for plane in planes),
        found_sky=found_sky(plan.grid, planes[1:] or planes, state.band_weights, state.model, sky, known),
        wcs=plan.image_grid.wcs(),
        n_known_sources=0 if known is None else known.x_pixel.size,
        n_clean_components=state.n_components,
        n_major_cycles=state.n_major_cycles,
        has_diverged=state.has_diverged,
        mid_time_mjd=float(0.5 * (vis.time_mjd.min() + vis.time_mjd.max())),
        duration_s=float(np.ptp(vis.time_mjd) * SECONDS_PER_DAY + vis.exposure_s.max()),
        telescope_name=vis.telescope_name,
        field_name=vis.field_name,
        source_name=vis.source_name,
    )


def describe_bands(
    vis: Visibilities,
    bands: Sequence[averaging.BandVisibilities],
    weights: Sequence[NDArray[np.float32]],
    grid: geometry.ImageGeometry,
    noise_scale: NDArray[np.float64],
) -> tuple[list[float], NDArray[np.float32], NDArray[np.float64]]:
    """What imaging weights make of each band: mean frequency (Hz), primary beam (n_band, n_y, n_x), thermal rms (Jy/beam).

    ``weights`` are the imaging weights and ``noise_scale`` the noise variance of each band's visibilities in units of
    1 / weight (``thermal.noise_scale``).
    """
    frequency_hz = [
        float(np.sum(w.sum(axis=0, dtype=np.float64) * band.frequency_hz) / w.sum(dtype=np.float64))
        for band, w in zip(bands, weights, strict=True)
    ]
    beams = np.stack(
        [
            drift_beam.drift_beam(grid, drift_beam.find_pointings(vis, w.sum(axis=1, dtype=np.float64)), frequency)
            for frequency, w in zip(frequency_hz, weights, strict=True)
        ]
    )
    thermal_jy = np.array(
        [
            thermal.propagated_rms_jy(w, band.weights, scale)
            for w, band, scale in zip(weights, bands, noise_scale, strict=True)
        ]
    )
    return frequency_hz, beams, thermal_jy


def describe_planes(
    bands: Sequence[averaging.BandVisibilities],
    share: NDArray[np.float64],
    frequency_hz: Sequence[float],
    thermal_jy: NDArray[np.float64],
) -> list[dict[str, Any]]:
    """What `ImagePlane` says of the full band and, where there are several, of each band.

    Parameters
    ----------
    bands : sequence of BandVisibilities
    share : (n_bands,) array
        Of each band in the full one.
    frequency_hz : sequence of float
        Of each band, Hz.
    thermal_jy : (n_bands,) array
        Expected noise of each band, Jy/beam.

    Returns
    -------
    list of dict
        Name, frequency, bandwidth and expected noise; the full band first, alone where there is one band.
    """
    full = {
        "name": "full",
        "frequency_hz": float(np.sum(share * frequency_hz)),
        "bandwidth_hz": sum(band.bandwidth_hz for band in bands),
        "thermal_rms_jy_beam": float(np.sqrt(np.sum((share * thermal_jy) ** 2))),
    }
    if len(bands) == 1:
        return [full]
    return [
        full,
        *(
            {
                "name": band.name,
                "frequency_hz": frequency,
                "bandwidth_hz": band.bandwidth_hz,
                "thermal_rms_jy_beam": float(expected),
            }
            for band, frequency, expected in zip(bands, frequency_hz, thermal_jy, strict=True)
        ),
    ]


def _finish(
    vis: Visibilities,
    bands: Sequence[averaging.BandVisibilities],
    weights: Sequence[NDArray[np.float32]],
    plan: ImagingPlan,
    state: clean.CleanState,
    known: KnownSources | None,
    dirty: NDArray[np.float32],
    settings: ImageSettings,
) -> tuple[ImagePlane, ...]:
    """Restore the bands and their weighted mean; add noise maps, primary beams and expected noise."""
    frequency_hz, beams, thermal_jy = describe_bands(vis, bands, weights, plan.grid, state.noise_scale)
    share = state.band_weights
    noise_factor = 1.0 if known is None else known.noise_factor(state.psf)

    def placed(shares: NDArray[np.float64]) -> restore.PlacedSources:
        """What known sources add to a weighted mean of bands."""
        return restore.NO_SOURCES if known is None else known.placed(shares, noise_factor)

    cubes = (state.residual, dirty, state.model, state.psf, beams)
    facts = describe_planes(bands, share, frequency_hz, thermal_jy)
    shares = [share, *np.eye(len(bands))]
    parts = [
        _Parts(*(state.joint(cube) for cube in cubes)),
        *(_Parts(*of_band) for of_band in zip(*cubes, strict=True)),
    ]
    return tuple(
        _plane(part, placed(of_bands), plan.grid.cell_arcsec, settings, **said)
        for part, of_bands, said in zip(parts, shares, facts, strict=False)  # one band is the full band
    )


class _Parts(NamedTuple):
    """Images of a plane before restoration."""

    residual: NDArray[np.float32]
    dirty: NDArray[np.float32]
    model: NDArray[np.float32]
    psf: NDArray[np.float32]
    primary_beam: NDArray[np.float32]


def _plane(
    parts: _Parts,
    sources: restore.PlacedSources,
    cell_arcsec: float,
    settings: ImageSettings,
    *,
    name: str,
    frequency_hz: float,
    bandwidth_hz: float,
    thermal_rms_jy_beam: float,
) -> ImagePlane:
    beam = restore.fit_restoring_beam(parts.psf, cell_arcsec)
    rms, background, rms_jy_beam = measure_noise(parts.residual, parts.primary_beam, beam, cell_arcsec, settings)
    noise_factor = np.float32(sources.noise_factor)
    return ImagePlane(
        name=name,
        frequency_hz=frequency_hz,
        bandwidth_hz=bandwidth_hz,
        beam=beam,
        restored=restore.restore(parts.model, parts.residual, beam, cell_arcsec, sources),
        rms=rms * noise_factor,
        background=background,
        rms_jy_beam=float(rms_jy_beam * noise_factor),
        thermal_rms_jy_beam=thermal_rms_jy_beam,
        **parts._replace(model=sources.on_pixels(parts.model))._asdict(),
    )


def measure_noise(
    residual: NDArray[np.float32],
    primary_beam: NDArray[np.float32],
    beam: restore.RestoringBeam,
    cell_arcsec: float,
    settings: ImageSettings,
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Maps of local rms and background of a residual image, and the median rms inside the field of view, all Jy/beam."""
    box_pixels = settings.noise_box_beams * beam.mean_arcsec / cell_arcsec
    noise = estimate_noise(residual, box_pixels=box_pixels, n_threads=settings.n_threads)
    in_field = primary_beam >= settings.field_level
    return noise.rms, noise.background, float(np.median(noise.rms[in_field] if in_field.any() else noise.rms))
