"""Limit the time of an exchange with a web server, whatever the server does. Knows no HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")


def in_thread(call: Callable[[], Result]) -> Future[Result]:
    """Start a call in a thread that may hang for ever: it does not keep the process alive."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised again by `future.result()`
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class ExchangeClock:
    """Ends the connections of an exchange at `deadline` (of time.monotonic()).

    The timeout of a socket counts from the last byte, so a server that sends one byte now and then is never late: in
    the status line, the headers, a TLS handshake or the sizes of chunks. Here a thread shuts the connections down. The
    reader sees the end of the connection, and `has_run_out` says that the server did not end it.
    """

    def __init__(self, deadline: float):
        self.deadline = deadline
        self.has_run_out = False
        self._is_over = False
        self._changed = threading.Condition(threading.RLock())
        self._copies: list[socket.socket] = []  # of the connections, because TLS detaches a socket's own descriptor

    def __enter__(self) -> ExchangeClock:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()
            for copy in self._copies:
                copy.close()

    @property
    def seconds_left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)

    def restart(self, seconds: float) -> None:
        """Move the deadline to the given number of seconds from now."""
        with self._changed:
            is_earlier = seconds < self.seconds_left
            self.deadline = time.monotonic() + seconds
            if is_earlier:  # otherwise the watching thread notices when it wakes
                self._changed.notify()

    def connect(self, connect: Callable[[], socket.socket]) -> socket.socket:
        """Open a connection in a thread, because a name server may hang, and watch it. Raises TimeoutError."""
        future = in_thread(connect)
        if not wait([future], self.seconds_left).done:
            self._run_out()
            raise TimeoutError("no connection in time")
        connection = future.result()
        with self._changed:
            self._copies.append(socket.fromfd(connection.fileno(), connection.family, connection.type))
            if self.has_run_out:
                self._shut_down()
        return connection

    def _watch(self) -> None:
        with self._changed:
            while not self._is_over and self.seconds_left:
                self._changed.wait(self.seconds_left)
            if not self._is_over:
                self._run_out()

    def _run_out(self) -> None:
        with self._changed:
            self.has_run_out = True
            self._shut_down()

    def _shut_down(self) -> None:
        for copy in self._copies:
            with contextlib.suppress(OSError):  # closed already, by the server or at the end of the exchange
                copy.shutdown(socket.SHUT_RDWR)
