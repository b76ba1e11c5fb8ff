"""Folders of transformers: LlavaForConditionalGeneration (1.5) and LlavaNextForConditionalGeneration (1.6)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from ...conversation.tokenizer import Tokenizer
from ...image.spec import ImageSpec
from ...models.config import LlavaConfig, VisionConfig
from ...models.vision.families import get_tower_family
from ..files import CheckpointError, StoredTensor, open_safetensors, open_weights, read_json
from ..rules import KeyTable, Rule, linear_rules
from ..transforms import padded_rows
from . import hf_json, hf_tokenizer
from .components import EMBEDDING, HEAD, decoder_rules, is_unused_by_llava, read_pairs, tower_rules
from .decoder import read_eos, read_language, restored, template_of
from .hf_json import ARCHITECTURES, as_width_height
from .part import OWN_KEY, Part, read_own_json, renamed

NAME = "hf"
TOWER_PREFIX = "vision_tower.vision_model."
# Names that transformers wrote from 4.52 on in memory and from 5 on to disk, and what they were called before.
NEW_STYLE = (
    (re.compile(r"^model\.language_model\."), "language_model.model."),
    (re.compile(r"^model\.(vision_tower|multi_modal_projector|image_newline)"), r"\1"),
    (re.compile(r"^lm_head\."), "language_model.lm_head."),
)
# The same the other way round: what the tables write becomes what is written.
TO_NEW_STYLE = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("image_newline", "model.image_newline"),
)
DROPPED = re.compile(r".*\.(rotary_emb\.inv_freq|embeddings\.position_ids)")


def matches(folder: Path, raw: dict) -> bool:
    return any(name in ARCHITECTURES for name in raw.get("architectures") or ())


def read_config(folder: Path, raw: dict) -> LlavaConfig:
    """Build our config from config.json, preprocessor_config.json and generation_config.json."""
    is_next = ARCHITECTURES[1] in raw["architectures"]
    own = read_own_json(raw)
    text = raw.get("text_config") or {}
    language = restored(folder, read_language(folder, text), own)
    vision = dataclasses.replace(read_vision(folder, raw), name=own["vision_tower"])
    return LlavaConfig(
        language=language,
        vision=vision,
        projector_type="mlp2x_gelu",
        image=_read_image(folder, raw, vision, is_next),
        template=template_of(own, language, folder).name,
        dtype=raw.get("torch_dtype") or raw.get("dtype") or "float32",
        has_image_newline=is_next,
        eos_token_ids=read_eos(folder, text or raw, language),
    )


def read_vision(folder: Path, raw: dict) -> VisionConfig:
    """Read vision_config and the keys that say which features are taken."""
    fields = hf_json.vision_fields(folder, raw.get("vision_config") or {})
    layer = raw.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise CheckpointError(f"{folder}: vision_feature_layer {layer} is a list, expected one number")
    if raw.get("projector_hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{folder}: projector_hidden_act {raw['projector_hidden_act']!r}, expected 'gelu'")
    strategy = raw.get("vision_feature_select_strategy", "default")
    if strategy == "default" and not fields["has_class_token"]:
        raise CheckpointError(
            f"{folder}: vision_feature_select_strategy 'default' leaves out the class token, but a {fields['family']} "
            "tower has none, so that a patch would be lost: expected 'full'"
        )
    is_cut = strategy == "default" or not fields["has_class_token"]
    return VisionConfig(**fields, select_layer=layer, select_feature="patch" if is_cut else "cls_patch")


def _read_image(folder: Path, raw: dict, vision: VisionConfig, is_next: bool) -> ImageSpec:
    path = folder / "preprocessor_config.json"
    values = read_json(path) if path.is_file() else {}
    is_padded, family = values.get("do_pad", False), get_tower_family(vision.family)
    return ImageSpec(
        side=vision.image_size,
        patch_size=vision.patch_size,
        mean=tuple(values.get("image_mean", family.mean)),
        std=tuple(values.get("image_std", family.std)),
        has_crop=hf_json.has_crop(values, family),
        mode="anyres" if is_next else "pad" if is_padded else "square",
        grids=as_width_height(read_pairs(folder, raw.get("image_grid_pinpoints") or ())) if is_next else (),
        merge="spatial_unpad" if is_next else "flat",
        has_class_token=vision.select_feature == "cls_patch",
    )


def open_tensors(folder: Path) -> dict[str, StoredTensor]:
    single, index = "model.safetensors", "model.safetensors.index.json"
    if not ((folder / single).is_file() or (folder / index).is_file()):
        raise CheckpointError(f"{folder} has neither {single} nor {index}: the weights are missing")
    return open_weights(folder, single, index, open_safetensors)


def table(config: LlavaConfig) -> KeyTable:
    language = hf_json.held(config).language
    rules = decoder_rules(language, "language_model.model.", "language_model.", is_torch=True)
    rules += tower_rules(config.vision, TOWER_PREFIX, is_torch=True)
    for ours, theirs in (("projector.0", "linear_1"), ("projector.2", "linear_2")):
        rules += linear_rules(ours, f"multi_modal_projector.{theirs}", has_bias=True, is_transposed=True)
    return KeyTable([*rules, Rule("image_newline", "image_newline")])


def canonical(name: str) -> str:
    """Return the older style of a name, which `table` is written in."""
    for pattern, replacement in NEW_STYLE:
        name, count = pattern.subn(replacement, name)
        if count:
            return name
    return name


def is_dropped(name: str, config: LlavaConfig) -> bool:
    """Tell what is left out on purpose: computed buffers, the copy of tied embeddings, and a tower's unused head."""
    is_tied_head = config.language.tie_word_embeddings and name == "language_model.lm_head.weight"
    is_unused = is_unused_by_llava(config.vision, TOWER_PREFIX, name)
    return is_tied_head or is_unused or DROPPED.fullmatch(name) is not None


def parts(
    config: LlavaConfig,
    tensors: dict[str, StoredTensor],
    tokenizer: Tokenizer | None = None,
    num_own: int | None = None,
) -> list[Part]:
    """Return the folder of a LlavaForConditionalGeneration or LlavaNextForConditionalGeneration.

    Where the tokenizer has `<image>` and `<pad>` already, they keep their ids and rows. Else the vocabulary gets rows
    for them and up to a multiple of 64, each the mean of the others, so that no new token is likelier than an average
    one. num_own: how many of them are the model's own, None for all. Raises CheckpointError for a model that
    transformers has no class for.
    """
    hf_json.check_holdable(config)
    places = hf_tokenizer.find_places(config.language.vocab_size, tokenizer, num_own)
    names, theirs = table(config), {}
    vocabulary = [names.to_theirs(name)[0] for name in (EMBEDDING, HEAD)]
    for name, tensor in renamed(names, tensors, NAME).items():
        is_grown = name in vocabulary and tensor.shape[0] < places.num_rows
        theirs[_new_style(name)] = padded_rows(tensor, places.num_rows, "mean") if is_grown else tensor
    return [Part("", "safetensors", "model", theirs, hf_json.json_files(config, places))]


def _new_style(name: str) -> str:
    old, new = next(pair for pair in TO_NEW_STYLE if name.startswith(pair[0]))
    return new + name[len(old) :]


def write_tokenizer(tokenizer: Tokenizer, config: LlavaConfig, folder: Path) -> None:
    """Write tokenizer files with `<image>` and `<pad>` added. Raises CheckpointError if they do not fit the model."""
    processor = "LlavaNextProcessor" if config.image.mode == "anyres" else "LlavaProcessor"
    hf_tokenizer.write_tokenizer(tokenizer, folder, config.language.vocab_size, processor)


def own_vocab_size(folder: Path, raw: dict, rows: StoredTensor) -> int | None:
    """Return how many of the vocabulary's rows are the model's own, None where none can be told from added ones."""
    own = raw.get(OWN_KEY)
    recorded = own.get("vocab_size") if isinstance(own, dict) else None
    return hf_tokenizer.own_vocab_size(folder, raw, recorded, rows)
