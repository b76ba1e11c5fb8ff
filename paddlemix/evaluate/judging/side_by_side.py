"""Do work that waits for others, such as requests, several at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Job], Result], jobs: Iterable[Job], num_threads: int, stop: threading.Event
) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result, as they end. Raises what `work` raises.

    stop: once it is set, no further job begins; those that have begun are still yielded. It is set when the iterator is
    closed. The threads do not keep the process alive, so Ctrl-C ends it at once.
    """
    waiting, ended = iter(jobs), queue.SimpleQueue()
    lock = threading.Lock()

    def take_jobs() -> None:
        while not stop.is_set():
            with lock:
                found = next(((job,) for job in waiting), None)
            if found is None:
                break
            future: Future[Result] = Future()
            try:
                future.set_result(work(*found))
            except BaseException as error:  # raised again by `future.result()`
                future.set_exception(error)
            ended.put((*found, future))
        ended.put(None)

    num_running = num_threads
    try:
        for _ in range(num_threads):
            threading.Thread(target=take_jobs, daemon=True).start()
        while num_running:
            pair = ended.get()
            if pair is None:
                num_running -= 1
            else:
                yield pair[0], pair[1].result()
    finally:
        stop.set()
