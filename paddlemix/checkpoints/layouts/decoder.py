"""A decoder in a folder of its own, as transformers writes it: what a stage 1 or a LoRA run starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...foreign_json import KeyRules
from ...models.config import LanguageConfig, LlavaConfig
from ...models.language.families import by_architecture, get_family
from ...tensor_files.stored import CheckpointError
from ..foreign_quantization import refuse_quantized
from .components import has_torch_weights
from .config_keys import CONFIG_FILE, read_config_json, read_generation
from .folder_template import DEFAULT, NOTED, TemplateChoice, choose_template


def is_decoder(folder: Path) -> bool:
    """Tell if a folder holds a decoder of a known family and nothing else, by its config's keys and its files."""
    if not (folder / "config.json").is_file() or not has_torch_weights(folder):
        return False
    raw = read_config_json(folder)
    return by_architecture(raw.get("architectures") or ()) is not None and not any(key.startswith("mm_") for key in raw)


def read_decoder(folder: Path) -> tuple[LanguageConfig, dict]:
    """Return a decoder's config and what config.json holds. Raises CheckpointError for other decoders."""
    refuse_quantized(folder)
    raw = read_config_json(folder)
    return read_language(folder, raw), raw


def read_language(
    folder: Path, stated: dict, family: str | None = None, *, part: str = "", beside: KeyRules | None = None
) -> LanguageConfig:
    """Read the keys of a decoder; absent ones have transformers' defaults. Raises CheckpointError.

    family: None for what model_type says. part: the object in config.json that holds them, "" for the whole file.
    beside: rules of the keys among them that others read.
    """
    path = folder / CONFIG_FILE
    where = f"{part} in {path}" if part else str(path)
    try:
        return get_family(family or stated.get("model_type") or "llama").read(stated, where, beside)
    except ValueError as error:
        text = str(error)
        raise CheckpointError(text if where in text else f"{where}: {text}") from None


def read_eos(folder: Path, stated: dict, language: LanguageConfig) -> tuple[int, ...]:
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
    """Raise CheckpointError for image features that a layout's own code would scale and this model does not."""
    if config.language.embedding_scale != 1.0 and not config.has_scaled_features:
        raise CheckpointError(
            f"layout {layout} cannot hold this model: its image features are not multiplied by the square root of the "
            "width (transformers from 5.4 on), but that layout's code does it; layouts hf and paddle can hold it"
        )


def stand_in(config: LlavaConfig) -> LlavaConfig:
    """Return a model with its decoder as code without a class for that can run it; `flat_json` may refuse the result.

    NOTE: a LLaMA has no window: what is beyond it is seen too, which the caller has to tell.
    """
    family = get_family(config.language.family).stand_in
    if family is None:
        return config
    return dataclasses.replace(
        config, language=dataclasses.replace(config.language, family=family, sliding_window=None)
    )


def restored(folder: Path, language: LanguageConfig, own: dict) -> LanguageConfig:
    """Return a decoder of which `stand_in` was written (own: of `read_own_json`). Raises CheckpointError."""
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
    """Return generation_config.json, without ids that a small vocabulary does not have."""
    family = get_family(config.language.family)
    ids = {"bos_token_id": family.bos_token_id, "pad_token_id": family.pad_token_id}
    ids = {name: value if (value or 0) < config.language.vocab_size else None for name, value in ids.items()}
    return {"bos_token_id": ids["bos_token_id"], "eos_token_id": eos_json(config), "pad_token_id": ids["pad_token_id"]}


def eos_json(config: LlavaConfig) -> int | list[int] | None:
    ends = list(config.eos_token_ids)
    return ends[0] if len(ends) == 1 else ends or None


def template_of(own: dict, language: LanguageConfig, folder: Path | None = None) -> TemplateChoice:
    """Return the chat format that a folder has or names (own: of `read_own_json`), else its family's.

    folder: where transformers' chat template may lie, None to look at none. Raises CheckpointError.
    """
    default = get_family(language.family).template
    if folder is None:
        return TemplateChoice(own["template"] or default, NOTED if own["template"] else DEFAULT)
    return choose_template(folder, own["template"], default)
