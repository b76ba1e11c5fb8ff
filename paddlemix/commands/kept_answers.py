"""Answering many questions: what a Ctrl-C or a SIGTERM leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from ..terminal.interrupts import Preempted, raised_terminations
from ..terminal.log import notice


@contextmanager
def kept_answers() -> Iterator[None]:
    """Raise Preempted for SIGTERM while a model answers, and say for it and a Ctrl-C that the answers are kept."""
    try:
        with raised_terminations(lambda: import_module("paddlemix.generate.engine")):
            yield
    except (KeyboardInterrupt, Preempted):
        notice("the answers so far are kept: the same command goes on from there")
        raise
