"""Raw rows, what is made of them, and why one is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..constants import IMAGE_MARK

NOT_UNICODE = ("half of a surrogate pair", "a text has half of a surrogate pair: it is not Unicode")
MAX_SHOWN = 60  # characters of a value in a message


class Placed(NamedTuple):
    """A raw row. where: its file and number. value: a Problem if it cannot be read. share: of the input, 0 to 1."""

    where: str
    value: Any
    share: float = 0.0


@dataclass(frozen=True)
class Problem:
    """Why a row is dropped. reason: a few words by which the summary counts. text: about this row. where: set later."""

    reason: str
    text: str = ""
    where: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.text or self.reason)))


@dataclass(frozen=True)
class Note:
    """A remark that the summary counts, while the row is kept."""

    text: str


Made = dict[str, Any] | Problem | Note


class RowError(ValueError):
    """Ends the conversion of a row; becomes a Problem."""

    def __init__(self, reason: str, text: str = ""):
        super().__init__(text or reason)
        self.problem = Problem(reason, text)


def llava_row(name: str, image: str, question: str, answer: str) -> dict[str, Any]:
    """Return a row of one question about one image. Raises RowError for an empty answer, an image mark in a text, and
    text that is not Unicode.
    """
    if not answer.strip():
        raise RowError("no answer", f"the answer to {shown(question)} is empty")
    if IMAGE_MARK in question or IMAGE_MARK in answer:
        raise RowError(f"{IMAGE_MARK} in a text", f"{shown(question)}: a mark stands for an image, and there is one")
    try:
        f"{name}{image}{question}{answer}".encode()
    except UnicodeEncodeError:
        raise RowError(*NOT_UNICODE) from None
    turns = [{"from": "human", "value": f"{IMAGE_MARK}\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": image, "conversations": turns}


def object_of(value: Any) -> Mapping[str, Any]:
    """Return a row that must be a JSON object."""
    if not isinstance(value, dict):
        raise RowError("not an object", f"the row is {shown(value)}, expected an object")
    return value


def value_of(row: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key. Raises RowError without the key, or for null."""
    if row.get(key) is None:
        raise RowError(f"no {key}", f"the row has no {key!r}")
    return row[key]


def text_of(row: Mapping[str, Any], key: str) -> str:
    """Return a text that is not blank, or a number as text. Raises RowError for anything else."""
    value = row.get(key)
    if isinstance(value, str):
        if not value.strip():
            raise RowError(f"no {key}", f"{key!r} is empty")
        return value
    if not is_number(value_of(row, key)):
        raise RowError(f"{key} is not a text", f"{key!r} is {shown(value)}, expected a text")
    return str(value)


def texts_of(row: Mapping[str, Any], key: str) -> list[str]:
    """Return a list of texts, numbers as texts. It may be empty. Raises RowError for anything else."""
    value = value_of(row, key)
    if not isinstance(value, list) or not all(isinstance(one, str) or is_number(one) for one in value):
        raise RowError(f"{key} is not a list of texts", f"{key!r} is {shown(value)}, expected a list of texts")
    return [str(one) for one in value]


def file_name_of(row: Mapping[str, Any], key: str) -> str:
    """Return a relative path that stays in its folder, with "/" between its parts. Raises RowError for any other."""
    value = text_of(row, key)
    parts = value.split("/")
    if "\\" in value or "\0" in value or ".." in parts or "." in parts or "" in parts or ":" in parts[0]:
        raise RowError("an unsafe file name", f"{key!r} is {shown(value)}, expected a path inside the image folder")
    return value


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    if isinstance(value, Mapping):
        return f"an object with the keys {', '.join(map(str, list(value)[:5]))[:MAX_SHOWN]}"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
