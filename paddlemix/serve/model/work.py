"""A job on its way through the process with the model, and what was told of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ...generate.sequence import Sequence
from ...terminal.log import notice
from ..errors import TYPES
from ..protocol import Ended, Failed, Job, JobEvent
from .prompt import Prompt

Emit = Callable[[JobEvent], None]


class Work:
    """A job, its prompt and its sequences when they are prepared, and how much of each answer was told.

    emit: called with the events in order, from one thread at a time. num_characters, num_tokens: of each answer that
    were told. told: the answers whose end was. is_over: nobody waits for more events. num_bytes: of the tiles.
    """

    def __init__(self, job: Job, emit: Emit):
        self.job = job
        self.arrived = time.monotonic()
        self.late = None if job.seconds is None else self.arrived + job.seconds
        self.prompt: Prompt | None = None
        self.sequences: list[Sequence] = []
        self.num_characters = [0] * job.num_answers
        self.num_tokens = [0] * job.num_answers
        self.told: set[int] = set()
        self.is_over = False
        self._emit = emit
        self._num_ended = 0
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        return sum(tiles.pixels.nbytes for _, tiles in self.prompt.images) if self.prompt else 0

    @property
    def is_late(self) -> bool:
        return self.late is not None and time.monotonic() >= self.late

    def tell(self, event: JobEvent) -> None:
        """Hand over an event, unless the job is over. The last event ends it."""
        with self._lock:
            if self.is_over:
                return
            self._num_ended += isinstance(event, Ended)
            self.is_over = isinstance(event, Failed) or self._num_ended == self.job.num_answers
            try:
                self._emit(event)
            except Exception as error:  # of the one who waits; the model goes on for others
                self.is_over = True
                notice(f"an answer could not be handed over: {type(error).__name__}: {error}")

    def fail(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        """End the job with an error; see `errors.ApiError`."""
        self.tell(Failed(self.job.id, status, message, TYPES[status], param, code))

    def drop(self) -> None:
        """End the job without an event."""
        with self._lock:
            self.is_over = True
