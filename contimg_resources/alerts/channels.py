"""Where notices go: apprise URLs, each under a name that may be shown, because a URL holds its secret.

What belongs here: names, sending, the reason of a failure. When and how often is ``delivery``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import SecretStr

_NAMED = re.compile(r"^(?P<name>[A-Za-z0-9_-]+)=(?=[A-Za-z0-9]+://)")
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class Channel:
    """One receiver of notices."""

    name: str
    """As given before the URL (``ops=slack://…``), otherwise its kind and position, e.g. ``json-1``."""
    url: SecretStr


def parse_channels(urls: Sequence[SecretStr]) -> tuple[Channel, ...]:
    """Channels of setting ``alert_urls``."""
    channels = []
    for position, secret in enumerate(urls, start=1):
        text = secret.get_secret_value()
        named = _NAMED.match(text)
        url = text[named.end() :] if named else text
        kind = url.split("://", maxsplit=1)[0] if "://" in url else "unreadable"
        channels.append(Channel(named["name"] if named else f"{kind}-{position}", SecretStr(url)))
    return tuple(channels)


def send(channel: Channel, title: str, body: str, severity: str) -> str:
    """Send one message; return why it did not arrive, or an empty string.

    Parameters
    ----------
    channel : Channel
    title, body : str
        Plain text.
    severity : str
        ``info``, ``warning``, ``error``, ``critical``, or ``resolved``.
    """
    import apprise  # its plugins take a second to load

    kinds = {"resolved": apprise.NotifyType.SUCCESS, "info": apprise.NotifyType.INFO}
    kinds["warning"] = apprise.NotifyType.WARNING
    receiver = apprise.Apprise()
    if not receiver.add(channel.url.get_secret_value()):
        return "apprise cannot read the URL of this channel"
    reasons: list[str] = []
    is_sent = receiver.notify(
        title=title,
        body=body,
        notify_type=kinds.get(severity, apprise.NotifyType.FAILURE),
        log_callback=lambda entry, _: reasons.append(str(entry.message)),
    )
    return "" if is_sent else _without_secrets(channel, "; ".join(reasons) or "refused without a reason")


def _without_secrets(channel: Channel, reason: str) -> str:
    """A reason that holds no part of the URL which could be a secret: whatever is longer than a host's label."""
    parts = re.split(r"[/:@?&=]+", channel.url.get_secret_value())
    secrets = [part for part in parts[2:] if len(part) >= 6]
    for part in sorted(secrets, key=len, reverse=True):
        reason = reason.replace(part, "***")
    return reason[:_LONGEST_REASON]
