"""Folders of LLaVA's own code (liuhaotian/llava-v1.5-*, -v1.6-*): LlavaLlamaForCausalLM and similar classes, in torch.

Released 1.5 weights have no vision tower: config.json names it (mm_vision_tower), and it has a separate folder. 1.6
weights have a tuned tower, which is used.
"""

from __future__ import annotations

from ...models.config import LanguageConfig, LlavaConfig
from ...models.language.families import FAMILIES, by_llava_architecture, get_family
from ...models.vision.families import get_tower_family
from ...tensor_files.shards import SAFETENSORS
from ...tensor_files.stored import CheckpointError, StoredTensor
from . import paddlemix
from .components import decoder_rules, is_not_read, mm_projector_rules, open_torch_weights, tower_rules
from .config_keys import (
    OFFICIAL,
    check_feature_width,
    check_mm,
    config_or_empty,
    mm_json,
    read_config_json,
    stored_dtype,
)
from .decoder import (
    check_features_scaled,
    flat_json,
    generation_json,
    read_eos,
    read_language,
    restored,
    stand_in,
    template_of,
)
from .folder import Folder
from .folder_template import TemplateChoice
from .hf_json import tower_preprocessor
from .image_processor import llava_image
from .layout import ALL_ROWS, Layout, Options, Source, Vocabulary
from .names import tower_name as tower_tensor_name
from .official_tower import TowerFacts, check_layers, fetch_tower, read_facts, select_layer
from .official_tower import selection as selection
from .official_tower import tower_name as tower_name
from .output_part import OWN_KEY, Part, own_json, read_own_json, renamed
from .rules import KeyTable, Rule
from .torch_tokenizer import write_model_tokenizer
from .tower import IMAGE_FILE, known_name, open_tower, tower_part, vision_json

NAME = "official"
# Models of the same code over unsupported decoders. They are recognized so that the error can say why.
OTHER_DECODERS = ("LlavaMixtralForCausalLM", "LlavaQwenMoeForCausalLM")


def matches(folder: Folder) -> bool:
    """Return whether a LLaVA, by its architecture or its mm_* keys, has weights that Paddle did not write."""
    raw = config_or_empty(folder)
    names = raw.get("architectures") or ()
    is_named = by_llava_architecture(names) is not None or any(name in names for name in OTHER_DECODERS)
    # NOTE: older code had its classes under other names (LlavaMPTForCausalLM); "llava" is transformers' type too.
    is_named = is_named or raw.get("model_type") in {one.llava_model_type for one in FAMILIES.values()} - {"llava"}
    return (is_named or "mm_projector_type" in raw) and not paddlemix.matches(folder)


def read(folder: Folder, options: Options) -> Source:
    raw = read_config_json(folder)
    config = read_config(folder, raw)
    choice = template_choice(folder, raw, config.language)
    return Source(folder, LAYOUT, config, lambda *_: open_tensors(folder), folder, choice)


def template_choice(folder: Folder, raw: dict, language: LanguageConfig) -> TemplateChoice:
    return template_of(read_own_json(raw), language, folder)


def read_config(folder: Folder, raw: dict) -> LlavaConfig:
    """Build our config from the official flat one and the description of the tower. Raises CheckpointError."""
    check_decoder(folder, raw)
    language = restored(folder, read_language(folder, raw, _family(raw), beside=OFFICIAL), read_own_json(raw))
    return build_config(folder, raw, language, read_facts(folder, raw))


def _family(raw: dict) -> str:
    """Return the decoder's family by the architecture, else by model_type, which is "llava" for LLaMA."""
    family = by_llava_architecture(raw.get("architectures") or ())
    by_type = (one for one in FAMILIES.values() if one.llava_model_type == raw.get("model_type"))
    return (family or next(by_type, FAMILIES["llama"])).name


def body_of(family: str) -> str:
    """Return the module around everything but the head, for a family of decoders or its stand-in."""
    return get_family(get_family(family).stand_in or family).weights.body


def name_in_part(part: str, name: str, config: LlavaConfig) -> str:
    """Return the name that a tensor of the tower's own folder has in the model."""
    return tower_prefix(config.language.family) + name if part else name


def tower_prefix(family: str) -> str:
    """Return the prefix of a tower's names in a model with a family of decoders."""
    return f"{body_of(family)}.vision_tower.vision_tower."


def check_decoder(folder: Folder, raw: dict) -> None:
    """Raise CheckpointError for options and decoders of the official code that are not supported."""
    check_mm(folder, raw)
    others = [name for name in raw.get("architectures") or () if name in OTHER_DECODERS]
    if others:
        known = ", ".join(family.llava_architecture for family in FAMILIES.values() if family.llava_architecture)
        raise CheckpointError(f"{folder}: language model of {others[0]}, expected one of {known}")


def build_config(folder: Folder, raw: dict, language: LanguageConfig, facts: TowerFacts) -> LlavaConfig:
    """Build a config from the official mm_* keys, a decoder and a tower."""
    vision = facts.vision
    check_feature_width(folder, raw, vision)
    mode = raw.get("image_aspect_ratio") or "square"
    merge = raw.get("mm_patch_merge_type") or "flat"
    grids = raw.get("image_grid_pinpoints") or ()
    image = llava_image(folder, vision, facts.pixels, mode=mode, grids=grids, merge=merge)
    return LlavaConfig(
        language=language,
        vision=vision,
        projector_type=raw.get("mm_projector_type", "linear"),
        image=image,
        template=template_choice(folder, raw, language).name,
        dtype=stored_dtype(folder, raw),
        has_image_newline="unpad" in merge,
        eos_token_ids=read_eos(folder, raw, language),
        has_image_marks=bool(raw.get("mm_use_im_start_end")),
    )


def open_tensors(folder: Folder) -> dict[str, StoredTensor]:
    """Map the weights, together with those of the tower that config.json names if they have none."""
    tensors, raw = open_torch_weights(folder), read_config_json(folder)
    if any(name.startswith(tower_prefix(_family(raw))) for name in tensors):
        return tensors
    return {**tensors, **open_named_tower(folder, raw)}


def open_named_tower(folder: Folder, raw: dict) -> dict[str, StoredTensor]:
    """Map the tower that a config names, under the names of the official code."""
    place = fetch_tower(folder, tower_name(raw))
    return {tower_prefix(_family(raw)) + name: tensor for name, tensor in open_tower(place).items()}


def table(config: LlavaConfig) -> KeyTable:
    family = config.language.family
    rules = decoder_rules(stand_in(config).language, f"{body_of(family)}.", "", is_torch=True)
    rules += tower_rules(config.vision, f"{tower_prefix(family)}vision_model.", is_torch=True)
    rules += mm_projector_rules(f"{body_of(family)}.mm_projector", config.projector_type, is_torch=True)
    return KeyTable([*rules, Rule("image_newline", f"{body_of(family)}.image_newline")])


def canonical(name: str) -> str:
    start, tower, rest = name.partition(".vision_tower.vision_tower.")
    return f"{start}{tower}{tower_tensor_name(rest)}" if tower else name


def is_dropped(name: str, config: LlavaConfig) -> bool:
    """Return whether a tensor is dropped: a computed buffer, a copy of tied embeddings, or an unused tensor."""
    family = config.language.family
    is_unused_newline = not config.has_image_newline and name == f"{body_of(family)}.image_newline"
    tower = f"{tower_prefix(family)}vision_model."
    return is_unused_newline or is_not_read(config, name, head="lm_head.weight", tower=tower)


def parts(config: LlavaConfig, tensors: dict[str, StoredTensor], vocabulary: Vocabulary = ALL_ROWS) -> list[Part]:
    """Return a folder that LLaVA's own class for this decoder loads.

    A tower whose name the official code hands to transformers is in the weights, as in 1.6. For any other tower that
    code needs a path, so it gets a folder inside the result. The path is relative: the code has to run in the result.
    NOTE: LLaVA-NeXT's class for SigLIP asserts the 27x27 patches of so400m-patch14-384.
    """
    _check_decoder_class(config)
    check_features_scaled(config, NAME)
    if config.image.mode == "anyres" and config.has_image_newline != (config.image.merge == "spatial_unpad"):
        raise CheckpointError(
            f"layout {NAME} has an image_newline if and only if merge is 'spatial_unpad'; here has_image_newline is "
            f"{config.has_image_newline} and merge {config.image.merge!r}"
        )
    theirs, tower = renamed(table(config), tensors, NAME), {}
    name = known_name(config.vision)
    check_layers(config.vision, name)
    folder = get_tower_family(config.vision.family).own_folder
    if not name:
        prefix = tower_prefix(config.language.family)
        tower = {key.removeprefix(prefix): theirs.pop(key) for key in list(theirs) if key.startswith(prefix)}
    json_files = {
        "config.json": _config_json(config, name, folder),
        "generation_config.json": generation_json(config),
        IMAGE_FILE: tower_preprocessor(config.image, NAME),
    }
    main = Part("", SAFETENSORS, "model", theirs, json_files, notes=_notes(config))
    return [main] if name else [main, tower_part(folder, tower, config)]


def _check_decoder_class(config: LlavaConfig) -> None:
    """Raise CheckpointError for a decoder that no class of LLaVA's own code can run."""
    family = get_family(config.language.family)
    if not family.llava_architecture and family.stand_in is None:
        reason = "LLaVA's own code has no class that computes it; convert to hf, xtuner or paddle"
        raise CheckpointError(f"layout {NAME} cannot hold a decoder of family {family.name!r}: {reason}")


def _notes(config: LlavaConfig) -> tuple[str, ...]:
    """Return what LLaVA's own code does differently with a decoder that it runs as another one."""
    window = config.language.sliding_window
    if window is None or stand_in(config) == config:
        return ()
    return (
        f"LLaVA's own code runs this decoder as a LLaMA, without its sliding window: the same up to {window} positions",
    )


def _config_json(config: LlavaConfig, tower: str, folder: str) -> dict:
    """Return config.json. tower: the name of the tower in the weights, "" if it is in `folder`."""
    vision, decoder = config.vision, stand_in(config)
    family = get_family(decoder.language.family)
    values = {
        "architectures": [family.llava_architecture],
        "model_type": family.llava_model_type,
        **flat_json(decoder),
        **generation_json(config),
        **mm_json(config),
        "freeze_mm_mlp_adapter": False,
        "mm_projector_lr": None,
        "mm_vision_select_layer": select_layer(vision, vision.select_layer),
        "mm_vision_tower": tower or folder,
        "tune_mm_mlp_adapter": False,
        # NOTE: without this the official code builds the tower after the weights are read, and they are lost.
        "unfreeze_mm_vision_tower": bool(tower),
        OWN_KEY: own_json(config, decoder),
    }
    return values | ({"vision_config": vision_json(vision)} if tower else {})


LAYOUT = Layout(
    name=NAME,
    title="official (of LLaVA's own code)",
    rule="LlavaLlama-, LlavaMistral-, LlavaQwen-, LlavaMpt- or LlavaGemmaForCausalLM with *.bin or *.safetensors",
    matches=matches,
    read=read,
    table=table,
    canonical=canonical,
    is_dropped=is_dropped,
    name_in_part=name_in_part,
    parts=parts,
    write_tokenizer=write_model_tokenizer,
)
