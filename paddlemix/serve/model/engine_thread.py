"""The one thread that drives an engine: it adds what is prepared, steps, and tells what came of it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping

from ...conversation.tokenizer import Tokenizer
from ...device import use_device_in_thread
from ...generate.engine import Engine, Event
from ...generate.sequence import Sequence
from .answer_memory import AnswerMemory
from .events import delta, ended
from .failures import SERVER_ERROR, report
from .work import Work

MAX_BYTES = 512 << 20  # of the tiles of jobs that are prepared


class EngineThread:
    """Answers the jobs that are given to it. Only this thread touches the engine.

    Jobs are here from their arrival to their end, so that each of them ends in time and can be canceled.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, memory: AnswerMemory):
        self.engine, self.tokenizer, self.memory = engine, tokenizer, memory
        self._works: dict[str, Work] = {}
        self._prepared: deque[Work] = deque()
        self._running: list[Work] = []
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise RuntimeError if the thread has ended by a mistake of ours, so that nothing is answered any more."""
        if not (self._is_closing or self._thread.is_alive()):
            raise RuntimeError("the thread that drives the engine has ended; the log says why")

    @property
    def num_preparing(self) -> int:
        """How many jobs are not in the engine yet."""
        return max(len(self._works) - len(self._running), 0)

    def register(self, work: Work) -> None:
        """Watch a job's time from now on."""
        with self._changed:
            self._works[work.job.id] = work
            self._changed.notify_all()

    def wait_for_room(self, work: Work) -> bool:
        """Wait until the images of prepared jobs leave room for more; return False if the job is over by then."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or work.is_over or self._num_bytes() <= MAX_BYTES)
            return not (self._is_closing or work.is_over)

    def _num_bytes(self) -> int:
        return sum(work.num_bytes for work in self._works.values())

    def add(self, work: Work) -> None:
        """Answer a job that is prepared."""
        with self._changed:
            self._prepared.append(work)
            self._changed.notify_all()

    def cancel(self, job_id: str) -> None:
        """End a job without an event, wherever it is."""
        with self._changed:
            work = self._works.get(job_id)
            if work is not None:
                work.drop()
                self._changed.notify_all()

    def close(self) -> None:
        """End all jobs, and the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        use_device_in_thread()
        while self._wait():
            self._admit()
            self._drop_ended()
            if self.engine.has_work:
                self._step()
        for work in list(self._works.values()):
            work.fail(503, "the server stops", code="stopping")
        self._drop_ended()

    def _wait(self) -> bool:
        """Wait until there is something to do; return False to stop."""
        with self._changed:
            while not (self._is_closing or self._prepared or self.engine.has_work or self._has_ended()):
                times = [work.late for work in self._works.values() if work.late is not None]
                self._changed.wait(max(min(times) - time.monotonic(), 0) if times else None)
            return not self._is_closing

    def _has_ended(self) -> bool:
        return any(work.is_over or work.is_late for work in self._works.values())

    def _admit(self) -> None:
        """Add the sequences of prepared jobs to the engine."""
        with self._changed:
            prepared, self._prepared = list(self._prepared), deque()
        for work in prepared:
            if work.is_over:
                continue
            self._running.append(work)
            try:
                for sequence in work.sequences:
                    self.engine.add(sequence)
            except ValueError as error:  # it was checked, but for a model that has changed
                work.fail(400, str(error))

    def _drop_ended(self) -> None:
        """End jobs that are late, and forget those that are over."""
        with self._changed:
            works = list(self._works.values())
        for work in works:
            if work.is_late:
                work.fail(504, f"the answer was not complete after {work.job.seconds:.3g} seconds", code="timeout")
        over = [work for work in works if work.is_over]
        if not over:
            return
        for work in over:
            self._leave(work)
        with self._changed:
            for work in over:
                del self._works[work.job.id]
            self._running = [work for work in self._running if not work.is_over]
            self._changed.notify_all()  # there may be room for the next images

    def _leave(self, work: Work) -> None:
        """Take the sequences of a job that are open out of the engine, and remember their answers."""
        for sequence in work.sequences:
            if sequence.is_open:
                self.engine.cancel(sequence)
                self._remember(work, sequence)

    def _remember(self, work: Work, sequence: Sequence) -> None:
        prompt = work.prompt
        if prompt.context is not None and sequence.answer_ids:
            key = prompt.context.digest(prompt.start_text + sequence.text)
            self.memory.keep(key, [*prompt.start_ids, *sequence.answer_ids], sequence.is_closed)

    def _step(self) -> None:
        try:
            events = self.engine.step()
        except Exception as error:  # of the engine itself; those of a sequence are in the sequence
            report(error, "a step of the engine failed")
            for work in self._running:
                work.fail(500, SERVER_ERROR)
        else:
            self._tell(events)
        self._drop_ended()

    def _tell(self, events: list[Event]) -> None:
        """Tell what a step brought to each answer."""
        tokens: dict[Sequence, list[int]] = defaultdict(list)
        for event in events:
            tokens[event.sequence].append(event.token)
        for work in self._running:
            try:
                self._tell_one(work, tokens)
            except Exception as error:
                report(error, "an answer failed")
                work.fail(500, SERVER_ERROR)

    def _tell_one(self, work: Work, tokens: Mapping[Sequence, list[int]]) -> None:
        for index, sequence in enumerate(work.sequences):
            if sequence in tokens:
                work.tell(delta(work, index, tokens[sequence], self.tokenizer))
            if not (sequence.is_open or work.is_over or index in work.told):
                self._tell_end(work, index, sequence)

    def _tell_end(self, work: Work, index: int, sequence: Sequence) -> None:
        if isinstance(sequence.error, ValueError) and sequence.sampling.grammar is not None:
            work.fail(400, str(sequence.error))  # a schema that takes too long
            return
        if sequence.error is not None:
            raise sequence.error
        self._remember(work, sequence)  # first: the next question may come at once
        work.told.add(index)
        work.tell(ended(work, index))
