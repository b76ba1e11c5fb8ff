"""LoRA adapters of Hugging Face's peft: adapter_config.json and adapter_model.safetensors or .bin.

A layer's factors are `base_model.model.<layer>.lora_A.weight` [r, in] and `lora_B.weight` [out, r]. Tensors that were
trained whole have the same prefix. LLaVA's own code saves these in non_lora_trainables.bin.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...models.config import LanguageConfig, LlavaConfig
from ...models.language.families import get_family
from ...tensor_files.shards import FORMATS
from ...tensor_files.stored import CheckpointError, StoredTensor, preview
from ...tensor_files.transforms import FLOATS, transposed
from ..adapters import Adapter, Added, lay_over
from ..changed_tensors import Factors, Rows, as_matrix
from . import official
from .adapter_names import without_unused
from .components import PADDLE_FILES, TORCH_FILES, has_weights
from .config_keys import config_or_empty
from .folder import Folder
from .partial import Kind, fetch_base, layout_of
from .peft_config import BASE_KEY, CONFIG, PeftConfig, read_config

OTHERS = "non_lora_trainables.bin"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# peft's own modules around the name of a layer.
PREFIX = re.compile(r"^(base_model\.model\.)?")
WRAPPERS = re.compile(r"\.(modules_to_save(\.\w+)?|base_layer)(?=\.)")
FACTOR = re.compile(
    r"(?P<layer>.+)\.(?P<kind>lora_(embedding_)?[AB]|lora_magnitude_vector)"
    r"(\.(?!weight$|bias$)\w+)?(\.weight|(?P<bias>\.bias))?"
)
TOKENS = re.compile(r"(?P<layer>.+)\.token_adapter\.trainable_tokens_delta(\.\w+)?")
VELORA = re.compile(r".+\.lora_velora_embed(\.\w+)?")  # compresses activations in training, and changes no result
MAGNITUDE, BIAS = "lora_magnitude_vector", "lora_B.bias"
Parts = dict[str, StoredTensor]


def base_name(folder: Folder) -> str | None:
    """Return the name of the base in an adapter's config, None if there is no name or no adapter."""
    value = folder.json(CONFIG).get(BASE_KEY) if folder.has_any(CONFIG) else None
    return value if isinstance(value, str) and value else None


def read_adapter(folder: Folder) -> Adapter:
    """Open an adapter. Raises CheckpointError if it cannot be merged, is incomplete or holds something else."""
    config = read_config(folder)
    name = next((name for name in WEIGHTS if folder.has_any(name)), None)
    if name is None:
        raise CheckpointError(f"{folder} has {CONFIG} but neither {' nor '.join(WEIGHTS)}: the weights are missing")
    path = folder / name
    tensors = folder.tensors(name, FORMATS[path.suffix].open)
    _check_floats(path, tensors)
    dropped = [name for name in tensors if config.values.get("velora_config") and VELORA.fullmatch(name)]
    kept = {name: tensor for name, tensor in tensors.items() if name not in dropped}
    whole, rows, layers = _sorted(path, config, kept)
    if not layers:
        raise CheckpointError(f"{path} holds no lora_A and lora_B at all, so it is not an adapter")
    _check_saved(path, config, whole)
    config.check_chosen(layers)
    factors, added = _factors(path, config, layers)
    both = sorted(set(factors) & set(rows))
    if both:
        raise CheckpointError(f"{path} holds factors and rows of tokens for {preview(both)}: only one can be merged")
    apart = frozenset() if config.values.get("ensure_weight_tying") else frozenset((*factors, *whole))
    return Adapter(path, factors, whole, rows, added, tuple(dropped), config.trains_bias, apart, config.saved_modules)


def plain_name(name: str) -> str:
    """Return a tensor's name in the model without peft's modules around it."""
    return WRAPPERS.sub("", PREFIX.sub("", name))


def _check_floats(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    wrong = sorted(f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in FLOATS)
    if wrong:
        raise CheckpointError(f"{path} holds tensors that are not floats: {preview(wrong)}")


def _sorted(
    path: Path, config: PeftConfig, tensors: Mapping[str, StoredTensor]
) -> tuple[Parts, dict[str, Rows], dict[str, Parts]]:
    """Return the tensors that were trained whole, rows of tokens, and layer -> the parts of its change."""
    whole: Parts = {}
    rows: dict[str, Rows] = {}
    layers: dict[str, Parts] = {}
    for name, tensor in tensors.items():
        factor, tokens = FACTOR.fullmatch(name), TOKENS.fullmatch(name)
        if tokens:
            layer = plain_name(tokens["layer"])
            place, key = rows, f"{layer}.weight"
            tensor = Rows(config.token_numbers(layer, tensor.shape[0] if tensor.shape else 0), tensor)
        elif factor and _is_part(config, factor):
            key = f"{factor['kind']}{factor['bias'] or ''}"
            place = layers.setdefault(plain_name(factor["layer"]), {})
        else:
            place, key = whole, plain_name(name)
        if key in place:
            raise CheckpointError(f"{path} holds two tensors for {plain_name(name)}: only one adapter can be merged")
        place[key] = tensor
    if config.values.get("trainable_token_indices") and not rows:
        raise CheckpointError(f"{config.path} states trainable_token_indices, but {path} holds no trained tokens")
    return whole, rows, layers


def _is_part(config: PeftConfig, factor: re.Match) -> bool:
    """Return whether a tensor is part of a layer's change, which depends on DoRA and biases in the config."""
    if factor["kind"] == MAGNITUDE:
        return config.is_dora and not factor["bias"]
    return not factor["bias"] or (config.has_lora_bias and factor["kind"] == "lora_B")


def _check_saved(path: Path, config: PeftConfig, whole: Mapping[str, StoredTensor]) -> None:
    """Raise CheckpointError for modules that were trained whole by the config, but of which the file has no tensor."""
    missing = [name for name in config.saved_modules if not any(f".{name}." in f".{key}." for key in whole)]
    if missing:
        raise CheckpointError(
            f"{config.path} states modules_to_save {preview(sorted(missing))}, but {path.name} holds no tensor of it: "
            "save the adapter again, or remove the name from the list to use the base's"
        )


def _factors(
    path: Path, config: PeftConfig, layers: Mapping[str, Parts]
) -> tuple[dict[str, Factors], dict[str, Added]]:
    """Return weight name -> factors, and bias name -> the vector that is added.

    Raises CheckpointError for a layer that lacks a part, and for another rank than the config's.
    """
    odd, wrong, found, added = [], [], {}, {}
    for layer, parts in layers.items():
        kind = "lora_embedding_" if any("embedding" in name for name in parts) else "lora_"
        is_biased = config.has_lora_bias and kind == "lora_"
        extra = [MAGNITUDE] * config.is_dora + [BIAS] * is_biased
        if set(parts) != {f"{kind}A", f"{kind}B", *extra}:
            odd.append(f"{layer} ({', '.join(sorted(parts))})")
            continue
        factors = _pair(parts, kind, config.scaling(layer))
        if not _is_fit(factors, config.rank(layer)):
            shapes = " and ".join(str(list(parts[f"{kind}{side}"].shape)) for side in "AB")
            wrong.append(f"{layer} ({shapes}, r {config.rank(layer)})")
            continue
        found[f"{layer}.weight"] = factors
        if is_biased:
            added[f"{layer}.bias"] = Added(parts[BIAS], factors.scaling)
    if odd:
        needed = "".join(
            f", with the {name} that {CONFIG} announces," * is_needed
            for name, is_needed in ((MAGNITUDE, config.is_dora), (BIAS, config.has_lora_bias))
        )
        raise CheckpointError(f"{path}: only one of lora_A and lora_B{needed} is there for {preview(sorted(odd))}")
    if wrong:
        raise CheckpointError(
            f"{path} has factors that are not of the rank that {CONFIG} says: {preview(sorted(wrong))}"
        )
    return found, added


def _pair(parts: Parts, kind: str, scaling: float) -> Factors:
    """Return the factors of a weight as torch keeps it.

    An embedding's are [r, tokens] and [width, r], its weight is [tokens, width], and peft's DoRA takes the norms of
    its columns. Those of a convolution have further axes.
    """
    inner, outer, magnitude = as_matrix(parts[f"{kind}A"]), as_matrix(parts[f"{kind}B"]), parts.get(MAGNITUDE)
    if kind == "lora_" or len(inner.shape) != 2 or len(outer.shape) != 2:
        return Factors(outer, inner, scaling, magnitude)
    return Factors(transposed(inner), transposed(outer), scaling, magnitude, axis=1)


def _is_fit(factors: Factors, rank: int) -> bool:
    sides = factors.left, factors.right
    if any(len(side.shape) != 2 for side in sides) or {sides[0].shape[1], sides[1].shape[0]} != {rank}:
        return False
    magnitude = factors.magnitude
    return magnitude is None or math.prod(magnitude.shape) == factors.shape[factors.axis]


def with_adapter(
    tensors: Mapping[str, StoredTensor],
    folder: Folder,
    merge_dtype: str | None,
    *,
    rename: Callable[[str], str],
    tied: tuple[str, ...] = (),
) -> dict[str, StoredTensor]:
    """Return the tensors of a language model or a tower, with peft's adapter in `folder` merged, if there is one.

    rename: from the adapter's name of a tensor to that in `tensors`. tied: names of one shared tensor, which an adapter
    may not change. Raises CheckpointError for an adapter that does not fit.
    """
    if not folder.path.is_dir():
        return dict(tensors)
    adapter = read_adapter(folder)
    shared = sorted(set(tied) & {rename(name) for name in adapter.names()})
    if shared:
        raise CheckpointError(
            f"{adapter.source} changes {preview(shared)} of a model that ties its output layer to its embeddings: "
            "merge it into the language model with peft, which unties them"
        )
    oriented = {name: (tensor, False) for name, tensor in tensors.items()}
    merged = lay_over(oriented, adapter, lambda name: (rename(name), False), merge_dtype)
    return {name: tensor for name, (tensor, _) in merged.items()}


def tied_names(language: LanguageConfig) -> tuple[str, ...]:
    """Return the names of the matrix that a decoder's embeddings and head share, none if they share none."""
    names = get_family(language.family).weights
    ties = (f"{names.body}.{names.of('embed_tokens')}.weight", f"{names.of('lm_head')}.weight")
    return ties if language.tie_word_embeddings else ()


def matches(folder: Folder) -> bool:
    """Return whether a folder has an adapter. Raises CheckpointError if it has a whole model too."""
    if not folder.has_any(CONFIG):
        return False
    if has_weights(folder, (*TORCH_FILES, *PADDLE_FILES)):
        raise CheckpointError(
            f"{folder} holds a whole model and an adapter ({CONFIG}): remove the files of one of them"
        )
    return True


def _base_of(folder: Folder) -> Folder:
    revision = folder.json(CONFIG).get("revision")
    is_main = not isinstance(revision, str) or revision in ("", "main")
    return fetch_base(folder, KIND.title, base_name(folder), None if is_main else revision)


def _open(folder: Folder, config: LlavaConfig) -> Adapter:
    """Return the adapter with the tensors that LLaVA's own code saves beside it."""
    adapter = read_adapter(folder)
    if not folder.has_any(OTHERS) and official.tower_name(config_or_empty(folder)):
        raise CheckpointError(
            f"{folder} is a LoRA folder of LLaVA's without {OTHERS}, which holds its projector: copy it too"
        )
    whole = {**open_trained(folder, OTHERS), **adapter.whole}
    return without_unused(dataclasses.replace(adapter, whole=whole), config)


def open_trained(folder: Folder, *names: str) -> dict[str, StoredTensor]:
    """Map the tensors of the files that exist, without the prefixes of peft's modules."""
    found = {}
    for name in filter(folder.has_any, names):
        tensors = folder.tensors(name, FORMATS[Path(name).suffix].open)
        found |= {plain_name(one): tensor for one, tensor in tensors.items()}
    return found


def describe(folder: Folder, is_complete: bool) -> dict[str, Any]:
    """Return the scaling of an adapter whose pairs of factors are complete."""
    factors = read_adapter(folder).factors.values() if is_complete else ()
    return {"scaling": max(one.scaling for one in factors)} if factors else {}


KIND = Kind("a LoRA folder of peft", _base_of, _open, is_torch=True, has_config=True)
LAYOUT = layout_of(
    KIND,
    name="peft",
    rule=f"{CONFIG} (peft), of LLaVA's own code with {OTHERS}, over its base",
    matches=matches,
    kind="adapter",
    adapter_config=CONFIG,
    describe_adapter=describe,
)
