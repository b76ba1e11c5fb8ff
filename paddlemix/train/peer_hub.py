"""Decide why a run on several machines ends too early: hear the guard of each process, and tell all of them at once.

One process of a run has the hub, in its guard (see `peer_guard`). Messages are lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BEAT = 2.0  # seconds between signs of life
SILENCE = 30.0  # seconds without one after which a machine is gone
JOIN = 300.0  # seconds in which all processes of a run have to start
GRACE = 0.5  # seconds in which a better reason than the first one may come
STOPPING = 10.0  # the same for a process that was asked to stop: the others may be ending for the same reason
LEAVING = 30.0  # seconds for the processes to go, or still to come, when the reason is known
MAX_LINE = 1 << 22  # bytes
MAX_TEXT = 2000  # characters of another process's error
MISTAKE, DIED, FAILED, STOPPED, DIFFERS, MISSING = "mistake", "died", "failed", "stopped", "differs", "missing"
# A collective fails in the other processes because one has ended, so a death goes before an internal error, and an
# error in words, which the process has survived, before a death.
ORDER = (DIFFERS, MISTAKE, MISSING, DIED, FAILED, STOPPED)
OWN_PATHS = ("output_dir", "logging_dir")  # settings that may differ between machines
RESUME = "the same commands on all machines resume from the newest checkpoint, unless overwrite_output_dir is set"


@dataclass(frozen=True)
class Trouble:
    """What has happened to a process. has_launcher: the launcher that started it lives."""

    rank: int
    kind: str
    text: str = ""
    has_launcher: bool = True


@dataclass
class Member:
    """A process, by its guard's connection. first: the first rank of its machine. facts: must be equal in all."""

    rank: int
    first: int
    facts: Mapping[str, Any]
    writer: asyncio.StreamWriter
    is_done: bool = False


@dataclass
class Hub:
    """Hears all guards. hosts: address of each rank's machine. token: of the run; other connections are closed."""

    hosts: Sequence[str]
    token: str
    silence: float = SILENCE
    join: float = JOIN
    members: dict[int, Member] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    verdict: dict[str, Any] | None = None

    async def open(self, host: str, port: int) -> asyncio.Server:
        """Open the port that the guards connect to. Raises OSError if it is in use."""
        return await asyncio.start_server(self._hear, host, port, limit=MAX_LINE)

    async def run(self, server: asyncio.Server) -> None:
        """Serve until all processes have ended. server: of `open`."""
        begun = time.monotonic()
        try:
            while not self._is_over():
                if time.monotonic() - begun > self.join and len(self.members) < len(self.hosts) and not self.troubles:
                    self._miss()
                if self.troubles and self.verdict is None:
                    await self._judge()
                    begun = time.monotonic()
                if self.verdict is not None and time.monotonic() - begun > LEAVING:
                    return
                await self._send({"beat": 1})
                await asyncio.sleep(min(BEAT, self.silence / 4) if not self.troubles else 0.1)
        finally:
            server.close()

    def _is_over(self) -> bool:
        is_waiting = self.verdict is None or self.verdict["kind"] != MISSING
        if is_waiting and len(self.members) < len(self.hosts):
            return False
        return all(member.is_done for member in self.members.values())

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear one guard until it leaves."""
        hello = await received(reader, self.silence)
        rank = hello.get("rank")
        if hello.get("token") != self.token or rank in self.members or rank not in range(len(self.hosts)):
            writer.close()
            return
        member = self.members[rank] = Member(rank, hello["first"], hello["facts"], writer)
        self._compare(member)
        if self.verdict is not None:
            write(writer, self.verdict)  # it comes late
        while message := await received(reader, self.silence):
            if "bye" in message:
                break
            if "kind" in message:
                is_there = bool(message.get("has_launcher", True))
                self.troubles.append(Trouble(rank, message["kind"], str(message.get("text", "")), is_there))
        else:
            if all(trouble.rank != rank for trouble in self.troubles):
                self.troubles.append(Trouble(rank, DIED, has_launcher=False))
        member.is_done = True
        writer.close()

    def _compare(self, member: Member) -> None:
        """Compare a process with the one that came first."""
        one, other = sorted((next(iter(self.members.values())), member), key=lambda found: found.rank)
        text = differences(one.facts, other.facts, self.place([one.rank]), self.place([other.rank]))
        if text:
            self.troubles.append(Trouble(member.rank, DIFFERS, text))

    def _miss(self) -> None:
        missing = [rank for rank in range(len(self.hosts)) if rank not in self.members]
        self.troubles += [Trouble(rank, MISSING) for rank in missing]

    async def _judge(self) -> None:
        """Wait for the reason, and send it."""
        end = time.monotonic() + (STOPPING if self.troubles[0].kind == STOPPED else GRACE)
        while time.monotonic() < end and not self._is_over():
            if self.troubles[0].kind == STOPPED and any(trouble.kind != STOPPED for trouble in self.troubles):
                end = min(end, time.monotonic() + GRACE)
            await asyncio.sleep(0.05)
        text, ranks, kind = self.reason()
        self.verdict = {"end": text, "ranks": ranks, "kind": kind}
        await self._send(self.verdict)

    async def _send(self, message: Mapping[str, Any]) -> None:
        for member in self.members.values():
            if not member.is_done:
                write(member.writer, message)

    def reason(self) -> tuple[str, list[int], str]:
        """Return in words why the run ends, the ranks that it is about, and the kind of trouble."""
        worst = min(self.troubles, key=lambda trouble: ORDER.index(trouble.kind))
        alike = [trouble for trouble in self.troubles if trouble.kind == worst.kind]
        if worst.kind == DIFFERS:
            return worst.text, [], DIFFERS
        if worst.kind == MISSING:
            ranks = sorted({trouble.rank for trouble in alike})
            text = f"{self.place(ranks)} did not start within {self.join:.0f} seconds: look at the launcher there"
            return text, ranks, MISSING
        if worst.kind == DIED:
            return self._death(worst, alike)
        verb = "was stopped" if worst.kind == STOPPED else "has ended with an error"
        return f"{self.place([worst.rank])} {verb}: {worst.text[:MAX_TEXT]}", [worst.rank], worst.kind

    def _death(self, first: Trouble, deaths: Iterable[Trouble]) -> tuple[str, list[int], str]:
        """Say what is gone: a machine, whose launcher has ended too, or a process."""
        if first.has_launcher:
            text = f"{self.place([first.rank])} is gone: its process was killed or has crashed, see its workerlog"
            return f"{text}; {RESUME}", [first.rank], DIED
        ranks = self.ranks_beside(first.rank)
        return f"{self.node_of(first.rank)} is gone: its launcher has ended; {RESUME}", ranks, DIED

    def ranks_beside(self, rank: int) -> list[int]:
        """Return the ranks on the machine of a rank, as far as they have started."""
        first = self.members[rank].first
        return sorted(member.rank for member in self.members.values() if member.first == first)

    def place(self, ranks: Sequence[int]) -> str:
        """Return in words where ranks of one machine are: "rank 3 on node 1 (10.0.0.2)"."""
        hosts = ", ".join(dict.fromkeys(self.hosts[rank] for rank in ranks))
        if ranks[0] not in self.members:
            return f"{_ranks(ranks)} ({hosts})"
        return f"{_ranks(ranks)} on node {self._number(ranks[0])} ({hosts})"

    def node_of(self, rank: int) -> str:
        """Return a rank's machine in words: "node 1 (10.0.0.2) with ranks 2 and 3"."""
        return f"node {self._number(rank)} ({self.hosts[rank]}) with {_ranks(self.ranks_beside(rank))}"

    def _number(self, rank: int) -> int:
        firsts = sorted({member.first for member in self.members.values()})
        return firsts.index(self.members[rank].first)


def _ranks(ranks: Sequence[int]) -> str:
    *others, last = map(str, ranks)
    return f"ranks {', '.join(others)} and {last}" if others else f"rank {last}"


def differences(one: Mapping[str, Any], other: Mapping[str, Any], place: str, other_place: str) -> str:
    """Return in words what differs between the settings and the versions of two processes, "" for nothing.

    Values are compared as texts, because a flag is a text and a JSON file has numbers.
    """
    found = []
    for what, expected in (("settings", "the same JSON file and flags"), ("versions", "the same packages")):
        here, there = (facts.get(what, {}) for facts in (one, other))
        for key in sorted({*here, *there} - set(OWN_PATHS)):
            first, second = here.get(key), there.get(key)
            if _plain(first) != _plain(second):
                found.append(f"{key} is {_short(first)} for {place} and {_short(second)} for {other_place}")
        if found:
            return f"the machines have different {what}: {'; '.join(found)}; start all of them with {expected}"
    return ""


def _plain(value: Any) -> str:
    return value.lower() if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _short(value: Any) -> str:
    text = "not set" if value is None else _plain(value) if not isinstance(value, str) else value
    return text if len(text) <= 80 else f"{text[:80]}..."


async def received(reader: asyncio.StreamReader, patience: float) -> dict[str, Any]:
    """Return the next message, an empty one at the end, after patience seconds of silence, and for anything else."""
    try:
        line = await asyncio.wait_for(reader.readline(), patience)
        message = json.loads(line) if line else {}
    except (OSError, ValueError, asyncio.TimeoutError):
        return {}
    return message if isinstance(message, dict) else {}


def write(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    """Send a message; one to a connection that has ended is lost."""
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")
