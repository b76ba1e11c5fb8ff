"""What a layout hands to the writer: one folder's weights and side files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...foreign_json import FLAG, OBJECT, TEXT, KeyRules, check_keys, check_values, whole_number
from ...models.config import LlavaConfig
from ...models.config_kinds import MAX_LAYERS, MAX_VOCABULARY
from ...tensor_files.stored import CheckpointError, StoredTensor
from ...tensor_files.transforms import transposed
from .fused_weights import joined
from .rules import KeyTable

FILE_FORMATS = ("safetensors", "pdparams", "torch_bin")
# A key of our own in other layouts' config.json, for what they have no place for.
OWN_KEY = "paddlemix"
OWN_KINDS = {
    **dict.fromkeys(("template", "vision_tower", "image_aspect_ratio", "projector_type"), TEXT.or_null()),
    "select_layer": whole_number(-MAX_LAYERS, MAX_LAYERS).or_null(),
    "language": OBJECT.or_null(),
    "has_rounded_sizes": FLAG.or_null(),
    "vocab_size": whole_number(1, MAX_VOCABULARY).or_null(),
}


@dataclass(frozen=True)
class Part:
    """Weights that lie together in one folder, under the layout's own names, with the JSON files beside them.

    folder: "" for the result itself, else a folder in it such as "visual_encoder". file_format: one of FILE_FORMATS.
    weights: the weight file's name without its ending, which shards number and the index repeats.
    tensors: their names and orientation, all lazy; a part may hold none. json_files: file name (or path below the
    folder) -> what it holds. metadata_format: "pt" or "np", which readers of safetensors ask for. notes: sentences for
    the report of a conversion.
    """

    folder: str
    file_format: str
    weights: str
    tensors: dict[str, StoredTensor]
    json_files: dict[str, dict] = field(default_factory=dict)
    metadata_format: str = "pt"
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        assert self.file_format in FILE_FORMATS, self.file_format


def renamed(table: KeyTable, tensors: Mapping[str, StoredTensor], layout: str) -> dict[str, StoredTensor]:
    """Return tensors under their names and in their orientation. Raises CheckpointError for one that has no place."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        target = table.to_theirs(name)
        rule = table.fused_with(name) if target is None else None
        if target is not None:
            found[target[0]] = transposed(tensor) if target[1] else tensor
        elif rule is None:
            raise CheckpointError(f"layout {layout} has no place for the tensor {name}")
        elif rule.theirs not in found:  # with the first of its parts
            found[rule.theirs] = joined(rule, tensors)
    return found


def own_json(config: LlavaConfig, written: LlavaConfig | None = None) -> dict:
    """Return what OWN_KEY holds: the template's name and the vision tower's.

    written: the model as the layout's code runs it, if that is another; the decoder's own facts are kept then.
    """
    values = {"template": config.template, "vision_tower": config.vision.name}
    if written is None or written.language == config.language:
        return values
    ours, theirs = vars(config.language), vars(written.language)
    return {**values, "language": {name: value for name, value in ours.items() if value != theirs[name]}}


def read_own_json(raw: dict) -> dict:
    """Return what `own_json` wrote, or empty texts and facts for a folder that another tool wrote."""
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
    }
