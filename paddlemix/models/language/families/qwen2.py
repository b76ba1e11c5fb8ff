"""Qwen2 and 2.5: biases in the query, key and value projections; an optional window in the upper layers."""

from __future__ import annotations

from .family import SLIDING, Family


def _read_options(values) -> dict:
    options = {"has_qkv_bias": True}
    if not values["use_sliding_window"] or values["sliding_window"] is None:
        return options
    num_full = min(_num_full_layers(values), values["num_hidden_layers"])
    return options | {"sliding_window": values["sliding_window"], "num_full_layers": num_full}


def _num_full_layers(values) -> int:
    """Return the number of first layers without a window. `Family.read` refuses other patterns of layer_types."""
    kinds = values["layer_types"]
    if not isinstance(kinds, list):
        return values["max_window_layers"]
    return kinds.index(SLIDING) if SLIDING in kinds else len(kinds)


def _write_options(language) -> dict:
    return {
        "max_window_layers": language.num_full_layers,
        "sliding_window": language.sliding_window,
        "use_sliding_window": language.sliding_window is not None,
    }


QWEN2 = Family(
    name="qwen2",
    title="Qwen2",
    architecture="Qwen2ForCausalLM",
    llava_architecture="LlavaQwenForCausalLM",
    llava_model_type="llava_qwen",
    defaults={
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": None,
    },
    read_options=_read_options,
    write_options=_write_options,
    template="qwen_2",
    bos_token_id=None,
    eos_token_id=None,
)
