"""A language model or a vision tower in a folder of its own: its configuration, and its tensors under our names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..models.config import LanguageConfig, VisionConfig
from ..models.language.families import get_family
from .layouts import decoder, tower
from .layouts.components import decoder_rules, is_unused_by_llava, open_torch_weights, tower_rules
from .layouts.names import decoder_name, tower_name
from .layouts.rules import KeyTable
from .layouts.shapes import language_shapes, vision_shapes
from .translation import Naming, Translation, translate

COMPUTED = "rotary_emb.inv_freq"


def read_language_folder(folder: Path) -> tuple[LanguageConfig, dict, Translation]:
    """Return a decoder's config, what config.json says, and its tensors, not checked. Raises CheckpointError."""
    config, raw = decoder.read_decoder(folder)
    table = KeyTable(decoder_rules(config, f"{get_family(config.family).weights.body}.", "", is_torch=True))
    naming = Naming(table, decoder_name, _is_computed, language_shapes(config), config.tie_word_embeddings)
    return config, raw, translate(naming, open_torch_weights(folder))


def read_tower_folder(folder: Path, select_layer: int, select_feature: str) -> tuple[VisionConfig, Translation]:
    """Return a tower's config, with which features are taken of it, and its tensors, not checked.

    Raises CheckpointError.
    """
    config = tower.read_tower(folder, select_layer=select_layer, select_feature=select_feature)
    table = KeyTable(tower_rules(config, tower.PREFIX, is_torch=True))
    naming = Naming(table, tower_name, partial(is_unused_by_llava, config, tower.PREFIX), vision_shapes(config))
    return config, translate(naming, tower.open_tower(folder))


def _is_computed(name: str) -> bool:
    return name.endswith(COMPUTED)
