"""A reader of Python's pickle format for files of arrays and tensors. It builds containers and runs no code.

Python's own unpickler is not safe for files of unknown origin, even with a list of allowed names: it sets attributes of
allowed classes, hashes and prints objects that may be made to take forever, and reads every array into memory. This one
has only the opcodes that files of arrays need, calls only functions of a given table, and does not read byte strings
but returns their places in the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from .stored import CheckpointError

MAX_TEXT = 4096  # longer text is the bytes of an array in pickle protocol 2
MAX_STEPS = 2_000_000  # opcodes: a few seconds of reading, 20 times as many as for the state of a 7B model
# Other opcodes of Python, which tensors do not need: text forms, classes, extensions, sets, buffers.
OTHER_STEPS = frozenset(bytes([code]) for code in b"FILPSTUVgpio\x82\x83\x84\x8b\x8f\x90\x91\x92\x96\x97\x98")
KEYS = (str, int, float, type(None))  # not tuples: a malicious file can make their hash take forever


class ForbiddenPickle(CheckpointError):
    """A complete pickle that needs more than arrays, containers and plain values."""


@dataclass(frozen=True)
class Span:
    """Bytes in the file. is_text: they are UTF-8 text in which each character is one byte."""

    offset: int
    length: int
    is_text: bool = False


class Buildable:
    """An object that a pickle creates first and fills later, by `set_state`."""

    def set_state(self, state: Any) -> None:
        raise NotImplementedError


class PickleReader:
    """Reads consecutive pickles from a file that is open for bytes. The file stays at the end of the last one.

    known: (module, name) -> a function that may be called, or any other value.
    persistent: returns the object of a persistent id. max_steps: how many opcodes a pickle may have.
    """

    def __init__(
        self,
        file: BinaryIO,
        known: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
        max_steps: int = MAX_STEPS,
    ):
        self._file, self._known, self._persistent, self._max_steps = file, known, persistent, max_steps
        position = file.tell()
        self._size = file.seek(0, os.SEEK_END)
        file.seek(position)

    def load(self) -> Any:
        """Return the object in one pickle. Raises CheckpointError if it is damaged or uses a name outside the table."""
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        try:
            for _ in range(self._max_steps):
                if (code := self._take(1)) == b".":
                    return self._stack.pop()
                if code not in STEPS:
                    raise (ForbiddenPickle if code in OTHER_STEPS else CheckpointError)(
                        f"pickle opcode {code!r} at byte {self._file.tell() - 1} is not one of tensors"
                    )
                STEPS[code](self)
            raise ForbiddenPickle(f"the pickle has more than {self._max_steps} steps, too many for tensors")
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            place = self._file.tell()
            raise CheckpointError(f"the pickle is damaged before byte {place} ({type(error).__name__})") from None

    def _take(self, length: int) -> bytes:
        if length > self._size - self._file.tell():
            raise CheckpointError(f"the pickle is cut off at byte {self._size}")
        return self._file.read(length)

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self, count: int) -> list[Any]:
        if count > len(self._stack):
            raise IndexError
        values = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return values

    def _pop_mark(self) -> list[Any]:
        return self._pop(len(self._stack) - self._marks.pop())

    def _protocol(self) -> None:
        if self._number("<B") > 4:
            raise ForbiddenPickle("it is a pickle of protocol 5 or later, expected one of 2 to 4")

    def _line(self) -> str:
        line = self._file.readline(MAX_TEXT)
        if not line.endswith(b"\n"):
            raise CheckpointError("the pickle is cut off in a name")
        return line[:-1].decode("utf-8")

    def _text(self, layout: str) -> None:
        length = self._number(layout)
        if length > MAX_TEXT:
            self._leave(length, is_text=True)
        else:
            self._push(self._take(length).decode("utf-8", "surrogatepass"))

    def _leave(self, length: int, is_text: bool = False) -> None:
        offset = self._file.tell()
        if length > self._size - offset:
            raise CheckpointError(
                f"it is cut off: {length} bytes of an array begin at {offset}, it ends at {self._size}"
            )
        self._file.seek(length, os.SEEK_CUR)
        self._push(Span(offset, length, is_text))

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise TypeError
        self._stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise TypeError
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, KEYS):
                raise CheckpointError(f"it holds a dict with a {type(key).__name__} as key, expected a name")
            target[key] = value

    def _push_dict(self, items: list[Any]) -> None:
        self._push({})
        self._update(items)

    def _remember(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _find(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError
        if (module, name) not in self._known:
            raise ForbiddenPickle(f"it refers to {module}.{name}, but only tensors, arrays and containers are read")
        self._push(self._known[module, name])

    def _call(self) -> None:
        function, arguments = self._pop(2)
        if not callable(function) or type(arguments) is not tuple:
            raise TypeError
        self._push(function(*arguments))

    def _build(self) -> None:
        state = self._pop(1)[0]
        target = self._stack[-1]
        if isinstance(target, Buildable):
            target.set_state(state)
        elif type(target) is not dict:  # an OrderedDict's attributes (torch puts `_metadata` there) are left out
            raise TypeError

    def _make_persistent(self) -> None:
        if self._persistent is None:
            raise ForbiddenPickle("it refers to objects outside of the file")
        self._push(self._persistent(*self._pop(1)))


def new_dict(*arguments: Any) -> dict:
    """Replace OrderedDict by dict."""
    if arguments:
        raise CheckpointError("it holds an OrderedDict that is built in an unknown way")
    return {}


def as_tuple(items: Any = ()) -> tuple:
    """Replace tuple and torch.Size."""
    if not isinstance(items, (tuple, list)):
        raise CheckpointError(f"it makes a tuple of a {type(items).__name__}")
    return tuple(items)


STEPS: dict[bytes, Callable[[PickleReader], None]] = {
    b"\x80": PickleReader._protocol,
    b"\x95": lambda self: self._number("<Q"),  # a frame, which is only for reading ahead
    b"(": lambda self: self._marks.append(len(self._stack)),
    b"0": lambda self: self._pop(1),
    b"1": lambda self: self._pop_mark(),
    b"2": lambda self: self._push(self._stack[-1]),
    b"N": lambda self: self._push(None),
    b"\x88": lambda self: self._push(True),
    b"\x89": lambda self: self._push(False),
    b"J": lambda self: self._push(self._number("<i")),
    b"K": lambda self: self._push(self._number("<B")),
    b"M": lambda self: self._push(self._number("<H")),
    b"\x8a": lambda self: self._push(int.from_bytes(self._take(self._number("<B")), "little", signed=True)),
    b"G": lambda self: self._push(self._number(">d")),
    b"X": lambda self: self._text("<I"),
    b"\x8c": lambda self: self._text("<B"),
    b"\x8d": lambda self: self._text("<Q"),
    b"B": lambda self: self._leave(self._number("<I")),
    b"C": lambda self: self._leave(self._number("<B")),
    b"\x8e": lambda self: self._leave(self._number("<Q")),
    b"]": lambda self: self._push([]),
    b"l": lambda self: self._push(self._pop_mark()),
    b"a": lambda self: self._extend(self._pop(1)),
    b"e": lambda self: self._extend(self._pop_mark()),
    b"}": lambda self: self._push({}),
    b"d": lambda self: self._push_dict(self._pop_mark()),
    b"s": lambda self: self._update(self._pop(2)),
    b"u": lambda self: self._update(self._pop_mark()),
    b")": lambda self: self._push(()),
    b"t": lambda self: self._push(tuple(self._pop_mark())),
    b"\x85": lambda self: self._push(tuple(self._pop(1))),
    b"\x86": lambda self: self._push(tuple(self._pop(2))),
    b"\x87": lambda self: self._push(tuple(self._pop(3))),
    b"h": lambda self: self._push(self._memo[self._number("<B")]),
    b"j": lambda self: self._push(self._memo[self._number("<I")]),
    b"q": lambda self: self._remember(self._number("<B")),
    b"r": lambda self: self._remember(self._number("<I")),
    b"\x94": lambda self: self._remember(len(self._memo)),
    b"c": lambda self: self._find(self._line(), self._line()),
    b"\x93": lambda self: self._find(*self._pop(2)),
    b"R": PickleReader._call,
    b"\x81": PickleReader._call,  # NEWOBJ: functions of the table replace classes, too
    b"b": PickleReader._build,
    b"Q": PickleReader._make_persistent,
}


def text_opcode(text: str) -> bytes:
    """Return the pickle of a text, without beginning and end."""
    content = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(content)) + content


def integer_opcode(number: int) -> bytes:
    """Return the pickle of a number of at most 64 bits, without beginning and end."""
    return b"J" + struct.pack("<i", number) if number < 1 << 31 else b"\x8a\x08" + struct.pack("<q", number)


def plain_opcode(value: float | bool | str | None) -> bytes:
    """Return the pickle of a plain value, without beginning and end."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return integer_opcode(value)
    return b"G" + struct.pack(">d", value) if isinstance(value, float) else text_opcode(value)
