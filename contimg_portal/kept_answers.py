"""Answers that are looked up in the background and kept for a while, so that whoever asks never waits for what hangs.

Used by ``/metrics`` and ``/health``: each source and each component is looked at by a thread of its own; a request waits for
all of them together until its deadline and takes what is there. A look that hangs keeps its thread (nothing can end it)
but no second one is started, and it does not keep the process from ending.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import dagster as dg
import sqlalchemy.exc

from contimg_resources.errors import ResourceError

T = TypeVar("T")
_NAMED_ERRORS = (ResourceError, OSError, dg.DagsterError, sqlalchemy.exc.SQLAlchemyError)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What was found at last."""

    value: T | None = None
    """None before the first look ended, or when the last one failed."""

    at: float | None = None
    """When it was found, Unix time in s."""

    problem: str = ""
    """Why the last look gave nothing."""

    looking_s: float = 0.0
    """How long the present look has been going on."""


class KeptAnswer(Generic[T]):
    """One question, asked again when its answer is old.

    Parameters
    ----------
    look : callable
        Gives the answer; may take long, may raise.
    keep_s : float
        An answer younger than this is not looked up again.
    """

    def __init__(self, look: Callable[[], T], *, keep_s: float) -> None:
        self._look = look
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._answer: Answer[T] = Answer()
        self._began: float | None = None
        self._done = threading.Event()

    def refresh(self) -> None:
        """Start a look if the answer is old and none is under way."""
        with self._lock:
            is_fresh = self._answer.at is not None and time.time() - self._answer.at < self._keep_s
            if is_fresh or self._began is not None:
                return
            self._began = time.monotonic()
            self._done.clear()
        threading.Thread(target=self._run, daemon=True, name="kept-answer").start()

    def _run(self) -> None:
        value, problem = None, "the look ended with an error, which is in the portal's log"
        try:
            value, problem = self._look(), ""
        except _NAMED_ERRORS as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            with self._lock:
                self._answer = Answer(value, time.time(), problem)
                self._began = None
            self._done.set()

    def answer(self, until: float) -> Answer[T]:
        """The newest answer, waiting for a look under way no longer than this.

        Parameters
        ----------
        until : float
            Of ``time.monotonic()``.
        """
        with self._lock:
            is_looking = self._began is not None
        if is_looking:
            self._done.wait(max(0.0, until - time.monotonic()))
        with self._lock:
            looking_s = 0.0 if self._began is None else time.monotonic() - self._began
            kept = self._answer
        return Answer(kept.value, kept.at, kept.problem, looking_s)


def answers_within(kept: Iterable[KeptAnswer[T]], deadline_s: float) -> list[Answer[T]]:
    """Ask all at once and take what each has by the deadline."""
    until = time.monotonic() + deadline_s
    asked = list(kept)
    for question in asked:
        question.refresh()
    return [question.answer(until) for question in asked]
