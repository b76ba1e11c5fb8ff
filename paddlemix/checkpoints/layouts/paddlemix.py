"""PaddleMIX's folders: model_state.pdparams (or safetensors) with its names, and a processor/ folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...conversation.tokenizer import Tokenizer
from ...conversation.tokenizer_files import CONFIG_FILE, FAST_FILE, PADDLE_FILE, SENTENCEPIECE_FILE
from ...foreign_json import OBJECT, check_values, one_of
from ...image.spec import ImageSpec
from ...models.config import LanguageConfig, LlavaConfig, VisionConfig
from ...models.language.families.family import SHARED
from ...models.projector_type import projector_blocks
from ...models.vision.families import CLIP, KNOWN_TOWERS
from ...models.vision.families.family import SHAPE as STATED
from ...output import write_json
from ...tensor_files.shards import PDPARAMS
from ...tensor_files.stored import CheckpointError, StoredTensor, read_json
from . import hf_json
from .components import (
    PADDLE_FILES,
    PDPARAMS_FILES,
    decoder_rules,
    has_weights,
    is_whole_twice,
    mm_projector_rules,
    open_first,
    safetensors_names,
    tower_rules,
)
from .config_keys import (
    PADDLEMIX,
    check_feature_width,
    check_mm,
    config_or_empty,
    mm_json,
    read_config_json,
    stored_dtype,
)
from .decoder import flat_json, generation_json, read_eos, read_language, template_of
from .folder import Folder
from .image_processor import llava_image, read_processor
from .image_processor_file import Found, find_processor
from .layout import ALL_ROWS, Layout, Options, Source, Vocabulary
from .output_part import OWN_KEY, Part, own_json, read_own_json, renamed
from .paddlenlp_rope import ROPE_KINDS, read_rope, rope_json
from .rules import KeyTable, Rule

NAME = "paddlemix"
ARCHITECTURE = "LlavaLlamaForCausalLM"
TOWER_PREFIX = "llama.vision_tower.vision_tower.vision_model."
# Fields of LanguageConfig that LLaMA has, or that say nothing alone. Of the rest it has the default values.
LLAMA_HAS = (*SHARED, "family", "rope_scaling", "num_full_layers")
CLIP_HEAD_DIM = 64  # of all of OpenAI's towers


def matches(folder: Folder) -> bool:
    """Return whether a LLaVA, by its architecture or its mm_* keys, has weights that Paddle wrote."""
    raw = config_or_empty(folder)
    if ARCHITECTURE not in (raw.get("architectures") or ()) and "mm_projector_type" not in raw:
        return False
    if has_weights(folder, [PDPARAMS_FILES]):
        return True
    names = safetensors_names(folder)
    return any(name.startswith("llama.") for name in names) if names else "paddlenlp_version" in raw


def read(folder: Folder, options: Options) -> Source:
    config = read_config(folder, read_config_json(folder))
    return Source(folder, LAYOUT, config, lambda *_: open_tensors(folder), folder)


def read_config(folder: Folder, raw: dict) -> LlavaConfig:
    """Build our config from PaddleMIX's flat one, its processor/ folder and, for an unnamed tower, the weights."""
    check_mm(folder, raw)
    tower = raw.get("mm_vision_tower") or raw.get("vision_tower") or ""
    select_feature = raw.get("mm_vision_select_feature", "patch")
    vision = VisionConfig(
        **_tower_shape(folder, raw, tower),
        select_layer=raw.get("mm_vision_select_layer", -2),
        select_feature=select_feature,
        name=tower,
    )
    _check_tower(vision)
    check_feature_width(folder, raw, vision)
    image = _read_image(folder, raw, vision)
    language = read_language(folder, {**raw, **read_rope(raw)}, "llama", beside=PADDLEMIX)
    return LlavaConfig(
        language=language,
        vision=vision,
        projector_type=raw.get("mm_projector_type", "linear"),
        image=image,
        template=template_of(read_own_json(raw), language).name,
        dtype=stored_dtype(folder, raw),
        has_image_newline=image.merge == "spatial_unpad",
        eos_token_ids=read_eos(folder, raw, language),
        has_image_marks=bool(raw.get("mm_use_im_start_end")),
    )


def _tower_shape(folder: Folder, raw: dict, name: str) -> dict:
    """Return the VisionConfig fields of shape, from vision_config, by the tower's name, or from its weights."""
    stated = raw.get("vision_config")
    if stated is not None:
        check_values(raw, {"vision_config": OBJECT}, str(folder / "config.json"), CheckpointError)
        check_values(stated, {"model_type": one_of((CLIP.model_type,))}, "vision_config")
        CLIP.read(stated)  # raises for unsupported values
        return {field: stated[field] for field in STATED if field in stated}
    if name in KNOWN_TOWERS:
        return KNOWN_TOWERS[name]
    return _shape_from_weights(folder, open_tensors(folder))


def _shape_from_weights(folder: Folder, tensors: dict[str, StoredTensor]) -> dict:
    try:
        width, _, patch, _ = tensors[TOWER_PREFIX + "conv1.weight"].shape
        num_positions = tensors[TOWER_PREFIX + "positional_embedding.weight"].shape[0]
        inner = tensors[TOWER_PREFIX + "transformer.layers.0.linear1.weight"].shape[1]
    except KeyError as error:
        raise CheckpointError(
            f"{folder}: the weights hold no vision tower (no {error}) and config.json names none that is known"
        ) from None
    start = TOWER_PREFIX + "transformer.layers."
    numbers = {int(name[len(start) :].split(".")[0]) for name in tensors if name.startswith(start)}
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len(numbers),
        "num_attention_heads": max(width // CLIP_HEAD_DIM, 1),
        "image_size": round((num_positions - 1) ** 0.5) * patch,
        "patch_size": patch,
    }


def _read_image(folder: Folder, raw: dict, vision: VisionConfig) -> ImageSpec:
    """Read the image processor's files in processor/. Mode and grids may be there or in config.json."""
    places = [folder.related(folder / "processor" / name) for name in ("eval", "train")]
    files = [one for one in map(find_processor, places) if one is not None] or [Found(str(folder), {})]
    found, pixels = files[0], _read_pixels(files[0], vision)
    if any(_read_pixels(one, vision) != pixels for one in files[1:]):
        raise CheckpointError(
            f"{files[0].where} and {files[1].where} make different pixels of an image, but training and answering use "
            "the same pixels here: make the files equal"
        )
    mode = raw.get("image_aspect_ratio") or found.values.get("image_aspect_ratio") or "square"
    grids = raw.get("image_grid_pinpoints") or found.values.get("image_grid_pinpoints") or ()
    merge = raw.get("mm_patch_merge_type", "spatial_unpad")
    return llava_image(folder, vision, pixels, mode=mode, grids=grids, merge=merge)


def _read_pixels(found: Found, vision: VisionConfig) -> dict:
    """Return the pixels of an image processor's file, in which PaddleMIX keeps a key of LLaVA's config.json too."""
    others = {key: value for key, value in found.values.items() if key != "image_aspect_ratio"}
    return read_processor(Found(found.where, others), CLIP.image_processor, vision.image_size).pixels


def open_tensors(folder: Folder) -> dict[str, StoredTensor]:
    """Map the weights. Raises CheckpointError if PaddleNLP, which reads an index first, would read other ones."""
    for single, index, _ in PADDLE_FILES:
        if is_whole_twice(folder, single, index):
            raise CheckpointError(
                f"{folder} holds {single} and {index} with all its shards, of which PaddleNLP reads the shards and "
                "other tools the whole file: remove the wrong ones"
            )
    return open_first(folder, PADDLE_FILES)


def table(config: LlavaConfig) -> KeyTable:
    rules = decoder_rules(config.language, "llama.", "", is_torch=False)
    rules += tower_rules(config.vision, TOWER_PREFIX, is_torch=False)
    rules += mm_projector_rules("llama.mm_projector", config.projector_type, is_torch=False)
    return KeyTable([*rules, Rule("image_newline", "llama.image_newline")])


def is_dropped(name: str, config: LlavaConfig) -> bool:
    """Return whether a tensor is dropped: a computed buffer, a copy of tied embeddings, or an unused image_newline.

    NOTE: PaddleMIX makes image_newline for every model whose config does not forbid it, even if it is not used.
    """
    is_tied_head = config.language.tie_word_embeddings and name == "lm_head.weight"
    is_unused_newline = not config.has_image_newline and name == "llama.image_newline"
    return is_tied_head or is_unused_newline or name.endswith("rotary_emb.inv_freq")


def parts(config: LlavaConfig, tensors: dict[str, StoredTensor], vocabulary: Vocabulary = ALL_ROWS) -> list[Part]:
    """Return PaddleMIX's folder. Raises CheckpointError for options that its LLaMA or its images do not have."""
    config = dataclasses.replace(config, language=_as_llama(config.language))
    _check_tower(config.vision)
    if projector_blocks(config.projector_type)[1]:
        raise CheckpointError(
            f"layout {NAME} cannot hold a projector {config.projector_type!r}: it has linear, identity and MLPs"
        )
    is_unpadded = config.image.mode == "anyres" and config.image.merge == "spatial_unpad"
    if config.has_image_newline != is_unpadded:
        raise CheckpointError(
            f"layout {NAME} has an image_newline if and only if images are anyres with merge 'spatial_unpad'; here "
            f"has_image_newline is {config.has_image_newline}, mode {config.image.mode!r}, merge {config.image.merge!r}"
        )
    preprocessor = _preprocessor_json(config)
    json_files = {
        "config.json": _config_json(config),
        "generation_config.json": generation_json(config),
        "processor/train/preprocessor_config.json": preprocessor,
        "processor/eval/preprocessor_config.json": preprocessor,
    }
    return [Part("", PDPARAMS, "model_state", renamed(table(config), tensors, NAME), json_files)]


def _check_tower(vision: VisionConfig) -> None:
    if vision.family != CLIP.name:
        raise CheckpointError(f"layout {NAME} has no {vision.family} tower: PaddleMIX's LLaVA runs on CLIP only")


def _as_llama(language: LanguageConfig) -> LanguageConfig:
    """Return the same decoder as a LLaMA. Raises CheckpointError if it differs from one in more than its name."""
    options = [item for item in dataclasses.fields(LanguageConfig) if item.name not in LLAMA_HAS]
    others = [item.name for item in options if getattr(language, item.name) != item.default]
    kind = language.rope_scaling.kind if language.rope_scaling else None
    if kind not in (None, "llama3", *ROPE_KINDS):
        others.append(f"rope_scaling {kind!r}")
    if others:
        raise CheckpointError(
            f"layout {NAME} cannot hold a decoder of family {language.family!r} with {', '.join(others)}: PaddleMIX "
            "has LLaMA only"
        )
    return dataclasses.replace(language, family="llama")


def _config_json(config: LlavaConfig) -> dict:
    """Return PaddleMIX's flat config.json.

    PaddleMIX has no default for most keys of `mm_json`. It does not read `vision_config` and OWN_KEY.
    """
    vision = config.vision
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llava",
        "dtype": config.dtype,
        "paddlenlp_version": None,
        **flat_json(config),
        **rope_json(config.language),
        **mm_json(config),
        "mm_vision_tower": vision.name or _known_tower(vision),
        "pretraining_tp": 1,
        "version": "v1",
        "vision_config": {field: getattr(vision, field) for field in STATED},
        OWN_KEY: own_json(config),
    }


def _known_tower(vision: VisionConfig) -> str:
    """Return the name of OpenAI's tower of this shape, by which PaddleMIX builds the tower."""
    own = vars(vision)
    return next((name for name, shape in KNOWN_TOWERS.items() if shape.items() <= own.items()), "")


def _preprocessor_json(config: LlavaConfig) -> dict:
    image = config.image
    values = hf_json.tower_preprocessor(image, NAME) | {"image_aspect_ratio": image.mode}
    return values | ({"image_grid_pinpoints": [list(grid) for grid in image.grids]} if image.grids else {})


def write_tokenizer(tokenizer: Tokenizer, config: LlavaConfig, folder: Path) -> None:
    """Write the SentencePiece model under the name that PaddleMIX expects. Raises CheckpointError if there is none."""
    tokenizer.save(folder)
    if (folder / FAST_FILE).is_file():
        raise CheckpointError(f"layout {NAME} cannot hold a tokenizer.json: PaddleMIX reads SentencePiece models only")
    if (folder / SENTENCEPIECE_FILE).is_file():
        (folder / SENTENCEPIECE_FILE).rename(folder / PADDLE_FILE)
    path = folder / CONFIG_FILE
    values = read_json(path) if path.is_file() else {}
    write_json(path, values | {"tokenizer_class": "LlamaTokenizer"})


LAYOUT = Layout(
    name=NAME,
    title="paddlemix (PaddleMIX's)",
    rule=f"{ARCHITECTURE} with {PDPARAMS_FILES[0]}, or with safetensors that PaddleNLP wrote",
    matches=matches,
    read=read,
    table=table,
    is_dropped=is_dropped,
    parts=parts,
    write_tokenizer=write_tokenizer,
)
