"""LLaMA 1, 2, 3 and 3.1, and models with its layout: Vicuna, Yi, SmolLM2 (tied embeddings)."""

from __future__ import annotations

from .family import Family, attention_biases


def _read_options(values) -> dict:
    return attention_biases(values["attention_bias"])


def _write_options(language) -> dict:
    return {"attention_bias": language.has_qkv_bias, "mlp_bias": False}


LLAMA = Family(
    name="llama",
    title="LLaMA",
    architecture="LlamaForCausalLM",
    llava_architecture="LlavaLlamaForCausalLM",
    llava_model_type="llava",
    defaults={"vocab_size": 32000, "attention_bias": False},
    read_options=_read_options,
    write_options=_write_options,
    template="vicuna_v1",
    pad_token_id=0,
)
