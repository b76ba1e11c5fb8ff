"""A vision tower alone or with its text model, as transformers or PaddleNLP writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from ...foreign_json import KeyRules, check_keys
from ...models.config import LlavaConfig, VisionConfig
from ...models.language.families.generic_keys import GENERIC
from ...models.vision.families import KNOWN_TOWERS, TOWER_FAMILIES, TowerFamily, get_tower_family
from ...tensor_files.shards import SAFETENSORS
from ...tensor_files.stored import CheckpointError, StoredTensor
from .components import (
    PDPARAMS_FILES,
    has_torch_weights,
    has_weights,
    is_unused_by_llava,
    open_first,
    open_torch_weights,
    tower_rules,
)
from .config_keys import read_config_json
from .folder import Folder
from .foreign_quantization import refuse_quantized
from .hf_json import tower_preprocessor, vision_fields, vision_json
from .image_processor import read_processor
from .image_processor_file import FILE as IMAGE_FILE
from .image_processor_file import find_processor
from .names import renamed_once, tower_name
from .output_part import Part, renamed
from .rules import KeyTable
from .shapes import vision_shapes
from .translation import Naming, Translation, translate

# The tensors of a model beside its tower, and computed buffers.
DROPPED = re.compile(
    r"(text_model\.|text_projection|visual_projection|vision_projection|logit_scale|logit_bias).*|.*position_ids"
)
PREFIX = "vision_model."
WHOLE_MODELS = {family.whole_model_type: family for family in TOWER_FAMILIES.values()}
# A tower with its text model; the keys are CLIPConfig's and SiglipConfig's.
WHOLE_MODEL = GENERIC | KeyRules(
    used=frozenset(["vision_config", "vision_config_dict"]),
    inert=frozenset("logit_scale_init_value projection_dim text_config text_config_dict tie_word_embeddings".split()),
)
TYPES = tuple(name for one in TOWER_FAMILIES.values() for name in (one.whole_model_type, one.model_type))


def is_tower(folder: Folder) -> bool:
    """Return whether a folder holds a tower's config and weights."""
    return folder.has_any("config.json") and (has_torch_weights(folder) or _has_paddle_weights(folder))


def _has_paddle_weights(folder: Folder) -> bool:
    return has_weights(folder, [PDPARAMS_FILES])


def is_tower_type(model_type) -> bool:
    """Return whether the model_type in config.json is that of a tower, alone or with its text model."""
    return model_type in TYPES


def read_tower_folder(folder: Folder, select_layer: int, select_feature: str) -> tuple[VisionConfig, Translation]:
    """Return a tower's config, with which of its features are used, and its tensors, not checked.

    Raises CheckpointError.
    """
    config = read_tower(folder, select_layer=select_layer, select_feature=select_feature)
    table = KeyTable(tower_rules(config, PREFIX, is_torch=True))
    naming = Naming(table, tower_name, partial(is_unused_by_llava, config, PREFIX), vision_shapes(config))
    return config, translate(naming, open_tower(folder))


def read_tower(folder: Folder, **selection) -> VisionConfig:
    """Read a tower's config.json. Raises CheckpointError for a tower of an unknown kind.

    selection: select_layer, select_feature and name, which depend on the model, not on the tower.
    """
    refuse_quantized(folder)
    raw = read_config_json(folder)
    if not is_tower_type(raw.get("model_type")):
        kind = raw.get("model_type")
        raise CheckpointError(f"{folder}: vision tower of type {kind!r}, expected one of {', '.join(TYPES)}")
    whole = WHOLE_MODELS.get(raw["model_type"])
    if whole is None:
        return shape_of(folder, raw, **selection)
    check_keys(raw, WHOLE_MODEL, str(folder / "config.json"), CheckpointError)
    stated = _vision_config(folder, raw)
    stated = {**stated, "model_type": whole.model_type} if isinstance(stated, dict) else stated
    return shape_of(folder, stated, **selection)


def _vision_config(folder: Folder, raw: Mapping):
    """Return vision_config with the values of the older key vision_config_dict, which transformers uses."""
    stated, older = raw.get("vision_config"), raw.get("vision_config_dict") or {}
    if not isinstance(stated, dict) or not isinstance(older, dict):
        return stated
    different = sorted(key for key in older.keys() & stated.keys() if older[key] != stated[key])
    if different:
        raise CheckpointError(
            f"{folder / 'config.json'}: vision_config and vision_config_dict differ in {', '.join(different)}: remove "
            "the wrong one"
        )
    return {**stated, **older}


def shape_of(folder: Folder, stated, **selection) -> VisionConfig:
    """Read a vision config, CLIP's if it names no type. Absent keys have transformers' defaults."""
    if not isinstance(stated, dict):
        raise CheckpointError(f"{folder}: vision_config is {stated!r}, expected an object")
    return VisionConfig(**vision_fields(folder, stated), **selection)


def read_pixels(vision: VisionConfig, *folders: Folder | None) -> dict:
    """Return fields of ImageSpec from the first folder with an image processor's file, else from the tower's family.

    Raises CheckpointError also for a file that pads or that does not fit the tower.
    """
    family = get_tower_family(vision.family)
    found = next((one for one in map(find_processor, filter(None, folders)) if one is not None), None)
    if found is None:
        return family.pixels
    processor = read_processor(found, family.image_processor, vision.image_size)
    if processor.is_padded:
        raise CheckpointError(
            f"{found.where} states do_pad true, but a tower does not pad: remove the key, and set image_aspect_ratio "
            "'pad' in the model's config.json or the image mode"
        )
    return processor.pixels


def open_tower(folder: Folder) -> dict[str, StoredTensor]:
    """Map a tower's tensors, under transformers' names (`vision_model. ...`) and in its orientation.

    They include a head that no LLaVA reads. Layouts drop it.
    """
    if has_torch_weights(folder) or not _has_paddle_weights(folder):
        tensors = renamed_once(folder, open_torch_weights(folder), tower_name)
        return {name: tensor for name, tensor in tensors.items() if not DROPPED.fullmatch(name)}
    vision = read_tower(folder)
    paddle_names = KeyTable(tower_rules(vision, PREFIX, is_torch=False))
    stored = open_first(folder, [PDPARAMS_FILES])
    ours, unknown = {}, []
    for name, tensor in stored.items():
        target = paddle_names.to_ours(name)
        if target is not None:
            ours[target[0]] = tensor
        elif not DROPPED.fullmatch(name):
            unknown.append(name)
    Translation(unknown=unknown).check(folder)
    return renamed(KeyTable(tower_rules(vision, PREFIX, is_torch=True)), ours, vision.family)


def known_name(vision: VisionConfig) -> str:
    """Return the hub's name of a tower: its own, else that of a known tower of the same shape, else "".

    LLaVA's own code builds the tower by it.
    """
    family = get_tower_family(vision.family)
    if vision.name.startswith(family.hub_owners):
        return vision.name
    names = sorted(KNOWN_TOWERS, key=lambda name: name != vision.name)
    return next((name for name in names if _is_shape(vision, family, KNOWN_TOWERS[name])), "")


def _is_shape(vision: VisionConfig, family: TowerFamily, shape: Mapping) -> bool:
    """Return whether a tower has a shape, except for layers that LLaVA's own code does not use."""
    num_layers = shape["num_hidden_layers"]
    counts = {num_layers, num_layers + 1 + (-1 if family.own_select_layer is None else family.own_select_layer)}
    rest = {field: value for field, value in shape.items() if field != "num_hidden_layers"}
    return vision.num_hidden_layers in counts and all(getattr(vision, field) == value for field, value in rest.items())


def tower_part(folder: str, tensors: Mapping[str, StoredTensor], config: LlavaConfig) -> Part:
    """Return the part that transformers' classes for a tower and its images read."""
    values = {
        "architectures": [get_tower_family(config.vision.family).architecture],
        **vision_json(config.vision),
        "torch_dtype": config.dtype,
    }
    json_files = {"config.json": values, IMAGE_FILE: tower_preprocessor(config.image, "official")}
    return Part(folder, SAFETENSORS, "model", dict(tensors), json_files)
