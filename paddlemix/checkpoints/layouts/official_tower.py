"""The tower of an official folder, inside it or named, and which of its layers LLaVA's own code keeps.

For some kinds of towers that code removes the layers after the features that it uses.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from ...hub.resolve import fetch_folder, find_folder
from ...models.config import VisionConfig
from ...models.vision.families import KNOWN_TOWERS, get_tower_family
from ...tensor_files.stored import CheckpointError
from .components import has_torch_weights, open_torch_weights, safetensors_names
from .folder import Folder
from .output_part import OWN_KEY, read_own_json
from .tower import is_tower, read_pixels, read_tower, shape_of

LAYER = re.compile(r"model\.vision_tower\.vision_tower\.(?:vision_model\.)?encoder\.layers\.(\d+)\..*")

NO_TOWER = "has no vision tower and needs"
GIVE_TOWER = (
    "put the tower's folder there, or in the model folder as vision_tower/, or give its path as mm_vision_tower"
)


@dataclass(frozen=True)
class TowerFacts:
    """A tower's shape, and the pixels of its images as fields of ImageSpec."""

    vision: VisionConfig
    pixels: dict


def selection(raw: dict) -> dict:
    """Return which of the tower's features are used, as fields of VisionConfig."""
    return {
        "select_layer": raw.get("mm_vision_select_layer", -2),
        "select_feature": raw.get("mm_vision_select_feature", "patch"),
        "name": read_own_json(raw)["vision_tower"] if OWN_KEY in raw else tower_name(raw),
    }


def tower_name(raw: dict) -> str:
    value = raw.get("mm_vision_tower") or raw.get("vision_tower") or ""
    return value if isinstance(value, str) else ""


def read_facts(folder: Folder, raw: dict) -> TowerFacts:
    """Describe the tower by vision_config, by its folder if it is on this machine, or by a known name."""
    name = tower_name(raw)
    found = find_folder(name, folder.path) if name else None
    place = folder.related(found) if found is not None and is_tower(folder.related(found)) else None
    own = raw.get("vision_config")
    if own is not None:
        vision = shape_of(folder, own, **selection(raw))
    elif place is None and name in KNOWN_TOWERS:
        vision = VisionConfig(**KNOWN_TOWERS[name], **selection(raw))
    else:
        place = place or fetch_tower(folder, name)
        vision = read_tower(place, **selection(raw))
    vision = as_stored(folder, vision)
    return TowerFacts(vision, read_pixels(vision, folder, place))


def fetch_tower(folder: Folder, name: str) -> Folder:
    """Return the folder of a named tower, downloaded if it is not on this machine. Raises CheckpointError."""
    if not name:
        raise CheckpointError(f"{folder}: config.json names no vision tower (mm_vision_tower): {GIVE_TOWER}")
    place = folder.related(fetch_folder(name, folder.path, what=NO_TOWER, advice=GIVE_TOWER))
    if not is_tower(place):
        raise CheckpointError(f"{folder} {NO_TOWER} {name}, but {place} has no config.json and weights: {GIVE_TOWER}")
    return place


def select_layer(vision: VisionConfig, stated: int) -> int:
    """Return the hidden state of a whole tower that the code uses. stated: mm_vision_select_layer."""
    own = get_tower_family(vision.family).own_select_layer
    return stated if own is None else own


def as_stored(folder: Folder, vision: VisionConfig) -> VisionConfig:
    """Return a tower without the layers that the code removed before it wrote the folder, if it did."""
    layer = get_tower_family(vision.family).own_select_layer
    if layer is None:
        return vision
    num_stored = _num_stored_layers(folder)
    if num_stored == _num_used(vision, vision.name):
        return dataclasses.replace(vision, num_hidden_layers=num_stored, select_layer=-1)
    return dataclasses.replace(vision, select_layer=layer)


def check_layers(vision: VisionConfig, name: str) -> None:
    """Raise CheckpointError if the code would use other features of a tower. name: on the hub, or ""."""
    layer = get_tower_family(vision.family).own_select_layer
    if layer is not None and vision.num_used_layers != _num_used(vision, name):
        raise CheckpointError(
            f"layout official cannot hold a {vision.family} tower of {vision.num_hidden_layers} layers of which "
            f"{vision.num_used_layers} are used: LLaVA-NeXT takes the hidden state {layer} of the whole tower, "
            "whatever mm_vision_select_layer says"
        )


def _num_used(vision: VisionConfig, name: str) -> int:
    """Return how many layers of the tower with this name on the hub, or else of this one, the code computes."""
    num_all = KNOWN_TOWERS.get(name, vars(vision))["num_hidden_layers"]
    return num_all + 1 + get_tower_family(vision.family).own_select_layer


def _num_stored_layers(folder: Folder) -> int:
    """Return how many layers of a tower are in a folder's weights, 0 if the tower is elsewhere."""
    names = safetensors_names(folder) or (open_torch_weights(folder) if has_torch_weights(folder) else ())
    return len({match[1] for name in names if (match := LAYER.fullmatch(name))})
