"""The JSON files of a transformers folder, for LLaVA 1.5 and NeXT."""

from __future__ import annotations

from collections.abc import Mapping

from ...conversation.templates import get_template
from ...image.spec import RESAMPLES, ImageSpec
from ...models.config import LlavaConfig, VisionConfig
from ...models.language.families import get_family
from ...models.vision.families import CLIP, SIGLIP, by_tower_type, get_tower_family
from ...tensor_files.stored import CheckpointError
from .decoder import class_json, generation_json, language_json, stand_in
from .folder import Folder
from .hf_chat import chat_template
from .hf_tokenizer import Places
from .output_part import OWN_KEY, own_json

# Before UNSCALED_VERSION transformers multiplies image features by a decoder's embedding_scale (Gemma's), from it on
# it does not. Which of the two a model needs follows from the version in its folder.
SCALING_VERSION, UNSCALED_VERSION = "5.3.0", "5.4.0"
ARCHITECTURES = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration")
# What AutoImageProcessor takes for the two where the file names no class.
IMAGE_PROCESSORS = ("LlavaImageProcessor", "LlavaNextImageProcessor")


def check_holdable(config: LlavaConfig) -> None:
    """Raise CheckpointError for a model that neither of the two classes can hold."""
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


def as_transformers(config: LlavaConfig) -> LlavaConfig:
    """Return the model with a decoder for which transformers itself has a class."""
    return config if get_family(config.language.family).remote_code is None else stand_in(config)


def notes(config: LlavaConfig) -> tuple[str, ...]:
    """Return notes for the report of a conversion on versions of transformers."""
    if config.language.embedding_scale == 1.0:
        return ()
    does, since = ("are", "up to 5.3") if config.has_scaled_features else ("are not", "from 5.4 on")
    return (
        f"in this model image features {does} multiplied by the square root of the width, as in transformers {since}: "
        "other versions give other answers",
    )


def json_files(config: LlavaConfig, places: Places) -> dict[str, dict]:
    """Return file name -> content."""
    files = {
        "config.json": _config(config, places),
        "generation_config.json": _token_ids(config, places),
        "preprocessor_config.json": preprocessor(config.image),
        "processor_config.json": _processor(config),
    }
    chat = chat_template(get_template(config.template, has_image_marks=config.has_image_marks))
    return files if chat is None else {**files, "chat_template.json": {"chat_template": chat}}


def as_width_height(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Return (height, width) pairs as (width, height) ones, and the other way round.

    NOTE: LLaVA's own lists are in (width, height), and transformers took over the numbers as (height, width). If
    the list has every canvas in both orientations, the set is the same either way, and the numbers are not swapped, so
    that the order, which decides ties, is LLaVA's.
    """
    mirrored = tuple((second, first) for first, second in pairs)
    return pairs if set(pairs) == set(mirrored) else mirrored


def preprocessor(image: ImageSpec) -> dict:
    """Return preprocessor_config.json. The class depends on the image mode, and on how an image is made square."""
    classes = {"anyres": IMAGE_PROCESSORS[1], "pad": IMAGE_PROCESSORS[0], "square": CLIP.image_processor}
    square = {"height": image.side, "width": image.side}
    values = {
        "image_processor_type": classes[image.mode],
        "crop_size": square,
        "do_center_crop": image.has_crop,
        "do_convert_rgb": True,
        "do_normalize": image.has_normalize,
        "do_rescale": True,
        "do_resize": image.resize != (),
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "resample": RESAMPLES.index(image.resample),
        "rescale_factor": image.rescale_factor,
        "size": _size(image),
    }
    if image.mode == "square" and not image.has_crop:
        del values["crop_size"], values["do_center_crop"]
        return values | {"image_processor_type": SIGLIP.image_processor, "size": square}
    if image.mode == "square":
        return values
    # In LlavaNext's, do_pad gives all images of a batch the same number of tiles.
    values |= {"do_pad": True, "processor_class": _processor_class(image)}
    return values | ({"image_grid_pinpoints": _pinpoints(image)} if image.mode == "anyres" else {})


def _size(image: ImageSpec) -> dict[str, int]:
    """Return the size before the crop, under transformers' keys."""
    resize = image.resize or (image.side,)
    return {"shortest_edge": resize[0]} if len(resize) == 1 else {"height": resize[1], "width": resize[0]}


def tower_preprocessor(image: ImageSpec, layout: str) -> dict:
    """Return the file of the tower's image processor in LLaVA's own code, without padding and tiles.

    Raises CheckpointError for tiles with another filter than that code always uses.
    """
    if image.mode == "anyres" and image.resample != "bicubic":
        raise CheckpointError(
            f"layout {layout} cannot hold anyres tiles with resample {image.resample!r}: LLaVA's own code is bicubic"
        )
    return preprocessor(image.as_square())


def vision_fields(folder: Folder, stated: Mapping) -> dict:
    """Return the fields of VisionConfig in a vision config, CLIP's if it names no kind.

    Raises CheckpointError for another kind of tower.
    """
    try:
        return by_tower_type(stated.get("model_type") or CLIP.model_type).read(stated)
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: vision_config: {error}") from None


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
        OWN_KEY: own_json(config, as_transformers(config)) | {"vocab_size": places.num_original},
    }
    if is_next and not image.has_rounded_sizes:
        values[OWN_KEY]["has_rounded_sizes"] = False
    if config.has_image_marks:
        values[OWN_KEY]["has_image_marks"] = True
    if config.language.embedding_scale != 1.0:
        values["transformers_version"] = SCALING_VERSION if config.has_scaled_features else UNSCALED_VERSION
    if is_next:
        values |= {"image_grid_pinpoints": _pinpoints(image), "use_image_newline_parameter": True}
    return values


def _text_config(config: LlavaConfig, places: Places) -> dict:
    decoder, rows = as_transformers(config), {"vocab_size": places.num_rows}
    return {**class_json(decoder), **language_json(decoder), **rows, **_token_ids(config, places)}


def _token_ids(config: LlavaConfig, places: Places) -> dict:
    return {**generation_json(config), "pad_token_id": places.pad_id}


def _processor(config: LlavaConfig) -> dict:
    return {
        "image_token": "<image>",
        # The class token, which the strategy "default" removes again.
        "num_additional_image_tokens": int(config.vision.has_class_token),
        "patch_size": config.vision.patch_size,
        "processor_class": _processor_class(config.image),
        "vision_feature_select_strategy": _strategy(config),
    }


def _processor_class(image: ImageSpec) -> str:
    return "LlavaNextProcessor" if image.mode == "anyres" else "LlavaProcessor"


def _strategy(config: LlavaConfig) -> str:
    """Return "default" if the first of the tower's features, the class token, is dropped."""
    is_cut = config.vision.has_class_token and config.vision.select_feature == "patch"
    return "default" if is_cut else "full"


def _pinpoints(image: ImageSpec) -> list[list[int]]:
    return [list(pair) for pair in as_width_height(image.grids)]
