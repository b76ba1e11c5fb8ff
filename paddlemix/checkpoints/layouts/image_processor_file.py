"""Where a folder describes its image processor: in which file, and what else stands there.

`preprocessor_config.json`, or the object "image_processor" in `processor_config.json`, which transformers 5 writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...foreign_json import TEXT, KeyRules, check_keys, check_values, shown, whole_number
from ...tensor_files.stored import CheckpointError, read_finite_json

FILE, PROCESSOR_FILE, NESTED = "preprocessor_config.json", "processor_config.json", "image_processor"
# What else LlavaProcessor and LlavaNextProcessor save. How many tokens an image has is the tower's to say.
PROCESSOR_RULES = KeyRules(
    used=frozenset({NESTED}),
    inert=frozenset({"processor_class", "num_additional_image_tokens", "chat_template"}),
    held={"image_token": ("<image>",)},
)
PROCESSOR_KINDS = {
    "processor_class": TEXT.or_null(),
    "num_additional_image_tokens": whole_number(0, 1 << 20).or_null(),
}


@dataclass(frozen=True)
class Found:
    """An image processor's file: where it stands, for messages, and what it states."""

    where: str
    values: Mapping[str, Any]


def find_processor(folder: Path) -> Found | None:
    """Return what describes a folder's image processor, None if nothing does.

    As in transformers 5, the object in processor_config.json comes before preprocessor_config.json.
    """
    path = folder / PROCESSOR_FILE
    nested = read_finite_json(path).get(NESTED) if path.is_file() else None
    if isinstance(nested, dict):
        return Found(f"{path}, {NESTED}", nested)
    if nested is not None:
        raise CheckpointError(f"{path}: {NESTED} is {shown(nested)}, expected an object")
    path = folder / FILE
    return Found(str(path), read_finite_json(path)) if path.is_file() else None


def unread_processor(folder: Path) -> str | None:
    """Return a sentence on a preprocessor_config.json that says other things than what is read, None if none does."""
    found, path = find_processor(folder), folder / FILE
    if found is None or found.where == str(path) or not path.is_file() or read_finite_json(path) == found.values:
        return None
    return (
        f"{FILE} is there as well and says other things than {NESTED} in {PROCESSOR_FILE}, which is what is read here "
        "and by transformers 5; transformers 4 reads the former: remove the one that does not count"
    )


def check_processor(folder: Path, patch_size: int, strategy: str) -> None:
    """Raise CheckpointError where processor_config.json states what is not known, or another tower than the model's.

    strategy: vision_feature_select_strategy. With other values transformers' processor makes more or fewer image tokens
    than its model gives features, and fails.
    """
    path = folder / PROCESSOR_FILE
    if path.is_file():
        held = {"patch_size": (patch_size, None), "vision_feature_select_strategy": (strategy, None)}
        values = read_finite_json(path)
        check_keys(values, PROCESSOR_RULES | KeyRules(held=held), str(path), CheckpointError)
        check_values(values, PROCESSOR_KINDS, str(path), CheckpointError)
