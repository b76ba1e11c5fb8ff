"""The web side's end of one worker: starts the process, sends to it, receives from it, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

from .messages import LENGTH_BYTES, FromWorker, Start, ToWorker, frame, length_in, message_in

# The modules that this process finds, and in this order; the current folder only if this process looks there as well.
CODE = "import sys; sys.path[:] = sys.argv[2:]; from paddlemix.serve.workers.worker import main; main()"
PIECE_BYTES = 1 << 20  # that are copied to the socket's buffer at a time
EXIT_SECONDS = 5.0  # to end after the socket is closed
POLL_SECONDS = 0.02


class WorkerProcess:
    """A process with a model. Its standard output and error are this process's error output."""

    def __init__(self, process: subprocess.Popen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.process, self.reader, self.writer = process, reader, writer
        self.outbox: asyncio.Queue[ToWorker] = asyncio.Queue()
        self.sending = asyncio.create_task(self._send())

    @classmethod
    async def open(cls, start: Start) -> WorkerProcess:
        """Start a process and have it load the model."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = _spawn(theirs.fileno(), start.options.num_workers * start.options.num_cards)
            worker = cls(process, *await asyncio.open_unix_connection(sock=ours))
        except BaseException:
            ours.close()  # whereupon a process that was started ends
            raise
        worker.send(start)
        return worker

    def send(self, message: ToWorker) -> None:
        """Send a message soon. To a process that has ended it is lost."""
        self.outbox.put_nowait(message)

    async def messages(self) -> AsyncIterator[FromWorker]:
        """Yield what the process sends until it closes its end."""
        try:
            while True:
                head = await self.reader.readexactly(LENGTH_BYTES)
                for message in message_in(await self.reader.readexactly(length_in(head))):
                    yield message
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    def kill(self) -> None:
        """End the process at once; `messages` ends soon after."""
        if self.process.poll() is None:
            self.process.kill()

    async def close(self) -> int:
        """Close the socket, whereupon the process ends, or is killed after a while. Return its exit status."""
        self.sending.cancel()
        self.writer.transport.abort()  # close() would first wait for a process that does not read
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()
        return await self._end()

    async def _end(self) -> int:
        try:
            for _ in range(round(EXIT_SECONDS / POLL_SECONDS)):
                if self.process.poll() is not None:
                    break
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self.kill()
        return await asyncio.to_thread(self.process.wait)

    async def _send(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                data = memoryview(frame(await self.outbox.get()))
                for first in range(0, len(data), PIECE_BYTES):
                    self.writer.write(data[first : first + PIECE_BYTES])
                    await self.writer.drain()


def ending(status: int) -> str:
    """Say how a process ended."""
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _spawn(descriptor: int, num_processes: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(descriptor), *sys.path],
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=(descriptor,),
        env={**os.environ, **_thread_variables(num_processes)},
        start_new_session=True,  # the keys of the terminal interrupt the web side only
    )


def _thread_variables(num_processes: int) -> dict[str, Any]:
    """Return variables that share the cores among processes. A lower number of threads that the user has set stays."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # As the user set it, or as `device.prepare_environment` has copied it before paddle changed it.
    wish = os.environ.get("PADDLEMIX_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS", "")
    is_lower = wish.isdecimal() and 0 < int(wish) < cores
    return {"PADDLEMIX_NUM_THREADS": wish if is_lower else str(max(cores // num_processes, 1))}
