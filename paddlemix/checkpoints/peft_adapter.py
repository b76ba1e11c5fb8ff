"""LoRA adapters as Hugging Face's peft writes them: adapter_config.json and adapter_model.safetensors or .bin.

A layer's factors are `base_model.model.<layer>.lora_A.weight` [r, in] and `lora_B.weight` [out, r]; tensors that
trained whole stand under the same prefix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from .adapters import Adapter, Factors
from .files import CheckpointError, StoredTensor, open_safetensors, preview, read_json
from .torch_bin import open_torch_bin
from .transforms import transposed

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
BASE_KEY = "base_model_name_or_path"
# What stands around the name of a layer in peft's own modules.
PREFIX = re.compile(r"^(base_model\.model\.)?")
WRAPPERS = re.compile(r"\.(modules_to_save(\.\w+)?|base_layer)(?=\.)")
FACTOR = re.compile(r"(?P<layer>.+)\.(?P<kind>lora_(embedding_)?[AB])(\.(?!weight$|bias$)\w+)?(\.weight)?")
# Variants whose adapter is not W + B A * scaling over the base's own W.
VARIANTS = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
)
# Ways to start an adapter that leave the base as it is; PiSSA, OLoRA, LoftQ and the like change it.
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "true", "True")


def is_adapter(folder: Path) -> bool:
    return (Path(folder) / CONFIG).is_file()


def base_name(folder: Path) -> str | None:
    """Return what the adapter's config calls its base, None if it does not say."""
    value = read_json(Path(folder) / CONFIG).get(BASE_KEY)
    return value if isinstance(value, str) and value else None


def read_adapter(folder: Path) -> Adapter:
    """Open an adapter. Raises CheckpointError for one that cannot be merged, is not whole or holds something else."""
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    _check_variant(folder, config)
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} has {CONFIG} but neither {' nor '.join(WEIGHTS)}: the weights are missing")
    tensors = open_safetensors(path) if path.suffix == ".safetensors" else open_torch_bin(path)
    whole, pairs = {}, {}
    for name, tensor in tensors.items():
        match = FACTOR.fullmatch(name)
        place = pairs.setdefault(plain_name(match["layer"]), {}) if match else whole
        key = match["kind"] if match else plain_name(name)
        if key in place:
            raise CheckpointError(f"{path} holds two tensors for {plain_name(name)}: only one adapter can be merged")
        place[key] = tensor
    if not pairs:
        raise CheckpointError(f"{path} holds no lora_A and lora_B at all, so it is not an adapter")
    return Adapter(path, _factors(path, config, pairs), whole)


def plain_name(name: str) -> str:
    """Return a tensor's name in the model without peft's modules around it."""
    return WRAPPERS.sub("", PREFIX.sub("", name))


def _check_variant(folder: Path, config: Mapping) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise CheckpointError(f"{folder / CONFIG}: adapters of type {kind!r} are not read, expected 'LORA'")
    for variant in VARIANTS:
        if config.get(variant):
            raise CheckpointError(f"{folder / CONFIG}: {variant} is set, which cannot be merged here")
    start = config.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        raise CheckpointError(
            f"{folder / CONFIG}: init_lora_weights is {start!r}, which changes the base model too, so that the adapter "
            "cannot be merged into the base as it is: let peft convert it to a plain LoRA, or merge it there"
        )


def _factors(path: Path, config: Mapping, pairs: Mapping[str, dict[str, StoredTensor]]) -> dict[str, Factors]:
    """Return weight name -> factors. Raises CheckpointError for half a pair and for another rank than the config's.

    NOTE: fan_in_fan_out says nothing here: it is for layers that keep [in, out], and peft ignores it for Linear.
    """
    odd, wrong, found = [], [], {}
    for layer, pair in pairs.items():
        is_embedding = "lora_embedding_A" in pair or "lora_embedding_B" in pair
        kind = "lora_embedding_" if is_embedding else "lora_"
        if set(pair) != {f"{kind}A", f"{kind}B"}:
            odd.append(layer)
            continue
        inner, outer = pair[f"{kind}A"], pair[f"{kind}B"]
        rank = _of_layer(path, config, layer, "r", "rank_pattern")
        if len(inner.shape) != 2 or len(outer.shape) != 2 or inner.shape[0] != rank or outer.shape[1] != rank:
            wrong.append(f"{layer} ({list(inner.shape)} and {list(outer.shape)}, r {rank})")
            continue
        alpha = _of_layer(path, config, layer, "lora_alpha", "alpha_pattern")
        scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        factors = Factors(outer, inner, scaling)
        # An embedding's factors are [r, tokens] and [width, r], its weight is [tokens, width].
        found[f"{layer}.weight"] = Factors(transposed(inner), transposed(outer), scaling) if is_embedding else factors
    if odd:
        raise CheckpointError(f"{path}: only one of lora_A and lora_B is there for {preview(sorted(odd))}")
    if wrong:
        raise CheckpointError(
            f"{path} has factors that are not of the rank that {CONFIG} says: {preview(sorted(wrong))}"
        )
    return found


def _of_layer(path: Path, config: Mapping, layer: str, key: str, patterns: str) -> float:
    """Return r or lora_alpha of a layer: that of the first pattern that its name ends with, else the common one."""
    value = config.get(key)
    for pattern, special in (config.get(patterns) or {}).items():
        try:
            is_meant = re.fullmatch(rf"(.*\.)?({pattern})", layer)
        except re.error as error:
            raise CheckpointError(f"{path.parent / CONFIG}: {pattern!r} of {patterns} is no pattern: {error}") from None
        if is_meant:
            value = special
            break
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or value <= 0:
        raise CheckpointError(f"{path.parent / CONFIG} has {key} {value!r} for {layer}, expected a positive number")
    return value
