"""End a server at SIGTERM or Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` once, in a thread of its own, at SIGTERM or the first Ctrl-C. The next raises KeyboardInterrupt."""
    is_stopping = threading.Event()

    def note(number, frame):
        if is_stopping.is_set():
            raise KeyboardInterrupt
        is_stopping.set()
        threading.Thread(target=stop, daemon=True).start()

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
