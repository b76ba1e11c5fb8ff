"""Which layers of a tower LLaVA's own code keeps: of some kinds it removes those behind the features that it takes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from ...models.config import VisionConfig
from ...models.vision.families import KNOWN_TOWERS, get_tower_family
from ..files import CheckpointError
from .components import has_torch_weights, open_torch_weights, safetensors_names

LAYER = re.compile(r"model\.vision_tower\.vision_tower\.(?:vision_model\.)?encoder\.layers\.(\d+)\..*")


def select_layer(vision: VisionConfig, stated: int) -> int:
    """Return the hidden state that the code takes of a whole tower, for mm_vision_select_layer (stated)."""
    own = get_tower_family(vision.family).own_select_layer
    return stated if own is None else own


def as_stored(folder: Path, vision: VisionConfig) -> VisionConfig:
    """Return a tower without the layers that the code removed before it wrote a folder, if it did."""
    layer = get_tower_family(vision.family).own_select_layer
    if layer is None:
        return vision
    num_stored = _num_stored_layers(folder)
    if num_stored == _num_used(vision, vision.name):
        return dataclasses.replace(vision, num_hidden_layers=num_stored, select_layer=-1)
    return dataclasses.replace(vision, select_layer=layer)


def check_layers(vision: VisionConfig, name: str) -> None:
    """Raise CheckpointError for a tower of which the code would take other features. name: on the hub, or ""."""
    layer = get_tower_family(vision.family).own_select_layer
    if layer is not None and vision.num_used_layers != _num_used(vision, name):
        raise CheckpointError(
            f"layout official cannot hold a {vision.family} tower of {vision.num_hidden_layers} layers of which "
            f"{vision.num_used_layers} are used: LLaVA-NeXT takes the hidden state {layer} of the whole tower, "
            "whatever mm_vision_select_layer says"
        )


def _num_used(vision: VisionConfig, name: str) -> int:
    """Return how many layers the code computes of the tower with this name on the hub, else of this tower."""
    num_all = KNOWN_TOWERS.get(name, vars(vision))["num_hidden_layers"]
    return num_all + 1 + get_tower_family(vision.family).own_select_layer


def _num_stored_layers(folder: Path) -> int:
    """Return how many layers of a tower lie in a folder's weights, 0 where the tower is elsewhere."""
    names = safetensors_names(folder) or (open_torch_weights(folder) if has_torch_weights(folder) else ())
    return len({match[1] for name in names if (match := LAYER.fullmatch(name))})
