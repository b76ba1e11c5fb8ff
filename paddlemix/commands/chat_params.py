"""`/params` of the chat: show and set how answers are sampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..generate.sampling import SamplingParams
from .parser import nearest


class Setting(NamedTuple):
    """A setting. field: of SamplingParams. is_whole: it takes whole numbers only. note: what a value means."""

    field: str
    is_whole: bool
    note: str


# The names are those of the options of `paddlemix chat`.
FIELDS = {
    "temperature": Setting("temperature", False, "0: the likeliest token"),
    "top_p": Setting("top_p", False, "1: all tokens"),
    "top_k": Setting("top_k", True, "0: all tokens"),
    "min_p": Setting("min_p", False, "0: all tokens"),
    "repetition_penalty": Setting("repetition_penalty", False, "1: none"),
    "max_new_tokens": Setting("max_new_tokens", True, "tokens of an answer"),
    "seed": Setting("seed", True, "of the sampling"),
    "speculate": Setting("lookup", True, "tokens guessed at a time"),
}
LENGTH = "max_new_tokens"
DEFAULT = "default"
WIDTH = 25  # of a setting with its value


def shown(sampling: SamplingParams, names: Iterable[str], context: int) -> list[str]:
    """Return settings as `/params` takes them, a line each with what may be set. context: tokens of the model's."""
    ranges = _ranges(sampling, context)
    rows = [(f"{name}={getattr(sampling, FIELDS[name].field)}", FIELDS[name]) for name in names]
    return [f"{text:<{WIDTH}} {ranges[setting.field]}; {setting.note}" for text, setting in rows]


def explained(sampling: SamplingParams, context: int) -> list[str]:
    """Return the names of the settings, a line each with what may be set. context: tokens of the model's."""
    ranges = _ranges(sampling, context)
    return [f"  {name:<{WIDTH - 3}}{ranges[setting.field]}; {setting.note}" for name, setting in FIELDS.items()]


def changed(sampling: SamplingParams, text: str, start: SamplingParams, context: int) -> SamplingParams:
    """Return the settings with `name=value ...` changed, after `default` from those of the start.

    context: tokens of the model's, which limit an answer. Raises ValueError.
    """
    word, _, rest = text.strip().partition(" ")
    if word == DEFAULT:
        sampling, text = start, rest
    values = {}
    for name, value in pairs_of(text):
        if name not in FIELDS:
            raise ValueError(
                f"unknown setting {name[:20]!r}{nearest(name, FIELDS, 0.5) or ': /help lists the settings'}"
            )
        setting = FIELDS[name]
        if not value or value in FIELDS:
            raise ValueError(f"{name} has no value: write {name}={getattr(sampling, setting.field)}")
        values[setting.field] = _number(name, value, setting.is_whole)
    if values.get(LENGTH, 0) > context:
        raise ValueError(f"{LENGTH} is {values[LENGTH]}: expected {_ranges(sampling, context)[LENGTH]}")
    try:
        return dataclasses.replace(sampling, **values)
    except ValueError as error:
        raise ValueError(str(error).replace("lookup", "speculate")) from None


def _ranges(sampling: SamplingParams, context: int) -> dict[str, str]:
    """Return what is expected of each field, in words."""
    return {**sampling.ranges, LENGTH: f"1 to {context} (the model's context)"}


def pairs_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values of `name=value`, `name = value` or `name value`; a value that is not there is ""."""
    words = iter(text.replace("=", " ").split())
    for word in words:
        yield word.lstrip("-").replace("-", "_"), next(words, "")


def _number(name: str, text: str, is_whole: bool) -> int | float:
    try:
        return int(text) if is_whole else float(text)
    except ValueError:
        expected = "a whole number" if is_whole else "a number"
        raise ValueError(f"{name} is {text!r}: expected {expected}") from None
