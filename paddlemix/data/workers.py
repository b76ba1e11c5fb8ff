"""Work done beside the main thread, in order, so that whoever waits for it can be interrupted at any time.

Paddle's loader waits in C++, where Ctrl-C is not heard; `concurrent.futures` waits for everything that was handed out.
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
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pickle import PickleError
from typing import Any

AHEAD = 2  # items that a thread or a process has in hand, so that it never waits for the next one
CHECK_SECONDS = 0.2
END_SECONDS = 1.0  # that the end of a thread is waited for: Ctrl-C is to work at once
END = object()


def map_in_thread(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield function(item) of each item, in order, worked out ahead in a thread. Raises what the function raised."""
    results: queue.Queue = queue.Queue(AHEAD)
    is_over = threading.Event()

    def hand_out(result: Any, error: Exception | None = None) -> None:
        while not is_over.is_set():
            with contextlib.suppress(queue.Full):
                return results.put((result, error), timeout=CHECK_SECONDS)

    def run() -> None:
        try:
            for item in items:
                hand_out(function(item))
                if is_over.is_set():
                    return
            hand_out(END)
        except Exception as error:  # raised again below
            hand_out(END, error)

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
        is_over.set()
        # A thread that is still in other libraries' code when the process ends can abort it.
        thread.join(END_SECONDS)


def map_in_processes(
    function: Callable[[Any], Any], items: Iterable[Any], *, num_processes: int, method: str
) -> Iterator[Any]:
    """Yield function(item) of each item, in order, worked out ahead in several processes.

    method: "fork", or "spawn" where function and items can be pickled. The processes are deaf to Ctrl-C and SIGTERM,
    which a terminal or a cluster sends to all of a run: they end with this generator, or with the process that has it.
    Raises what the function raised, and ChildProcessError where a process died.
    """
    workers: list[_Worker] = []
    pending: collections.deque[_Worker] = collections.deque()
    try:
        for _ in range(num_processes):
            workers.append(_Worker(function, method))
        for number, item in enumerate(items):
            if len(pending) == AHEAD * num_processes:
                yield pending.popleft().take()
            worker = workers[number % num_processes]
            worker.give(item)
            pending.append(worker)
        while pending:
            yield pending.popleft().take()
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process that applies a function to what it is given, in order."""

    def __init__(self, function: Callable[[Any], Any], method: str):
        context = get_context(method)
        self.connection, other = context.Pipe()
        own = self.connection if method == "fork" else None  # a copy of it, which would keep the pipe open
        self.process = context.Process(target=_work, args=(function, other, own), daemon=True)
        with _blocked_signals():
            self.process.start()
        other.close()
        atexit.register(self.end)  # before multiprocessing asks it to end, which it would not hear

    def give(self, item: Any) -> None:
        try:
            self.connection.send(item)
        except OSError as error:
            raise self._death() from error

    def take(self) -> Any:
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
            f"a process that reads the data ended with {how}: where that is 9, the machine's memory may have run out "
            "(set dataloader_num_workers lower)"
        )


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Keep signals from this thread, and for good from the processes that it starts meanwhile."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _work(function: Callable[[Any], Any], connection: Connection, parents: Connection | None) -> None:
    """Answer what comes; threads receive and send, so that this one always has something to work on."""
    if parents is not None:
        parents.close()
    items: queue.SimpleQueue = queue.SimpleQueue()
    results: queue.Queue = queue.Queue(AHEAD)
    threading.Thread(target=_receive, args=(connection, items), daemon=True).start()
    threading.Thread(target=_send, args=(connection, results), daemon=True).start()
    while True:
        try:
            results.put((function(items.get()), None))
        except Exception as error:  # raised again by `take`
            results.put((None, error))


def _receive(connection: Connection, items: queue.SimpleQueue) -> None:
    """Hand on what comes; leave in the middle of the work when the process at the other end is gone."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            items.put(connection.recv())
    os._exit(1)


def _send(connection: Connection, results: queue.Queue) -> None:
    with contextlib.suppress(OSError):  # `_receive` sees it too
        while True:
            result = results.get()
            try:
                connection.send(result)
            except (TypeError, AttributeError, PickleError) as error:  # it cannot be pickled, and nothing was sent
                connection.send((None, RuntimeError(f"{type(error).__name__}: {error}")))
