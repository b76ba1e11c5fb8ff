"""Mistral 7B: LLaMA's layout; v0.1 has a sliding window, v0.2 and v0.3 have none."""

from __future__ import annotations

from .family import Family


def _read_options(values) -> dict:
    return {"sliding_window": values["sliding_window"]}


def _write_options(language) -> dict:
    return {"sliding_window": language.sliding_window}


MISTRAL = Family(
    name="mistral",
    title="Mistral",
    architecture="MistralForCausalLM",
    llava_architecture="LlavaMistralForCausalLM",
    llava_model_type="llava_mistral",
    defaults={
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "sliding_window": 4096,
    },
    read_options=_read_options,
    write_options=_write_options,
    template="mistral_instruct",
)
