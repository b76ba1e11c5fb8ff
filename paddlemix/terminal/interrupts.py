"""Ctrl-C and SIGTERM that are not lost on their way through other code."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Preempted(BaseException):
    """A run that was asked to stop. No Exception, so that code that goes on after errors does not go on after it."""


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Note every Ctrl-C beside raising KeyboardInterrupt.

    The exception is lost where Python runs a destructor just then, and paddle makes an OSError of it in backward.
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
def kept_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt for an error that a Ctrl-C became, in paddle or in the import of it."""
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

    load: imports paddle and paddlenlp, which set and unset answers of their own; a SIGTERM meanwhile waits for its end.
    """

    def stop(number, frame):
        raise Preempted("stopped by SIGTERM; what was there before stays")

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
