"""The rules that layouts share: a decoder, a CLIP tower and a projector, under the prefixes of a layout."""

from __future__ import annotations

import ast
from pathlib import Path

from ...models.config import LanguageConfig, projector_depth
from ...models.language.families import get_family
from ...models.language.families.family import GATE, KEY, QUERY, UP, VALUE, Fused, WeightNames
from ...models.language.families.llama import LLAMA
from ..files import CheckpointError, StoredTensor, open_safetensors, open_weights, read_json
from ..rules import FusedRule, Rule, linear_rules
from ..torch_bin import open_torch_bin

OUR_LAYER = "language_model.layers.{n}"
# What torch's tools write, in the order in which transformers looks for it: (file, index of its shards, reader).
TORCH_FILES = (
    ("model.safetensors", "model.safetensors.index.json", open_safetensors),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", open_torch_bin),
)


def own_names(language: LanguageConfig) -> WeightNames:
    """Return the names of a decoder's weights in the files of its own family."""
    return get_family(language.family).weights


def decoder_rules(
    language: LanguageConfig, prefix: str, head: str, *, is_torch: bool, weights: WeightNames = LLAMA.weights
) -> list[Rule | FusedRule]:
    """`prefix` stands before `embed_tokens`, `head` is the name of the output layer in LLaMA's files.

    weights: other names, see `own_names`.
    """
    head = head.removesuffix("lm_head") + weights.of("lm_head")
    rules = [
        Rule("language_model.embed_tokens.weight", f"{prefix}{weights.of('embed_tokens')}.weight"),
        Rule("language_model.norm.weight", f"{prefix}norm.weight"),
        Rule("language_model.lm_head.weight", f"{head}.weight", is_torch),
    ]
    for norm in ("input_layernorm", "post_attention_layernorm"):
        rules.append(Rule(f"{OUR_LAYER}.{norm}.weight", f"{prefix}layers.{{n}}.{weights.of(norm)}.weight"))
    linears = {f"self_attn.{name}_proj": language.has_qkv_bias for name in "qkv"}
    linears |= {"self_attn.o_proj": language.has_out_bias}
    linears |= {f"mlp.{name}_proj": False for name in ("gate", "up", "down")}
    for fused in weights.fused:
        has_bias = {linears.pop(name) for name in fused.ours} == {True}
        rules += _fused_rules(fused, f"{prefix}layers.{{n}}.", language, has_bias, is_torch)
    for name, has_bias in linears.items():
        theirs = f"{prefix}layers.{{n}}.{weights.of(name)}"
        rules += linear_rules(f"{OUR_LAYER}.{name}", theirs, has_bias=has_bias, is_transposed=is_torch)
    return rules


def _fused_rules(
    fused: Fused, prefix: str, language: LanguageConfig, has_bias: bool, is_torch: bool
) -> list[FusedRule]:
    """Return the rules of a fused matrix and of its bias."""
    keys = language.num_key_value_heads * language.head_dim
    heights = {QUERY: language.num_attention_heads * language.head_dim, KEY: keys, VALUE: keys}
    heights |= {GATE: language.intermediate_size, UP: language.intermediate_size}
    num_groups = language.num_key_value_heads if fused.is_grouped else 1
    rows = tuple(heights[name] // num_groups for name in fused.ours)

    def rule(kind: str, is_transposed: bool) -> FusedRule:
        ours = tuple(f"{OUR_LAYER}.{name}.{kind}" for name in fused.ours)
        return FusedRule(ours, f"{prefix}{fused.name}.{kind}", rows, num_groups, is_transposed)

    return [rule("weight", is_torch)] + ([rule("bias", False)] if has_bias else [])


# What a tower's parts are called: ours, Hugging Face's, PaddleMIX's.
CLIP_PARTS = (
    ("class_embedding", "embeddings.class_embedding", "class_embedding"),
    ("patch_embedding.weight", "embeddings.patch_embedding.weight", "conv1.weight"),
    ("position_embedding", "embeddings.position_embedding.weight", "positional_embedding.weight"),
    ("pre_norm.weight", "pre_layrnorm.weight", "ln_pre.weight"),
    ("pre_norm.bias", "pre_layrnorm.bias", "ln_pre.bias"),
    ("post_norm.weight", "post_layernorm.weight", "ln_post.weight"),
    ("post_norm.bias", "post_layernorm.bias", "ln_post.bias"),
)
CLIP_LINEARS = (
    *((f"self_attn.{name}", f"self_attn.{name}", f"self_attn.{name}") for name in ("q_proj", "k_proj", "v_proj")),
    ("self_attn.out_proj", "self_attn.out_proj", "self_attn.out_proj"),
    ("fc1", "mlp.fc1", "linear1"),
    ("fc2", "mlp.fc2", "linear2"),
)
CLIP_NORMS = (("norm1", "layer_norm1", "norm1"), ("norm2", "layer_norm2", "norm2"))
CLIP_LAYERS = ("encoder.layers", "transformer.layers")


def clip_rules(prefix: str, *, is_torch: bool) -> list[Rule]:
    """Names as in Hugging Face's CLIP (is_torch) or PaddleMIX's, below `prefix` (`...vision_model.`)."""
    side = 1 if is_torch else 2
    layers = f"{prefix}{CLIP_LAYERS[side - 1]}.{{n}}"
    rules = [Rule(f"vision_tower.{part[0]}", prefix + part[side]) for part in CLIP_PARTS]
    for part in CLIP_LINEARS:
        rules += linear_rules(
            f"vision_tower.layers.{{n}}.{part[0]}", f"{layers}.{part[side]}", has_bias=True, is_transposed=is_torch
        )
    for part in CLIP_NORMS:
        for name in ("weight", "bias"):
            rules.append(Rule(f"vision_tower.layers.{{n}}.{part[0]}.{name}", f"{layers}.{part[side]}.{name}"))
    return rules


def mm_projector_rules(prefix: str, projector_type: str, *, is_torch: bool) -> list[Rule]:
    """LLaVA's `mm_projector`: numbered when it is an MLP, without a number when it is one linear layer."""
    if projector_type == "linear":
        return linear_rules("projector.0", prefix, has_bias=True, is_transposed=is_torch)
    rules = []
    for number in range(0, 2 * projector_depth(projector_type), 2):
        rules += linear_rules(f"projector.{number}", f"{prefix}.{number}", has_bias=True, is_transposed=is_torch)
    return rules


def read_pairs(folder: Path, value) -> tuple[tuple[int, int], ...]:
    """Read image_grid_pinpoints: pairs of numbers, or the text of such a list. Raises CheckpointError."""
    try:
        pairs = ast.literal_eval(value) if isinstance(value, str) else value
        return tuple((int(first), int(second)) for first, second in pairs)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        raise CheckpointError(f"{folder}: image_grid_pinpoints is {value!r}, expected a list of pairs") from None


def has_torch_weights(folder: Path) -> bool:
    """Tell if a folder holds a whole model's weights as transformers writes them."""
    return any((folder / name).is_file() for single, index, _ in TORCH_FILES for name in (single, index))


def safetensors_names(folder: Path) -> list[str]:
    """Return the names in a folder's safetensors, by the index or the one file's header; none without them."""
    single, index, open_file = TORCH_FILES[0]
    if (folder / index).is_file():
        weight_map = read_json(folder / index).get("weight_map")
        return list(weight_map) if isinstance(weight_map, dict) else []
    return list(open_file(folder / single)) if (folder / single).is_file() else []


def open_torch_weights(folder: Path) -> dict[str, StoredTensor]:
    """Map the weights that transformers wrote. Raises CheckpointError when there are none."""
    for single, index, open_file in TORCH_FILES:
        if (folder / single).is_file() or (folder / index).is_file():
            return open_weights(folder, single, index, open_file)
    names = " nor ".join(name for single, index, _ in TORCH_FILES for name in (single, index))
    raise CheckpointError(f"{folder} has neither {names}: the weights are missing")
