"""What layouts share: the names of a decoder, a vision tower and a projector under a prefix, and the weight files."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

from ...foreign_json import list_of, shown
from ...image.spec import EDGE
from ...models.config import LanguageConfig, LlavaConfig, VisionConfig
from ...models.language.families import get_family
from ...models.language.families.family import GATE, KEY, QUERY, UP, VALUE, Fused, WeightNames
from ...models.projector_type import LINEAR, projector_layers
from ...models.vision.families import get_tower_family
from ...tensor_files.pdparams import open_pdparams
from ...tensor_files.safetensors import open_safetensors
from ...tensor_files.stored import CheckpointError, StoredTensor, preview
from ...tensor_files.torch_bin import open_torch_bin
from .folder import Folder
from .foreign_quantization import refuse_quantized
from .rules import FusedRule, Rule, linear_rules

PAIRS = list_of(list_of(EDGE, 2, 2), 0, 4096)  # in pixels
EMBEDDING, HEAD = "language_model.embed_tokens.weight", "language_model.lm_head.weight"
COMPUTED = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|embeddings\.position_ids)")
OUR_LAYER = "language_model.layers.{n}"
# A folder's weights in one format: (file, index of its shards, reader).
SAFETENSORS_FILES = ("model.safetensors", "model.safetensors.index.json", open_safetensors)
TORCH_BIN_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", open_torch_bin)
PDPARAMS_FILES = ("model_state.pdparams", "model_state.pdparams.index.json", open_pdparams)
# The formats of torch's and Paddle's tools, in the order in which transformers and PaddleNLP look for them.
TORCH_FILES = (SAFETENSORS_FILES, TORCH_BIN_FILES)
PADDLE_FILES = (SAFETENSORS_FILES, PDPARAMS_FILES)
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pdparams", ".pt", ".pth", ".gguf", ".h5", ".msgpack")


def decoder_rules(language: LanguageConfig, prefix: str, outer: str, *, is_torch: bool) -> list[Rule | FusedRule]:
    """Return the rules of a decoder.

    prefix: before the names of embeddings and layers; outer: before that of the output layer. Only torch's names
    (is_torch) depend on the family, PaddleMIX's are always LLaMA's.
    """
    weights = get_family(language.family).weights if is_torch else WeightNames()
    layer = f"{prefix}{weights.of('layers')}.{{n}}."
    rules = [
        Rule(EMBEDDING, f"{prefix}{weights.of('embed_tokens')}.weight"),
        Rule("language_model.norm.weight", f"{prefix}{weights.of('norm')}.weight"),
        Rule(HEAD, f"{outer}{weights.of('lm_head')}.weight", is_torch),
    ]
    for norm in ("input_layernorm", "post_attention_layernorm"):
        rules.append(Rule(f"{OUR_LAYER}.{norm}.weight", f"{layer}{weights.of(norm)}.weight"))
    linears = {f"self_attn.{name}_proj": language.has_qkv_bias for name in "qkv"}
    linears |= {"self_attn.o_proj": language.has_out_bias}
    linears |= {f"mlp.{name}_proj": False for name in ("gate", "up", "down")}
    for fused in weights.fused:
        has_bias = {linears.pop(name) for name in fused.ours} == {True}
        rules += _fused_rules(fused, layer, language, has_bias)
    for name, has_bias in linears.items():
        theirs = f"{layer}{weights.of(name)}"
        rules += linear_rules(f"{OUR_LAYER}.{name}", theirs, has_bias=has_bias, is_transposed=is_torch)
    return rules


def _fused_rules(fused: Fused, layer: str, language: LanguageConfig, has_bias: bool) -> list[FusedRule]:
    """Return the rules of a matrix of torch's and of its bias."""
    keys = language.num_key_value_heads * language.head_dim
    heights = {QUERY: language.num_attention_heads * language.head_dim, KEY: keys, VALUE: keys}
    heights |= {GATE: language.intermediate_size, UP: language.intermediate_size}
    num_groups = language.num_key_value_heads if fused.is_grouped else 1
    rows = tuple(heights[name] // num_groups for name in fused.ours)

    def rule(kind: str, is_transposed: bool) -> FusedRule:
        ours = tuple(f"{OUR_LAYER}.{name}.{kind}" for name in fused.ours)
        return FusedRule(ours, f"{layer}{fused.name}.{kind}", rows, num_groups, is_transposed)

    return [rule("weight", True)] + ([rule("bias", False)] if has_bias else [])


def tower_rules(vision: VisionConfig, prefix: str, *, is_torch: bool) -> list[Rule]:
    """Return the rules of a tower, with transformers' names (is_torch) or PaddleMIX's after `prefix`."""
    family, side = get_tower_family(vision.family), 1 if is_torch else 2
    layers = f"{prefix}{family.layers[side - 1]}.{{n}}"
    rules = [Rule(f"vision_tower.{part[0]}", prefix + part[side]) for part in family.parts]
    for part in family.linears:
        rules += linear_rules(
            f"vision_tower.layers.{{n}}.{part[0]}", f"{layers}.{part[side]}", has_bias=True, is_transposed=is_torch
        )
    for part in family.norms:
        rules += linear_rules(
            f"vision_tower.layers.{{n}}.{part[0]}", f"{layers}.{part[side]}", has_bias=True, is_transposed=False
        )
    return rules


def is_unused_by_llava(vision: VisionConfig, prefix: str, name: str) -> bool:
    """Return whether a tensor belongs to a part of the tower, named after `prefix`, that no LLaVA reads."""
    return name.startswith(tuple(prefix + part for part in get_tower_family(vision.family).unused))


def is_not_read(config: LlavaConfig, name: str, *, head: str, tower: str) -> bool:
    """Return whether a tensor of torch's is a computed buffer, a copy of tied embeddings, or unused in the tower.

    head: the name of the output layer. tower: the start of the tower's names.
    """
    is_tied_head = config.language.tie_word_embeddings and name == head
    return is_tied_head or is_unused_by_llava(config.vision, tower, name) or COMPUTED.fullmatch(name) is not None


def mm_projector_rules(prefix: str, projector_type: str, *, is_torch: bool) -> list[Rule]:
    """Return the rules of LLaVA's `mm_projector`. Layers of an MLP have numbers, a single linear layer has none."""
    if projector_type == "linear":
        return linear_rules("projector.0", prefix, has_bias=True, is_transposed=is_torch)
    rules = []
    for name, kind in projector_layers(projector_type):
        is_transposed = is_torch and kind == LINEAR
        rules += linear_rules(f"projector.{name}", f"{prefix}.{name}", has_bias=True, is_transposed=is_transposed)
    return rules


def read_pairs(folder: Folder | Path, value) -> tuple[tuple[int, int], ...]:
    """Read image_grid_pinpoints: pairs of numbers, or the text of such a list. Raises CheckpointError."""
    try:
        pairs = ast.literal_eval(value) if isinstance(value, str) else value
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        pairs = None
    if not PAIRS.is_good(pairs):
        raise CheckpointError(f"{folder}: image_grid_pinpoints is {shown(value)}, expected a list of pairs of pixels")
    return tuple((first, second) for first, second in pairs)


def has_weights(folder: Folder, formats: Sequence[tuple]) -> bool:
    """Return whether a folder holds a whole model's weights in one of the formats."""
    return folder.has_any(*(name for single, index, _ in formats for name in (single, index)))


def has_torch_weights(folder: Folder) -> bool:
    """Return whether a folder holds a whole model's weights in a format of transformers."""
    return has_weights(folder, TORCH_FILES)


def safetensors_names(folder: Folder) -> list[str]:
    """Return the names of the tensors in a folder's safetensors, from the header of the one file or from the index."""
    single, index, open_file = SAFETENSORS_FILES
    if folder.has_any(single):
        return list(folder.tensors(single, open_file))
    return list(folder.index(index)) if folder.has_any(index) else []


def is_whole_twice(folder: Folder, single: str, index: str) -> bool:
    """Return whether a folder holds weights as one file and, with an index, as a full set of shards."""
    return folder.has_any(single) and folder.has_any(index) and all(map(folder.has_any, folder.index(index).values()))


def open_first(folder: Folder, formats: Sequence[tuple]) -> dict[str, StoredTensor]:
    """Map a folder's weights in the first of the formats that it has.

    Raises CheckpointError if it has none, or states that its weights are quantized.
    """
    refuse_quantized(folder)
    for single, index, open_file in formats:
        if folder.has_any(single, index):
            return folder.weights(single, index, open_file)
    names = " nor ".join(name for single, index, _ in formats for name in (single, index))
    others = sorted(place.name for place in folder.path.glob("*") if place.suffix in WEIGHT_ENDINGS)
    found = f" ({preview(others, 3)} is not such a file; shards need their index)" if others else ""
    raise CheckpointError(f"{folder} has neither {names}: the weights are missing{found}")


def open_torch_weights(folder: Folder) -> dict[str, StoredTensor]:
    """Map a folder's weights in a format of transformers. Raises CheckpointError if there are none."""
    return open_first(folder, TORCH_FILES)
