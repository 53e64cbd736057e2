"""Flux-density calibrators: the primary ones on the scale of Perley & Butler (2017), and those an observatory lists itself.

What belongs here: the published spectra, positions and aliases of compact calibrators, as numbers. What does not:
turning them into visibilities (``sky_model``) and calibrators of unknown flux density (it is transferred).

Spectra are log10 S[Jy] = sum_k a_k log10(nu / 1 GHz)^k, the coefficients of Table 6 of Perley & Butler 2017, ApJS 230,
7 (doi:10.3847/1538-4365/aa6df9), valid between about 50 MHz and 50 GHz; the same numbers stand in CASA's
``PerleyButler2017Coeffs`` (epoch 2017.0). Three of the sources (3C48, 3C138, 3C147) vary slowly; 3C286 does not.
Only sources that are near enough to points on baselines of a few kilometres at 1.4 GHz are listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

from contimg_assets.science.errors import DataError


@dataclass(frozen=True, slots=True)
class FluxCalibrator:
    """One calibrator: name, aliases, J2000 (ICRS) position and spectrum."""

    name: str
    aliases: tuple[str, ...]
    """Names in B1950 and J2000 coordinates, as the VLA calibrator manual spells them."""
    ra_deg: float
    dec_deg: float
    log_coefficients: tuple[float, ...]
    """a_k of log10 S[Jy] = sum a_k log10(nu / 1 GHz)^k."""
    flux_model: str = "Perley & Butler 2017"
    """Where the spectrum comes from."""


CALIBRATORS: tuple[FluxCalibrator, ...] = (
    FluxCalibrator(
        "3C48", ("0137+331", "0134+329", "J0137+3309"), 24.42208092, 33.15975916, (1.3253, -0.7553, -0.1914, 0.0498)
    ),
    FluxCalibrator(
        "3C123",
        ("0437+296", "0433+295", "J0437+2940"),
        69.26823042,
        29.67050528,
        (1.8017, -0.7884, -0.1035, -0.0248, 0.0090),
    ),
    FluxCalibrator(
        "3C138",
        ("0521+166", "0518+165", "J0521+1638"),
        80.29119174,
        16.63945867,
        (1.0088, -0.4981, -0.1552, -0.0102, 0.0223),
    ),
    FluxCalibrator(
        "3C147",
        ("0542+498", "0538+498", "J0542+4951"),
        85.65057466,
        49.85200932,
        (1.4516, -0.6961, -0.2007, 0.0640, -0.0464, 0.0289),
    ),
    FluxCalibrator(
        "3C196",
        ("0813+482", "0809+483", "J0813+4813"),
        123.40023375,
        48.21739889,
        (1.2872, -0.8530, -0.1534, -0.0200, 0.0201),
    ),
    FluxCalibrator(
        "3C286", ("1331+305", "1328+307", "J1331+3030"), 202.78453327, 30.50915524, (1.2481, -0.4507, -0.1798, 0.0357)
    ),
    FluxCalibrator(
        "3C295",
        ("1411+522", "1409+524", "J1411+5212"),
        212.83549583,
        52.20276944,
        (1.4701, -0.7658, -0.2780, -0.0347, 0.0399),
    ),
    FluxCalibrator(
        "3C380",
        ("1829+487", "1828+487", "J1829+4845"),
        277.38242083,
        48.74615583,
        (1.2320, -0.7909, 0.0947, 0.0976, -0.1794, -0.1566),
    ),
)


PRIMARY_POSITIONS = {
    name: (source.ra_deg, source.dec_deg) for source in CALIBRATORS for name in (source.name, *source.aliases)
}
"""Position (ra, dec; deg) by every name of the primary calibrators."""


def with_listed(listed: Iterable[Mapping[str, Any]]) -> tuple[FluxCalibrator, ...]:
    """All calibrators: the primary ones and listed ones, whose rows are the arguments of `power_law_calibrator`."""
    return (*CALIBRATORS, *(power_law_calibrator(**row) for row in listed))


def power_law_calibrator(
    *,
    name: str,
    ra_deg: float,
    dec_deg: float,
    flux_jy: float,
    reference_frequency_hz: float,
    spectral_index: float,
) -> FluxCalibrator:
    """Calibrator with S = flux_jy (nu / reference_frequency_hz)^spectral_index."""
    at_1_ghz = log10(flux_jy) - spectral_index * log10(reference_frequency_hz / 1e9)
    model = f"listed: {flux_jy:g} Jy at {reference_frequency_hz / 1e9:g} GHz, spectral index {spectral_index:g}"
    return FluxCalibrator(name, (), ra_deg, dec_deg, (at_1_ghz, spectral_index), model)


def find_calibrator(name: str, calibrators: Sequence[FluxCalibrator] = CALIBRATORS) -> FluxCalibrator:
    """Look a calibrator up by name or alias.

    Case, blanks, hyphens after ``3C`` and anything that follows an alias do not matter: observers append scan
    codes to names, e.g. ``1331+30500002_0`` is 3C286.

    Raises
    ------
    DataError
        If no calibrator has that name.
    """
    wanted = name.upper().replace(" ", "").replace("3C_", "3C").replace("3C-", "3C")
    for calibrator in calibrators:
        is_named = wanted == calibrator.name.upper().replace(" ", "")
        if is_named or any(wanted.startswith(alias) for alias in calibrator.aliases):
            return calibrator
    raise DataError(
        "unknown flux calibrator",
        got=repr(name),
        expected="one of "
        + ", ".join(" ".join([c.name, *(f"({alias})" for alias in c.aliases[:1])]) for c in calibrators),
        remedy="Name one of them, list it in the file of CONTIMG_CALIBRATOR_LIST, or give a component list with ra_deg, "
        "dec_deg, flux_jy.",
        reason_code="unknown_calibrator",
    )
