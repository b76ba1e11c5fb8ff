"""Map a function over items in a thread or in processes, in order, so that the waiting thread can be interrupted.

Paddle's loader waits in C++, where Ctrl-C has no effect. `concurrent.futures` waits for all submitted items.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from pickle import PickleError
from typing import Any

AHEAD = 2  # items per thread or process that are computed ahead, so that it never waits for the next one
CHECK_SECONDS = 0.2
END_SECONDS = 1.0  # how long to wait for a thread to end: Ctrl-C should work at once
END = object()


def map_in_thread(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield function(item) for each item, in order, computed ahead in a thread. Raises what the function raises."""
    results: queue.Queue = queue.Queue(AHEAD)
    is_done = threading.Event()

    def emit(result: Any, error: Exception | None = None) -> None:
        while not is_done.is_set():
            with contextlib.suppress(queue.Full):
                return results.put((result, error), timeout=CHECK_SECONDS)

    def run() -> None:
        try:
            for item in items:
                emit(function(item))
                if is_done.is_set():
                    return
            emit(END)
        except Exception as error:  # raised again below
            emit(END, error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            result, error = results.get()
            if error is not None:
                raise error
            if result is END:
                return
            yield result
    finally:
        is_done.set()
        # A thread that still runs library code when the process ends can abort the process.
        thread.join(END_SECONDS)


def map_in_processes(
    function: Callable[[Any], Any], items: Iterable[Any], *, num_processes: int, method: str
) -> Iterator[Any]:
    """Yield function(item) for each item, in order, computed ahead in several processes.

    method: "fork", or "spawn" if function and items can be pickled. The processes ignore Ctrl-C and SIGTERM, which a
    terminal or a cluster sends to all processes of a run. They end with this generator, or with its process. Raises
    what the function raises, and ChildProcessError if a process died.
    """
    workers: list[_Worker] = []
    pending: collections.deque[_Worker] = collections.deque()
    try:
        for _ in range(num_processes):
            workers.append(_Worker(function, method))
        for number, item in enumerate(items):
            if len(pending) == AHEAD * num_processes:
                yield pending.popleft().receive()
            worker = workers[number % num_processes]
            worker.send(item)
            pending.append(worker)
        while pending:
            yield pending.popleft().receive()
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process that applies a function to items, in order."""

    def __init__(self, function: Callable[[Any], Any], method: str):
        context = get_context(method)
        self.connection, other = context.Pipe()
        own = self.connection if method == "fork" else None  # the child's copy of it would keep the pipe open
        self.process = context.Process(target=_work, args=(function, other, own), daemon=True)
        if method == "spawn":  # NOTE: starting it later would unblock the signals (multiprocessing/resource_tracker.py)
            resource_tracker.ensure_running()
        with _blocked_signals():
            self.process.start()
        other.close()
        atexit.register(self.end)  # before multiprocessing sends SIGTERM, which the process ignores

    def send(self, item: Any) -> None:
        try:
            self.connection.send(item)
        except OSError as error:
            raise self._death() from error

    def receive(self) -> Any:
        try:
            result, error = self.connection.recv()
        except (EOFError, OSError) as failure:
            raise self._death() from failure
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        atexit.unregister(self.end)
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _death(self) -> ChildProcessError:
        self.process.join(1)
        code = self.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return ChildProcessError(
            f"a process that reads the data ended with {how}: if that is 9, the machine may have run out of memory "
            "(lower dataloader_num_workers)"
        )


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block signals in this thread, and permanently in the processes that it starts meanwhile."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _work(function: Callable[[Any], Any], connection: Connection, parents: Connection | None) -> None:
    """Apply the function to received items. Other threads receive and send, so that this one never waits for them."""
    if parents is not None:
        parents.close()
    items: queue.SimpleQueue = queue.SimpleQueue()
    results: queue.Queue = queue.Queue(AHEAD)
    threading.Thread(target=_receive, args=(connection, items), daemon=True).start()
    threading.Thread(target=_send, args=(connection, results), daemon=True).start()
    while True:
        try:
            results.put((function(items.get()), None))
        except Exception as error:  # raised again by `receive`
            results.put((None, error))


def _receive(connection: Connection, items: queue.SimpleQueue) -> None:
    """Pass on received items; exit at once when the parent process is gone."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            items.put(connection.recv())
    os._exit(1)


def _send(connection: Connection, results: queue.Queue) -> None:
    with contextlib.suppress(OSError):  # `_receive` notices it too
        while True:
            result = results.get()
            try:
                connection.send(result)
            except (TypeError, AttributeError, PickleError) as error:  # not picklable, and nothing was sent
                connection.send((None, RuntimeError(f"{type(error).__name__}: {error}")))
