"""What a layout hands to the writer: one folder's weights and side files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...models.config import LlavaConfig
from .. import fused
from ..files import CheckpointError, StoredTensor
from ..rules import KeyTable
from ..transforms import transposed

FILE_FORMATS = ("safetensors", "pdparams", "torch_bin")
# A key of our own in other layouts' config.json, for what they have no place for.
OWN_KEY = "paddlemix"


@dataclass(frozen=True)
class Part:
    """Weights that lie together in one folder, under the layout's own names, with the JSON files beside them.

    folder: "" for the result itself, else a folder in it such as "visual_encoder". file_format: one of FILE_FORMATS.
    weights: the weight file's name without its ending, which shards number and the index repeats.
    tensors: their names and orientation, all lazy; a part may hold none. json_files: file name (or path below the
    folder) -> what it holds. metadata_format: "pt" or "np", which readers of safetensors ask for.
    """

    folder: str
    file_format: str
    weights: str
    tensors: dict[str, StoredTensor]
    json_files: dict[str, dict] = field(default_factory=dict)
    metadata_format: str = "pt"

    def __post_init__(self):
        assert self.file_format in FILE_FORMATS, self.file_format


def renamed(table: KeyTable, tensors: Mapping[str, StoredTensor], layout: str) -> dict[str, StoredTensor]:
    """Return tensors under their names and in their orientation. Raises CheckpointError for one that has no place."""
    found = {}
    for name, tensor in tensors.items():
        target = table.to_theirs(name)
        if target is None:
            raise CheckpointError(f"layout {layout} has no place for the tensor {name}")
        found[target[0]] = transposed(tensor) if target[1] else tensor
    return fused.join(found)


def own_json(config: LlavaConfig) -> dict:
    """Return what OWN_KEY holds: the template's name and the vision tower's."""
    return {"template": config.template, "vision_tower": config.vision.name}


def read_own_json(raw: dict) -> dict:
    """Return what `own_json` wrote, or empty texts for a folder that another tool wrote."""
    values = raw.get(OWN_KEY)
    values = values if isinstance(values, dict) else {}
    return {"template": values.get("template") or "", "vision_tower": values.get("vision_tower") or ""}
