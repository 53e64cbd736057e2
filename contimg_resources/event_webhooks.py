"""Webhooks that follow the event stream: every event once and in order, signed, tried again later and later.

Each URL has a small file beside the store with its cursor and its failures, under a lock, so that a restart goes on
where it was and two processes do not send the same. A webhook begins with what happens after it was set up. What is
sent: ``{"events": [...], "cursor": ...}`` as JSON, with ``X-Contimg-Timestamp`` (Unix seconds) and, when
``CONTIMG_EVENT_SECRET`` is set, ``X-Contimg-Signature: sha256=HMAC(secret, timestamp + "." + body)``. A receiver answers
2xx, or gets the same page again after 10 s, 20 s, ... up to an hour.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
from pydantic import SecretStr

from contimg_resources.events import read_events
from contimg_resources.products import atomic_write
from contimg_resources.settings import Settings
from contimg_resources.store.connection import Store

FIRST_DELAY_S, LONGEST_DELAY_S = 10.0, 3600.0
TIMEOUT_S = 5.0
_PAGE = 200
_MOST_PAGES = 10
"""Pages sent to one URL in one round; a sensor's tick must end."""


def signature(secret: SecretStr, timestamp: str, body: bytes) -> str:
    """Value of ``X-Contimg-Signature``, for senders and receivers."""
    digest = hmac.new(secret.get_secret_value().encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


def send_events(
    settings: Settings, store: Store, instance: dg.DagsterInstance | None, *, at: datetime | None = None
) -> dict[str, str]:
    """Send every webhook what happened since its cursor, unless it failed a moment ago.

    Parameters
    ----------
    settings : Settings
        ``event_urls`` and ``event_secret``.
    store : Store
    instance : DagsterInstance or None
    at : datetime, optional
        Now, UTC.

    Returns
    -------
    dict of str
        What became of each webhook, by a short name that holds no secret.
    """
    now = at or datetime.now(UTC)
    outcome = {}
    for position, url in enumerate(settings.event_urls, start=1):
        name = f"webhook-{position}"
        key = hashlib.sha256(url.get_secret_value().encode()).hexdigest()[:12]
        with _subscription(settings.data / "event_webhooks" / f"{key}.json") as state:
            if state is None:
                outcome[name] = f"{name}: another process sends"
            elif now.isoformat() < state.get("next_at", ""):
                outcome[name] = f"{name}: waits until {state['next_at']} after {state['n_failures']} failures"
            else:
                outcome[name] = f"{name}: {_follow(url, state, settings, store, instance, now)}"
    return outcome


@contextmanager
def _subscription(path: Path) -> Iterator[dict[str, Any] | None]:
    """State of one webhook, written back at the end; None when another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        state = json.loads(path.read_text()) if path.exists() else {}
        yield state
        atomic_write(path, lambda stream: stream.write(json.dumps(state, indent=1).encode()))


def _follow(
    url: SecretStr,
    state: dict[str, Any],
    settings: Settings,
    store: Store,
    instance: dg.DagsterInstance | None,
    now: datetime,
) -> str:
    if "cursor" not in state:
        state["cursor"] = read_events(store, instance, "now").cursor
        return "set up"
    n_sent = 0
    for _ in range(_MOST_PAGES):
        page = read_events(store, instance, state["cursor"], limit=_PAGE)
        problem = ""
        if page.events:
            content = {"events": [event.as_dict() for event in page.events], "cursor": page.cursor}
            problem = _post(url, json.dumps(content).encode(), settings.event_secret)
        if problem:
            state["n_failures"] = state.get("n_failures", 0) + 1
            delay_s = min(FIRST_DELAY_S * 2.0 ** (state["n_failures"] - 1), LONGEST_DELAY_S)
            state |= {"next_at": (now + timedelta(seconds=delay_s)).isoformat(), "problem": problem}
            return f"{problem}; tried again in {delay_s:.0f} s"
        state |= {"cursor": page.cursor, "n_failures": 0, "next_at": "", "problem": ""}
        n_sent += len(page.events)
        if not page.has_more:
            break
    return f"{n_sent} events sent"


def _post(url: SecretStr, body: bytes, secret: SecretStr | None) -> str:
    """Send one page; return why it was not taken, or an empty string."""
    timestamp = f"{datetime.now(UTC).timestamp():.0f}"
    headers = {"Content-Type": "application/json", "X-Contimg-Timestamp": timestamp}
    if secret is not None:
        headers["X-Contimg-Signature"] = signature(secret, timestamp, body)
    try:
        answer = httpx.post(url.get_secret_value(), content=body, headers=headers, timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__  # its text may hold the URL, which may hold a secret
    return "" if answer.is_success else f"answered {answer.status_code}"
