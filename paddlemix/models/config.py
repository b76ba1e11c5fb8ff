"""The configuration of a model. Field names are Hugging Face's where the meaning is the same."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any

from ..foreign_json import OBJECT, check_values, shown
from ..image.spec import ImageSpec
from . import config_kinds as kinds
from .projector_type import projector_layers

ROPE_KINDS = ("linear", "dynamic", "llama3", "longrope")
UNTRAINED_PARTS = ("projector", "image_newline")  # prefixes of parameter names


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are scaled, see `language.positions`.

    low_freq_factor and high_freq_factor belong to "llama3", short_factor and long_factor [head_dim / 2] to "longrope",
    and the original length to both.
    """

    kind: str
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None

    def __post_init__(self):
        if self.kind not in ROPE_KINDS:
            raise ValueError(f"rope_scaling of kind {self.kind!r} is not supported: expected {' or '.join(ROPE_KINDS)}")
        check_values(vars(self), kinds.ROPE_SCALING, "rope_scaling")
        if self.kind == "longrope":
            self._check_longrope()
        if self.kind != "llama3":
            return
        low, high, length = self.low_freq_factor, self.high_freq_factor, self.original_max_position_embeddings
        if None in (low, high, length) or not low < high or length < 1:
            raise ValueError(
                f"rope_scaling has low_freq_factor {low}, high_freq_factor {high} and original_max_position_embeddings "
                f"{length}: expected the first below the second and a length"
            )

    def _check_longrope(self):
        for name in ("short_factor", "long_factor"):
            values = getattr(self, name)
            if values is None:
                raise ValueError(f"rope_scaling has no {name}, expected a list of numbers above 0")
            object.__setattr__(self, name, tuple(values))
        length = self.original_max_position_embeddings
        if not isinstance(length, int) or length < 2:
            raise ValueError(f"rope_scaling has original_max_position_embeddings {length!r}, expected a length")


@dataclass(frozen=True)
class LanguageConfig:
    """A decoder of the LLaMA kind. head_dim None means hidden_size // num_attention_heads.

    family: a key of `language.families.FAMILIES`, for file formats; the decoder does not read it. sliding_window: the
    number of positions that a token sees, its own included, in all but the first num_full_layers layers; None for all
    positions. norm: "rms", or "layer" for a LayerNorm with a scale and no bias; rms_norm_eps is the epsilon of either.
    norm_offset: added to the stored weights of "rms". is_gated: the feed-forward layers have a gate, to which the
    activation is applied; otherwise it is applied to the up projection. embedding_scale: factor of token embeddings and
    of the image features among them. clip_qkv: bound of queries, keys and values. softmax_scale: None for
    1 / sqrt(head_dim). rope_order: which components of a head are rotated together: i and i + head_dim / 2 ("halves"),
    or 2 i and 2 i + 1 ("pairs").
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = False
    family: str = "llama"
    rope_scaling: RopeScaling | None = None
    has_qkv_bias: bool = False
    has_out_bias: bool = False
    sliding_window: int | None = None
    num_full_layers: int = 0
    norm: str = "rms"
    norm_offset: float = 0.0
    activation: str = "silu"
    is_gated: bool = True
    positions: str = "rotary"
    embedding_scale: float = 1.0
    clip_qkv: float | None = None
    softmax_scale: float | None = None
    rope_order: str = "halves"

    def __post_init__(self):
        if isinstance(self.rope_scaling, dict):
            object.__setattr__(self, "rope_scaling", strict(RopeScaling, self.rope_scaling, "rope_scaling"))
        if self.rope_scaling is not None and not isinstance(self.rope_scaling, RopeScaling):
            raise ValueError(f"rope_scaling is {shown(self.rope_scaling)}, expected an object, or null")
        check_values(vars(self), kinds.LANGUAGE, "the language model")
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        self._check_options()

    def _check_options(self) -> None:
        if self.norm == "layer" and self.rms_norm_eps > kinds.MAX_LAYER_NORM_EPS:
            raise ValueError(f"rms_norm_eps is {self.rms_norm_eps}, expected {kinds.MAX_LAYER_NORM_EPS} at most")
        if self.norm == "layer" and self.norm_offset:
            raise ValueError(f"norm_offset is {self.norm_offset}, but norm 'layer' has none")
        if self.head_dim % 2 and self.positions == "rotary":
            raise ValueError(f"head_dim {self.head_dim} is odd: rotary embedding needs an even one")
        for name in ("short_factor", "long_factor"):
            factors = getattr(self.rope_scaling, name) if self.rope_scaling else None
            if factors is not None and len(factors) != self.head_dim // 2:
                raise ValueError(
                    f"rope_scaling has {len(factors)} numbers as {name}, expected {self.head_dim // 2} for heads "
                    f"{self.head_dim} wide"
                )
        if not 0 <= self.num_full_layers <= self.num_hidden_layers:
            raise ValueError(f"num_full_layers {self.num_full_layers} is not in 0..{self.num_hidden_layers}")


@dataclass(frozen=True)
class VisionConfig:
    """A ViT. select_layer counts hidden states as Hugging Face does (-2 = before the last layer).

    image_size, patch_size: px; the rest of a side after the last whole patch is not seen. has_class_token: a learned
    token comes before the patches. has_pre_norm: there is a norm before the layers. has_patch_bias: the patch embedding
    has a bias. family: a key of `vision.families.TOWER_FAMILIES`, for file formats; the tower does not read it.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 336
    patch_size: int = 14
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"
    select_layer: int = -2
    select_feature: str = "patch"
    name: str = ""
    family: str = "clip"
    has_class_token: bool = True
    has_pre_norm: bool = True
    has_patch_bias: bool = False

    def __post_init__(self):
        check_values(vars(self), kinds.VISION, "the vision tower")
        if self.select_feature == "cls_patch" and not self.has_class_token:
            raise ValueError(f"select_feature 'cls_patch': a {self.family} tower has no class token, expected 'patch'")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"the vision tower's hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        if self.patch_size > self.image_size:
            raise ValueError(f"image_size {self.image_size} px is smaller than patch_size {self.patch_size} px")
        if not -self.num_hidden_layers - 1 <= self.select_layer <= self.num_hidden_layers:
            raise ValueError(
                f"select_layer {self.select_layer} does not exist in a tower of {self.num_hidden_layers} layers"
            )

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def num_positions(self) -> int:
        """Rows of the position embedding."""
        return self.patches_per_side**2 + int(self.has_class_token)

    @property
    def num_used_layers(self) -> int:
        """How many layers have to be computed for the selected hidden state (state 0 is the embedding)."""
        if self.select_layer >= 0:
            return self.select_layer
        return self.num_hidden_layers + 1 + self.select_layer


@dataclass(frozen=True)
class LlavaConfig:
    """A whole model.

    template is a name in conversation.templates; dtype is that of the stored weights; generation ends at any of
    eos_token_ids. tensor_parallel_degree is read by paddlenlp's Trainer. untrained: parts, of UNTRAINED_PARTS, that
    have random values until they are trained. has_scaled_features: image features are multiplied by
    language.embedding_scale like token embeddings (in transformers up to 5.3). has_image_marks: the tokens `<im_start>`
    and `<im_end>` are around each image of a prompt (LLaVA's mm_use_im_start_end).
    """

    language: LanguageConfig = field(default_factory=LanguageConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    projector_type: str = "mlp2x_gelu"
    image: ImageSpec = field(default_factory=ImageSpec)
    template: str = "vicuna_v1"
    dtype: str = "float32"
    has_image_newline: bool = False
    eos_token_ids: tuple[int, ...] = ()
    tensor_parallel_degree: int = 1
    untrained: tuple[str, ...] = ()
    has_scaled_features: bool = True
    has_image_marks: bool = False

    def __post_init__(self):
        check_values(vars(self), kinds.LLAVA, "the model")
        for name in ("eos_token_ids", "untrained"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not set(self.untrained) <= set(UNTRAINED_PARTS):
            raise ValueError(f"untrained is {list(self.untrained)}, expected some of {', '.join(UNTRAINED_PARTS)}")
        projector_layers(self.projector_type)
        if self.projector_type == "identity" and self.vision.hidden_size != self.language.hidden_size:
            raise ValueError(
                f"an identity projector needs equal widths, found tower {self.vision.hidden_size} "
                f"and language model {self.language.hidden_size}"
            )
        is_geometry_equal = (self.image.side, self.image.patch_size) == (self.vision.image_size, self.vision.patch_size)
        if not is_geometry_equal:
            raise ValueError(
                f"images of {self.image.side} px in patches of {self.image.patch_size} do not fit a tower for "
                f"{self.vision.image_size} px in patches of {self.vision.patch_size}: "
                "`paddlemix compose --image-size` adapts a tower to another side"
            )
        if self.image.has_class_token != (self.vision.select_feature == "cls_patch"):
            raise ValueError("image.has_class_token and vision.select_feature 'cls_patch' must be set together")
        if self.image.mode == "anyres" and self.image.has_class_token and self.image.merge != "flat":
            raise ValueError("anyres with a class token works with merge 'flat' only: a tile must be a grid of patches")
        if self.image.mode == "anyres" and self.image.merge == "spatial_unpad" and not self.has_image_newline:
            raise ValueError("merge 'spatial_unpad' needs has_image_newline: true")

    @property
    def untrained_text(self) -> str:
        """What a user should know of the untrained parts, "" without any."""
        if not self.untrained:
            return ""
        verb = "is" if len(self.untrained) == 1 else "are"
        return (
            f"the {' and the '.join(self.untrained)} of this model {verb} untrained (random values): answers about "
            "images make no sense before `paddlemix pretrain`"
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LlavaConfig:
        """Build from `to_dict`'s output. Raises ValueError for an unknown key, with the nearest known one."""
        parts = {"language": LanguageConfig, "vision": VisionConfig, "image": ImageSpec}
        check_values(values, dict.fromkeys(parts, OBJECT), "config")
        values = {name: strict(parts[name], value, name) if name in parts else value for name, value in values.items()}
        return strict(cls, values, "config")


def strict(cls, values: dict[str, Any], where: str):
    """Build a dataclass from a dict. Raises ValueError for unknown keys and invalid values."""
    known = [item.name for item in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else f" (known: {', '.join(known)})"
            raise ValueError(f"unknown key {key!r} in {where}{hint}")
    return cls(**values)
