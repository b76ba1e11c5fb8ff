"""Guard a training process of a run on several machines: end it, with one message, when another process has ended.

This is a process of its own beside each training process, which starts it (see `peers`) and speaks to it through its
standard input. A thread would not do: while a collective waits for a process that is gone, Python may not run. The
guard of the last rank has the hub, at the port that the launcher chose for this rank and that Paddle does not use.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ..terminal.log import print_error
from .peer_hub import BEAT, DIED, FAILED, JOIN, MISTAKE, RESUME, SILENCE, STOPPED, Hub, received, write

ENDED_PATIENCE = 20.0  # seconds to wait for the hub when the training process has ended
WORKER, HUB = "worker", "hub"
LOG_FOLDER, END_FILE = "PADDLE_LOG_DIR", "why_it_ended.txt"  # of the launcher; see `launch`


class Guard:
    """Watches one training process. order: what `peers` tells it."""

    def __init__(self, order: dict[str, Any], *, join: float = JOIN, silence: float = SILENCE):
        self.order = order
        self.rank, self.worker, self.launcher = order["rank"], order["worker"], order["launcher"]
        self.join, self.silence = join, silence
        self.events: asyncio.Queue[tuple[str, dict]] = asyncio.Queue()
        self.reported: str | None = None  # the kind of end that was reported

    async def run(self, words: asyncio.StreamReader) -> None:
        """Guard until the training process, or the run, has ended. words: from the training process."""
        hosts, address = self.order["hosts"], self.order["address"]
        hub = Hub(hosts, self.order["token"]) if self.rank == len(hosts) - 1 else None
        try:
            serving = None if hub is None else asyncio.create_task(hub.run(await hub.open(*address)))
        except OSError as error:
            return self._end(f"port {address[1]}, which the launcher chose, cannot be used: {error}; start again")
        watch = asyncio.create_task(self._forward(WORKER, words, None))
        link = await self._connect()
        if link is None:
            return self._end(
                f"rank {len(hosts) - 1} at {address[0]}:{address[1]} was not reached within {self.join:.0f} seconds: "
                "look at the launcher there, and at a firewall between the machines"
            )
        hearing = asyncio.create_task(self._forward(HUB, link[0], self.silence))
        beats = asyncio.create_task(self._beat(link[1]))
        await self._listen(link[1])
        for task in (beats, hearing, watch):
            task.cancel()
        link[1].close()
        if serving is not None:
            await serving

    async def _forward(self, source: str, reader: asyncio.StreamReader, patience: float | None) -> None:
        while message := await received(reader, patience):
            await self.events.put((source, message))
        await self.events.put((source, {}))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return a connection to the hub, None if there is none in time."""
        end = time.monotonic() + self.join
        while time.monotonic() < end:
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(*self.order["address"]), 5)
            except (OSError, asyncio.TimeoutError):
                if os.getppid() != self.worker:
                    end = min(end, time.monotonic() + ENDED_PATIENCE)
                await asyncio.sleep(0.3)
                continue
            write(writer, {key: self.order[key] for key in ("rank", "first", "token", "facts")})
            return reader, writer
        return None

    async def _beat(self, writer: asyncio.StreamWriter) -> None:
        """Send signs of life, and a report when the launcher has ended without its processes."""
        while True:
            write(writer, {"beat": 1})
            if self.reported is None and not is_alive(self.launcher):
                self._report(writer, DIED, "", has_launcher=False)
            await asyncio.sleep(min(BEAT, self.silence / 4))

    def _report(self, writer: asyncio.StreamWriter, kind: str, text: str, **more: Any) -> None:
        self.reported = kind
        write(writer, {"kind": kind, "text": text, **more})

    async def _listen(self, writer: asyncio.StreamWriter) -> None:
        """Report how the training process ends, and end it if the hub says so."""
        while True:
            try:
                source, message = await asyncio.wait_for(self.events.get(), None if not self.reported else 30)
            except asyncio.TimeoutError:
                return
            if source == WORKER and "bye" in message:
                write(writer, message)
                await writer.drain()
                return
            if source == WORKER and message:
                self._report(writer, message["kind"], message["text"])
            elif source == WORKER and self.reported is None:
                await asyncio.sleep(0.1)  # a machine that stops ends launcher and processes one after the other
                self._report(writer, DIED, "", has_launcher=is_alive(self.launcher))
            elif source == HUB and "end" in message:
                return self._obey(message)
            elif source == HUB and not message:
                return self._end(f"the machine of rank {len(self.order['hosts']) - 1} is gone; {RESUME}")

    def _obey(self, verdict: dict[str, Any]) -> None:
        is_own = self.rank in verdict["ranks"] and verdict["kind"] in (FAILED, MISTAKE, STOPPED)
        self._end(verdict["end"], is_told=is_own or self.reported in (MISTAKE, STOPPED))

    def _end(self, text: str, *, is_told: bool = False) -> None:
        """Say why the run ends, and end the training process, unless it has told its own reason.

        The launcher prints the reason once more at its end (see `launch`), also that of its own process.
        """
        folder = os.environ.get(LOG_FOLDER)
        if folder:
            with contextlib.suppress(OSError):
                Path(folder, END_FILE).write_text(text, encoding="utf-8")
        if is_told:
            return
        print_error(ValueError(text))
        sys.stderr.flush()
        if os.getppid() == self.worker:
            os.kill(self.worker, signal.SIGKILL)


def is_alive(process: int) -> bool:
    """Return whether a process runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it is another user's
    return True


async def guard() -> None:
    """Guard the process that has started this one; its first line is the order."""
    words = asyncio.StreamReader(limit=1 << 22)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
    order = await received(words, None)
    if order:
        await Guard(order).run(words)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the training process, whose end is what counts
    asyncio.run(guard())
