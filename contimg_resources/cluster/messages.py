"""What the broker holds: runs that wait in its queues, and runs that workers were given and have not ended.

What belongs here: looking at Celery's messages in Redis, which Celery itself cannot. What follows from a message that is nowhere
is the launcher's business.

Celery takes a message out of its list and then notes that a worker has it. A Redis that is killed between the two has it
neither here nor there when it is back, and the worker has forgotten it with the connection.
"""

from __future__ import annotations

import json

import redis
from kombu.transport.redis import Channel

from contimg_resources.cluster.celery_settings import KEY_PREFIX, PRIORITIES
from contimg_resources.cluster.queues import QUEUES
from contimg_resources.cluster.signs_of_life import TIMEOUT_S, broker_answers

_HANDED_OVER = KEY_PREFIX + "handed-over-again:{run_id}"


class Messages:
    """Messages of the runs in one broker."""

    def __init__(self, broker_url: str) -> None:
        self._client = redis.Redis.from_url(broker_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)

    def held(self) -> set[str]:
        """Ids of the runs whose message is in a queue or with a worker, at one moment.

        Raises
        ------
        BrokerError
            If the broker does not answer.
        """
        with broker_answers("its messages"), self._client.pipeline(transaction=True) as look:
            for queue in QUEUES:
                for priority in PRIORITIES:
                    look.lrange(KEY_PREFIX + (f"{queue}{Channel.sep}{priority}" if priority else queue), 0, -1)
            look.hvals(KEY_PREFIX + Channel.unacked_key)
            *waiting, given = look.execute()
        messages = [json.loads(message) for queue in waiting for message in queue]
        messages += [json.loads(message)[0] for message in given]
        return {message["headers"]["id"] for message in messages}

    def claim(self, run_id: str, for_s: float) -> bool:
        """Whether the caller, and nobody else for so long, may hand a run over again."""
        with broker_answers(f"run {run_id}"):
            return bool(self._client.set(_HANDED_OVER.format(run_id=run_id), 1, nx=True, px=int(for_s * 1000)))
