"""The weights and JSON files of one folder that a layout writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...foreign_json import FLAG, OBJECT, TEXT, KeyRules, check_keys, check_values, whole_number
from ...models.config import LlavaConfig
from ...models.config_kinds import MAX_LAYERS, MAX_VOCABULARY
from ...tensor_files.shards import FileFormat
from ...tensor_files.stored import CheckpointError, StoredTensor
from ...tensor_files.transforms import transposed
from .fused_weights import joined
from .rules import KeyTable

# This project's key in the config.json of other layouts, for facts that they have no place for.
OWN_KEY = "paddlemix"
OWN_KINDS = {
    **dict.fromkeys(("template", "vision_tower", "image_aspect_ratio", "projector_type"), TEXT.or_null()),
    "select_layer": whole_number(-MAX_LAYERS, MAX_LAYERS).or_null(),
    "language": OBJECT.or_null(),
    **dict.fromkeys(("has_rounded_sizes", "has_image_marks"), FLAG.or_null()),
    "vocab_size": whole_number(1, MAX_VOCABULARY).or_null(),
}


@dataclass(frozen=True)
class Part:
    """Weights of one folder under the layout's own names, with the JSON files beside them.

    folder: "" for the result itself, else a folder in it such as "visual_encoder". weights: the name of the weight file
    without its suffix, to which shards add numbers. tensors: in the layout's orientation, all lazy; a part may have
    none. json_files: file name (or path below the folder) -> content. notes: sentences for the report of a conversion.
    """

    folder: str
    file_format: FileFormat
    weights: str
    tensors: dict[str, StoredTensor]
    json_files: dict[str, dict] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def renamed(table: KeyTable, tensors: Mapping[str, StoredTensor], layout: str) -> dict[str, StoredTensor]:
    """Return tensors under the layout's names and in its orientation. Raises CheckpointError for an unknown name."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        target = table.to_theirs(name)
        rule = table.fused_with(name) if target is None else None
        if target is not None:
            found[target[0]] = transposed(tensor) if target[1] else tensor
        elif rule is None:
            raise CheckpointError(f"layout {layout} has no place for the tensor {name}")
        elif rule.theirs not in found:  # once, at the first of its parts
            found[rule.theirs] = joined(rule, tensors)
    return found


def own_json(config: LlavaConfig, written: LlavaConfig | None = None) -> dict:
    """Return the value of OWN_KEY: the names of the template and of the vision tower.

    written: the model as the layout's code runs it, if it differs. The decoder's own facts are recorded then.
    """
    values = {"template": config.template, "vision_tower": config.vision.name}
    if written is None or written.language == config.language:
        return values
    ours, theirs = vars(config.language), vars(written.language)
    return {**values, "language": {name: value for name, value in ours.items() if value != theirs[name]}}


def read_own_json(raw: dict) -> dict:
    """Return the values that `own_json` wrote, empty ones for a folder of another tool."""
    values = raw.get(OWN_KEY) or {}
    check_values({OWN_KEY: values}, {OWN_KEY: OBJECT}, "config.json", CheckpointError)
    where = f"{OWN_KEY} in config.json"
    check_keys(values, KeyRules(frozenset(OWN_KINDS)), where, CheckpointError)
    check_values(values, OWN_KINDS, where, CheckpointError)
    return {
        "template": values.get("template") or "",
        "vision_tower": values.get("vision_tower") or "",
        "language": values.get("language") or {},
        "has_rounded_sizes": values.get("has_rounded_sizes") is not False,
        "has_image_marks": bool(values.get("has_image_marks")),
    }
