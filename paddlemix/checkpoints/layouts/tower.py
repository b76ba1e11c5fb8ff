"""A CLIP vision tower in a folder of its own, as transformers or PaddleNLP writes it, or a whole CLIP model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from ...image.spec import ImageSpec
from ...models.config import LlavaConfig, VisionConfig
from ..files import CheckpointError, StoredTensor, open_weights, preview, read_json
from ..pdparams import open_pdparams
from ..rules import KeyTable
from .components import clip_rules, has_torch_weights, open_torch_weights
from .hf import read_vision
from .hf_json import preprocessor
from .paddlemix import KNOWN_TOWERS, PDPARAMS, PDPARAMS_INDEX
from .part import Part, renamed

IMAGE_FILE = "preprocessor_config.json"
# What a whole CLIP model has beside its tower, and buffers that are computed.
DROPPED = re.compile(r"(text_model\.|text_projection|visual_projection|vision_projection|logit_scale).*|.*position_ids")
TORCH_NAMES = KeyTable(clip_rules("vision_model.", is_torch=True))
PADDLE_NAMES = KeyTable(clip_rules("vision_model.", is_torch=False))
OPENAI = {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}  # what KNOWN_TOWERS leaves to the defaults
HUB_OWNERS = ("openai/", "laion/")  # LLaVA's own code hands names that begin so to transformers
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


def is_tower(folder: Path) -> bool:
    """Tell if a folder holds a tower's config and weights."""
    return (folder / "config.json").is_file() and (has_torch_weights(folder) or _has_paddle_weights(folder))


def _has_paddle_weights(folder: Path) -> bool:
    return (folder / PDPARAMS).is_file() or (folder / PDPARAMS_INDEX).is_file()


def read_tower(folder: Path, **selection) -> VisionConfig:
    """Read a tower's config.json. Raises CheckpointError for anything but CLIP.

    selection: select_layer, select_feature and name, which the model says, not the tower.
    """
    raw = read_json(folder / "config.json")
    kind = raw.get("model_type")
    if kind == "clip":
        stated = raw.get("vision_config")
    elif kind == "clip_vision_model":
        stated = raw
    else:
        raise CheckpointError(f"{folder}: vision tower of type {kind!r}, but only CLIP is read so far")
    return shape_of(folder, stated, **selection)


def shape_of(folder: Path, stated, **selection) -> VisionConfig:
    """Read the keys of a CLIP vision config; those that are absent have transformers' defaults."""
    if not isinstance(stated, dict):
        raise CheckpointError(f"{folder}: vision_config is {stated!r}, expected an object")
    return dataclasses.replace(read_vision(folder, {"vision_config": stated}), **selection)


def read_pixels(*folders: Path | None) -> dict:
    """Return mean and std from the first preprocessor_config.json there is, as fields of ImageSpec."""
    for folder in folders:
        if folder is not None and (folder / IMAGE_FILE).is_file():
            values = read_json(folder / IMAGE_FILE)
            pairs = (("mean", "image_mean"), ("std", "image_std"))
            return {field: tuple(values[key]) for field, key in pairs if key in values}
    return {}


def open_tower(folder: Path) -> dict[str, StoredTensor]:
    """Map a tower's tensors, under transformers' names (`vision_model. ...`) and in its orientation."""
    if has_torch_weights(folder) or not _has_paddle_weights(folder):
        tensors = open_torch_weights(folder)
        return {name: tensor for name, tensor in tensors.items() if not DROPPED.fullmatch(name)}
    stored = open_weights(folder, PDPARAMS, PDPARAMS_INDEX, open_pdparams)
    ours, unknown = {}, []
    for name, tensor in stored.items():
        target = PADDLE_NAMES.to_ours(name)
        if target is not None:
            ours[target[0]] = tensor
        elif not DROPPED.fullmatch(name):
            unknown.append(name)
    if unknown:
        raise CheckpointError(f"{folder} holds {len(unknown)} tensors that nobody knows: {preview(sorted(unknown))}")
    return renamed(TORCH_NAMES, ours, "clip")


def known_name(vision: VisionConfig) -> str:
    """Return the hub's name of a tower: its own, else OpenAI's for that shape, else ""."""
    if vision.name.startswith(HUB_OWNERS):
        return vision.name
    for name, shape in KNOWN_TOWERS.items():
        if all(getattr(vision, field) == value for field, value in {**OPENAI, **shape}.items()):
            return name
    return ""


def tower_part(folder: str, tensors: Mapping[str, StoredTensor], config: LlavaConfig) -> Part:
    """Return the part that CLIPVisionModel and CLIPImageProcessor of transformers read."""
    values = {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        **vision_json(config.vision),
        "torch_dtype": config.dtype,
    }
    json_files = {"config.json": values, IMAGE_FILE: image_json(config.image)}
    return Part(folder, "safetensors", "model", dict(tensors), json_files)


def vision_json(vision: VisionConfig) -> dict:
    """Return the shape of a tower under transformers' keys."""
    return {name: getattr(vision, name) for name in SHAPE}


def image_json(image: ImageSpec) -> dict:
    """Return CLIPImageProcessor's file, which knows mean and std, but nothing of padding and tiles."""
    return preprocessor(dataclasses.replace(image, mode="square", grids=(), merge="flat"))
