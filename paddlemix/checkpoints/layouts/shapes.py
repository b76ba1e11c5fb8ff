"""The names and shapes of a model's tensors, from its configuration alone. Builds no model and needs no paddle."""

from __future__ import annotations

from collections.abc import Mapping

from ...models.config import LanguageConfig, LlavaConfig, VisionConfig
from ...models.projector_type import LINEAR, projector_layers
from ...tensor_files.stored import CheckpointError, StoredTensor, counted, preview

Shapes = dict[str, tuple[int, ...]]
# Start of the names of a part's tensors -> the part, for errors.
PARTS = {"language_model.": "language model", "vision_tower.": "vision tower", "projector.": "projector"}


def parameter_shapes(config: LlavaConfig) -> Shapes:
    """Return our name -> shape of each tensor of a model. Matrices are [in, out]."""
    width = config.language.hidden_size
    shapes = vision_shapes(config.vision)
    num_in = config.vision.hidden_size
    for name, kind in projector_layers(config.projector_type):
        shapes |= _linear(f"projector.{name}", num_in, width) if kind == LINEAR else _norm(f"projector.{name}", width)
        num_in = width
    shapes |= language_shapes(config.language)
    return shapes | ({"image_newline": (width,)} if config.has_image_newline else {})


def check_complete(source, config: LlavaConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise CheckpointError for tensors that are missing, unexpected or of another shape, and for missing parts."""
    expected = parameter_shapes(config)
    problems = []
    for start, part in PARTS.items():
        names = [name for name in expected if name.startswith(start)]
        if names and not any(name in tensors for name in names):
            problems.append(f"the {part} is missing (all {len(names)} tensors)")
            expected = {name: shape for name, shape in expected.items() if not name.startswith(start)}
    problems += misfits(expected, tensors)
    if problems:
        raise CheckpointError(f"{source}: the weights do not fit its config.json: {'; '.join(problems)}")


def misfits(expected: Shapes, tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Return one phrase each for tensors that are missing, unexpected and of another shape."""
    wrong = [
        f"{name} ({list(tensors[name].shape)}, expected {list(shape)})"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    kinds = {"missing": missing, "unexpected": extra, "of another shape": wrong}
    return [f"{counted(names)} {title}: {preview(names)}" for title, names in kinds.items() if names]


def language_shapes(config: LanguageConfig) -> Shapes:
    """Return our name -> shape of a decoder's tensors."""
    width, inner, prefix = config.hidden_size, config.intermediate_size, "language_model."
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    widths = {"q": queries, "k": keys, "v": keys}
    shapes = {f"{prefix}embed_tokens.weight": (config.vocab_size, width)}
    for number in range(config.num_hidden_layers):
        layer = f"{prefix}layers.{number}."
        shapes |= {
            f"{layer}input_layernorm.weight": (width,),
            f"{layer}self_attn.q_proj.weight": (width, queries),
            f"{layer}self_attn.k_proj.weight": (width, keys),
            f"{layer}self_attn.v_proj.weight": (width, keys),
            f"{layer}self_attn.o_proj.weight": (queries, width),
            f"{layer}post_attention_layernorm.weight": (width,),
            **({f"{layer}mlp.gate_proj.weight": (width, inner)} if config.is_gated else {}),
            f"{layer}mlp.up_proj.weight": (width, inner),
            f"{layer}mlp.down_proj.weight": (inner, width),
        }
        if config.has_qkv_bias:
            shapes |= {f"{layer}self_attn.{name}_proj.bias": (size,) for name, size in widths.items()}
        if config.has_out_bias:
            shapes[f"{layer}self_attn.o_proj.bias"] = (width,)
    shapes[f"{prefix}norm.weight"] = (width,)
    return shapes if config.tie_word_embeddings else shapes | {f"{prefix}lm_head.weight": (width, config.vocab_size)}


def vision_shapes(config: VisionConfig) -> Shapes:
    """Return our name -> shape of a tower's tensors."""
    width, inner, prefix = config.hidden_size, config.intermediate_size, "vision_tower."
    shapes = {f"{prefix}class_embedding": (width,)} if config.has_class_token else {}
    shapes |= {
        f"{prefix}position_embedding": (config.num_positions, width),
        f"{prefix}patch_embedding.weight": (width, 3, config.patch_size, config.patch_size),
    }
    shapes |= {f"{prefix}patch_embedding.bias": (width,)} if config.has_patch_bias else {}
    shapes |= _norm(f"{prefix}pre_norm", width) if config.has_pre_norm else {}
    for number in range(config.num_hidden_layers):
        layer = f"{prefix}layers.{number}."
        shapes |= _norm(f"{layer}norm1", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}self_attn.{name}", width, width)
        shapes |= _norm(f"{layer}norm2", width)
        shapes |= _linear(f"{layer}fc1", width, inner) | _linear(f"{layer}fc2", inner, width)
    return shapes | _norm(f"{prefix}post_norm", width)


def _linear(name: str, num_in: int, num_out: int) -> Shapes:
    return {f"{name}.weight": (num_in, num_out), f"{name}.bias": (num_out,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
