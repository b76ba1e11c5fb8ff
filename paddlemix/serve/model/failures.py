"""Failures that no client caused: the log gets all, the client nothing of the inside."""

from __future__ import annotations

import traceback

from ...terminal.log import notice

SERVER_ERROR = "this answer failed inside the server, whose log says why"


def report(error: BaseException, what: str) -> None:
    """Print what failed with its traceback on standard error."""
    notice(f"{what}: {''.join(traceback.format_exception(error)).rstrip()}")
