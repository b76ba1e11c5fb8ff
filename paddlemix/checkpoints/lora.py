"""LoRA folders in PaddleMIX's format: lora_model_state.pdparams and lora_config.json.

The file holds `<layer>.lora_A` [in, r] and `<layer>.lora_B` [r, out] under PaddleMIX's names, and whole the other
tensors that were trained (projector, image_newline). Merging is W + A B * scaling (Hu et al. 2021).
"""

from __future__ import annotations

import math
from pathlib import Path

from ..ops.quantize import KINDS
from .adapters import Adapter, Factors, lay_over
from .files import CheckpointError, StoredTensor, preview, read_json
from .layouts import paddlemix
from .pdparams import open_pdparams
from .places import fetch_folder

WEIGHTS, CONFIG = "lora_model_state.pdparams", "lora_config.json"
BASE_KEY = "base_model_name_or_path"
QUANTIZATION_KEY = "quantization"  # how the base's weights were held in training
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
    if not (path / WEIGHTS).is_file():
        raise CheckpointError(f"{path} has {CONFIG} but no {WEIGHTS}: the adapter's weights are missing")
    table = paddlemix.table(config)
    found, unknown = {}, []
    for name, tensor in open_pdparams(path / WEIGHTS).items():
        if paddlemix.is_dropped(name, config):
            continue
        translated = _translate(table.to_ours, name)
        if translated is None:
            unknown.append(name)
        else:
            found[translated] = tensor
    if unknown:
        raise CheckpointError(f"{path / WEIGHTS} holds tensors that nobody knows: {preview(sorted(unknown))}")
    _check_pairs(path, found)
    return found


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


def _check_pairs(path: Path, tensors: dict) -> None:
    stems = {tail: {name[:-7] for name in tensors if name.endswith(tail)} for tail in (".lora_A", ".lora_B")}
    odd = sorted(stems[".lora_A"] ^ stems[".lora_B"])
    if odd:
        raise CheckpointError(f"{path / WEIGHTS}: only one of lora_A and lora_B is there for {preview(odd)}")
    if not stems[".lora_A"]:
        raise CheckpointError(f"{path / WEIGHTS} holds no lora_A and lora_B at all, so it is not an adapter")


def quantization_of(path: Path) -> str | None:
    """Return how the base's weights were held in training, None for unquantised ones. Raises CheckpointError."""
    kind = read_json(Path(path) / CONFIG).get(QUANTIZATION_KEY)
    if kind is not None and kind not in KINDS:
        raise CheckpointError(f"{Path(path) / CONFIG} has {QUANTIZATION_KEY} {kind!r}: expected {' or '.join(KINDS)}")
    return kind


def rank_of(path: Path) -> int:
    """Return r of an adapter's config. Raises CheckpointError."""
    rank = read_json(Path(path) / CONFIG).get("r")
    if not isinstance(rank, int) or rank < 1:
        raise CheckpointError(f"{Path(path) / CONFIG} has r {rank!r}, expected a number of at least 1")
    return rank


def scaling_of(path: Path) -> float:
    """Return alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA. Raises for variants that cannot be merged."""
    values = read_json(Path(path) / CONFIG)
    rank = rank_of(path)
    try:
        alpha = float(values["lora_alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{Path(path) / CONFIG} needs 'lora_alpha' as a number: {error!r}") from None
    for variant in ("pissa", "loraga", "lora_use_mixer", "use_mora", "mora"):
        if values.get(variant):
            raise CheckpointError(f"{Path(path) / CONFIG}: {variant} is set, which cannot be merged here")
    return alpha / math.sqrt(rank) if values.get("rslora") else alpha / rank


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
        raise CheckpointError(
            f"{path / WEIGHTS} has factors that are not of rank {rank} (r of {CONFIG}): {preview(odd)}"
        )
