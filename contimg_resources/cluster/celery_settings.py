"""How Celery is set up, for those who send runs and those who carry them out.

What belongs here: every setting of Celery that we rely on, with the reason. Nothing computes here.

* A message is acknowledged when its run has ended (``task_acks_late``), so that a worker holds no message but those it works
  on, and one that dies gives them back after ``redelivery_s``. A run that had begun by then is not begun twice: Dagster ignores a
  second worker for a run that has started. Lost runs that had begun are found by their signs of life and started anew by
  Dagster's run retries, much earlier.
* No result backend: what became of a run is in Dagster's instance, and Celery's word for it is wrong when a worker is killed.
* A lost connection to the broker neither ends runs nor workers: they go on and connect again for ever.
"""

from __future__ import annotations

from typing import Any

from kombu.entity import Queue

from contimg_resources.cluster.queues import QUEUES

KEY_PREFIX = "contimg:"
"""Of all keys in Redis, which others may use too."""

PRIORITIES = range(10)
"""0 goes first; Redis has a list for each."""


def celery_settings(broker_url: str | None, redelivery_s: float) -> dict[str, Any]:
    """Settings of the Celery application.

    Parameters
    ----------
    broker_url : str or None
        None where nothing is sent.
    redelivery_s : float
        After which a message whose worker vanished is handed out again; longer than any wait before a run begins.
    """
    return {
        "broker_url": broker_url,
        "broker_transport_options": {
            "global_keyprefix": KEY_PREFIX,
            "visibility_timeout": redelivery_s,
            "priority_steps": list(PRIORITIES),
            "queue_order_strategy": "priority",
            "socket_timeout": 30.0,
            "socket_connect_timeout": 5.0,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "result_backend": None,
        "task_ignore_result": True,
        "task_queues": [Queue(name, routing_key=f"{name}.#") for name in QUEUES],
        "task_default_queue": "image",
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,  # run monitoring finds it, and knows what may be retried
        "worker_prefetch_multiplier": 1,
        "worker_pool": "contimg_resources.cluster.worker:RunPool",
        "worker_max_tasks_per_child": 1,  # a fork of the warm worker per run, as the embedded launcher does
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_redirect_stdouts": False,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "task_serializer": "json",
        "accept_content": ["json"],  # never pickle: whoever can write to the broker could run anything
    }
