"""`/params` of the chat: show and set how answers are sampled."""

from __future__ import annotations

import dataclasses

from ..generate.sampling import SamplingParams
from .parser import nearest

# Name in the chat -> field; the names are those of the options of `paddlemix chat`.
FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_new_tokens",
    "seed": "seed",
    "speculate": "lookup",
}
WHOLE = ("top_k", "max_new_tokens", "seed", "lookup")


def shown(sampling: SamplingParams) -> str:
    """Return the settings as `/params` takes them."""
    return " ".join(f"{name}={getattr(sampling, field)}" for name, field in FIELDS.items())


def changed(sampling: SamplingParams, text: str) -> SamplingParams:
    """Return the settings with `name=value ...` changed. Raises ValueError for one that cannot be."""
    values = {}
    for word in text.split():
        name, sign, value = word.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if name not in FIELDS:
            hint = nearest(name, FIELDS, 0.5) or f": expected one of {', '.join(FIELDS)}"
            raise ValueError(f"unknown setting {name!r}{hint}")
        if not sign:
            raise ValueError(f"{name} has no value: write {name}={getattr(sampling, FIELDS[name])}")
        values[FIELDS[name]] = _number(name, value, FIELDS[name] in WHOLE)
    try:
        return dataclasses.replace(sampling, **values)
    except ValueError as error:
        raise ValueError(str(error).replace("lookup", "speculate")) from None


def _number(name: str, text: str, is_whole: bool) -> int | float:
    try:
        return int(text) if is_whole else float(text)
    except ValueError:
        expected = "a whole number" if is_whole else "a number"
        raise ValueError(f"{name} is {text!r}: expected {expected}") from None
