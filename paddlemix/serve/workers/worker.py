"""A process with the model. `worker_process` starts it; `main` says how they talk.

The host is the object that has the model: built as `Host(options)`; `info: ModelInfo`; `submit(job, emit)`, which
returns at once and later calls `emit(event)` from its threads; `cancel(job_id)`; `stats() -> EngineStats`, which waits
for no step of the model, since the heartbeat is made of it; `close()`. paddle is imported when the host is built.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from ...accelerators import explained
from ...checkpoints.card_processes import prepare
from ...device import prepare_environment
from ..protocol import Failed
from .messages import Cancel, FromWorker, Heartbeat, NotReady, Ready, Start, Submit, frame, receive

CLOSE_SECONDS = 2.0  # for the host to end
MAX_BATCH = 256  # messages of a frame
OUT_OF_MEMORY_SCORE = "300"  # added to what Linux computes from a process's memory, at most 1,000


def main() -> None:
    """Serve the socket whose descriptor is the first argument.

    A `Start` comes first and is answered by `Ready` or `NotReady`. Then jobs come and events go. The process ends when
    the other end of the socket is closed, also by a kill of the web side.
    """
    # A signal to all processes of a service or terminal is the web side's to obey: answers that run may finish.
    _ignore_signals()
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    _offer_to_killer()
    try:
        Worker(connection, receive(connection)).run()
    except EOFError:
        os._exit(0)


class Worker:
    """Loads the model and passes jobs and events on."""

    def __init__(self, connection: socket.socket, start: Start):
        self.connection, self.start = connection, start
        self.outbox = Outbox(connection)
        self.host: Any = None

    def run(self) -> None:
        """Work until the web side closes the socket. Never returns."""
        threading.Thread(target=self._obey, name="inbox", daemon=True).start()
        try:
            self._load()
            _ignore_signals()  # again: paddle has set its own
            self._beat()
        except BaseException:
            traceback.print_exc()
        self.outbox.finish(CLOSE_SECONDS)
        os._exit(1)  # threads of the host would keep the process alive

    def _load(self) -> None:
        """Build the host and tell; an error is told and raised."""
        try:
            with explained():
                self.host = _build(self.start)
        except (ValueError, OSError) as error:
            self._give_up(str(error), is_mistake=True)
        except MemoryError:
            self._give_up("there is too little memory to load the model", is_mistake=True)
        except BaseException as error:
            traceback.print_exc()
            self._give_up(f"{type(error).__name__}: {error}", is_mistake=False)
        self.outbox.put(Ready(self.host.info))

    def _give_up(self, message: str, is_mistake: bool) -> None:
        self.outbox.put(NotReady(message, is_mistake))
        self.outbox.finish(CLOSE_SECONDS)
        os._exit(1)

    def _beat(self) -> None:
        while True:
            self.outbox.put(Heartbeat(self.host.stats()))
            time.sleep(self.start.beat_seconds)

    def _obey(self) -> None:
        """Do what the web side says, in a thread of its own, which also notices during loading that it has gone."""
        try:
            while True:
                self._do(receive(self.connection))
        except EOFError:
            self._close()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _do(self, message: Submit | Cancel) -> None:
        if isinstance(message, Cancel):
            self.host.cancel(message.job_id)
            return
        try:
            self.host.submit(message.job, self.outbox.put)
        except Exception:
            traceback.print_exc()
            text = "the server could not take this request; its log has the reason"
            self.outbox.put(Failed(message.job.id, 500, text, "server_error", code="server_error"))

    def _close(self) -> None:
        if self.host is not None:
            closing = threading.Thread(target=self.host.close, daemon=True)
            closing.start()
            closing.join(CLOSE_SECONDS)


class Outbox:
    """Sends messages of all threads in their order. Nobody waits for the socket."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.messages: queue.SimpleQueue[FromWorker | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._send, name="outbox", daemon=True)
        self.thread.start()

    def put(self, message: FromWorker) -> None:
        """Send a message soon."""
        self.messages.put(message)

    def finish(self, seconds: float) -> None:
        """Send what is left, for at most so long."""
        self.messages.put(None)
        self.thread.join(seconds)

    def _send(self) -> None:
        # If the web side has gone, the thread that receives ends the process.
        with contextlib.suppress(ConnectionError):
            is_open = True
            while is_open:
                batch = [self.messages.get()]
                while len(batch) < MAX_BATCH and not self.messages.empty():
                    batch.append(self.messages.get())
                is_open = None not in batch
                self.connection.sendall(frame([message for message in batch if message is not None]))


def _build(start: Start) -> Any:
    prepare(start.options.num_cards)
    prepare_environment(start.options.device)
    module, _, name = start.host.partition(":")
    return getattr(importlib.import_module(module), name)(start.options)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _offer_to_killer() -> None:
    """Have Linux end this process before others when memory runs out: the web side answers for it and restarts it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE, encoding="ascii")
