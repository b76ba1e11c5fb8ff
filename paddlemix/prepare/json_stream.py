"""Read a JSON text of any length: memory holds one block of the file and one value."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

BLOCK = 1 << 20  # bytes
MAX_VALUE = 1 << 28  # characters of one value; a missing quotation mark would otherwise read the whole file to memory
CUT = 16  # characters: as long as the longest escape or name that the end of a block can cut
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
# The first two bytes of files that are no JSON in UTF-8, and what they are.
FOREIGN = dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "is UTF-16: save it as UTF-8")
FOREIGN |= {b"\x1f\x8b": "is compressed by gzip: unpack it first"}


class JsonStream:
    """A JSON text that is read from its start to its end. name: of the file, for errors. num_bytes: read so far.

    All methods raise ValueError for a text that is not JSON in UTF-8; what: the part that is read, for errors.
    """

    def __init__(self, file: BinaryIO, name: str):
        self.name = self.what = name
        self.num_bytes = 0
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at = "", 0

    def peek(self) -> str:
        """Return the next character that is not white space, "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def skip(self, expected: str) -> str:
        """Pass over one of the expected characters and return it."""
        found = self.peek()
        if not found or found not in expected:
            raise self.error(f"expected {' or '.join(expected)}, found {found!r}" if found else "the file ends there")
        self._at += 1
        return found

    def value(self) -> Any:
        """Return the next value and pass over it."""
        return self._next()[0]

    def text(self) -> str:
        """Return the text of the next value and pass over it, for callers that parse it by stricter rules."""
        return self._next()[1]

    def _next(self) -> tuple[Any, str]:
        """Return the next value and its text, and pass over it."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if not self._may_be_cut(error) or not self._read_more():
                    raise self.error(_reason(error, self._text)) from None
                continue
            if len(self._text) - end <= 2 and self._text[end - 1] not in '"]}' and self._read_more():
                continue  # a number may go on, even after "e-"
            text, self._at = self._text[self._at : end], end
            return value, text

    def elements(self, name: str = "row", *, as_text: bool = False) -> Iterator[Any]:
        """Yield the elements of the list that comes next, or their texts."""
        self.skip("[")
        if self.peek() == "]":
            self.skip("]")
            return
        number, found = 0, ","
        while found == ",":
            number += 1
            self.what = f"{name} {number}"
            yield self.text() if as_text else self.value()
            found = self.skip(",]")

    def members(self) -> Iterator[str]:
        """Yield the keys of the object that comes next. The caller reads the value of each with `value`."""
        self.skip("{")
        if self.peek() == "}":
            self.skip("}")
            return
        found = ","
        while found == ",":
            self.what = "a key"
            key = self.value()
            if not isinstance(key, str):
                raise self.error(f"expected a key, found {key!r}")
            self.what = f"the value of {key[:60]!r}"
            self.skip(":")
            yield key
            found = self.skip(",}")

    def end(self) -> None:
        """Check that nothing follows."""
        self.what = "the end"
        if self.peek():
            raise self.error(f"text follows the end of the JSON value: {self._text[self._at : self._at + 20]!r}")

    def error(self, text: str) -> ValueError:
        """Return the error for what is read now."""
        return ValueError(f"{self.name}, {self.what}: {text}")

    def _may_be_cut(self, error: Exception) -> bool:
        """Return whether a value could be complete if more of the file were read."""
        if not isinstance(error, json.JSONDecodeError) or len(self._text) - self._at > MAX_VALUE:
            return False
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - CUT

    def _read_more(self) -> bool:
        """Add a block to the text that is not yet read, as long as that text; return False at the end of the file."""
        try:
            block = self._file.read(max(BLOCK, len(self._text) - self._at))
            if not self.num_bytes:
                check_start(block, self.name)
            text = self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise self.error(f"the file is not UTF-8 near byte {self.num_bytes + error.start:,}") from None
        if block:
            self.num_bytes += len(block)
            self._text, self._at = self._text[self._at :] + text, 0
        return bool(block)


def check_start(start: bytes, name: object) -> None:
    """Raise ValueError if the first bytes of a file show that it is not JSON in UTF-8. name: of the file."""
    if start[:2] in FOREIGN:
        raise ValueError(f"{name} {FOREIGN[start[:2]]}")


def _reason(error: Exception, text: str) -> str:
    if isinstance(error, RecursionError):
        return "lists or objects are nested too deeply"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    if error.msg.startswith("Unterminated") or error.pos >= len(text):
        return "the file ends there: it was cut, download it again"
    return f"not JSON: {error.msg}: {text[error.pos : error.pos + 20]!r}"
