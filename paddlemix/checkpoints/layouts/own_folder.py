"""This project's own layout, "paddle": config.json that describes everything, safetensors with our names."""

from __future__ import annotations

import dataclasses

from ...conversation.templates import ChatTemplate, get_template
from ...foreign_json import FLAG, OBJECT, TEXT, check_values, one_of
from ...image.spec import ImageSpec
from ...models.config import LlavaConfig, strict
from ...models.language.families import get_family
from ...models.vision.families import get_tower_family
from ...tensor_files.shards import NUMPY_SAFETENSORS
from ...tensor_files.stored import CheckpointError, StoredTensor
from .components import SAFETENSORS_FILES, open_first
from .config_keys import config_or_empty, read_config_json
from .folder import Folder
from .layout import ALL_ROWS, Layout, Options, Source, Vocabulary
from .output_part import Part

NAME = "paddle"
FORMAT_KEY = "paddlemix_format"
FORMAT = 1
PROCESSOR_FILE = "processor_config.json"
PROCESSOR_KINDS = {FORMAT_KEY: one_of([FORMAT]), "image": OBJECT, "template": TEXT}
MARKS_KEY = "has_image_marks"  # in files of models with marks only


def matches(folder: Folder) -> bool:
    return FORMAT_KEY in config_or_empty(folder)


def read(folder: Folder, options: Options) -> Source:
    config = read_config(folder, read_config_json(folder))
    return Source(folder, LAYOUT, config, lambda *_: open_first(folder, [SAFETENSORS_FILES]), folder)


def read_config(folder: Folder, raw: dict) -> LlavaConfig:
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
    if folder.has_any(PROCESSOR_FILE):
        read_processor_json(folder)  # not needed beside config.json, but it may be damaged
    return config


def read_processor_json(folder: Folder) -> tuple[ImageSpec, ChatTemplate]:
    """Return the image spec and the chat template in processor_config.json. Raises CheckpointError."""
    path, values = folder / PROCESSOR_FILE, folder.finite_json(PROCESSOR_FILE)
    if FORMAT_KEY not in values:
        raise CheckpointError(f"{path} was not written by paddlemix, and there is no config.json beside it")
    check_values(values, {**PROCESSOR_KINDS, MARKS_KEY: FLAG}, str(path), CheckpointError)
    absent = sorted(PROCESSOR_KINDS.keys() - values.keys())
    if absent:
        raise CheckpointError(f"{path} has no {', '.join(absent)}: copy or download it again")
    try:
        template = get_template(values["template"], has_image_marks=values.get(MARKS_KEY, False))
        return strict(ImageSpec, values["image"], "image"), template
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def config_json(config: LlavaConfig) -> dict:
    """Return the content of config.json."""
    return {FORMAT_KEY: FORMAT, "model_type": "llava", **config.to_dict()}


def processor_json(image: ImageSpec, template: str, has_image_marks: bool) -> dict:
    """Return the content of processor_config.json."""
    values = {FORMAT_KEY: FORMAT, "image": dataclasses.asdict(image), "template": template}
    return values | ({MARKS_KEY: True} if has_image_marks else {})


def parts(config: LlavaConfig, tensors: dict[str, StoredTensor], vocabulary: Vocabulary = ALL_ROWS) -> list[Part]:
    """Return the parts of a folder in this layout, which can hold every model."""
    processor = processor_json(config.image, config.template, config.has_image_marks)
    json_files = {"config.json": config_json(config), PROCESSOR_FILE: processor}
    return [Part("", NUMPY_SAFETENSORS, "model", dict(tensors), json_files)]


LAYOUT = Layout(
    name=NAME,
    title="paddle (this project's own)",
    rule=f"config.json with {FORMAT_KEY}",
    matches=matches,
    read=read,
    parts=parts,
    write_tokenizer=lambda tokenizer, config, folder: tokenizer.save(folder),
)
