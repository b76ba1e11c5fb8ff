"""How the package talks beside its results: short lines on standard error."""

from __future__ import annotations

import logging
import sys

from .visible import visible

_LOGGER = logging.getLogger("paddlemix")


def notice(text: str) -> None:
    """Tell the user something that is no error. Goes to standard error, or to a handler that was put on the logger."""
    text = visible(text)
    if not _LOGGER.handlers and not logging.getLogger().handlers:
        print(f"paddlemix: {text}", file=sys.stderr, flush=True)
        return
    _LOGGER.warning(text)
