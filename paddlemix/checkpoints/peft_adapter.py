"""LoRA adapters as Hugging Face's peft writes them: adapter_config.json and adapter_model.safetensors or .bin.

A layer's factors are `base_model.model.<layer>.lora_A.weight` [r, in] and `lora_B.weight` [out, r]; tensors that
trained whole stand under the same prefix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from ..tensor_files.safetensors import open_safetensors
from ..tensor_files.stored import CheckpointError, StoredTensor, preview, read_json
from ..tensor_files.torch_bin import open_torch_bin
from ..tensor_files.transforms import FLOATS, transposed
from .adapters import Adapter, Added
from .merged import Factors, Rows, as_matrix
from .peft_config import BASE_KEY, CONFIG, PeftConfig, read_config

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# What stands around the name of a layer in peft's own modules.
PREFIX = re.compile(r"^(base_model\.model\.)?")
WRAPPERS = re.compile(r"\.(modules_to_save(\.\w+)?|base_layer)(?=\.)")
FACTOR = re.compile(
    r"(?P<layer>.+)\.(?P<kind>lora_(embedding_)?[AB]|lora_magnitude_vector)"
    r"(\.(?!weight$|bias$)\w+)?(\.weight|(?P<bias>\.bias))?"
)
TOKENS = re.compile(r"(?P<layer>.+)\.token_adapter\.trainable_tokens_delta(\.\w+)?")
VELORA = re.compile(r".+\.lora_velora_embed(\.\w+)?")  # compresses what training keeps, and changes no result
MAGNITUDE, BIAS = "lora_magnitude_vector", "lora_B.bias"
Parts = dict[str, StoredTensor]


def is_adapter(folder: Path) -> bool:
    return (Path(folder) / CONFIG).is_file()


def base_name(folder: Path) -> str | None:
    """Return what the adapter's config calls its base, None if it does not say."""
    value = read_json(Path(folder) / CONFIG).get(BASE_KEY)
    return value if isinstance(value, str) and value else None


def base_revision(folder: Path) -> str | None:
    """Return the branch, tag or commit of the base that the adapter's config names, None for the main one."""
    value = read_json(Path(folder) / CONFIG).get("revision")
    return value if isinstance(value, str) and value not in ("", "main") else None


def read_adapter(folder: Path) -> Adapter:
    """Open an adapter. Raises CheckpointError for one that cannot be merged, is not whole or holds something else."""
    folder = Path(folder)
    config = read_config(folder)
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} has {CONFIG} but neither {' nor '.join(WEIGHTS)}: the weights are missing")
    tensors = open_safetensors(path) if path.suffix == ".safetensors" else open_torch_bin(path)
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
        raise CheckpointError(f"{path} holds tensors that are no floats: {preview(wrong)}")


def _sorted(
    path: Path, config: PeftConfig, tensors: Mapping[str, StoredTensor]
) -> tuple[Parts, dict[str, Rows], dict[str, Parts]]:
    """Return what trained whole, rows of tokens, and layer -> the parts of its change."""
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
    """Tell if a tensor is a part of a layer's change, by what the config says of DoRA and biases."""
    if factor["kind"] == MAGNITUDE:
        return config.is_dora and not factor["bias"]
    return not factor["bias"] or (config.has_lora_bias and factor["kind"] == "lora_B")


def _check_saved(path: Path, config: PeftConfig, whole: Mapping[str, StoredTensor]) -> None:
    """Raise CheckpointError for modules that trained whole by the config, but of which the file holds nothing."""
    missing = [name for name in config.saved_modules if not any(f".{name}." in f".{key}." for key in whole)]
    if missing:
        raise CheckpointError(
            f"{config.path} states modules_to_save {preview(sorted(missing))}, but {path.name} holds no tensor of it: "
            "save the adapter again, or, if the base's is meant, remove the name from the list"
        )


def _factors(
    path: Path, config: PeftConfig, layers: Mapping[str, Parts]
) -> tuple[dict[str, Factors], dict[str, Added]]:
    """Return weight name -> factors, and bias name -> what is added.

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
