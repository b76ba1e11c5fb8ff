"""Reads a command line into raw values. Imports neither paddle nor paddlenlp, because the values name the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..json_object import read_object

LAST = "true"  # of resume_from_checkpoint: the last one in output_dir


class FlagText(str):
    """A value typed on the command line: text that still has to be turned into its field's type."""


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
            raise ValueError(f"{word!r} is no flag: expected [config.json] --key value ...")
        key, has_value, text = word[2:].partition("=")
        found = [text] if has_value else []
        while words and not has_value and not words[0].startswith("--"):
            found.append(words.pop(0))
        key = key.replace("-", "_")
        values[key] = FlagText(found[0]) if len(found) == 1 else [FlagText(item) for item in found] or True
    return values


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError naming the file and the place."""
    if not path.is_file():
        raise ValueError(f"configuration file {path} does not exist (looked for {path.resolve()})")
    return read_object(path, ValueError)
