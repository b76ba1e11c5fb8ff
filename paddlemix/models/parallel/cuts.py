"""How each weight of the decoder is cut over cards, by this project's names. The tower and the projector stay whole.

Everything else follows from this table: the layers that are built, what is read of a checkpoint, what is gathered to
write one, and which parameters Fleet may treat as equal on all cards.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import LanguageConfig, LlavaConfig

if TYPE_CHECKING:
    from paddle import nn


@dataclass(frozen=True)
class Cut:
    """How the tensors of a layer are cut.

    axes: end of a parameter's name -> the axis that is cut, None for a tensor that is whole on every card. Matrices are
    [in, out]; the factors of an adapter are lora_A [in, r] and lora_B [r, out]. shared_factor: the factor that is
    whole; what a card computes of its gradient is only a part of it.
    """

    axes: Mapping[str, int | None]
    shared_factor: str | None = None


COLUMN = Cut({"weight": 1, "bias": 0, "lora_A": None, "lora_B": 1}, "lora_A")
ROW = Cut({"weight": 0, "bias": None, "lora_A": 0, "lora_B": None}, "lora_B")
VOCABULARY = Cut({"weight": 0})
TABLE = (
    (re.compile(r"language_model\.embed_tokens"), VOCABULARY),
    (re.compile(r"language_model\.lm_head"), COLUMN),
    (re.compile(r"language_model\.layers\.\d+\.(self_attn\.[qkv]|mlp\.(gate|up))_proj"), COLUMN),
    (re.compile(r"language_model\.layers\.\d+\.(self_attn\.o|mlp\.down)_proj"), ROW),
)


def cut_of(layer: str) -> Cut | None:
    """Return how a layer is cut, None for one that is whole on every card."""
    return next((cut for pattern, cut in TABLE if pattern.fullmatch(layer)), None)


def axis_of(name: str) -> int | None:
    """Return the axis along which a parameter is cut, None for one that is whole on every card."""
    layer, _, ending = name.rpartition(".")
    cut = cut_of(layer)
    return None if cut is None else cut.axes[ending]


def check_degree(config: LlavaConfig, degree: int, setting: str = "tensor_parallel_degree") -> None:
    """Raise ValueError for a decoder that cannot be cut in as many parts. setting: what the user set."""
    language = config.language
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        size = getattr(language, name)
        if size % degree:
            fitting = [str(number) for number in range(2, 17) if not any(one % number for one in _sizes(language))]
            raise ValueError(
                f"{setting} is {degree}, and the decoder's {name} is {size}, which cannot be cut in "
                f"{degree} equal parts: expected {' or '.join(fitting) if fitting else 'no cut, 1'}"
            )


def _sizes(config: LanguageConfig) -> tuple[int, ...]:
    return config.num_attention_heads, config.num_key_value_heads, config.intermediate_size


def config_of_card(config: LanguageConfig, degree: int) -> LanguageConfig:
    """Return the sizes of a card's part of a decoder's layers. The vocabulary is that of the whole."""
    heads, key_heads, inner = (size // degree for size in _sizes(config))
    return dataclasses.replace(
        config, num_attention_heads=heads, num_key_value_heads=key_heads, intermediate_size=inner
    )


def config_of_part(config: LlavaConfig, degree: int) -> LlavaConfig:
    """Return the sizes of what one of `degree` cards has, for estimates: as a model it would be another one.

    Raises ValueError for a decoder that cannot be cut in as many parts.
    """
    check_degree(config, degree)
    language = config_of_card(config.language, degree)
    language = dataclasses.replace(language, vocab_size=-(-language.vocab_size // degree))
    return dataclasses.replace(config, language=language)


def mark_cut(model: nn.Layer) -> None:
    """Tell Fleet which parameters differ between the cards, for the norm of gradients and for copies at the start."""
    for name, parameter in model.named_parameters():
        parameter.is_distributed = axis_of(name) is not None
