"""A progress bar with the time left, rows, and rows a second. Only a terminal shows it."""

from __future__ import annotations

import sys
import time

from ..terminal.sizes import plural

SECONDS = 0.2  # between two looks at the bar
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Progress:
    """Shows how much of an input is read."""

    def __init__(self, title: str):
        self._title, self._bar = title, None
        self._start = self._next = time.monotonic()
        self._last = (0, 0.0)

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=1.0, desc=self._title, bar_format=FORMAT, mininterval=0, file=sys.stderr)
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._refresh(*self._last)
            self._bar.close()

    def show(self, num_rows: int, share: float) -> None:
        """Show the number of rows read and the share of the input, 0 to 1."""
        if self._bar is None:
            return
        self._last = (num_rows, share)
        if time.monotonic() >= self._next:
            self._refresh(num_rows, share)

    def _refresh(self, num_rows: int, share: float) -> None:
        now = time.monotonic()
        self._next = now + SECONDS
        speed = num_rows / max(now - self._start, 1e-3)
        self._bar.set_postfix_str(f"{plural(num_rows, 'row')}, {speed:,.0f} rows/s", refresh=False)
        self._bar.n = min(1.0, share)
        self._bar.refresh()
