"""The kinds of vision towers, one file each. To add one, add a file and list it in TOWER_FAMILIES."""

from __future__ import annotations

from .clip import CLIP as CLIP
from .family import TowerFamily as TowerFamily
from .siglip import SIGLIP as SIGLIP

TOWER_FAMILIES = {family.name: family for family in (CLIP, SIGLIP)}
# Name on the hub -> fields of VisionConfig.
KNOWN_TOWERS = {
    name: family.fields(shape) for family in TOWER_FAMILIES.values() for name, shape in family.known.items()
}


def get_tower_family(name: str) -> TowerFamily:
    """Return the family of a VisionConfig. Raises ValueError with the known names."""
    if name not in TOWER_FAMILIES:
        raise ValueError(f"vision tower of family {name!r}, expected one of {', '.join(TOWER_FAMILIES)}")
    return TOWER_FAMILIES[name]


def by_tower_type(model_type: str) -> TowerFamily:
    """Return the family whose towers in transformers have this model_type. Raises ValueError with the known types."""
    for family in TOWER_FAMILIES.values():
        if model_type == family.model_type:
            return family
    known = ", ".join(family.model_type for family in TOWER_FAMILIES.values())
    raise ValueError(f"vision tower of type {model_type!r}, expected one of {known}")
