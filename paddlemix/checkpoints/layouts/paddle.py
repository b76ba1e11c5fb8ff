"""Our own folder: config.json that describes everything, safetensors with our names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...conversation.tokenizer import Tokenizer
from ...foreign_json import OBJECT, TEXT, check_values, one_of
from ...image.spec import ImageSpec
from ...models.config import LlavaConfig, strict
from ...models.language.families import get_family
from ...models.vision.families import get_tower_family
from ...tensor_files.stored import CheckpointError, StoredTensor, read_finite_json
from .components import SAFETENSORS_FILES, open_first
from .part import Part
from .rules import KeyTable

NAME = "paddle"
FORMAT_KEY = "paddlemix_format"
FORMAT = 1
PROCESSOR_FILE = "processor_config.json"
PROCESSOR_KINDS = {FORMAT_KEY: one_of([FORMAT]), "image": OBJECT, "template": TEXT}
WEIGHTS, INDEX, _ = SAFETENSORS_FILES


def matches(folder: Path, raw: dict) -> bool:
    return FORMAT_KEY in raw


def read_config(folder: Path, raw: dict) -> LlavaConfig:
    """Read config.json as `config_json` wrote it."""
    if raw[FORMAT_KEY] != FORMAT:
        raise CheckpointError(
            f"{folder / 'config.json'} has {FORMAT_KEY} {raw[FORMAT_KEY]!r}, this version reads {FORMAT}: "
            "update paddlemix"
        )
    check_values(raw, {"model_type": one_of(["llava"])}, str(folder / "config.json"), CheckpointError)
    values = {key: value for key, value in raw.items() if key not in (FORMAT_KEY, "model_type")}
    try:
        config = LlavaConfig.from_dict(values)
        get_family(config.language.family)
        get_tower_family(config.vision.family)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from None
    if (folder / PROCESSOR_FILE).is_file():
        read_processor_json(folder / PROCESSOR_FILE)  # of no use beside config.json, but a damaged one is told
    return config


def read_processor_json(path: Path) -> tuple[ImageSpec, str]:
    """Return image spec and template's name of the file that `processor_json` describes. Raises CheckpointError."""
    values = read_finite_json(path)
    if FORMAT_KEY not in values:
        raise CheckpointError(f"{path} was not written by paddlemix, and there is no config.json beside it")
    check_values(values, PROCESSOR_KINDS, str(path), CheckpointError)
    absent = sorted(PROCESSOR_KINDS.keys() - values.keys())
    if absent:
        raise CheckpointError(f"{path} has no {', '.join(absent)}: copy or download it again")
    try:
        return strict(ImageSpec, values["image"], "image"), values["template"]
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def config_json(config: LlavaConfig) -> dict:
    """Return what config.json holds."""
    return {FORMAT_KEY: FORMAT, "model_type": "llava", **config.to_dict()}


def processor_json(config: LlavaConfig) -> dict:
    """Return what processor_config.json holds."""
    return {FORMAT_KEY: FORMAT, "image": dataclasses.asdict(config.image), "template": config.template}


def open_tensors(folder: Path) -> dict[str, StoredTensor]:
    return open_first(folder, [SAFETENSORS_FILES])


def table(config: LlavaConfig) -> KeyTable | None:
    """Return None: the names are ours already."""
    return None


def canonical(name: str) -> str:
    return name


def is_dropped(name: str, config: LlavaConfig) -> bool:
    return False


def parts(config: LlavaConfig, tensors: dict[str, StoredTensor]) -> list[Part]:
    """Return our own folder, which holds every model."""
    json_files = {"config.json": config_json(config), "processor_config.json": processor_json(config)}
    return [Part("", "safetensors", "model", dict(tensors), json_files, metadata_format="np")]


def write_tokenizer(tokenizer: Tokenizer, config: LlavaConfig, folder: Path) -> None:
    tokenizer.save(folder)
