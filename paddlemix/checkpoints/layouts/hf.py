"""Folders of transformers: LlavaForConditionalGeneration (1.5) and LlavaNextForConditionalGeneration (1.6)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...conversation.load_tokenizer import make_tokenizer
from ...conversation.sentencepiece_tokenizer import SentencePieceTokenizer
from ...conversation.tokenizer import Tokenizer
from ...foreign_json import check_keys, check_values, shown
from ...image.spec import ANYRES_GRIDS, ImageSpec
from ...models.config import LanguageConfig, LlavaConfig, VisionConfig
from ...models.language.families.generic_keys import written_since
from ...models.vision.families import KNOWN_TOWERS, get_tower_family
from ...models.vision.families.family import SHAPE
from ...tensor_files.shards import SAFETENSORS
from ...tensor_files.stored import CheckpointError, StoredTensor
from ...tensor_files.transforms import are_alike, padded_rows
from . import hf_json, hf_tokenizer
from .added_rows import num_rows_before
from .components import EMBEDDING, HEAD, decoder_rules, is_not_read, open_torch_weights, read_pairs, tower_rules
from .config_keys import HF, HF_KINDS, config_or_empty, read_config_json, stored_dtype
from .decoder import read_eos, read_language, restored, template_of
from .folder import Folder
from .hf_json import ARCHITECTURES, IMAGE_PROCESSORS, as_width_height
from .image_processor import ImageProcessor, read_processor
from .image_processor_file import Found, check_processor, find_processor
from .layout import ALL_ROWS, Layout, Options, Source, Vocabulary
from .names import decoder_name, tower_name
from .output_part import OWN_KEY, Part, read_own_json, renamed
from .rules import KeyTable, Rule, linear_rules

NAME = "hf"
TOWER_PREFIX = "vision_tower.vision_model."
# The names of the table, and those that transformers has used since 4.52.
TO_NEW_STYLE = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("image_newline", "model.image_newline"),
)
# The values of transformers for an absent vision_config.
DEFAULT_TOWER = {
    name: value for name, value in KNOWN_TOWERS["openai/clip-vit-large-patch14-336"].items() if name in SHAPE
}
IN_MODEL = ("model.multi_modal_projector.", "model.image_newline")
DEFAULT_PINPOINTS = [list(pair) for pair in ANYRES_GRIDS]  # of LlavaNextConfig and of its image processor


def matches(folder: Folder) -> bool:
    return any(name in ARCHITECTURES for name in config_or_empty(folder).get("architectures") or ())


def read(folder: Folder, options: Options) -> Source:
    raw = read_config_json(folder)
    config = read_config(folder, raw)
    choice = template_of(read_own_json(raw), config.language, folder)
    return Source(folder, LAYOUT, config, lambda *_: open_torch_weights(folder), folder, choice)


def read_config(folder: Folder, raw: dict) -> LlavaConfig:
    """Build our config from config.json, preprocessor_config.json and generation_config.json."""
    check_keys(raw, HF, str(folder / "config.json"), CheckpointError)
    check_values(raw, HF_KINDS, str(folder / "config.json"), CheckpointError)
    ids = {key: raw[key] for key in ("image_token_index", "image_token_id") if key in raw}
    if len(set(ids.values())) > 1:
        raise CheckpointError(f"{folder / 'config.json'} has {ids}: expected one id of `<image>`, under either name")
    is_next = ARCHITECTURES[1] in raw["architectures"]
    own = read_own_json(raw)
    text = {"transformers_version": raw.get("transformers_version"), **(raw.get("text_config") or {})}
    language = read_language(folder, text, part="text_config")
    language = dataclasses.replace(language, tie_word_embeddings=_is_tied(raw, language, is_next))
    language = restored(folder, language, own)
    vision = dataclasses.replace(read_vision(folder, raw), name=own["vision_tower"])
    return LlavaConfig(
        language=language,
        vision=vision,
        projector_type="mlp2x_gelu",
        image=_read_image(folder, raw, vision, is_next),
        template=template_of(own, language, folder).name,
        dtype=stored_dtype(folder, raw, text),
        has_image_newline=is_next,
        eos_token_ids=read_eos(folder, raw.get("text_config") or raw, language),
        has_scaled_features=language.embedding_scale == 1.0 or not written_since(raw, 5, 4),
        has_image_marks=own["has_image_marks"],
    )


def _is_tied(raw: dict, language: LanguageConfig, is_next: bool) -> bool:
    """Return whether the head shares the matrix of the embeddings.

    transformers 4 looks at the decoder's config alone. 5 looks at the model's own, to which LlavaConfig, but not
    LlavaNextConfig, copies the decoder's.
    """
    if not written_since(raw, 5):
        return language.tie_word_embeddings
    return raw.get("tie_word_embeddings", False) or (language.tie_word_embeddings and not is_next)


def read_vision(folder: Folder, raw: dict) -> VisionConfig:
    """Read vision_config and the keys that choose features."""
    stated = raw.get("vision_config")
    fields = hf_json.vision_fields(folder, DEFAULT_TOWER if stated is None else stated)
    layer = raw.get("vision_feature_layer", -2)
    if isinstance(layer, list) and len(layer) == 1:
        layer = layer[0]
    if isinstance(layer, list):
        raise CheckpointError(f"{folder}: vision_feature_layer {layer} is a list, expected one number")
    if raw.get("projector_hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{folder}: projector_hidden_act {raw['projector_hidden_act']!r}, expected 'gelu'")
    strategy = raw.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise CheckpointError(
            f"{folder / 'config.json'}: vision_feature_select_strategy {strategy!r}, expected 'default' or 'full'"
        )
    if strategy == "default" and not fields["has_class_token"]:
        raise CheckpointError(
            f"{folder}: vision_feature_select_strategy 'default' leaves out the class token, but a {fields['family']} "
            "tower has none, so that a patch would be lost: expected 'full'"
        )
    is_cut = strategy == "default" or not fields["has_class_token"]
    return VisionConfig(**fields, select_layer=layer, select_feature="patch" if is_cut else "cls_patch")


def _read_image(folder: Folder, raw: dict, vision: VisionConfig, is_next: bool) -> ImageSpec:
    """Read the image processor's file. Without one, images are made as for the tower alone."""
    check_processor(folder, vision.patch_size, raw.get("vision_feature_select_strategy", "default"))
    found, processor, pixels = find_processor(folder), None, get_tower_family(vision.family).pixels
    stated = raw.get("image_grid_pinpoints", DEFAULT_PINPOINTS) if is_next else ()
    pairs = read_pairs(folder, () if stated is None else stated)
    if found is not None:
        processor = read_processor(found, IMAGE_PROCESSORS[is_next], vision.image_size)
        pixels = processor.pixels
    image = ImageSpec(
        side=vision.image_size,
        patch_size=vision.patch_size,
        mode="anyres" if is_next else "pad" if processor is not None and processor.is_padded else "square",
        grids=as_width_height(pairs),
        merge="spatial_unpad" if is_next else "flat",
        has_class_token=vision.select_feature == "cls_patch",
        has_rounded_sizes=is_next and read_own_json(raw)["has_rounded_sizes"],
        **pixels,
    )
    if processor is not None:
        _check_tiles(found, processor, pairs, is_next)
    return image


def _check_tiles(found: Found, processor: ImageProcessor, pairs: tuple[tuple[int, int], ...], is_next: bool) -> None:
    """Raise CheckpointError if an image processor does not lay out images as the model expects."""
    if processor.kind.has_tiles != is_next:
        raise CheckpointError(
            f"{found.where} states {processor.kind.name}, but {ARCHITECTURES[is_next]} needs the images of "
            f"{IMAGE_PROCESSORS[is_next]}{'' if is_next else ' or of a class without tiles'}"
        )
    stated = DEFAULT_PINPOINTS if processor.pinpoints is None else processor.pinpoints
    if is_next and read_pairs(Path(found.where), stated) != pairs:
        raise CheckpointError(
            f"{found.where} states image_grid_pinpoints {shown(stated)}, but config.json states "
            f"{shown([list(pair) for pair in pairs])}: pixels and features would be on different canvases"
        )


def table(config: LlavaConfig) -> KeyTable:
    language = hf_json.as_transformers(config).language
    rules = decoder_rules(language, "language_model.model.", "language_model.", is_torch=True)
    rules += tower_rules(config.vision, TOWER_PREFIX, is_torch=True)
    for ours, theirs in (("projector.0", "linear_1"), ("projector.2", "linear_2")):
        rules += linear_rules(ours, f"multi_modal_projector.{theirs}", has_bias=True, is_transposed=True)
    return KeyTable([*rules, Rule("image_newline", "image_newline")])


def canonical(name: str) -> str:
    """Return the oldest spelling of a name, which `table` has.

    transformers has moved the decoder, the tower and the head into and out of `model.` and `language_model.`, and has
    dropped the tower's `vision_model.`. All spellings are recognized.
    """
    name = tower_name(decoder_name(name, "language_model.model.", "language_model."), TOWER_PREFIX)
    return name.removeprefix("model.") if name.startswith(IN_MODEL) else name


def is_dropped(name: str, config: LlavaConfig) -> bool:
    """Return whether a tensor is dropped: a computed buffer, a copy of tied embeddings, or a tower's unused head."""
    return is_not_read(config, name, head="language_model.lm_head.weight", tower=TOWER_PREFIX)


def parts(config: LlavaConfig, tensors: dict[str, StoredTensor], vocabulary: Vocabulary = ALL_ROWS) -> list[Part]:
    """Return the folder of a LlavaForConditionalGeneration or LlavaNextForConditionalGeneration.

    If the tokenizer has `<image>` and `<pad>`, they keep their ids and rows. Else the vocabulary gets rows for them,
    and for padding to a multiple of 64. Each is the mean of the others, so that no new token is likelier than an
    average one. Raises CheckpointError for a model for which transformers has no class.
    """
    hf_json.check_holdable(config)
    places = hf_tokenizer.find_places(config.language.vocab_size, vocabulary.tokenizer, vocabulary.num_original)
    names, theirs = table(config), {}
    with_rows = [names.to_theirs(name)[0] for name in (EMBEDDING, HEAD)]
    for name, tensor in renamed(names, tensors, NAME).items():
        is_grown = name in with_rows and tensor.shape[0] < places.num_rows
        theirs[new_style(name)] = padded_rows(tensor, places.num_rows, "mean") if is_grown else tensor
    return [Part("", SAFETENSORS, "model", theirs, hf_json.json_files(config, places), notes=hf_json.notes(config))]


def new_style(name: str) -> str:
    """Return the name of a tensor of `table` in transformers 4.52 and later."""
    old, new = next(pair for pair in TO_NEW_STYLE if name.startswith(pair[0]))
    return new + name[len(old) :]


def write_tokenizer(tokenizer: Tokenizer, config: LlavaConfig, folder: Path) -> None:
    """Write tokenizer files with `<image>` and `<pad>` added. Raises CheckpointError if they do not fit the model."""
    processor = "LlavaNextProcessor" if config.image.mode == "anyres" else "LlavaProcessor"
    hf_tokenizer.write_tokenizer(tokenizer, folder, config.language.vocab_size, processor)


def tokenizer_remarks(tokenizer: Tokenizer | None) -> list[str]:
    """Return notes for the report on the ids that transformers makes of a prompt with an image."""
    if not isinstance(tokenizer, SentencePieceTokenizer) or tokenizer.is_legacy:
        return []
    return [
        "its tokenizer is not legacy: after an image or a special token at the start, transformers puts no space in "
        "front of the text, LLaVA's own code and this one do, so that a prompt can differ by one id there"
    ]


def num_original_rows(folder: Folder, source: Source) -> int | None:
    """Return how many rows the vocabulary had before tokens were added, None if that is unknown.

    The added ones start at the recorded number, else at `<image>`. They count as added if the tokenizer has
    nothing but that token and `<pad>` there, as in llava-hf's folders. Without a tokenizer they count as added if our
    writer recorded it and they all are equal, as it writes them.
    """
    raw = folder.json("config.json")
    image_id = raw.get("image_token_index", raw.get("image_token_id", 32000))
    recorded = raw[OWN_KEY].get("vocab_size") if isinstance(raw.get(OWN_KEY), dict) else None
    start = image_id if recorded is None else recorded
    num_rows = source.stored_config.language.vocab_size
    if type(image_id) is not int or type(start) is not int or not 0 < image_id <= start < num_rows:
        return None
    files = source.tokenizer_folder.tokenizer_files()
    if files is None:
        return start if recorded is not None and are_alike(source.stored_tensors[EMBEDDING], start) else None
    try:
        return num_rows_before(files, start, image_id)
    except (ValueError, KeyError, TypeError, AttributeError):
        make_tokenizer(files)  # raises an error that explains what is wrong with the files
        raise


LAYOUT = Layout(
    name=NAME,
    title="hf (llava-hf, of transformers)",
    rule=f"{' or '.join(ARCHITECTURES)} of transformers",
    matches=matches,
    read=read,
    table=table,
    canonical=canonical,
    is_dropped=is_dropped,
    parts=parts,
    write_tokenizer=write_tokenizer,
    remarks=tokenizer_remarks,
    loads_in_transformers=True,
    num_original_rows=num_original_rows,
)
