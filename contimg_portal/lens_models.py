"""The curves a candidate's lens fit predicts, from the snapshot of evidence that the search left.

The lens itself is science (``plasma_lens``), the drawing ``plots.py``. Each band's quiescent level is free, as in the
fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from contimg_assets.science.plasma_lens import light_curve_gain

_N_TIMES = 240


def lens_models(evidence: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Fitted flux density against time in each band.

    Parameters
    ----------
    evidence : mapping
        ``lens_fit`` (alpha, lens_width_d, source_fwhm, compact_fraction, peak_mjd), ``searched_frequency_hz`` that
        alpha refers to, and ``points``: per band ``band, frequency_hz, mjd, flux_jy, flux_err_jy``.

    Returns
    -------
    dict of band to dict
        ``mjd`` and ``flux_jy`` (Jy), arrays; empty without a fit.
    """
    fit, reference_hz = evidence.get("lens_fit"), evidence.get("searched_frequency_hz")
    if not fit or not reference_hz:
        return {}
    models = {}
    for points in evidence.get("points") or []:
        if not points["mjd"] or not points["frequency_hz"]:
            continue
        mjd = np.asarray(points["mjd"], dtype=np.float64)
        flux = np.asarray(points["flux_jy"], dtype=np.float64)
        error = np.asarray(points["flux_err_jy"], dtype=np.float64)
        # The peak belongs to the curve even when it falls between two epochs.
        times = np.union1d(np.linspace(mjd.min(), mjd.max(), _N_TIMES), fit["peak_mjd"])
        weighted = _gain(mjd, fit, points["frequency_hz"], reference_hz) / error
        level_jy = float(weighted @ (flux / error) / (weighted @ weighted))
        gain = _gain(times, fit, points["frequency_hz"], reference_hz)
        models[points["band"]] = {"mjd": times, "flux_jy": level_jy * gain}
    return models


def _gain(mjd: Any, fit: Mapping[str, float], frequency_hz: float, reference_hz: float) -> Any:
    return light_curve_gain(
        mjd,
        fit["peak_mjd"],
        fit["lens_width_d"],
        fit["alpha"],
        fit["source_fwhm"],
        frequency_hz,
        reference_hz,
        fit["compact_fraction"],
    )
