"""Valid values of the fields of a model's configuration: types, signs and bounds.

The bounds are far beyond every released model. They catch a mistake in a file before tensors of that size are created.
"""

from __future__ import annotations

from ..foreign_json import FLAG, TEXT, Kind, list_of, number, one_of, whole_number

MAX_LAYERS = 4096
MAX_WIDTH = 1 << 20
MAX_VOCABULARY = 1 << 24
MAX_POSITIONS = 1 << 40  # some files use a tokenizer's "no limit" as a length
MAX_SIDE = 1 << 14  # px
MAX_LAYER_NORM_EPS = 1e-3  # of Paddle's LayerNorm
MAX_ID = (1 << 31) - 1
DTYPES = ("float32", "float16", "bfloat16")

WIDTH = whole_number(1, MAX_WIDTH)
LENGTH = whole_number(1, MAX_POSITIONS)
FACTORS = list_of(number(0.0, 1e12, is_open=True), most=MAX_WIDTH)
EPSILON = number(0.0, 1.0)
POSITIVE = number(0.0, 1e12, is_open=True)

ROPE_SCALING: dict[str, Kind] = {
    "factor": number(0.0, 1e9, is_open=True),
    "low_freq_factor": POSITIVE.or_null(),
    "high_freq_factor": POSITIVE.or_null(),
    "original_max_position_embeddings": LENGTH.or_null(),
    "short_factor": FACTORS.or_null(),
    "long_factor": FACTORS.or_null(),
}
LANGUAGE: dict[str, Kind] = {
    "vocab_size": whole_number(1, MAX_VOCABULARY),
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": whole_number(1, MAX_LAYERS),
    "num_attention_heads": whole_number(1, MAX_WIDTH),
    "num_key_value_heads": whole_number(1, MAX_WIDTH).or_null(),
    "head_dim": WIDTH.or_null(),
    "rms_norm_eps": EPSILON,
    "rope_theta": POSITIVE,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": FLAG,
    "family": TEXT,
    "has_qkv_bias": FLAG,
    "has_out_bias": FLAG,
    "sliding_window": LENGTH.or_null(),
    "num_full_layers": whole_number(0, MAX_LAYERS),
    "norm": one_of(("rms", "layer")),
    "norm_offset": number(-1e6, 1e6),
    "activation": one_of(("silu", "gelu", "gelu_tanh")),
    "positions": one_of(("rotary", "alibi")),
    "rope_order": one_of(("halves", "pairs")),
    "is_gated": FLAG,
    "embedding_scale": POSITIVE,
    "clip_qkv": POSITIVE.or_null(),
    "softmax_scale": POSITIVE.or_null(),
}
VISION: dict[str, Kind] = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": whole_number(1, MAX_LAYERS),
    "num_attention_heads": whole_number(1, MAX_WIDTH),
    "image_size": whole_number(1, MAX_SIDE),
    "patch_size": whole_number(1, MAX_SIDE),
    "layer_norm_eps": number(0.0, MAX_LAYER_NORM_EPS),
    "hidden_act": one_of(("quick_gelu", "gelu", "gelu_pytorch_tanh")),
    "select_layer": whole_number(-MAX_LAYERS, MAX_LAYERS),
    "select_feature": one_of(("patch", "cls_patch")),
    "name": TEXT,
    "family": TEXT,
    "has_class_token": FLAG,
    "has_pre_norm": FLAG,
    "has_patch_bias": FLAG,
}
LLAVA: dict[str, Kind] = {
    "projector_type": TEXT,
    "template": TEXT,
    "dtype": one_of(DTYPES),
    "has_image_newline": FLAG,
    "has_scaled_features": FLAG,
    "has_image_marks": FLAG,
    "eos_token_ids": list_of(whole_number(0, MAX_ID), least=0, most=1024),
    "tensor_parallel_degree": whole_number(1, 1 << 16),
    "untrained": list_of(TEXT, least=0, most=1024),
}
