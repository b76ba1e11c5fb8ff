"""Make rows and configurations that are nearly valid: one to three random changes to a good one, from a seed."""

from __future__ import annotations

import copy
import enum
import json
import math
import typing
from typing import Any

import numpy as np

ESCAPES = "\x1b]0;title\x07\u202e"
ODD_TEXTS = (
    *("", " ", "x", "\x00", "\ud800", ESCAPES, "é" * 300, "x" * 5000, "~nosuchuser/x.png", "../../x", "a\x00b.png"),
    *("http://[::1", "http://user@:99999/a.png", "file:///etc/hostname", "s3://bucket/a.png", "http:///x"),
    *("data:image/png;base64,AAAA", "data:,%41", "data:", "<image>", "<image>\n<image>", "</s>", "USER:", "nan"),
)
ODD_NUMBERS = (0, -1, 1, 2, 3, 7, 0.5, -0.0, 1e-30, 1e30, 1e300, math.nan, math.inf, -math.inf, 2**31, 2**63, 10**40)
ODD_OTHERS = (None, True, False, [], {}, [1], ["x"], {"a": 1}, [[]], [None], [{}], {"": {}}, [[[[[[[[]]]]]]]])
WORDS = ("no", "yes", "epoch", "steps", "true", "O3", "fp16", "linear", "gpu:7", "1e-3", "0x10", "all", "skip", "x")
ROW_KEYS = tuple("image images conversations messages role from value content system weight tools".split())
ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
MAX_CHANGES = 3
SAME_TYPE = 0.6  # share of the changes that keep a value's type
DEEP, LONG = 30_000, 5000  # nesting of lists; digits of a number
MAX_STEPS = 3  # upper limit of a mutated max_steps
MAX_WORKERS = 8  # upper limit of a mutated dataloader_num_workers


def good_rows(images: list[str]) -> list[dict]:
    """Return a good row of each format, with and without images."""
    first, second = images[:2]
    turns = [["What is this?", "It is a red square."], ["How many shapes?", "There are two shapes."]]
    said = [("human", f"<image>\n{turns[0][0]}"), ("gpt", turns[0][1]), ("human", turns[1][0]), ("gpt", turns[1][1])]
    parts = [{"type": "image", "image": first}, {"type": "text", "text": turns[0][0]}]
    asked = [{"role": "user", "content": parts}, {"role": "assistant", "content": turns[0][1]}]
    plain = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turns[1], strict=True)]
    return [
        {"id": "llava", "image": first, "conversations": [{"from": who, "value": text} for who, text in said]},
        {"id": 7, "image": [first, second], "conversations": [["<image>\n<image>\nCompare.", "Both are red."]]},
        {"id": "text", "conversations": turns},
        {"messages": asked},
        {"messages": [{"role": "system", "content": "Be brief."}, *plain]},
        {"conversation": [{"input": turns[0][0], "output": turns[0][1]}], "image": second},
        {"query": turns[1][0], "response": turns[1][1], "history": turns, "images": [first]},
        {"instruction": "Name the color.", "input": "A red square.", "output": "Red."},
    ]


def mutated_row(row: dict, generator: np.random.Generator) -> dict:
    """Return a copy of a row with one to three changes; it is still a JSON object."""
    row = copy.deepcopy(row)
    for _ in range(int(generator.integers(1, MAX_CHANGES + 1))):
        change_one(row, generator, ODD_TEXTS, ROW_KEYS)
    return row


def damaged_text(text: str, generator: np.random.Generator) -> bytes:
    """Damage the text of a row as no JSON writer would; the result is one non-empty line."""
    data = text.encode("utf-8", "surrogatepass")
    place = int(generator.integers(1, len(data)))
    ways = (
        lambda: data[:place],
        lambda: data[:place] + data[place + 1 :],
        lambda: data[:place] + bytes([int(generator.integers(256))]) + data[place + 1 :],
        lambda: data[:place] + b"\xff\xfe" + data[place:],
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data[:-1] + b', "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        lambda: data[:-1] + b', "x": ' + b"9" * LONG + b"}",
        lambda: data[:-1] + b', "id": 1, "id": 2}',
        lambda: data[:-1] + b', "x": NaN}',
        lambda: data + data,
    )
    return ways[int(generator.integers(len(ways)))]().translate(ONE_LINE)


def change_one(value: Any, generator: np.random.Generator, texts: tuple, keys: tuple) -> None:
    """Make one change anywhere in a JSON value, in place."""
    places = list(places_in(value))
    if not places:
        return
    container, key = places[int(generator.integers(len(places)))]
    way = int(generator.integers(8))
    if way < 4:
        container[key] = odd_value(generator, texts, like=container[key])
    elif way == 4:
        del container[key]
    elif way == 5:
        container[key] = [container[key]] if generator.random() < 0.5 else {"value": container[key]}
    elif isinstance(container, dict):
        other = keys[int(generator.integers(len(keys)))]
        container[other] = container.pop(key) if way == 6 else odd_value(generator, texts)
    else:
        container.insert(key, copy.deepcopy(container[int(generator.integers(len(container)))]))


def places_in(value: Any):
    """Yield each container within a JSON value, with each of its keys or indexes."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from places_in(item)


def odd_value(generator: np.random.Generator, texts: tuple, like: Any = None) -> Any:
    """Draw a value that is rarely valid, mostly of the type of `like`."""
    pools = {"text": texts, "number": ODD_NUMBERS, "other": ODD_OTHERS}
    kind = str(generator.choice(list(pools), p=(0.45, 0.35, 0.2)))
    if like is not None and generator.random() < SAME_TYPE:
        kind = "text" if isinstance(like, str) else "number" if isinstance(like, (int, float)) else "other"
    return copy.deepcopy(pools[kind][int(generator.integers(len(pools[kind])))])


def fitting_value(hint: Any, generator: np.random.Generator) -> Any:
    """Draw an odd value of a setting's type, so that it is not refused for its type."""
    options = [option for option in typing.get_args(hint) or (hint,) if option is not type(None)]
    option = options[int(generator.integers(len(options)))]
    kind = typing.get_origin(option) or option
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        pool: tuple = tuple(item.value for item in kind)
    elif kind is bool:
        pool = (True, False)
    elif kind is int:
        pool = tuple(number for number in ODD_NUMBERS if math.isfinite(number) and number == int(number))
    elif kind is float:
        pool = ODD_NUMBERS
    elif kind is str:
        pool = (*ODD_TEXTS, *WORDS)
    else:
        pool = tuple(value for value in ODD_OTHERS if isinstance(value, kind))
    return copy.deepcopy(pool[int(generator.integers(len(pool)))])


def mutated_settings(values: dict, hints: dict[str, Any], generator: np.random.Generator) -> dict:
    """Return a configuration with one to three changes, but without long runs or many processes.

    hints: the types of the keys that a configuration may have.
    """
    values, keys = copy.deepcopy(values), list(hints)
    for _ in range(int(generator.integers(1, MAX_CHANGES + 1))):
        way = generator.random()
        if way < 0.6:
            key = keys[int(generator.integers(len(keys)))]
            values[key] = fitting_value(hints[key], generator)
        elif way < 0.7:
            values[keys[int(generator.integers(len(keys)))]] = odd_value(generator, (*ODD_TEXTS, *WORDS))
        elif way < 0.73:
            key = keys[int(generator.integers(len(keys)))]
            values[key[:-1] + "x"] = odd_value(generator, WORDS)
        else:
            change_one(values, generator, (*ODD_TEXTS, *WORDS), tuple(keys))
    for key, most in (("max_steps", MAX_STEPS), ("dataloader_num_workers", MAX_WORKERS)):
        if _is_above(values.get(key), most):
            values[key] = most
    return values


def _is_above(value: Any, most: int) -> bool:
    """Return whether a value, read as a number like on a command line, is finite and above a limit."""
    try:
        return most < float(value) < math.inf
    except (TypeError, ValueError, OverflowError):
        return isinstance(value, int)


def as_flags(values: dict) -> list[str]:
    """Return a configuration as flags; values that are not text are written as JSON."""
    words = []
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        words.append(f"--{key}={text}".replace("\x00", " ").encode("utf-8", "replace").decode())
    return words
