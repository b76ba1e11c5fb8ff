"""How the package talks beside its results: short lines on standard error."""

from __future__ import annotations

import logging
import sys

from .visible import visible

MAX_LENGTH = 8000  # characters of an error
_LOGGER = logging.getLogger("paddlemix")


def complain(error: BaseException) -> None:
    """Say what ended a command, in one line on standard error."""
    text = str(error)
    text = text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}... ({len(text)} characters)"
    print(f"error: {visible(text)}", file=sys.stderr)


def notice(text: str) -> None:
    """Tell the user something that is no error. Goes to standard error, or to a handler that was put on the logger."""
    text = visible(text)
    if not _LOGGER.handlers and not logging.getLogger().handlers:
        print(f"paddlemix: {text}", file=sys.stderr, flush=True)
        return
    _LOGGER.warning(text)
