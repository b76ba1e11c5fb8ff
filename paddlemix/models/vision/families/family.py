"""A kind of vision tower as data: config keys, weight names and image preprocessing."""

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
# Two sizes of ViT (Dosovitskiy et al. 2021).
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
ATTENTION = tuple(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out"))  # our names, and those of most files
# Keys with the only supported value; then keys of a text model or a head.
FIXED = {"num_channels": (3,)}
INERT = (
    *("dropout", "num_image_tokens", "projection_dim", "projector_hidden_act", "tie_word_embeddings"),
    *("vision_use_head", "vocab_size"),
)


@dataclass(frozen=True)
class TowerFamily:
    """A kind of vision tower.

    model_type, architecture: transformers' names of a tower alone; whole_model_type: of a tower with its text model.
    options: fields of VisionConfig that are equal in all towers of this kind. defaults: transformers' values for absent
    keys. constants: further keys that are written to config.json. parts, linears, norms, layers: our names, with those
    of transformers and PaddleMIX; names of linears and norms are relative to a layer. unused: prefixes of the tower's
    tensors that LLaVA does not read. image_processor: transformers' class; mean, std, has_crop: its preprocessing, as
    fields of ImageSpec. known: name on the hub -> keys of SHAPE that differ from the defaults. hub_owners: LLaVA's own
    code takes names with these prefixes for this kind. own_folder: a name that this code recognizes the kind by.
    own_select_layer: the hidden state that LLaVA's own code selects in spite of mm_vision_select_layer, or None if it
    follows that key. Its files then lack the later layers.
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
        """Return the fields of VisionConfig for keys of transformers' config."""
        values = {**self.defaults, **stated}
        return {"family": self.name, **self.options, **{name: values[name] for name in SHAPE}}

    def read(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same for a file of another tool. Raises ValueError for unknown keys and for wrong values."""
        used = frozenset([*SHAPE, "model_type"])
        constants = frozenset([*self.constants, *INERT]) - FIXED.keys()
        check_keys(stated, GENERIC | KeyRules(used, constants, FIXED), f"the {self.title} tower")
        check_values(stated, GENERIC_KINDS | {name: VISION[name] for name in SHAPE}, f"the {self.title} tower")
        return self.fields(stated)

    def write(self, vision: VisionConfig) -> dict[str, Any]:
        """Return transformers' config. Raises ValueError for a tower of another kind."""
        for name, value in self.options.items():
            if getattr(vision, name) != value:
                raise ValueError(f"a {self.title} tower has {name} {value}, found {getattr(vision, name)}")
        return {"model_type": self.model_type, **self.constants, **{name: getattr(vision, name) for name in SHAPE}}

    @property
    def pixels(self) -> dict[str, Any]:
        """Return the fields of ImageSpec for the tower."""
        return {"mean": self.mean, "std": self.std, "has_crop": self.has_crop}
