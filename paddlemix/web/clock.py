"""The time that an exchange with a web server may take, whatever the server does in it. Knows no HTTP."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable


class ExchangeClock:
    """Ends the connections of an exchange at `deadline` (of time.monotonic()).

    The timeout of a socket counts from the last byte that came, so that a server which sends one now and then is never
    late: in the status line, the headers, a TLS handshake or the sizes of chunks. Here a thread shuts the connections
    down, which whoever reads sees as their end; that this was not the server's doing says `has_run_out`.
    """

    def __init__(self, deadline: float):
        self.deadline = deadline
        self.has_run_out = False
        self._is_over = False
        self._changed = threading.Condition(threading.RLock())
        self._copies: list[socket.socket] = []  # of the connections: TLS takes a socket's own descriptor away

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
        """Move the deadline to so many seconds from now."""
        with self._changed:
            is_earlier = seconds < self.seconds_left
            self.deadline = time.monotonic() + seconds
            if is_earlier:  # else the watching thread finds it out when it wakes
                self._changed.notify()

    def connect(self, connect: Callable[[], socket.socket]) -> socket.socket:
        """Open a connection in a thread, which may hang at a name server, and watch it. Raises TimeoutError."""
        outcome: queue.SimpleQueue = queue.SimpleQueue()

        def run() -> None:
            try:
                outcome.put((connect(), None))
            except Exception as error:  # raised again below
                outcome.put((None, error))

        threading.Thread(target=run, daemon=True).start()
        try:
            connection, error = outcome.get(timeout=self.seconds_left)
        except queue.Empty:
            self._run_out()
            raise TimeoutError("no connection in time") from None
        if error is not None:
            raise error
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
            with contextlib.suppress(OSError):  # closed already, by the other side or at the end of the exchange
                copy.shutdown(socket.SHUT_RDWR)
