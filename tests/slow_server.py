"""A server on this machine that answers each connection with endless blocks of bytes."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator


def drip(start: bytes, block: bytes) -> Iterator[bytes]:
    """Yield a start at once, then a block now and then for longer than any test waits."""
    yield start
    for _ in range(1000):
        time.sleep(0.02)
        yield block


def flood(start: bytes, block: bytes) -> Iterator[bytes]:
    """Yield a start, then blocks as fast as they are read."""
    yield start
    yield from itertools.repeat(block)


@contextlib.contextmanager
def running(answers: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """Yield "host:port" of a server; `answers` makes the blocks of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, answers), daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, answers: Callable[[], Iterator[bytes]]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # the test is over
            return
        threading.Thread(target=_answer, args=(connection, answers()), daemon=True).start()


def _answer(connection: socket.socket, blocks: Iterator[bytes]) -> None:
    with connection, contextlib.suppress(OSError):
        for block in blocks:
            connection.sendall(block)
