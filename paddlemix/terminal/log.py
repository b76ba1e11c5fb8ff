"""User notices on standard error."""

from __future__ import annotations

import logging
import sys

from .visible import visible

MAX_LENGTH = 8000  # characters of an error
_LOGGER = logging.getLogger("paddlemix")


def print_error(error: BaseException) -> None:
    """Print the error that ended a command on standard error."""
    text = str(error)
    text = text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}... ({len(text)} characters)"
    print(f"error: {visible(text)}", file=sys.stderr)


def notice(text: str) -> None:
    """Print a notice for the user on standard error, or pass it to the handlers of the logger if there are any."""
    text = visible(text)
    if not _LOGGER.handlers and not logging.getLogger().handlers:
        print(f"paddlemix: {text}", file=sys.stderr, flush=True)
        return
    _LOGGER.warning(text)
