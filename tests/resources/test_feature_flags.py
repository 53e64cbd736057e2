"""Flags that reach a share of the observations: how they are typed, and that the choice is fair, stable and independent."""

import subprocess
import sys
from datetime import datetime, timedelta
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_resources.errors import SettingsError
from contimg_resources.feature_flags import FLUX_SCALE, RollOut, is_reached
from contimg_resources.settings import load_settings

N_KEYS = 10_000
_FIRST = datetime(2026, 1, 1)  # noqa: DTZ001 (a name of a window, UTC)
KEYS = [(_FIRST + timedelta(minutes=5 * k)).strftime("%Y-%m-%dT%H:%M") for k in range(N_KEYS)]
"""Partition keys of 35 days."""
FLAGS = st.from_regex(r"feature_[a-z][a-z_]{0,20}", fullmatch=True)
PERCENTS = st.floats(0.0, 100.0)


@given(flag=FLAGS, percent=PERCENTS)
def test_the_share_is_the_one_asked_for(flag, percent):
    """Of ten thousand observations as many are reached as five binomial standard deviations allow."""
    p = percent / 100.0
    n_reached = sum(is_reached(flag, key, percent) for key in KEYS)
    assert abs(n_reached - N_KEYS * p) <= 5.0 * sqrt(N_KEYS * p * (1.0 - p)) + 1.0


@given(flag=FLAGS, key=st.sampled_from(KEYS), percents=st.tuples(PERCENTS, PERCENTS))
def test_a_larger_share_only_adds_observations(flag, key, percents):
    """Whoever is reached by a share is reached by each larger one; by all of it everybody, by none of it nobody."""
    smaller, larger = sorted(percents)
    assert is_reached(flag, key, larger) or not is_reached(flag, key, smaller)
    assert is_reached(flag, key, 100.0)
    assert not is_reached(flag, key, 0.0)


@pytest.mark.parametrize("percents", [(10.0, 10.0), (50.0, 50.0), (30.0, 70.0)])
def test_flags_choose_independently(percents):
    """Those whom two flags reach are as many as chance would have."""
    p, q = (percent / 100.0 for percent in percents)
    both = sum(
        is_reached("feature_flux_scale", key, percents[0]) and is_reached("feature_other", key, percents[1])
        for key in KEYS
    )
    assert abs(both - N_KEYS * p * q) <= 5.0 * sqrt(N_KEYS * p * q * (1.0 - p * q))


def test_other_processes_choose_the_same():
    """The choice does not depend on the process, as Python's own hash of text does."""
    flag = RollOut("feature_flux_scale", "catalogue", "ensemble", 50.0)
    told = "from contimg_resources.feature_flags import RollOut\n"
    told += "flag = RollOut('feature_flux_scale', 'catalogue', 'ensemble', 50.0)\n"
    told += f"print(*[flag.of(key) for key in {KEYS[:20]!r}])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [flag.of(key) for key in KEYS[:20]]
    assert set(done.stdout.split()) == {"catalogue", "ensemble"}


@pytest.mark.parametrize(
    ("typed", "percent", "shown"),
    [("catalogue", 100.0, "catalogue"), ("catalogue:10", 10.0, "catalogue:10"), ("catalogue:0.5", 0.5, "catalogue:0.5"),
     ("catalogue:0", 0.0, "catalogue:0"), ("catalogue:100", 100.0, "catalogue"), ("ensemble", 100.0, "ensemble")],
)  # fmt: skip
def test_a_flag_is_a_value_or_a_value_with_a_share(monkeypatch, typed, percent, shown):
    """What is typed is what is set, and is shown in the shortest form."""
    monkeypatch.setenv("CONTIMG_FEATURE_FLUX_SCALE", typed)
    flag = load_settings().feature_flux_scale
    assert (flag.value, flag.percent, str(flag)) == (typed.partition(":")[0], percent, shown)


def test_the_file_takes_the_same_form(monkeypatch, tmp_path):
    """A share can be in the TOML file; without any setting all have the default."""
    assert load_settings().feature_flux_scale == FLUX_SCALE
    (tmp_path / "contimg.toml").write_text('feature_flux_scale = "catalogue:25"\n')
    monkeypatch.setenv("CONTIMG_CONFIG", str(tmp_path / "contimg.toml"))
    assert load_settings().feature_flux_scale.percent == 25.0


@pytest.mark.parametrize(
    "typed", ["median", "catalogue:101", "catalogue:-1", "catalogue:ten", "catalogue:", "catalogue:5%", "ensemble:50"]
)
def test_a_wrong_flag_says_what_to_write(monkeypatch, typed):
    """The error has what was got, what is expected and what to do; a share of the default would reach nobody."""
    monkeypatch.setenv("CONTIMG_FEATURE_FLUX_SCALE", typed)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    text = str(caught.value)
    assert f"CONTIMG_FEATURE_FLUX_SCALE = '{typed}'" in text
    assert f"got '{typed}', expected one of ensemble, catalogue, catalogue:<percent" in text
    assert "Write catalogue:10" in text
