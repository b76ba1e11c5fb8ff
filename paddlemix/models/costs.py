"""What a step must read and compute, counted from a configuration: bytes of weights and cache, operations."""

from __future__ import annotations

from ..constants import DTYPE_BYTES
from ..ops.dequantize import num_bytes
from .config import LanguageConfig, LlavaConfig
from .quantized import quantized_layers


def layer_weights(config: LanguageConfig) -> int:
    """Return the weights of one decoder layer's linear layers."""
    width, dim = config.hidden_size, config.head_dim
    attention = 2 * width * dim * (config.num_attention_heads + config.num_key_value_heads)
    return attention + (3 if config.is_gated else 2) * width * config.intermediate_size


def decode_bytes(model, context: int, dtype: str) -> int:
    """Return what a decoding step for one row must read: every weight of layers and head once, keys and values."""
    config, size = model.config.language, DTYPE_BYTES[dtype]
    layers = config.num_hidden_layers * layer_weights(config) * size
    codes = [num_bytes(layer.codes) for layer in quantized_layers(model).values()]
    head = config.hidden_size * config.vocab_size * size
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * context * size
    return (sum(codes) if codes else layers) + head + cached


def prefill_flops(config: LanguageConfig, length: int) -> int:
    """Return the operations of reading `length` tokens: two a weight and token, causal attention, one row of logits."""
    attention = 2 * length * (length + 1) * config.num_attention_heads * config.head_dim
    layers = config.num_hidden_layers * (2 * length * layer_weights(config) + attention)
    return layers + 2 * config.hidden_size * config.vocab_size


def vision_flops(config: LlavaConfig, num_tiles: int) -> int:
    """Return the operations of the tower's layers that are needed for some tiles, without the projector's."""
    vision = config.vision
    num_layers = vision.num_hidden_layers + 1 + vision.select_layer if vision.select_layer < 0 else vision.select_layer
    length = config.image.patches_per_side**2 + int(vision.has_class_token)
    weights = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    attention = 4 * length * length * vision.hidden_size
    return num_tiles * num_layers * (2 * length * weights + attention)
