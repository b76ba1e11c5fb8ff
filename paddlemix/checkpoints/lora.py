"""LoRA folders in PaddleMIX's format: lora_config.json, and lora_model_state.pdparams or a unified checkpoint.

The file (or the shards peft_model-*.safetensors of PaddleNLP's unified checkpoints) holds `<layer>.lora_A` [in, r] and
`<layer>.lora_B` [r, out] under PaddleMIX's names, and whole the other tensors that were trained (projector,
image_newline). Merging is W + A B * scaling (Hu et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..foreign_json import KeyRules, check_keys, is_silent, shown
from ..hub.places import fetch_folder
from ..ops.quantize import KINDS
from ..tensor_files.pdparams import open_pdparams
from ..tensor_files.safetensors import open_safetensors
from ..tensor_files.stored import CheckpointError, StoredTensor, open_weights, preview, read_json
from .adapters import Adapter, lay_over
from .layouts import paddlemix
from .merged import Factors
from .peft_config import MAX_ALPHA, MAX_RANK

WEIGHTS, CONFIG = "lora_model_state.pdparams", "lora_config.json"
UNIFIED, UNIFIED_INDEX = "peft_model.safetensors", "peft_model.safetensors.index.json"
BASE_KEY = "base_model_name_or_path"
QUANTIZATION_KEY = "quantization"  # how the base's weights were held in training
# After paddlenlp's LoRAConfig (3.0.0b4, and what later versions add). What chose the layers, and settings of training,
# change nothing: the file holds the layers' tensors.
RULES = KeyRules(
    used=frozenset({"r", "lora_alpha", "rslora", BASE_KEY, QUANTIZATION_KEY}),
    inert=frozenset(
        "target_modules trainable_modules trainable_bias lora_dropout merge_weights tensor_parallel_degree dtype "
        "head_dim lora_plus_scale use_quick_lora lorapro scaling nola_basis_num".split()
    ),
)
VARIANTS = ("pissa", "loraga", "lora_use_mixer", "use_mora", "mora", "nola", "do_qat", "enable_lora_list")
GIVE_BASE = "give the base with --model-base or base="


def is_adapter(path: Path) -> bool:
    return (Path(path) / CONFIG).is_file()


def remove_adapter(path: Path) -> None:
    """Delete an adapter's files from a folder that a whole model was written to, which would be read as one."""
    for name in (CONFIG, WEIGHTS):
        (Path(path) / name).unlink(missing_ok=True)


def base_of(path: Path) -> Path:
    """Return the folder of the model that an adapter was trained on. Raises CheckpointError if it is not known."""
    base = read_json(path / CONFIG).get(BASE_KEY)
    if not base or not isinstance(base, str):
        raise CheckpointError(
            f"{path} is a LoRA folder whose {CONFIG} does not name its base model ({BASE_KEY}): give the base with "
            "--model-base or base=, or merge it first with merge_lora_params.py --model_name_or_path BASE --lora_path "
            "THIS --merge_model_path OUT"
        )
    return fetch_folder(base, path, what="is a LoRA folder for the base model", advice=GIVE_BASE)


def read_adapter(path: Path, config) -> dict[str, StoredTensor]:
    """Return an adapter's tensors under our names. Raises CheckpointError for unknown names and incomplete pairs."""
    path = Path(path)
    file, tensors = _open(path)
    table = paddlemix.table(config)
    found, unknown = {}, []
    for name, tensor in tensors.items():
        if paddlemix.is_dropped(name, config):
            continue
        translated = _translate(table.to_ours, name)
        if translated is None:
            unknown.append(name)
        else:
            found[translated] = tensor
    if unknown:
        raise CheckpointError(f"{file} holds tensors that nobody knows: {preview(sorted(unknown))}")
    _check_pairs(file, found)
    return found


def _open(path: Path) -> tuple[Path, dict[str, StoredTensor]]:
    """Return the file that holds an adapter's weights, or the index of its shards, and its tensors."""
    shards = next((path / name for name in (UNIFIED_INDEX, UNIFIED) if (path / name).is_file()), None)
    if not (path / WEIGHTS).is_file():
        if shards is None:
            raise CheckpointError(f"{path} has {CONFIG} but no {WEIGHTS}: the adapter's weights are missing")
        return shards, open_weights(path, UNIFIED, UNIFIED_INDEX, open_safetensors)
    if shards is not None:
        raise CheckpointError(f"{path} holds an adapter as {WEIGHTS} and as {shards.name}: remove the older one")
    return path / WEIGHTS, open_pdparams(path / WEIGHTS)


def to_paddlemix_name(name: str, config) -> str:
    """Return PaddleMIX's name of a parameter, a LoRA factor included."""
    translated = _translate(paddlemix.table(config).to_theirs, name)
    assert translated is not None, name
    return translated


def _translate(translate, name: str) -> str | None:
    """Translate a name; a LoRA factor goes by the name of the weight that it changes."""
    stem, _, tail = name.rpartition(".")
    is_factor = tail in ("lora_A", "lora_B")
    target = translate(f"{stem}.weight" if is_factor else name)
    if target is None:
        return None
    return f"{target[0].removesuffix('.weight')}.{tail}" if is_factor else target[0]


def _check_pairs(file: Path, tensors: dict) -> None:
    stems = {tail: {name[:-7] for name in tensors if name.endswith(tail)} for tail in (".lora_A", ".lora_B")}
    odd = sorted(stems[".lora_A"] ^ stems[".lora_B"])
    if odd:
        raise CheckpointError(f"{file}: only one of lora_A and lora_B is there for {preview(odd)}")
    if not stems[".lora_A"]:
        raise CheckpointError(f"{file} holds no lora_A and lora_B at all, so it is not an adapter")


def quantization_of(path: Path) -> str | None:
    """Return how the base's weights were held in training, None for unquantised ones. Raises CheckpointError."""
    kind = read_json(Path(path) / CONFIG).get(QUANTIZATION_KEY)
    if kind is not None and kind not in KINDS:
        raise CheckpointError(f"{Path(path) / CONFIG} has {QUANTIZATION_KEY} {kind!r}: expected {' or '.join(KINDS)}")
    return kind


def rank_of(path: Path) -> int:
    """Return r of an adapter's config. Raises CheckpointError."""
    rank = read_json(Path(path) / CONFIG).get("r")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        bounds = f"a number of at least 1, and {MAX_RANK} at most"
        raise CheckpointError(f"{Path(path) / CONFIG} has r {shown(rank)}, expected {bounds}")
    return rank


def scaling_of(path: Path) -> float:
    """Return alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA. Raises for what cannot be merged."""
    file = Path(path) / CONFIG
    values = read_json(file)
    _check_variants(file, values)
    rank, alpha, is_stable = rank_of(path), values.get("lora_alpha"), values.get("rslora")
    if type(alpha) not in (int, float) or not 0 < alpha <= MAX_ALPHA:
        raise CheckpointError(
            f"{file} needs 'lora_alpha' as a number above 0, {MAX_ALPHA:g} at most: it is {shown(alpha)}"
        )
    if is_stable not in (None, True, False):
        raise CheckpointError(f"{file}: rslora is {shown(is_stable)}, expected true or false")
    return alpha / math.sqrt(rank) if is_stable else alpha / rank


def _check_variants(file: Path, values: Mapping[str, Any]) -> None:
    for variant in VARIANTS:
        value = values.get(variant)
        is_on = any(value) if isinstance(value, list) else not is_silent(value)
        if is_on:
            raise CheckpointError(f"{file}: {variant} is set, which cannot be merged here ({shown(values[variant])})")
    check_keys({key: value for key, value in values.items() if key not in VARIANTS}, RULES, str(file), CheckpointError)


def open_adapter(path: Path, config) -> Adapter:
    """Return an adapter under our names, to be laid over its base. Raises CheckpointError."""
    path = Path(path)
    scaling, tensors = scaling_of(path), read_adapter(path, config)
    _check_ranks(path, tensors)
    factors, whole = {}, {}
    for name, tensor in tensors.items():
        stem, _, tail = name.rpartition(".")
        if tail == "lora_A":
            factors[f"{stem}.weight"] = Factors(tensor, tensors[f"{stem}.lora_B"], scaling)
        elif tail != "lora_B":
            whole[name] = tensor
    return Adapter(path, factors, whole)


def same_name(name: str) -> tuple[str, bool]:
    """Return what `lay_over` asks for: an opened adapter has our names and our orientation already."""
    return name, False


def merge_into(model, path) -> None:
    """Put the tensors that an adapter holds whole into its base model, and add its products in float32."""
    from .load import as_oriented, put  # here, because they need paddle, which reading an adapter does not

    adapter = open_adapter(path, model.config)
    parameters = dict(model.named_parameters())
    tensors = lay_over(as_oriented(parameters), adapter, same_name, "float32")
    extra = sorted(set(tensors) - set(parameters))
    if extra:
        raise CheckpointError(f"{path} was trained on another model, these do not fit the base: {preview(extra)}")
    for name in (*adapter.whole, *adapter.factors):
        put(parameters[name], *tensors[name])


def _check_ranks(path: Path, tensors: dict[str, StoredTensor]) -> None:
    rank = rank_of(path)
    odd = []
    for name, tensor in tensors.items():
        stem, _, tail = name.rpartition(".")
        if tail == "lora_A":
            first, second = tuple(tensor.shape), tuple(tensors[f"{stem}.lora_B"].shape)
            if len(first) != 2 or len(second) != 2 or first[1] != rank or second[0] != rank:
                odd.append(f"{stem} ({list(first)} and {list(second)})")
    if odd:
        raise CheckpointError(f"{path} has factors that are not of rank {rank} (r of {CONFIG}): {preview(odd)}")
