"""Health: components, their worst, and an answer in time whatever hangs."""

import threading
import time

from contimg_portal.findings import Finding
from contimg_portal.health import Health, worst
from contimg_resources.settings import load_settings


def test_a_hung_component_is_unknown_and_delays_nothing(data_folder):
    """The answer comes within a second; the component that hangs is unknown, the others are as they are."""
    release = threading.Event()

    def hangs():
        release.wait(30)
        yield Finding("disk", "ok", "")

    examined = {
        "store": lambda: iter([Finding("store", "ok", "fine")]),
        "disk": hangs,
        "queue": lambda: iter([Finding("queue", "error", "stuck", "look"), Finding("other", "ok", "")]),
    }
    health = Health(load_settings(), examined)
    began = time.perf_counter()
    found = {component.name: component for component in health.look()}
    assert time.perf_counter() - began < 1.0
    assert {name: c.status for name, c in found.items()} == {
        "store": "healthy",
        "disk": "unknown",
        "queue": "unhealthy",
    }
    assert (found["queue"].detail, found["queue"].remedy) == ("queue: stuck", "look")
    assert found["store"].checked_at is not None
    assert worst(list(found.values())) == "unhealthy"
    release.set()
