"""Keep Ctrl-C and SIGTERM from getting lost in other code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPPED = 128 + signal.SIGTERM  # the exit code that a shell reports for a process that SIGTERM ended


class Preempted(BaseException):
    """A run was asked to stop. Not an Exception, so that code that catches all errors does not catch it."""


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Yield a list that records every Ctrl-C, which also raises KeyboardInterrupt.

    The exception is lost if Python is running a destructor, and paddle turns it into an OSError in backward.
    """
    seen: list[int] = []

    def note(number, frame):
        seen.append(number)
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, former)


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Let a Ctrl-C wait until the end. In other threads than the main one nothing has to be done."""
    former = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(former):
        yield
        return
    seen: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *arguments: seen.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
    if seen:
        former(*seen[0])


@contextmanager
def kept_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt instead of the error that paddle, or its import, turned a Ctrl-C into."""
    with noted_interrupts() as seen:
        try:
            yield
        except (OSError, RuntimeError, ImportError, SystemError) as error:
            if seen:
                raise KeyboardInterrupt from error
            raise


@contextmanager
def raised_terminations(load: Callable[[], object]) -> Iterator[None]:
    """Raise Preempted for SIGTERM.

    load: imports paddle and paddlenlp, which set and reset handlers of their own. A SIGTERM waits meanwhile.
    """

    def stop(number, frame):
        raise Preempted("stopped by SIGTERM; earlier files are unchanged")

    mask, former = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]), signal.getsignal(signal.SIGTERM)
    try:
        try:
            load()
            signal.signal(signal.SIGTERM, stop)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
