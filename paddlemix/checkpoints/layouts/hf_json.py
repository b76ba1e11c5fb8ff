"""The JSON files of a transformers folder, for LLaVA 1.5 and NeXT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...conversation.templates import get_template
from ...image.spec import ImageSpec
from ...models.config import LlavaConfig, VisionConfig
from ...models.language.families import get_family
from ...models.vision.families import CLIP, SIGLIP, TOWER_FAMILIES, TowerFamily, by_tower_type, get_tower_family
from ..files import CheckpointError
from .decoder import class_json, generation_json, language_json, stand_in
from .hf_chat import chat_template
from .hf_tokenizer import Places
from .part import OWN_KEY, own_json

BICUBIC = 3  # PIL's number
ARCHITECTURES = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration")


def check_holdable(config: LlavaConfig) -> None:
    """Raise CheckpointError for a model that neither of the two classes can be."""
    image = config.image
    is_next = image.mode == "anyres" and image.merge == "spatial_unpad" and config.has_image_newline
    if image.mode == "anyres" and not is_next:
        raise CheckpointError(
            f"layout hf cannot hold anyres with merge {image.merge!r}: LlavaNext has 'spatial_unpad' only"
        )
    if config.has_image_newline and not is_next:
        raise CheckpointError(
            f"layout hf cannot hold an image_newline with image mode {image.mode!r}: LlavaNext is anyres"
        )
    if config.projector_type != "mlp2x_gelu":
        raise CheckpointError(
            f"layout hf cannot hold a projector {config.projector_type!r}: transformers' LLaVA has mlp2x_gelu only"
        )


def held(config: LlavaConfig) -> LlavaConfig:
    """Return the model with a decoder that transformers itself has a class of."""
    return config if get_family(config.language.family).remote_code is None else stand_in(config)


def json_files(config: LlavaConfig, places: Places) -> dict[str, dict]:
    """Return file name -> content."""
    files = {
        "config.json": _config(config, places),
        "generation_config.json": _token_ids(config, places),
        "preprocessor_config.json": preprocessor(config.image),
        "processor_config.json": _processor(config),
    }
    chat = chat_template(get_template(config.template))
    return files if chat is None else {**files, "chat_template.json": {"chat_template": chat}}


def as_width_height(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Turn (height, width) pairs into (width, height) ones, and back.

    NOTE: LLaVA's own lists are in (width, height), and transformers took their numbers over as (height, width). Where
    the list names every canvas and its mirror, the set is the same either way, and the numbers are left in place: the
    order, which decides ties, is then LLaVA's.
    """
    mirrored = tuple((second, first) for first, second in pairs)
    return pairs if set(pairs) == set(mirrored) else mirrored


def preprocessor(image: ImageSpec) -> dict:
    """Return preprocessor_config.json: each image mode, and each way to a square, has a class of its own."""
    classes = {"anyres": "LlavaNextImageProcessor", "pad": "LlavaImageProcessor", "square": "CLIPImageProcessor"}
    square = {"height": image.side, "width": image.side}
    values = {
        "image_processor_type": classes[image.mode],
        "crop_size": square,
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "resample": BICUBIC,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": image.side},
    }
    if image.mode == "square" and not image.has_crop:
        del values["crop_size"], values["do_center_crop"]
        return values | {"image_processor_type": SIGLIP.image_processor, "size": square}
    if image.mode == "square":
        return values
    # In LlavaNext's, do_pad makes the tiles of a batch equally many.
    values |= {"do_pad": True, "processor_class": _processor_class(image)}
    return values | ({"image_grid_pinpoints": _pinpoints(image)} if image.mode == "anyres" else {})


def has_crop(values: Mapping, family: TowerFamily) -> bool:
    """Tell if preprocessor_config.json's class cuts out the middle; LLaVA's own classes do as the tower's does."""
    kind = values.get("image_processor_type") or values.get("feature_extractor_type") or ""
    named = (one.has_crop for one in TOWER_FAMILIES.values() if str(kind).startswith(one.image_processor))
    return next(named, family.has_crop)


def vision_fields(folder: Path, stated: Mapping) -> dict:
    """Return the fields of VisionConfig that a vision config tells, CLIP's if it names no kind.

    Raises CheckpointError for another kind of tower.
    """
    try:
        return by_tower_type(stated.get("model_type") or CLIP.model_type).fields(stated)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def vision_json(vision: VisionConfig) -> dict:
    """Return a tower's keys in transformers' config.json, with its kind. Raises CheckpointError."""
    try:
        return get_tower_family(vision.family).write(vision)
    except ValueError as error:
        raise CheckpointError(f"config.json of transformers: {error}") from None


def _config(config: LlavaConfig, places: Places) -> dict:
    image, vision, is_next = config.image, config.vision, config.image.mode == "anyres"
    values = {
        "architectures": [ARCHITECTURES[is_next]],
        "model_type": "llava_next" if is_next else "llava",
        "image_seq_length": image.patches_per_side**2 + image.has_class_token,
        "image_token_index": places.image_id,
        "multimodal_projector_bias": True,
        "pad_token_id": places.pad_id,
        "projector_hidden_act": "gelu",
        "text_config": _text_config(config, places),
        "tie_word_embeddings": config.language.tie_word_embeddings,
        "torch_dtype": config.dtype,
        "vision_config": {**vision_json(config.vision), "torch_dtype": config.dtype},
        "vision_feature_layer": vision.select_layer,
        "vision_feature_select_strategy": _strategy(config),
        OWN_KEY: own_json(config, held(config)) | {"vocab_size": places.num_own},
    }
    if is_next:
        values |= {"image_grid_pinpoints": _pinpoints(image), "use_image_newline_parameter": True}
    return values


def _text_config(config: LlavaConfig, places: Places) -> dict:
    decoder, rows = held(config), {"vocab_size": places.num_rows}
    return {**class_json(decoder), **language_json(decoder), **rows, **_token_ids(config, places)}


def _token_ids(config: LlavaConfig, places: Places) -> dict:
    return {**generation_json(config), "pad_token_id": places.pad_id}


def _processor(config: LlavaConfig) -> dict:
    return {
        "image_token": "<image>",
        # The class token, which the strategy "default" takes away again.
        "num_additional_image_tokens": int(config.vision.has_class_token),
        "patch_size": config.vision.patch_size,
        "processor_class": _processor_class(config.image),
        "vision_feature_select_strategy": _strategy(config),
    }


def _processor_class(image: ImageSpec) -> str:
    return "LlavaNextProcessor" if image.mode == "anyres" else "LlavaProcessor"


def _strategy(config: LlavaConfig) -> str:
    """Return "default" where the first of the tower's features, the class token, is left out."""
    is_cut = config.vision.has_class_token and config.vision.select_feature == "patch"
    return "default" if is_cut else "full"


def _pinpoints(image: ImageSpec) -> list[list[int]]:
    return [list(pair) for pair in as_width_height(image.grids)]
