"""What the web side and a worker send each other, as frames of a socket: the length in 8 bytes, then a pickle.

Both ends are processes of one server with a socket pair of their own, so that nothing of others is unpickled.
"""

from __future__ import annotations

import pickle
import socket
from dataclasses import dataclass
from typing import Any

from ..protocol import EngineStats, Job, JobEvent, ModelInfo
from ..settings import ModelOptions

LENGTH_BYTES = 8


@dataclass(frozen=True)
class Start:
    """Load a model. host: "module:class", built with the options; see `worker`. beat_seconds: between heartbeats."""

    host: str
    options: ModelOptions
    beat_seconds: float


@dataclass(frozen=True)
class Submit:
    """Answer a job."""

    job: Job


@dataclass(frozen=True)
class Cancel:
    """Forget a job."""

    job_id: str


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""

    info: ModelInfo


@dataclass(frozen=True)
class NotReady:
    """The model cannot be loaded. is_mistake: a user can cause it, so that the message explains it."""

    message: str
    is_mistake: bool


@dataclass(frozen=True)
class Heartbeat:
    """The worker lives."""

    stats: EngineStats


ToWorker = Start | Submit | Cancel
FromWorker = Ready | NotReady | Heartbeat | JobEvent  # a frame has a list of them


def frame(message: Any) -> bytes:
    """Return a message as it is sent."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(LENGTH_BYTES, "little") + data


def length_in(head: bytes) -> int:
    """Return how many bytes follow the first ones of a frame."""
    return int.from_bytes(head, "little")


def message_in(data: bytes | bytearray) -> Any:
    """Return the message of a frame without its length."""
    return pickle.loads(data)


def receive(connection: socket.socket) -> Any:
    """Wait for a message. Raises EOFError when the other end is closed."""
    return message_in(_read(connection, length_in(_read(connection, LENGTH_BYTES))))


def _read(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        try:
            count = connection.recv_into(view)
        except ConnectionError:
            count = 0
        if not count:
            raise EOFError
        view = view[count:]
    return data
