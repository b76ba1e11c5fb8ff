"""Gemma 1 (2B, 7B): scaled embeddings, norm weights stored minus 1, GELU by tanh, an explicit head_dim."""

from __future__ import annotations

from .family import Family, attention_biases
from .generic_keys import written_since

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}


def _read_options(values) -> dict:
    """Return the options.

    hidden_activation takes precedence: hidden_act of the first released files is wrong. Without it, "gelu" is exact in
    transformers 4 and the approximation by tanh in transformers 5.
    """
    is_tanh = values["hidden_act"] == "gelu" and written_since(values, 5)
    activation = values["hidden_activation"] or ("gelu_pytorch_tanh" if is_tanh else values["hidden_act"])
    if activation not in ACTIVATIONS:
        raise ValueError(f"hidden_activation is {activation!r}: expected {' or '.join(ACTIVATIONS)}")
    return {
        **attention_biases(values["attention_bias"]),
        "activation": ACTIVATIONS[activation],
        "norm_offset": 1.0,
        "embedding_scale": values["hidden_size"] ** 0.5,
    }


def _write_options(language) -> dict:
    return {"attention_bias": language.has_qkv_bias}


GEMMA = Family(
    name="gemma",
    title="Gemma",
    architecture="GemmaForCausalLM",
    llava_architecture="LlavaGemmaForCausalLM",
    llava_model_type="llava_gemma",
    defaults={
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": None,
    },
    activations=ACTIVATIONS,
    read_options=_read_options,
    write_options=_write_options,
    template="gemma",
    bos_token_id=2,
    eos_token_id=1,
    pad_token_id=0,
    fixed_keys={"use_bidirectional_attention": (None, False)},
)
