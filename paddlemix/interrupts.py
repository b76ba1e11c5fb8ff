"""Ctrl-C that is not lost on its way through other code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


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
    """Raise KeyboardInterrupt for an OSError or RuntimeError that a Ctrl-C became."""
    with noted_interrupts() as seen:
        try:
            yield
        except (OSError, RuntimeError) as error:
            if seen:
                raise KeyboardInterrupt from error
            raise
