"""When alert rules are looked at, and when webhooks are sent what happened.

What is measured and who is told is ``contimg_resources.alerts``; the stream of events ``contimg_resources.events``. A
daemon that is down runs no sensor: the portal evaluates when this one is quiet (``contimg_portal.alert_watch``).
"""

import dagster as dg

from contimg_resources.alerts.evaluation import evaluate_alerts
from contimg_resources.configurable import Observatory
from contimg_resources.event_webhooks import send_events


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def alerts(context: dg.SensorEvaluationContext, observatory: Observatory) -> dg.SkipReason:
    """Measure what alert rules are about, open and resolve alerts, and tell the channels of CONTIMG_ALERT_URLS."""
    found = evaluate_alerts(observatory.settings, instance=context.instance, heartbeat=True)
    broken = ", ".join(sorted({rule.name for rule, _ in found.broken()})) or "none"
    return dg.SkipReason(
        f"broken: {broken}; {found.n_delivered} notices delivered, {found.n_failed} failed {found.store_problem}".strip()
    )


@dg.sensor(minimum_interval_seconds=10, default_status=dg.DefaultSensorStatus.RUNNING)
def event_webhooks(context: dg.SensorEvaluationContext, observatory: Observatory) -> dg.SkipReason:
    """Send the webhooks of CONTIMG_EVENT_URLS what happened since the last time, signed and in order."""
    if not observatory.settings.event_urls:
        return dg.SkipReason("no webhook is set (CONTIMG_EVENT_URLS)")
    sent = send_events(observatory.settings, observatory.store, context.instance)
    return dg.SkipReason("; ".join(sent.values()))
