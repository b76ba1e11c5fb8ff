"""A LLaMA in a folder of its own, as transformers writes it: what a stage 1 or a LoRA run starts from."""

from __future__ import annotations

from pathlib import Path

from ...models.config import LanguageConfig, LlavaConfig
from ..files import read_json
from .components import has_torch_weights
from .hf import read_language

ARCHITECTURE = "LlamaForCausalLM"


def is_llama(folder: Path) -> bool:
    """Tell if a folder holds a LLaMA and nothing else, by its config's keys and its files."""
    if not (folder / "config.json").is_file() or not has_torch_weights(folder):
        return False
    raw = read_json(folder / "config.json")
    return ARCHITECTURE in (raw.get("architectures") or ()) and not any(key.startswith("mm_") for key in raw)


def read_llama(folder: Path) -> tuple[LanguageConfig, dict]:
    """Return the decoder's config and what config.json holds. Raises CheckpointError for other decoders."""
    raw = read_json(folder / "config.json")
    return read_language(folder, raw), raw


def llama_json(config: LlavaConfig) -> dict:
    """Return the keys of a LLaMA in transformers' config.json, with the dtype and the ids that end an answer."""
    language = config.language
    values = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": eos_json(config),
        "hidden_act": "silu",
        "hidden_size": language.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": language.intermediate_size,
        "max_position_embeddings": language.max_position_embeddings,
        "mlp_bias": False,
        "num_attention_heads": language.num_attention_heads,
        "num_hidden_layers": language.num_hidden_layers,
        "num_key_value_heads": language.num_key_value_heads,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": language.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": language.rope_theta,
        "tie_word_embeddings": language.tie_word_embeddings,
        "torch_dtype": config.dtype,
        "use_cache": True,
        "vocab_size": language.vocab_size,
    }
    if language.head_dim * language.num_attention_heads != language.hidden_size:
        values["head_dim"] = language.head_dim  # LLaMA's own readers did not know the key at first
    return values


def generation_json(config: LlavaConfig) -> dict:
    """Return generation_config.json."""
    return {"bos_token_id": 1, "eos_token_id": eos_json(config), "pad_token_id": 0}


def eos_json(config: LlavaConfig) -> int | list[int] | None:
    ends = list(config.eos_token_ids)
    return ends[0] if len(ends) == 1 else ends or None
