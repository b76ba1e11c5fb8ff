"""Processes that gloo connects on CPUs are started again where it refuses a connection, as it does now and then."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

REFUSALS = ("could not connect to each other (gloo", "/gloo/")  # in our error, and in that of the library
NUM_TRIES = 3
Result = TypeVar("Result")


class NotConnectedError(Exception):
    """Gloo refused a connection."""


def check_connected(*texts: str) -> None:
    """Raise NotConnectedError if processes printed that gloo refused a connection."""
    for text in texts:
        if any(words in text for words in REFUSALS):
            raise NotConnectedError(text[-3000:])


def connected(attempt: Callable[[int], Result], logs: Path | None = None) -> Result:
    """Return what an attempt returns, given its number; it is repeated where it raises NotConnectedError.

    logs: a folder to remove before it is repeated, as Paddle's launcher appends to its files.
    """
    for number in range(NUM_TRIES - 1):
        try:
            return attempt(number)
        except NotConnectedError:
            if logs is not None:
                shutil.rmtree(logs)
    return attempt(NUM_TRIES - 1)
