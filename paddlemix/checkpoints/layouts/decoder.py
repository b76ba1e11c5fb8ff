"""A language model alone, as transformers writes it: where stage 1 or a LoRA run starts."""

from __future__ import annotations

import dataclasses

from ...foreign_json import KeyRules
from ...models.config import LanguageConfig, LlavaConfig
from ...models.language.families import by_architecture, get_family
from ...tensor_files.stored import CheckpointError
from .components import decoder_rules, has_torch_weights, open_torch_weights
from .config_keys import CONFIG_FILE, read_config_json, read_generation
from .folder import Folder
from .folder_template import DEFAULT, FROM_CONFIG, TemplateChoice, choose_template
from .foreign_quantization import refuse_quantized
from .names import decoder_name
from .rules import KeyTable
from .shapes import language_shapes
from .translation import Naming, Translation, translate

COMPUTED = "rotary_emb.inv_freq"


def is_decoder(folder: Folder) -> bool:
    """Return whether a folder has a decoder of a known family and nothing else, by its config and its files."""
    if not folder.has_any("config.json") or not has_torch_weights(folder):
        return False
    raw = read_config_json(folder)
    return by_architecture(raw.get("architectures") or ()) is not None and not any(key.startswith("mm_") for key in raw)


def read_language_folder(folder: Folder) -> tuple[LanguageConfig, dict, Translation]:
    """Return a decoder's config, the content of config.json, and its tensors, not checked. Raises CheckpointError."""
    config, raw = read_decoder(folder)
    table = KeyTable(decoder_rules(config, f"{get_family(config.family).weights.body}.", "", is_torch=True))
    naming = Naming(
        table, decoder_name, lambda name: name.endswith(COMPUTED), language_shapes(config), config.tie_word_embeddings
    )
    return config, raw, translate(naming, open_torch_weights(folder))


def read_decoder(folder: Folder) -> tuple[LanguageConfig, dict]:
    """Return a decoder's config and the content of config.json. Raises CheckpointError for other decoders."""
    refuse_quantized(folder)
    raw = read_config_json(folder)
    return read_language(folder, raw), raw


def read_language(
    folder: Folder, stated: dict, family: str | None = None, *, part: str = "", beside: KeyRules | None = None
) -> LanguageConfig:
    """Return the decoder that these keys describe; absent keys have transformers' defaults. Raises CheckpointError.

    family: None for that of model_type. part: the object in config.json with the keys, "" for the whole file. beside:
    rules of further keys in the same object.
    """
    path = folder / CONFIG_FILE
    where = f"{part} in {path}" if part else str(path)
    try:
        return get_family(family or stated.get("model_type") or "llama").read(stated, where, beside)
    except ValueError as error:
        text = str(error)
        raise CheckpointError(text if where in text else f"{where}: {text}") from None


def read_eos(folder: Folder, stated: dict, language: LanguageConfig) -> tuple[int, ...]:
    """Return the ids that end an answer, from generation_config.json, else the config, else the family's."""
    value = read_generation(folder).get("eos_token_id")
    value = stated.get("eos_token_id", get_family(language.family).eos_token_id) if value is None else value
    return tuple(value) if isinstance(value, list) else () if value is None else (value,)


def language_json(config: LlavaConfig) -> dict:
    """Return a decoder's keys in transformers' config.json, with its dtype. Raises CheckpointError."""
    try:
        values = get_family(config.language.family).write(config.language)
    except ValueError as error:
        raise CheckpointError(f"config.json of transformers: {error}") from None
    return {**values, "torch_dtype": config.dtype}


def flat_json(config: LlavaConfig) -> dict:
    """Return the keys of a decoder at the top of a config.json, with the ids of special tokens."""
    language = config.language
    values = {**language_json(config), **generation_json(config), "pretraining_tp": 1}
    has_default = get_family(language.family).defaults.get("head_dim") is not None
    if language.head_dim * language.num_attention_heads == language.hidden_size and not has_default:
        values.pop("head_dim", None)  # LLaMA's own readers did not know the key at first
    return values


def check_features_scaled(config: LlavaConfig, layout: str) -> None:
    """Raise CheckpointError if a layout's own code would scale image features that this model does not scale."""
    if config.language.embedding_scale != 1.0 and not config.has_scaled_features:
        raise CheckpointError(
            f"layout {layout} cannot hold this model: its image features are not multiplied by the square root of the "
            "width (transformers from 5.4 on), but that layout's code does it; layouts hf and paddle can hold it"
        )


def stand_in(config: LlavaConfig) -> LlavaConfig:
    """Return the model as LLaVA's own code runs it: with a decoder of another family if it has no class for this one.

    NOTE: a LLaMA has no sliding window, so that it sees positions beyond it. The caller reports that. `flat_json` may
    refuse the result.
    """
    family = get_family(config.language.family).stand_in
    if family is None:
        return config
    return dataclasses.replace(
        config, language=dataclasses.replace(config.language, family=family, sliding_window=None)
    )


def restored(folder: Folder, language: LanguageConfig, own: dict) -> LanguageConfig:
    """Return the decoder that `stand_in` was made from (own: of `read_own_json`). Raises CheckpointError."""
    try:
        return dataclasses.replace(language, **own["language"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: config.json has {own['language']} as its own facts: {error}") from None


def class_json(config: LlavaConfig) -> dict:
    """Return the keys that name transformers' class of a decoder."""
    family = get_family(config.language.family)
    values = {"architectures": [family.architecture], "model_type": family.name}
    if family.remote_code is None:
        return values
    settings, model = family.remote_code
    return {**values, "auto_map": {"AutoConfig": settings, "AutoModel": model, "AutoModelForCausalLM": model}}


def generation_json(config: LlavaConfig) -> dict:
    """Return generation_config.json, without ids that are not in a small vocabulary."""
    family = get_family(config.language.family)
    ids = {"bos_token_id": family.bos_token_id, "pad_token_id": family.pad_token_id}
    ids = {name: value if (value or 0) < config.language.vocab_size else None for name, value in ids.items()}
    ends = list(config.eos_token_ids)
    eos = ends[0] if len(ends) == 1 else ends or None
    return {"bos_token_id": ids["bos_token_id"], "eos_token_id": eos, "pad_token_id": ids["pad_token_id"]}


def template_of(own: dict, language: LanguageConfig, folder: Folder | None = None) -> TemplateChoice:
    """Return the chat format that a folder has or names (own: of `read_own_json`), else that of its family.

    folder: the folder with transformers' chat template, None not to look for one. Raises CheckpointError.
    """
    default = get_family(language.family).template
    if folder is None:
        return TemplateChoice(own["template"] or default, FROM_CONFIG if own["template"] else DEFAULT)
    key = "template", own["template"], default
    return folder.cached(key, lambda: choose_template(folder, own["template"], default))
