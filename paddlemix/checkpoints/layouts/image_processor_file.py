"""The file in which a folder describes its image processor.

`preprocessor_config.json`, or the object "image_processor" in `processor_config.json`, which transformers 5 writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...foreign_json import TEXT, KeyRules, check_keys, check_values, shown, whole_number
from ...tensor_files.stored import CheckpointError
from .folder import Folder

FILE, PROCESSOR_FILE, NESTED = "preprocessor_config.json", "processor_config.json", "image_processor"
# The other keys of LlavaProcessor and LlavaNextProcessor. The number of tokens of an image follows from the tower.
PROCESSOR_RULES = KeyRules(
    used=frozenset({NESTED}),
    inert=frozenset({"processor_class", "num_additional_image_tokens", "chat_template"}),
    fixed={"image_token": ("<image>",)},
)
PROCESSOR_KINDS = {
    "processor_class": TEXT.or_null(),
    "num_additional_image_tokens": whole_number(0, 1 << 20).or_null(),
}


@dataclass(frozen=True)
class Found:
    """The description of an image processor. where: the file, for messages."""

    where: str
    values: Mapping[str, Any]


def find_processor(folder: Folder) -> Found | None:
    """Return the description of a folder's image processor, None if there is none.

    As in transformers 5, the object in processor_config.json comes before preprocessor_config.json.
    """
    nested = folder.finite_json(PROCESSOR_FILE).get(NESTED) if folder.has_any(PROCESSOR_FILE) else None
    if isinstance(nested, dict):
        return Found(f"{folder / PROCESSOR_FILE}, {NESTED}", nested)
    if nested is not None:
        raise CheckpointError(f"{folder / PROCESSOR_FILE}: {NESTED} is {shown(nested)}, expected an object")
    return Found(str(folder / FILE), folder.finite_json(FILE)) if folder.has_any(FILE) else None


def unread_processor(folder: Folder) -> str | None:
    """Return a sentence on a preprocessor_config.json that is not read and differs from what is read, else None."""
    found = find_processor(folder)
    if found is None or found.where == str(folder / FILE) or not folder.has_any(FILE):
        return None
    if folder.finite_json(FILE) == found.values:
        return None
    return (
        f"{FILE} differs from {NESTED} in {PROCESSOR_FILE}. The latter is read here and by transformers 5, the former "
        "by transformers 4: remove the wrong one"
    )


def check_processor(folder: Folder, patch_size: int, strategy: str) -> None:
    """Raise CheckpointError if processor_config.json has unknown keys, or values of another tower than the model's.

    strategy: vision_feature_select_strategy. With other values transformers' processor makes more or fewer image tokens
    than its model has features, and fails.
    """
    if folder.has_any(PROCESSOR_FILE):
        path = str(folder / PROCESSOR_FILE)
        held = {"patch_size": (patch_size, None), "vision_feature_select_strategy": (strategy, None)}
        values = folder.finite_json(PROCESSOR_FILE)
        check_keys(values, PROCESSOR_RULES | KeyRules(fixed=held), path, CheckpointError)
        check_values(values, PROCESSOR_KINDS, path, CheckpointError)
