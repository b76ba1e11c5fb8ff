"""What tells one kind of vision tower from another outside the tower: keys, names and pictures, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....foreign_json import KeyRules, check_keys, check_values
from ...config import VisionConfig
from ...config_kinds import VISION
from ...language.families.generic_keys import GENERIC, GENERIC_KINDS

# Keys that mean the same in transformers' config of every tower and in VisionConfig.
SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "layer_norm_eps",
    "hidden_act",
)

# What the towers of all kinds cannot have otherwise, and what belongs to a text model or a head beside them.
HELD = {"num_channels": (3,)}
INERT = (
    *("dropout", "num_image_tokens", "projection_dim", "projector_hidden_act", "tie_word_embeddings"),
    *("vision_use_head", "vocab_size"),
)


@dataclass(frozen=True)
class TowerFamily:
    """A kind of vision tower.

    model_type, architecture: transformers', of a tower alone; whole_model_type: of one with its text model.
    options: the fields of VisionConfig that all of the kind share. defaults: transformers' values for absent keys.
    constants: what config.json says beside them. parts, linears, norms, layers: our names, transformers' and
    PaddleMIX's, those of linears and norms below one of the layers. unused: tensors below the tower's prefix that LLaVA
    does not read. image_processor: transformers' class; mean, std, has_crop: its pictures, as fields of ImageSpec.
    known: name on the hub -> keys of SHAPE that differ from the defaults. hub_owners: names that begin so are of this
    kind wherever LLaVA's own code meets them. own_folder: a name by which that code knows the kind.
    own_select_layer: the hidden state that LLaVA's own code takes whatever mm_vision_select_layer says, None where it
    does as it is told; the layers behind it are then not in its files.
    """

    name: str
    title: str
    model_type: str
    whole_model_type: str
    architecture: str
    options: Mapping[str, Any]
    defaults: Mapping[str, Any]
    constants: Mapping[str, Any]
    parts: tuple[tuple[str, str, str], ...]
    linears: tuple[tuple[str, str, str], ...]
    norms: tuple[tuple[str, str, str], ...]
    layers: tuple[str, str]
    unused: tuple[str, ...]
    image_processor: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    has_crop: bool
    known: Mapping[str, Mapping[str, Any]]
    hub_owners: tuple[str, ...]
    own_folder: str
    own_select_layer: int | None = None

    def fields(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of VisionConfig that transformers' config tells."""
        values = {**self.defaults, **stated}
        return {"family": self.name, **self.options, **{name: values[name] for name in SHAPE}}

    def read(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same for a foreign file. Raises ValueError for keys that nobody knows and for wrong values."""
        used = frozenset([*SHAPE, "model_type"])
        constants = frozenset([*self.constants, *INERT]) - HELD.keys()
        check_keys(stated, GENERIC | KeyRules(used, constants, HELD), f"the {self.title} tower")
        check_values(stated, GENERIC_KINDS | {name: VISION[name] for name in SHAPE}, f"the {self.title} tower")
        return self.fields(stated)

    def write(self, vision: VisionConfig) -> dict[str, Any]:
        """Return transformers' config. Raises ValueError for a tower that is not of this kind."""
        for name, value in self.options.items():
            if getattr(vision, name) != value:
                raise ValueError(f"a {self.title} tower has {name} {value}, found {getattr(vision, name)}")
        return {"model_type": self.model_type, **self.constants, **{name: getattr(vision, name) for name in SHAPE}}

    @property
    def pixels(self) -> dict[str, Any]:
        """Return the fields of ImageSpec that go with the tower."""
        return {"mean": self.mean, "std": self.std, "has_crop": self.has_crop}
