"""ERNIE 4.5, the dense models: LLaMA's layout with rotary positions in pairs, and an explicit head_dim."""

from __future__ import annotations

from .family import Family


def _read_options(values) -> dict:
    return {"rope_order": "pairs"}


def _write_options(language) -> dict:
    return {"use_bias": False}


ERNIE4_5 = Family(
    name="ernie4_5",
    title="ERNIE 4.5",
    architecture="Ernie4_5ForCausalLM",
    # In the first released files, before transformers had a class.
    other_architectures=("Ernie4_5_ForCausalLM",),
    defaults={
        "vocab_size": 103424,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 18,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
    read_options=_read_options,
    write_options=_write_options,
    template="ernie",
    pad_token_id=0,
    # compression_ratio divides the positions; transformers' class does not have it.
    fixed_keys={"use_bias": (False,), "compression_ratio": (1.0,)},
)
