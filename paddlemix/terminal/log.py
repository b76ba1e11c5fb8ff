"""User notices on standard error."""

from __future__ import annotations

import logging
import sys

from .visible import visible

MAX_LENGTH = 8000  # characters of an error
# NOTE: `import paddle` gives the root logger a handler with this format (paddle/distributed/utils/log_utils.py), which
# would print the notices of a program that has set up no logging with the time and a line of this file.
PADDLE_FORMAT = "[%(asctime)-15s] [%(levelname)8s] %(filename)s:%(lineno)s - %(message)s"
_LOGGER = logging.getLogger("paddlemix")


def print_error(error: BaseException) -> None:
    """Print the error that ended a command on standard error."""
    text = str(error)
    text = text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}... ({len(text)} characters)"
    print(f"error: {visible(text)}", file=sys.stderr)


def notice(text: str) -> None:
    """Print a notice for the user on standard error, or pass it to the handlers that a program has set up, if any."""
    _pass_on(text, is_progress=False)


def progress(text: str) -> None:
    """Print a notice of what takes time now. A report that collects notices leaves it out, by its `is_progress`."""
    _pass_on(text, is_progress=True)


def _pass_on(text: str, *, is_progress: bool) -> None:
    text = visible(text)
    if not _LOGGER.handlers and all(map(_is_paddles, logging.getLogger().handlers)):
        print(f"paddlemix: {text}", file=sys.stderr, flush=True)
        return
    _LOGGER.warning(text, extra={"is_progress": is_progress})


def _is_paddles(handler: logging.Handler) -> bool:
    return handler.formatter is not None and handler.formatter._fmt == PADDLE_FORMAT
