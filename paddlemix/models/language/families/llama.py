"""LLaMA 1, 2, 3 and 3.1, and models with its layout: Vicuna, Yi, SmolLM2 (tied embeddings)."""

from __future__ import annotations

from .family import Family


def _read_options(values) -> dict:
    """Return the options. attention_bias adds a bias to all four projections."""
    has_bias = bool(values["attention_bias"])
    return {"has_qkv_bias": has_bias, "has_out_bias": has_bias}


def _write_options(language) -> dict:
    return {"attention_bias": language.has_qkv_bias, "mlp_bias": False}


LLAMA = Family(
    name="llama",
    title="LLaMA",
    architecture="LlamaForCausalLM",
    llava_architecture="LlavaLlamaForCausalLM",
    llava_model_type="llava",
    defaults={
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "attention_bias": False,
    },
    read_options=_read_options,
    write_options=_write_options,
    template="vicuna_v1",
    pad_token_id=0,
)
