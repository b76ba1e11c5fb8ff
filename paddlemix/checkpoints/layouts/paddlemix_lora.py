"""LoRA folders in PaddleMIX's format: lora_config.json, and lora_model_state.pdparams or a unified checkpoint.

The file (or the shards peft_model-*.safetensors of PaddleNLP's unified checkpoints) holds `<layer>.lora_A` [in, r] and
`<layer>.lora_B` [r, out] under PaddleMIX's names, and the tensors that were trained whole (projector,
image_newline). Merging is W + A B * scaling (Hu et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...foreign_json import KeyRules, check_keys, is_silent, shown
from ...models.config import LlavaConfig
from ...ops.quantize import KINDS
from ...tensor_files.pdparams import open_pdparams
from ...tensor_files.safetensors import open_safetensors
from ...tensor_files.stored import CheckpointError, StoredTensor, preview
from ..adapters import Adapter
from ..changed_tensors import Factors
from . import own_folder, paddlemix
from .config_keys import config_or_empty
from .folder import Folder
from .partial import Kind, fetch_base, layout_of
from .peft_config import CONFIG as PEFT_CONFIG
from .peft_config import MAX_ALPHA, MAX_RANK

WEIGHTS, CONFIG = "lora_model_state.pdparams", "lora_config.json"
UNIFIED, UNIFIED_INDEX = "peft_model.safetensors", "peft_model.safetensors.index.json"
BASE_KEY = "base_model_name_or_path"
QUANTIZATION_KEY = "quantization"  # of the base's weights in training
# Rank and alpha in the vision tower, if they are others than r and lora_alpha. paddlenlp has one of each.
TOWER_KEYS = ("vision_lora_rank", "vision_lora_alpha")
TOWER = "vision_tower."
# The fields of paddlenlp's LoRAConfig (3.0.0b4 and later). The choice of layers and settings of training change
# nothing, since the file has the tensors of the layers.
RULES = KeyRules(
    used=frozenset({"r", "lora_alpha", "rslora", BASE_KEY, QUANTIZATION_KEY, *TOWER_KEYS}),
    inert=frozenset(
        "target_modules trainable_modules trainable_bias lora_dropout merge_weights tensor_parallel_degree dtype "
        "head_dim lora_plus_scale use_quick_lora lorapro scaling nola_basis_num".split()
    ),
)
VARIANTS = ("pissa", "loraga", "lora_use_mixer", "use_mora", "mora", "nola", "do_qat", "enable_lora_list")


def matches(folder: Folder) -> bool:
    """Return whether a folder has an adapter. Raises CheckpointError if it has one of peft too."""
    if not folder.has_any(CONFIG):
        return False
    if folder.has_any(PEFT_CONFIG):
        raise CheckpointError(
            f"{folder} holds two adapters ({CONFIG} and {PEFT_CONFIG}): remove the files of one of them"
        )
    return True


def remove_adapter(path: Path) -> None:
    """Delete an adapter's files from the folder of a whole model, which would be read as an adapter."""
    for name in (CONFIG, WEIGHTS):
        (Path(path) / name).unlink(missing_ok=True)


def _base_of(folder: Folder) -> Folder:
    """Return the folder of the model that an adapter was trained on. Raises CheckpointError if it is not known."""
    base = folder.json(CONFIG).get(BASE_KEY)
    if not base or not isinstance(base, str):
        raise CheckpointError(
            f"{folder} is a LoRA folder whose {CONFIG} does not name its base model ({BASE_KEY}): give the base with "
            "--model-base or base=, or merge it first with merge_lora_params.py --model_name_or_path BASE --lora_path "
            "THIS --merge_model_path OUT"
        )
    return fetch_base(folder, "a LoRA folder", base)


def read_adapter(path: Path | Folder, config: LlavaConfig) -> dict[str, StoredTensor]:
    """Return an adapter's tensors under our names. Raises CheckpointError for unknown names and incomplete pairs."""
    file, tensors = _open_weights(Folder.of(path))
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
        raise CheckpointError(f"{file} holds unrecognized tensors: {preview(sorted(unknown))}")
    _check_pairs(file, found)
    return found


def _open_weights(folder: Folder) -> tuple[Path, dict[str, StoredTensor]]:
    """Return the file with an adapter's weights, or the index of its shards, and its tensors."""
    shards = next((name for name in (UNIFIED_INDEX, UNIFIED) if folder.has_any(name)), None)
    if not folder.has_any(WEIGHTS):
        if shards is None:
            raise CheckpointError(f"{folder} has {CONFIG} but no {WEIGHTS}: the adapter's weights are missing")
        return folder / shards, folder.weights(UNIFIED, UNIFIED_INDEX, open_safetensors)
    if shards is not None:
        raise CheckpointError(f"{folder} holds an adapter as {WEIGHTS} and as {shards}: remove the older one")
    return folder / WEIGHTS, folder.tensors(WEIGHTS, open_pdparams)


def to_paddlemix_name(name: str, config) -> str:
    """Return PaddleMIX's name of a parameter, a LoRA factor included."""
    translated = _translate(paddlemix.table(config).to_theirs, name)
    assert translated is not None, name
    return translated


def _translate(translate, name: str) -> str | None:
    """Translate a name. A LoRA factor has the name of the weight that it changes."""
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


def quantization_of(path: Path | Folder) -> str | None:
    """Return the quantization of the base's weights in training, None for none. Raises CheckpointError."""
    folder = Folder.of(path)
    kind = folder.json(CONFIG).get(QUANTIZATION_KEY)
    if kind is not None and kind not in KINDS:
        raise CheckpointError(f"{folder / CONFIG} has {QUANTIZATION_KEY} {kind!r}: expected {' or '.join(KINDS)}")
    return kind


@dataclass(frozen=True)
class Scale:
    """How an adapter is scaled. The vision tower may have a rank and an alpha of its own. is_stable: rslora."""

    rank: int
    alpha: float
    tower_rank: int
    tower_alpha: float
    is_stable: bool

    def rank_of(self, name: str) -> int:
        """Return the rank of the layer or tensor of a name."""
        return self.tower_rank if name.startswith(TOWER) else self.rank

    def scaling_of(self, name: str) -> float:
        """Return alpha / r of the layer or tensor of a name, alpha / sqrt(r) for rank-stabilized LoRA."""
        rank, alpha = self.rank_of(name), self.tower_alpha if name.startswith(TOWER) else self.alpha
        return alpha / math.sqrt(rank) if self.is_stable else alpha / rank


def scale_of(path: Path | Folder) -> Scale:
    """Return how an adapter is scaled. Raises CheckpointError for one that cannot be merged."""
    folder = Folder.of(path)
    file, values = folder / CONFIG, folder.json(CONFIG)
    _check_variants(file, values)
    rank, alpha, is_stable = _rank(file, values, "r"), _alpha(file, values, "lora_alpha"), values.get("rslora")
    if is_stable not in (None, True, False):
        raise CheckpointError(f"{file}: rslora is {shown(is_stable)}, expected true or false")
    tower_rank, tower_alpha = TOWER_KEYS
    return Scale(
        rank,
        alpha,
        rank if values.get(tower_rank) is None else _rank(file, values, tower_rank),
        alpha if values.get(tower_alpha) is None else _alpha(file, values, tower_alpha),
        bool(is_stable),
    )


def _rank(file: Path, values: Mapping[str, Any], key: str) -> int:
    rank = values.get(key)
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        bounds = f"a number of at least 1, and {MAX_RANK} at most"
        raise CheckpointError(f"{file} has {key} {shown(rank)}, expected {bounds}")
    return rank


def _alpha(file: Path, values: Mapping[str, Any], key: str) -> float:
    alpha = values.get(key)
    if type(alpha) not in (int, float) or not 0 < alpha <= MAX_ALPHA:
        raise CheckpointError(f"{file} needs {key!r} as a number above 0, {MAX_ALPHA:g} at most: it is {shown(alpha)}")
    return alpha


def _check_variants(file: Path, values: Mapping[str, Any]) -> None:
    for variant in VARIANTS:
        value = values.get(variant)
        is_on = any(value) if isinstance(value, list) else not is_silent(value)
        if is_on:
            raise CheckpointError(f"{file}: {variant} is set, which cannot be merged here ({shown(values[variant])})")
    check_keys({key: value for key, value in values.items() if key not in VARIANTS}, RULES, str(file), CheckpointError)


def _open(folder: Folder, config: LlavaConfig) -> Adapter:
    """Return an adapter under our names, to be merged into its base. Raises CheckpointError."""
    scale, tensors = scale_of(folder), read_adapter(folder, config)
    stems = [name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A")]
    pairs = {
        stem: Factors(tensors[f"{stem}.lora_A"], tensors[f"{stem}.lora_B"], scale.scaling_of(stem)) for stem in stems
    }
    _check_ranks(folder, scale, pairs)
    whole = {name: tensor for name, tensor in tensors.items() if not name.endswith((".lora_A", ".lora_B"))}
    return Adapter(folder.path, {f"{stem}.weight": factors for stem, factors in pairs.items()}, whole)


def _check_ranks(folder: Folder, scale: Scale, pairs: dict[str, Factors]) -> None:
    odd = []
    for stem, factors in pairs.items():
        rank = scale.rank_of(stem)
        first, second = tuple(factors.left.shape), tuple(factors.right.shape)
        if len(first) != 2 or len(second) != 2 or first[1] != rank or second[0] != rank:
            odd.append(f"{stem} ({list(first)} and {list(second)}, expected rank {rank})")
    if odd:
        raise CheckpointError(f"{folder} has factors that are not of the rank in {CONFIG}: {preview(odd)}")


def _recorded_config(folder: Folder) -> LlavaConfig | None:
    raw = config_or_empty(folder)
    return own_folder.read_config(folder, raw) if own_folder.FORMAT_KEY in raw else None


def describe(folder: Folder, is_complete: bool) -> dict[str, Any]:
    """Return the scaling, that of the tower if it is another one, and the quantization of the base if there was one."""
    scale, quantization = scale_of(folder), quantization_of(folder)
    scalings = {"scaling": scale.scaling_of("")}
    if (scale.tower_rank, scale.tower_alpha) != (scale.rank, scale.alpha):
        scalings |= {"vision_tower_rank": scale.tower_rank, "vision_tower_scaling": scale.scaling_of(TOWER)}
    return scalings | ({"quantization": quantization} if quantization else {})


KIND = Kind(
    "a LoRA folder in PaddleMIX's format", _base_of, _open, recorded_config=_recorded_config, has_our_names=True
)
LAYOUT = layout_of(
    KIND,
    name="lora",
    rule=f"{CONFIG} (PaddleMIX's LoRA), over its base",
    matches=matches,
    kind="adapter",
    adapter_config=CONFIG,
    describe_adapter=describe,
    recorded_quantization=quantization_of,
    has_whole_processor=True,
)
