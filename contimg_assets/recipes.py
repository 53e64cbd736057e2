"""From what each asset of an observation makes its partition: the inputs by which unchanged ones are known.

What belongs here: one `Recipe` per asset. The rule is that everything which decides a product is in its inputs: the observation,
raw files (name, size, time of change), settings, what of the telescope is read, catalogue and calibrator list (content), products
upstream (what they were made from, and only while their files are as they were left) and calibration tables (their content, read
from disk). Code is there by the code version of the asset. Number of threads, folders and free memory decide nothing.

Engines from outside (AOFlagger, CASA, WSClean) are programs whose version is not known here: with them nothing is ever skipped.
Feature flag ``feature_flux_scale`` decides ``light_curves`` alone.
Left out on purpose: how tables before it looked (``table_history``), by which only the check ``solutions_are_stable_in_time`` is
judged and which no product depends on. Assets of hours and days but ``bandpass_table`` have no recipe: they look at everything
that came before.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from contimg_assets.arrivals import raw_files_of
from contimg_assets.calibration_registry import active_bandpass, calibrator_transit
from contimg_assets.checks import calibration, imaging, observations, photometry
from contimg_assets.failures import UncalibratedError
from contimg_assets.science.flux_calibrators import PRIMARY_POSITIONS
from contimg_assets.unchanged import Recipe
from contimg_resources.calibrator_lists import read_calibrator_list
from contimg_resources.configurable import Observatory
from contimg_resources.errors import ResourceError
from contimg_resources.products import Products
from contimg_resources.store.makings import Noted, content_of_file, file_state, noted

_OURS = "contimg"
_SOUND = {"ready", "processed"}
"""Status of observations whose products may stand; others are open again or put away."""
_Inputs = Mapping[str, Any] | None


def of_measurement_set(observatory: Observatory, partition_key: str) -> Recipe:
    """Raw files, flagging and telescope."""
    return Recipe(
        partial(_measurement_set_inputs, observatory, partition_key),
        observations.MEASUREMENT_SET,
        files=_files(observatory.products, "measurement_set", partition_key),
        bring=observatory.products.brought,
    )


def of_bandpass_table(observatory: Observatory, day: str) -> Recipe:
    """The transit's measurement set, catalogue, calibrator list and telescope."""
    return Recipe(
        partial(_bandpass_inputs, observatory, day),
        calibration.BANDPASS_TABLE,
        tables=("calibration_table",),
        is_intact=lambda _inputs: _table_of(observatory, "B", day) is not None,
    )


def of_gain_table(observatory: Observatory, partition_key: str) -> Recipe:
    """Measurement set, catalogue, calibrators and the bandpass that is chosen now; only while it uses gains of its own."""
    return Recipe(
        partial(_gain_inputs, observatory, partition_key),
        calibration.GAIN_TABLE,
        tables=("calibration_use", "calibration_table"),
        is_intact=partial(_uses_its_own_gains, observatory, partition_key),
    )


def of_continuum_image(observatory: Observatory, partition_key: str) -> Recipe:
    """Measurement set, the calibration tables in use, catalogue, calibrator list and imaging."""
    return Recipe(
        partial(_image_inputs, observatory, partition_key),
        imaging.CONTINUUM_IMAGE,
        files=_files(observatory.products, "continuum_image", partition_key),
        bring=observatory.products.brought,
        tables=("image",),
    )


def of_forced_photometry(observatory: Observatory, partition_key: str) -> Recipe:
    """Images and catalogue."""
    return Recipe(
        partial(_photometry_inputs, observatory, partition_key),
        photometry.FORCED_PHOTOMETRY,
        files=_files(observatory.products, "forced_photometry", partition_key),
        bring=observatory.products.brought,
        tables=("forced_photometry",),
    )


def of_flux_scale(observatory: Observatory, partition_key: str) -> Recipe:
    """Photometry and catalogue."""
    return Recipe(
        partial(_flux_scale_inputs, observatory, partition_key),
        photometry.FLUX_SCALE,
        tables=("flux_scale",),
        tables_maybe_empty=("flux_reference",),
    )


def _measurement_set_inputs(observatory: Observatory, partition_key: str) -> _Inputs:
    if observatory.settings.flagging.engine != _OURS:
        return None
    files = _raw_states(raw_files_of(partition_key, observatory))
    return _complete(
        {
            "observation": _observation(noted(observatory.store, partition_key)),
            "raw_files": files,
            "flagging": observatory.settings.flagging.model_dump(mode="json"),
            "telescope": observatory.telescope.model_dump(mode="json"),
        }
    )


def _bandpass_inputs(observatory: Observatory, day: str) -> _Inputs:
    transit = calibrator_transit(observatory.store, day)
    if transit is None or observatory.settings.calibration.engine != _OURS:
        return None
    known = noted(observatory.store, transit["partition_key"])
    return _complete(
        {
            "observation": _observation(known),
            "calibrator": transit["calibrator"],
            "measurement_set": _upstream(observatory, known, "measurement_set", transit["partition_key"]),
            "catalogue": _catalogue(observatory.products),
            "calibrator_list": _calibrator_list(observatory),
            "telescope": observatory.telescope.model_dump(mode="json"),
            **_calibration_settings(observatory),
        }
    )


def _gain_inputs(observatory: Observatory, partition_key: str) -> _Inputs:
    if observatory.settings.calibration.engine != _OURS:
        return None
    known = noted(observatory.store, partition_key)
    return _complete(
        {
            "observation": _observation(known),
            "measurement_set": _upstream(observatory, known, "measurement_set", partition_key),
            "catalogue": _catalogue(observatory.products),
            "calibrator_list": _calibrator_list(observatory),
            "bandpass": _bandpass_to_use(observatory, partition_key),
            **_calibration_settings(observatory),
        }
    )


def _image_inputs(observatory: Observatory, partition_key: str) -> _Inputs:
    settings = observatory.settings
    if settings.calibration.engine != _OURS or settings.imaging.engine != _OURS:
        return None
    known = noted(observatory.store, partition_key)
    return _complete(
        {
            "observation": _observation(known),
            "measurement_set": _upstream(observatory, known, "measurement_set", partition_key),
            "calibration": _tables_in_use(observatory, partition_key),
            "catalogue": _catalogue(observatory.products),
            "calibrator_list": _calibrator_list(observatory),
            "imaging": settings.imaging.model_dump(mode="json"),
        }
    )


def _photometry_inputs(observatory: Observatory, partition_key: str) -> _Inputs:
    known = noted(observatory.store, partition_key)
    bands = observatory.store.query("SELECT band FROM image WHERE partition_key = ? ORDER BY band", [partition_key])
    return _complete(
        {
            "observation": _observation(known),
            "continuum_image": _upstream(observatory, known, "continuum_image", partition_key),
            "bands": bands["band"].to_list() or None,
            "catalogue": _catalogue(observatory.products),
            "beam_level": observatory.settings.photometry.beam_level,
        }
    )


def _flux_scale_inputs(observatory: Observatory, partition_key: str) -> _Inputs:
    known = noted(observatory.store, partition_key)
    return _complete(
        {
            "observation": _observation(known),
            "forced_photometry": _upstream(observatory, known, "forced_photometry", partition_key),
            "catalogue": _catalogue(observatory.products),
            "minimum_references": observatory.settings.photometry.minimum_references,
        }
    )


def _complete(inputs: dict[str, Any]) -> _Inputs:
    """Return the inputs if all of them are known."""
    return None if any(value is None for value in inputs.values()) else inputs


def _files(products: Products, asset: str, partition_key: str) -> tuple[Path, ...]:
    """Files and folders of a partition's product."""
    document = products.document(asset, partition_key, ".json")
    return {
        "measurement_set": (products.measurement_set(partition_key), document),
        "continuum_image": (products.image_folder(partition_key), document),
        "forced_photometry": (products.table("forced_photometry", partition_key),),
    }[asset]


def _observation(known: Noted) -> dict[str, Any] | None:
    """Facts of the one sound observation of a window; None if there is another, or it is open or put away."""
    if len(known.observations) != 1 or known.observations[0]["status"] not in _SOUND:
        return None
    return {name: value for name, value in known.observations[0].items() if name != "status"}


def _raw_states(paths: list[Path]) -> list[list[Any]] | None:
    try:
        told = [(path.name, path.stat()) for path in paths]
    except OSError:
        return None
    return [[name, state.st_size, state.st_mtime_ns] for name, state in told] or None


def _upstream(observatory: Observatory, known: Noted, asset: str, partition_key: str) -> str | None:
    """What a product upstream was made from, if it is as it was left."""
    making = known.makings.get(asset)
    if making is None:
        return None
    files = [observatory.products.brought(path) for path in _files(observatory.products, asset, partition_key)]
    if file_state(files) != making.file_state:
        return None
    return making.input_hash


def _catalogue(products: Products) -> str | None:
    return content_of_file(products.brought(products.reference_catalogue()))


def _calibrator_list(observatory: Observatory) -> list[dict[str, Any]]:
    return read_calibrator_list(observatory.settings, PRIMARY_POSITIONS)


def _calibration_settings(observatory: Observatory) -> dict[str, float]:
    settings = observatory.settings
    return {
        name: getattr(settings, name)
        for name in ("bandpass_validity_h", "gain_validity_h", "calibration_declination_deg")
    }


def _bandpass_to_use(observatory: Observatory, partition_key: str) -> dict[str, Any] | None:
    """The bandpass that would be chosen now, if it is what its hash says; None without one."""
    middle = _middle_of(observatory.products, partition_key)
    if middle is None:
        return None
    try:
        chosen = active_bandpass(observatory, *middle)
    except UncalibratedError:
        return None
    if not _is_content(observatory.products, chosen.path, chosen.content_hash):
        return None
    return {"path": str(chosen.path), "content": chosen.content_hash, "fallback": chosen.fallback}


def _middle_of(products: Products, partition_key: str) -> tuple[float, float] | None:
    """Middle (UTC MJD) and declination (deg) of a measurement set, as its document tells them; None if it does not."""
    try:
        told = json.loads(products.present(products.document("measurement_set", partition_key, ".json")).read_text())
        return float(told["middle_mjd"]), float(told["pointing_dec_deg"])
    except (OSError, ValueError, KeyError):
        return None


def _tables_in_use(observatory: Observatory, partition_key: str) -> list[list[str]] | None:
    """Kind and content of the tables that an observation uses, if all are active and what their hashes say."""
    used = observatory.store.query(
        "SELECT u.kind, u.path, t.content_hash, t.status FROM calibration_use u LEFT JOIN calibration_table t"
        " ON t.path = u.path WHERE u.partition_key = ? AND u.path IS NOT NULL ORDER BY u.kind",
        [partition_key],
    )
    if not used.height or used["status"].ne_missing("active").any():
        return None
    told = used.select("path", "kind", "content_hash").rows()
    if not all(_is_content(observatory.products, path, content) for path, _, content in told):
        return None
    return [[kind, content] for _, kind, content in told]


def _table_of(observatory: Observatory, kind: str, partition_key: str) -> str | None:
    """Path of the one active table that a partition has made, if it is what its hash says."""
    found = observatory.store.query(
        "SELECT path, content_hash FROM calibration_table WHERE kind = ? AND partition_key = ? AND status = 'active'",
        [kind, partition_key],
    )
    if found.height != 1 or not _is_content(observatory.products, found["path"][0], found["content_hash"][0]):
        return None
    return str(found["path"][0])


def _uses_its_own_gains(observatory: Observatory, partition_key: str, inputs: Mapping[str, Any]) -> bool:
    """Whether an observation uses its own gains, and the bandpass that would be chosen for it now."""
    used = observatory.store.query(
        "SELECT kind, path, fallback FROM calibration_use WHERE partition_key = ? ORDER BY kind", [partition_key]
    )
    expected = [
        ("B", inputs["bandpass"]["path"], inputs["bandpass"]["fallback"]),
        ("G", _table_of(observatory, "G", partition_key), "none"),
    ]
    return used.rows() == expected


def _is_content(products: Products, noted_path: str | Path, content: str | None) -> bool:
    """Whether a table is there and says what its hash says."""
    from contimg_resources.calibration_tables import content_hash

    try:
        path = products.brought(noted_path)
        return path.exists() and content_hash(path) == content
    except (ResourceError, OSError, RuntimeError):
        return False
