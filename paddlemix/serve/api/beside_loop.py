"""Run what takes long in a thread, so that the event loop sends the answers of others meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

LARGE = 128 << 10  # bytes or characters of an input; smaller ones take less than starting in a thread costs others
Result = TypeVar("Result")


async def beside_loop(size: int, call: Callable[[], Result]) -> Result:
    """Return what a call returns. size: of its input, which decides whether it gets a thread."""
    return call() if size < LARGE else await asyncio.to_thread(call)
