"""Which answers are trained, by the marks that turns carry."""

from __future__ import annotations

from typing import Any

from .errors import UnsupportedKeyError
from .fields import show
from .keys import TRAINED_KEYS


def is_trained(turn: dict, role: str, owner: str) -> bool:
    """Tell whether a turn is trained: an answer is unless its "loss", "train" or "weight" is false or 0.

    Raises UnsupportedKeyError for other weights and for questions that are to be trained, ValueError for what is no
    mark and for marks that contradict each other.
    """
    if turn.keys().isdisjoint(TRAINED_KEYS):
        return True
    marks = {key: _mark(turn[key], f"{owner}: {key!r}") for key in TRAINED_KEYS if turn.get(key) is not None}
    if len(set(marks.values())) > 1:
        raise ValueError(f"{owner}: {' and '.join(map(repr, marks))} contradict each other: expected one of them")
    if role != "assistant":
        if any(marks.values()):
            raise UnsupportedKeyError(f"{owner}: {next(iter(marks))!r} trains a turn of {role!r}: only answers can be")
        return True
    return all(marks.values())


def check_row(row: dict) -> None:
    """Raise for a mark of the whole row, unless it says what is done anyway."""
    for key in TRAINED_KEYS:
        if row.get(key) is not None and not _mark(row[key], f"the row: {key!r}"):
            found = f"the row has {key!r}, {show(row[key])}"
            raise UnsupportedKeyError(f"{found}: leave it out of the file, or mark its answers instead")


def _mark(value: Any, owner: str) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):  # as xtuner takes them
        return value.lower() == "true"
    if isinstance(value, (bool, int, float)):
        if value in (0, 1):
            return bool(value)
        raise UnsupportedKeyError(f"{owner} is {show(value)}: a turn counts fully or not at all, 1 or 0")
    raise ValueError(f"{owner} must be true or false, found {show(value)}")
