"""Raw values from a configuration file or a command line, and their conversion to types. Needs no paddle."""

from __future__ import annotations

import enum
import json
import types
import typing
from pathlib import Path
from typing import Any

from ..device import device_name
from ..json_object import read_object
from ..terminal.near_paths import did_you_mean
from .foreign_configs import config_hint

LAST = "true"  # value of resume_from_checkpoint that means the last checkpoint in output_dir
# Types of settings in words: one value, and several.
IN_WORDS = {
    bool: ("true or false", "values true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    list: ("a list", "lists"),
    dict: ("an object", "objects"),
}


class FlagText(str):
    """A value typed on the command line, to be converted to its field's type."""


def read_values(argv: list[str]) -> dict[str, Any]:
    """Return the values of `[config.json] [--key value ...]`; flags override the file.

    A flag is `--key value`, `--key=value`, `--key` alone for true, or `--key a b c` for a list.
    Raises ValueError for a missing or broken file and for words that belong to no flag.
    """
    words = list(argv)
    values: dict[str, Any] = {}
    if words and not words[0].startswith("--"):
        values.update(read_config(Path(words.pop(0))))
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"{word!r} is not a flag: expected [config.json] --key value ...")
        key, has_value, text = word[2:].partition("=")
        found = [text] if has_value else []
        while words and not has_value and not words[0].startswith("--"):
            found.append(words.pop(0))
        key = key.replace("-", "_")
        values[key] = FlagText(found[0]) if len(found) == 1 else [FlagText(item) for item in found] or True
    if isinstance(device := values.get("device"), str) and device:  # the settings reject other types
        values["device"] = type(device)(device_name(device))
    return values


def config_folder(argv: list[str]) -> Path | None:
    """Return the folder of the configuration file in a command line for `read_values`, None if it has none."""
    return None if argv[0].startswith("--") else Path(argv[0]).resolve().parent


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError that names the file and the position of a mistake."""
    if not path.is_file():
        hint = config_hint(str(path)) or did_you_mean(path)
        raise ValueError(f"configuration file {path} does not exist (looked for {path.resolve()}){hint}")
    return read_object(path, ValueError)


def convert(key: str, value: Any, hint: Any) -> Any:
    """Convert a value to the type of its field. Raises ValueError that names key, value and type."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if is_union else (hint,)
    if value is None and type(None) in options:
        return None
    options = [option for option in options if option is not type(None)]
    if isinstance(value, FlagText) and any(_kind(option) in (list, dict) for option in options):
        value = _read_json_text(key, value)
    for option in options:
        try:
            return _as(option, value)
        except (TypeError, ValueError, OverflowError):
            continue
    raise ValueError(f"{key} is {value!r}: expected {' or '.join(_describe(option) for option in options)}")


def plain(value: Any) -> Any:
    """Return a value as JSON has it: that of an enum."""
    return value.value if isinstance(value, enum.Enum) else value


def is_typed_in(value: Any) -> bool:
    """Return whether a raw value comes from the command line, as text."""
    return any(isinstance(one, FlagText) for one in (value if isinstance(value, list) else [value]))


def _read_json_text(key: str, text: FlagText) -> Any:
    """Parse a flag's text as JSON if it begins like a list or an object; else return the text."""
    if text[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{key} is {text!r}, which is not valid JSON: {error}") from None


def _kind(option) -> type:
    return typing.get_origin(option) or option


def _describe(option) -> str:
    """Return in words what a type takes."""
    kind = _kind(option)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(item.value for item in kind)
    if kind not in IN_WORDS:
        return str(getattr(option, "__name__", option)).replace("typing.", "")
    one, _ = IN_WORDS[kind]
    items = [_kind(item) for item in typing.get_args(option) if kind is list]
    return f"{one} of {IN_WORDS[items[0]][1]}" if items and items[0] in IN_WORDS else one


def _as(option, value):
    """Return a value as a type. Raises TypeError, ValueError or OverflowError if it cannot be one."""
    kind = _kind(option)
    if kind is list:
        return _as_list(typing.get_args(option), value)
    if kind is bool:
        return value if isinstance(value, bool) else _as_bool(str(value))
    if kind in (int, float):
        return _as_number(kind, value)
    if kind in (dict, str) and not isinstance(value, kind):
        raise TypeError(f"not a {kind.__name__}")
    return kind(value)


def _as_list(item_types: tuple, value) -> list:
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)):
        raise TypeError("not a list")
    if item_types:
        return [_as(item_types[0], item) for item in value]
    return [str(item) if isinstance(item, FlagText) else item for item in value]


def _as_bool(word: str) -> bool:
    if word.lower() not in ("true", "1", "false", "0"):
        raise ValueError("not a boolean")
    return word.lower() in ("true", "1")


def _as_number(kind: type, value) -> int | float:
    if isinstance(value, bool):
        raise TypeError("not a number")
    if kind is int and isinstance(value, int):
        return value  # a float would round it
    number = float(value)
    if kind is int and number != int(number):
        raise ValueError("not a whole number")
    return kind(number)
